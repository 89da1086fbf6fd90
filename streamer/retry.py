"""The retry topic: records that were dead letters, with where they come from and how often they were sent again.

A redriven record is the source record once more and not another one: the worker gives it its old coordinates back, so
that its event id (decision 4: of a source event without an id, topic, partition and offset stand in) is the same
whether it was redriven, replayed, or read a second time.
"""

import json
from typing import NamedTuple

from streamer.records import Coordinates, DeadLetter, Record

ORIGIN, ATTEMPT = "redriven-from", "redrive-attempt"  # names of headers
MAX_HEADER_BYTES = 1024


class Origin(NamedTuple):
    """The source record that a redriven one is, and the how manieth time it is sent again."""

    source: Coordinates
    timestamp: int
    attempt: int

    def headers(self) -> tuple[tuple[str, bytes], ...]:
        """How it is written onto a record of the retry topic."""
        where = json.dumps([*self.source, self.timestamp], ensure_ascii=False, separators=(",", ":"))
        return (ORIGIN, where.encode()), (ATTEMPT, str(self.attempt).encode())


def next_attempt(letter: DeadLetter) -> Origin:
    """What a redrive of this dead letter says on its record."""
    return Origin(Coordinates(letter.topic, letter.partition, letter.offset), letter.timestamp, letter.attempts + 1)


def origin(record: Record) -> Origin | None:
    """The origin that a record of the retry topic names; None when nobody of ours wrote it."""
    headers = dict(record.headers)
    where, attempt = headers.get(ORIGIN) or b"", headers.get(ATTEMPT) or b""
    if len(where) > MAX_HEADER_BYTES or len(attempt) > MAX_HEADER_BYTES:
        return None
    try:
        topic, partition, offset, timestamp = json.loads(where)
        count = int(attempt)
    except (ValueError, TypeError, RecursionError):  # UnicodeDecodeError is a ValueError
        return None
    numbers = (partition, offset, timestamp)
    if not isinstance(topic, str) or not all(type(number) is int for number in numbers):
        return None
    if not (0 <= partition < 2**31 and 0 <= offset < 2**63 and -1 <= timestamp < 2**63 and 0 < count < 2**31):
        return None
    return Origin(Coordinates(topic, partition, offset), timestamp, count)


def restored(record: Record) -> Record:
    """The source record that a record of the retry topic stands for; itself when it names none."""
    found = origin(record)
    if found is None:
        return record
    return record._replace(
        topic=found.source.topic,
        partition=found.source.partition,
        offset=found.source.offset,
        timestamp=found.timestamp,
        headers=tuple(header for header in record.headers if header[0] not in (ORIGIN, ATTEMPT)),
        attempts=found.attempt,
    )
