"""`python -m tests.deadly worker`: the worker with a model that takes the process down where a title says so.

It answers at once, with the title for a tag, so that a worker is up again soon; everything else is the real one.
"""

import os
import signal
import sys
from collections.abc import Sequence

from streamer import settings, worker
from taggen.tag import Tagging
from tests.unit.fakes import FakePrepared, FakeTagger

DEADLY = "please kill me"


class DeadlyTagger(FakeTagger):
    """The process ends in its model call, as it would by a crash in native code."""

    def tag(self, prepared: Sequence[FakePrepared], slots: Sequence[str] | None = None) -> list[Tagging]:
        if any(one.listing.title == DEADLY for one in prepared):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().tag(prepared, slots)


if __name__ == "__main__":
    sys.exit(worker.run(settings.load(), DeadlyTagger()))
