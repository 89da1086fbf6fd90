"""`python -m tests.faulty worker`: the worker with a model that fails where a listing's title says so.

Everything else is the real one: process, settings, tagger, Faust app.
"""

import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from streamer import settings, worker
from taggen.errors import DeviceError, NonFiniteScores
from taggen.tag import Tagging
from taggen.tagger import Tagger
from taggen.windows import Prepared

RAISE, NAN, DEVICE, SLOW = "please raise", "please be not a number", "please lose the device", "please take a second"
HANG = "please never end"


class FaultyTagger:
    """The real tagger behind a model call that may fail."""

    def __init__(self, tagger: Tagger) -> None:
        self._tagger = tagger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tagger, name)

    def tag(self, prepared: Sequence[Prepared], slots: Sequence[Any] | None = None) -> list[Tagging]:
        titles = {one.listing.title for one in prepared}
        if DEVICE in titles:
            raise DeviceError("injected")
        if RAISE in titles:
            raise RuntimeError("injected: 绝密 secret title")
        if NAN in titles:
            raise NonFiniteScores("injected")
        if SLOW in titles:
            time.sleep(1)
        if HANG in titles:
            threading.Event().wait()
        return self._tagger.tag(prepared, slots)


if __name__ == "__main__":
    chosen = settings.load()
    sys.exit(worker.run(chosen, FaultyTagger(worker.load_tagger(chosen))))  # type: ignore[arg-type]
