"""Acknowledging inputs: first in first out per partition, whatever the order in which they are finished.

Faust's commit tolerates a missing offset: acknowledged out of order, it would commit past an event still in hand.
"""

from collections import deque
from typing import Any


class Acknowledgements:
    """The events in hand, by partition; only a contiguous prefix of each is acknowledged."""

    def __init__(self) -> None:
        self._in_hand: dict[tuple[str, int], deque[Any]] = {}
        self._finished: set[int] = set()  # ids of events in hand, which therefore stay theirs

    def read(self, event: Any) -> None:
        """Take an event in hand, in the order of its partition."""
        message = event.message
        self._in_hand.setdefault((message.topic, message.partition), deque()).append(event)

    def finish(self, event: Any) -> int | None:
        """Acknowledge the event and those finished before it, once nothing older of its partition is in hand.

        Returns the offset of the last one that was acknowledged, None for none.
        """
        finished = self._finished
        finished.add(id(event))
        in_hand = self._in_hand[event.message.topic, event.message.partition]
        offset: int | None = None
        while in_hand and id(in_hand[0]) in finished:
            oldest = in_hand.popleft()
            finished.discard(id(oldest))
            oldest.ack()  # not `await stream.ack`, which tells the sensors too: we have none
            offset = oldest.message.offset
        return offset
