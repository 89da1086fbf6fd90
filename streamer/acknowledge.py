"""Acknowledging inputs: first in first out per partition, whatever the order in which they are finished.

Faust's commit tolerates a missing offset: acknowledged out of order, it would commit past an event still in hand.
"""

import time
from collections import deque
from typing import Any


class Acknowledgements:
    """The events in hand, by partition; only a contiguous prefix of each is acknowledged."""

    def __init__(self) -> None:
        self._in_hand: dict[tuple[str, int], deque[Any]] = {}
        self._finished: set[int] = set()  # ids of events in hand, which therefore stay theirs
        self._since: dict[tuple[str, int], float] = {}  # when the oldest in hand became that (`time.monotonic`)

    def read(self, event: Any) -> None:
        """Take an event in hand, in the order of its partition."""
        partition = event.message.topic, event.message.partition
        in_hand = self._in_hand.setdefault(partition, deque())
        if not in_hand:
            self._since[partition] = time.monotonic()
        in_hand.append(event)

    def finish(self, event: Any) -> int | None:
        """Acknowledge the event and those finished before it, once nothing older of its partition is in hand.

        Returns the offset of the last one that was acknowledged, None for none.
        """
        finished = self._finished
        finished.add(id(event))
        partition = event.message.topic, event.message.partition
        in_hand = self._in_hand[partition]
        offset: int | None = None
        while in_hand and id(in_hand[0]) in finished:
            oldest = in_hand.popleft()
            finished.discard(id(oldest))
            oldest.ack()  # not `await stream.ack`, which tells the sensors too: we have none
            offset = oldest.message.offset
        if offset is not None:
            self._since[partition] = time.monotonic()
        return offset

    def stalled(self, limit_s: float) -> tuple[str, int, int] | None:
        """Topic, partition and offset of an event that has been its partition's oldest for longer; None for none."""
        before = time.monotonic() - limit_s
        for partition, since in self._since.items():
            if since < before and (in_hand := self._in_hand[partition]):
                return *partition, in_hand[0].message.offset
        return None
