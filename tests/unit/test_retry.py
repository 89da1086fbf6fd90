"""Redriven records: where they come from, written and read again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.records import Coordinates, Record
from streamer.retry import ATTEMPT, ORIGIN, Origin, origin, restored
from tests.unit.fakes import record

NAMES = st.text(min_size=1, max_size=100)
OFFSETS = st.integers(0, 2**63 - 1)


@given(NAMES, st.integers(0, 2**31 - 1), OFFSETS, st.integers(-1, 2**63 - 1), st.integers(1, 2**31 - 1))
def test_round_trip(topic: str, partition: int, offset: int, timestamp: int, attempt: int) -> None:
    """What is written onto a record is read from it, and the record is again what it was at its source."""
    came_from = Origin(Coordinates(topic, partition, offset), timestamp, attempt)
    kept = (("traceparent", b"1"),)
    sent = Record("retry", 3, 7, 99, b"key", b"value", (*kept, *came_from.headers()))
    assert origin(sent) == came_from
    assert restored(sent) == Record(topic, partition, offset, timestamp, b"key", b"value", kept, attempt)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {ORIGIN: None, ATTEMPT: b"1"},
        {ORIGIN: b"[]", ATTEMPT: b"1"},
        {ORIGIN: b'["t", 0, -1, 0]', ATTEMPT: b"1"},
        {ORIGIN: b'["t", 0, true, 0]', ATTEMPT: b"1"},
        {ORIGIN: b'["t", 0, 1, 0]', ATTEMPT: b"0"},
        {ORIGIN: b'["t", 0, 1, 0]', ATTEMPT: b"one"},
        {ORIGIN: b'["\xff", 0, 1, 0]', ATTEMPT: b"1"},
        {ORIGIN: b"[" * 1_000, ATTEMPT: b"1"},
        {ORIGIN: b'["t", 0, 1, 0]', ATTEMPT: b"1" * 5_000},
    ],
)
def test_not_ours(headers: dict[str, bytes | None]) -> None:
    """A record that nobody of ours wrote to the retry topic is what it is, there."""
    sent = record(b"value", headers=tuple(headers.items()))
    assert origin(sent) is None
    assert restored(sent) == sent
