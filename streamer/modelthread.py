"""The model's thread: one call at a time, what is urgent first."""

import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

URGENT, NORMAL, END = range(3)  # ranks


class _Call(NamedTuple):
    """Ordered by rank and number, of which no two calls share one."""

    rank: int
    number: int
    future: "Future[Any]"
    function: Callable[[], Any]


class ModelThread(Executor):
    """An executor of one thread. Trying a new version is urgent: a short call, which should not wait for the batch that
    stands ready behind the one in the model."""

    def __init__(self) -> None:
        self._calls: queue.PriorityQueue[_Call] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._open = True
        self._thread = threading.Thread(target=self._run, name="model")
        self._thread.start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """As any executor's; raises RuntimeError after `shutdown`."""
        return self._put(NORMAL, lambda: fn(*args, **kwargs))

    def submit_urgent(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """As `submit`, before all calls that are not urgent and have not begun."""
        return self._put(URGENT, lambda: fn(*args, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the thread after those that were taken, or, cancelled, after the one in hand."""
        with self._lock:
            self._open = False
        if cancel_futures:
            self._cancel()
        self._calls.put(_Call(END, next(self._numbers), Future(), lambda: None))
        if wait:
            self._thread.join()

    def _put(self, rank: int, function: Callable[[], T]) -> "Future[T]":
        future: Future[T] = Future()
        with self._lock:
            if not self._open:
                raise RuntimeError("the model's thread takes no more calls")
            self._calls.put(_Call(rank, next(self._numbers), future, function))
        return future

    def _cancel(self) -> None:
        while True:
            try:
                self._calls.get_nowait().future.cancel()
            except queue.Empty:
                return

    def _run(self) -> None:
        while (call := self._calls.get()).rank != END:
            if call.future.set_running_or_notify_cancel():
                try:
                    result = call.function()
                except BaseException as error:
                    call.future.set_exception(error)
                else:
                    call.future.set_result(result)
                    del result
            del call  # what it holds may be large, and the next may be long in coming
