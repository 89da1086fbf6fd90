"""`python -m tests.clock worker`: the worker on a machine whose clock jumps an hour ahead at SIGUSR1, back at SIGUSR2.

A test may not set the machine's clock, so it is `time.time` that jumps, which Python code asks; `time.monotonic` does
not, as on a machine. The tagger answers at once; everything else is the real one.
"""

import signal
import sys
import time

HOUR_S = 3600.0

offset_s = 0.0
true_time = time.time


def jump(number: int, _: object) -> None:
    """Set the clock."""
    global offset_s  # noqa: PLW0603  there is one clock
    offset_s = HOUR_S if number == signal.SIGUSR1 else 0.0


if __name__ == "__main__":
    time.time = lambda: true_time() + offset_s
    for each in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(each, jump)

    from streamer import settings, worker
    from tests.unit.fakes import FakeTagger

    sys.exit(worker.run(settings.load(), FakeTagger()))
