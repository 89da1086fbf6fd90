"""The model's thread: order, failures, and its end."""

import threading
from concurrent.futures import CancelledError

import pytest

from streamer.modelthread import ModelThread


def test_what_is_urgent_goes_first() -> None:
    """Of what has not begun; calls of one rank in their order, all on one thread."""
    done: list[object] = []
    gate = threading.Event()
    with ModelThread() as model:
        model.submit(gate.wait, 5)
        for name in "ab":
            model.submit(lambda name: done.append((name, threading.current_thread().name)), name)
        for name in "cd":
            model.submit_urgent(lambda name: done.append((name, threading.current_thread().name)), name)
        gate.set()
    assert done == [(name, "model") for name in "cdab"]


def test_failures_are_the_callers() -> None:
    """The thread goes on."""
    with ModelThread() as model:
        failing = model.submit(int, "none")
        assert model.submit(int, "7").result(5) == 7
        with pytest.raises(ValueError, match="none"):
            failing.result(5)


def test_its_end() -> None:
    """Nothing more is taken; what has not begun is cancelled when that is asked for, and tells so."""
    gate = threading.Event()
    model = ModelThread()
    running, waiting = model.submit(gate.wait, 5), model.submit(int, "7")
    told: list[bool] = []
    waiting.add_done_callback(lambda future: told.append(future.cancelled()))
    while not running.running():
        pass
    model.shutdown(wait=False, cancel_futures=True)
    assert told == [True]
    with pytest.raises(CancelledError):
        waiting.result(5)
    with pytest.raises(RuntimeError, match="no more"):
        model.submit(int)
    gate.set()
    assert running.result(5)
    model.shutdown()


def test_a_call_that_was_cancelled_is_not_made() -> None:
    """Whoever waits for it has gone."""
    gate = threading.Event()
    made: list[None] = []
    with ModelThread() as model:
        model.submit(gate.wait, 5)
        assert model.submit(made.append, None).cancel()
        gate.set()
    assert made == []
