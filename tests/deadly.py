"""`python -m tests.deadly worker`: the worker with a model that takes the process down where a title says so.

It answers at once, with the title for a tag, so that a worker is up again soon; everything else is the real one.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence

from streamer import settings, worker
from taggen.tag import Tagging
from tests.unit.fakes import FakePrepared, FakeTagger

DEADLY, SLOW = "please kill me", "please take a while"


class DeadlyTagger(FakeTagger):
    """The process ends in its model call, as it would by a crash in native code."""

    def tag(self, prepared: Sequence[FakePrepared], slots: Sequence[str] | None = None) -> list[Tagging]:
        titles = {one.listing.title for one in prepared}
        if DEADLY in titles:
            os.kill(os.getpid(), signal.SIGKILL)
        if SLOW in titles:
            time.sleep(0.1)
        return super().tag(prepared, slots)


if __name__ == "__main__":
    sys.exit(worker.run(settings.load(), DeadlyTagger()))
