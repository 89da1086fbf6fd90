"""Acknowledging: a contiguous prefix of each partition, whatever is finished when."""

import time
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.acknowledge import Acknowledgements


class Message(NamedTuple):
    topic: str
    partition: int
    offset: int


class Event:
    def __init__(self, partition: int, offset: int, acknowledged: list[Any]) -> None:
        self.message = Message("in", partition, offset)
        self._acknowledged = acknowledged

    def ack(self) -> None:
        self._acknowledged.append((self.message.partition, self.message.offset))


def test_nothing_is_acknowledged_over_what_is_in_hand() -> None:
    """Offsets need not be neighbours; partitions do not wait for each other."""
    done: list[Any] = []
    acknowledgements = Acknowledgements()
    first, second, other = Event(0, 5, done), Event(0, 9, done), Event(1, 7, done)
    for event in (first, second, other):
        acknowledgements.read(event)
    assert acknowledgements.finish(second) is None
    assert acknowledgements.finish(other) == 7
    assert acknowledgements.finish(first) == 9
    assert done == [(1, 7), (0, 5), (0, 9)]


@given(st.lists(st.integers(0, 2), min_size=1), st.randoms())
def test_any_order(partitions: list[int], random: Any) -> None:
    """Each event is acknowledged once, in the order of its partition, when all before it are finished."""
    done: list[Any] = []
    acknowledgements = Acknowledgements()
    events = [Event(partition, offset, done) for offset, partition in enumerate(partitions)]
    for event in events:
        acknowledgements.read(event)
    shuffled = random.sample(events, len(events))
    finished = set()
    for event in shuffled:
        acknowledgements.finish(event)
        finished.add((event.message.partition, event.message.offset))
        for partition in range(3):
            own = [one.message for one in events if one.message.partition == partition]
            prefix = next((at for at, one in enumerate(own) if (partition, one.offset) not in finished), len(own))
            assert [offset for number, offset in done if number == partition] == [one.offset for one in own[:prefix]]
    assert len(done) == len(events)


def test_a_partition_that_stalls_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is found by its oldest event, however fast the others go on; one with nothing in hand has all the time."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    acknowledgements = Acknowledgements()
    stuck, *others = [Event(partition, offset, []) for partition, offset in ((0, 7), (1, 1), (1, 2))]
    for event in (stuck, *others):
        acknowledgements.read(event)
    now = 9.0
    acknowledgements.finish(others[0])
    now = 11.0
    assert acknowledgements.stalled(10) == ("in", 0, 7)
    acknowledgements.finish(stuck)
    acknowledgements.finish(others[1])
    now = 100.0
    assert acknowledgements.stalled(10) is None
