"""Fail points: steps at which the process kills itself, as kill -9 there would, when a test asks for it.

`FAILPOINT=NAME` or `FAILPOINT=NAME:N` in the environment, read once on import: at the Nth (first) time that a step of
this name is reached, SIGKILL. Nothing is flushed, acknowledged or closed. Without it a step costs one comparison. It is
no setting of the service, and nothing but a test should have it.

    of a commit  encoded (not sent yet), delivered (the broker has all outputs), acknowledged (not committed yet)
    of a swap    loaded (from the store), copied (to the device, by the trial), admitted, flipped (the route)
"""

import os
import signal
import threading

VARIABLE = "FAILPOINT"
POINTS = ("encoded", "delivered", "acknowledged", "loaded", "copied", "admitted", "flipped")

_name, _, _count = os.environ.get(VARIABLE, "").partition(":")
_left = int(_count or 1)
_lock = threading.Lock()  # some steps are in threads
if _name and _name not in POINTS:
    raise ValueError(f"{VARIABLE}: no step {_name!r}, but {', '.join(POINTS)}")


def reach(name: str) -> None:
    """Say that a step is reached; may not return."""
    if name == _name:
        _count_down()


def _count_down() -> None:
    global _left  # noqa: PLW0603  the state of the process that it ends
    with _lock:
        _left -= 1
        if not _left:
            os.kill(os.getpid(), signal.SIGKILL)
