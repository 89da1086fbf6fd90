"""Which rows a worker may have died of, and how each of them is tried again.

A worker marks a partition when it takes it and unmarks it when it lets it go, so a mark that is found says that the
owner before has died. What it can have had in hand then are suspects:

    together    in micro-batches, with nothing else in hand, marked before and unmarked after
    alone       the rows of such a batch, if a worker died with it in hand: singly, marked and unmarked likewise
    condemned   a row that was alone in hand at two deaths: a dead letter, untried

So a worker that is killed from outside costs a thousand records a little speed, and nobody a dead letter.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple, Protocol, TypeVar

from streamer.scan import Span

DEATHS = 2  # alone in hand at so many, a row is condemned

Partition = tuple[str, int]  # topic and number


class Care(Enum):
    """How a row is tried."""

    NONE = "none"
    TOGETHER = "together"
    ALONE = "alone"
    CONDEMNED = "condemned"


class Mark(NamedTuple):
    """What is written of a partition that a worker has: the rows from `start` to before `end` are, or were when a
    worker died, all that it had in hand of this partition.

    `alone`: it is one row, and the worker had none of another partition either. `deaths`: how often that was its last.
    """

    start: int = 0
    end: int = 0
    alone: bool = False
    deaths: int = 0
    in_hand: bool = False  # now, and not at an earlier death

    def found(self) -> "Mark":
        """What the next owner knows, who has found it."""
        return self._replace(deaths=self.deaths + (self.in_hand and self.alone), in_hand=False)


class Found(NamedTuple):
    """A mark that the owner before has left, and the offsets that it can have had in hand."""

    mark: Mark
    suspects: Span


class Message(Protocol):
    """Where a row stands."""

    topic: str
    partition: int
    offset: int


class Event(Protocol):
    """A row as Faust hands it over."""

    message: Message


E = TypeVar("E", bound=Event)


class Suspects:
    """The partitions that a worker has, and the suspects among their rows."""

    def __init__(self) -> None:
        self._known: dict[Partition, Mark] = {}  # of every partition, what is written when none of its rows is tried
        self._until: dict[Partition, int] = {}  # of those with suspects, the offset before which they are
        self._tried: dict[Partition, Mark] = {}

    @property
    def partitions(self) -> frozenset[Partition]:
        """Those that the worker has."""
        return frozenset(self._known)

    def take(self, partitions: Iterable[Partition], found: Mapping[Partition, Found]) -> dict[Partition, Mark]:
        """Take partitions, some of which were found marked; returns what to write."""
        taken = {one: found[one].mark.found() if one in found else Mark() for one in partitions}
        self._known |= taken
        self._until |= {one: found[one].suspects.end for one in taken if one in found and found[one].suspects.size}
        return taken

    def let_go(self) -> dict[Partition, Mark | None]:
        """Let all partitions go, whose rows in hand are finished or will be tried again; returns what to write.

        The suspects of a partition stay suspects, those that are tried now are not blamed for this end.
        """
        written: dict[Partition, Mark | None] = {one: None for one in self._known if one not in self._until}
        written |= {one: self._known[one] for one in self._tried}
        for kept in (self._known, self._until, self._tried):
            kept.clear()
        return written

    def groups(self, events: Sequence[E]) -> list[tuple[Care, list[E]]]:
        """The rows in the groups that they are tried in, one after the other; those of a partition stay in order."""
        if not self._until:
            return [(Care.NONE, list(events))]
        groups: list[tuple[Care, list[E]]] = [(Care.NONE, [])]
        latest: dict[Partition, int] = {}  # the group that a partition has come to
        for event in events:
            partition = (event.message.topic, event.message.partition)
            care = self._care(partition, event.message.offset)
            at = latest.get(partition, 0)
            while at < len(groups) and (groups[at][0] is not care or care in (Care.ALONE, Care.CONDEMNED)):
                at += 1
            if at == len(groups):
                groups.append((care, []))
            groups[at][1].append(event)
            latest[partition] = at
        return groups

    def begin(self, events: Iterable[Event]) -> dict[Partition, Mark]:
        """Try these rows, with nothing else in hand; returns what to write before."""
        offsets: dict[Partition, list[int]] = {}
        for event in events:
            offsets.setdefault((event.message.topic, event.message.partition), []).append(event.message.offset)
        alone = sum(map(len, offsets.values())) == 1
        for partition, of_it in offsets.items():
            if (known := self._known.get(partition)) is not None:
                again = alone and known.alone and known.start == of_it[0]
                self._tried[partition] = Mark(of_it[0], of_it[-1] + 1, alone, known.deaths if again else 0, True)
        return dict(self._tried)

    def end(self) -> dict[Partition, Mark]:
        """The rows that are tried have survived; returns what to write."""
        for partition, mark in self._tried.items():
            if mark.end >= self._known[partition].end:  # it has outlived what was known
                self._known[partition] = Mark()
            if mark.end >= self._until.get(partition, 0):
                self._until.pop(partition, None)
        written = {partition: self._known[partition] for partition in self._tried}
        self._tried.clear()
        return written

    def _care(self, partition: Partition, offset: int) -> Care:
        if partition not in self._until:
            return Care.NONE
        if offset >= self._until[partition]:
            del self._until[partition]
            return Care.NONE
        mark = self._known[partition]
        if not mark.start <= offset < mark.end:
            return Care.TOGETHER
        return Care.CONDEMNED if mark.alone and mark.deaths >= DEATHS else Care.ALONE
