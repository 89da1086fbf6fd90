"""The plan of a replay: which offsets, from where to where, and how far it has come.

It is kept where its progress is, in the committed offsets of the replay's own consumer group: each carries, as the
metadata that Kafka keeps beside an offset, the span of its partition and a digest of what was asked for. Whoever names
the same id goes on with the same ends.
"""

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from streamer.connection import partitions, start, stop, translated
from streamer.errors import BrokerError, InputError
from streamer.pipeline import now_ms
from streamer.scan import Scanner, Span, Spans
from streamer.settings import Settings
from taggen.listing import Listing

GROUP_PREFIX = "streamer-replay-"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RANGE = re.compile(r"(?P<topic>[^/]+)/(?P<partition>\d+):(?P<start>\d+)-(?P<end>\d*)")
_DIGEST_CHARS = 16
RETRY_S = 0.2


class Range(NamedTuple):
    """Offsets of one partition, `end` exclusive, None: what is there."""

    topic: str
    partition: int
    start: int
    end: int | None

    @classmethod
    def parse(cls, text: str) -> "Range":
        """Read TOPIC/PARTITION:START-[END]. Raises InputError."""
        match = _RANGE.fullmatch(text)
        if match is None:
            raise InputError(f"{text}: not TOPIC/PARTITION:START-[END]")
        end = match["end"]
        return cls(match["topic"], int(match["partition"]), int(match["start"]), int(end) if end else None)


@dataclass(frozen=True)
class Selection:
    """What a replay tags again: records of the ranges and times (milliseconds), listings that fit all filters."""

    topics: tuple[str, ...]
    ranges: tuple[Range, ...] = ()
    since_ms: int | None = None
    until_ms: int | None = None
    merchants: frozenset[str] = field(default_factory=frozenset)  # empty: all
    products: frozenset[str] = field(default_factory=frozenset)
    categories: frozenset[str] = field(default_factory=frozenset)
    newest: bool = False  # only each product's newest listing version among them
    flag: str | None = None  # only what went out with this flag, and not without it since

    @property
    def filters(self) -> bool:
        """Whether a listing must be read to know that it is meant."""
        return bool(self.merchants or self.products or self.categories)

    def __contains__(self, listing: Listing) -> bool:
        return (
            (not self.merchants or listing.merchant_id in self.merchants)
            and (not self.products or listing.product_id in self.products)
            and (not self.categories or listing.category in self.categories)
        )

    def digest(self, target: str, adapter: str) -> str:
        """Of all that decides what comes out; two that differ are two replays."""
        content = {
            name: sorted(value) if isinstance(value, frozenset) else value for name, value in asdict(self).items()
        }
        text = json.dumps([content, target, adapter], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS]


@dataclass(frozen=True)
class Plan:
    """The spans of a replay, and how far each of them is done."""

    group: str
    digest: str
    spans: Spans
    done: Mapping[TopicPartition, int]
    began_ms: int
    resumed: bool

    @property
    def left(self) -> dict[TopicPartition, Span]:
        """What is still to be read."""
        return {one: Span(self.done[one], span.end) for one, span in self.spans.items() if self.done[one] < span.end}

    @property
    def offsets(self) -> int:
        """How many offsets there are, records or not."""
        return sum(span.size for span in self.spans.values())

    @property
    def offsets_done(self) -> int:
        """How many of them are done."""
        return sum(self.done[one] - span.start for one, span in self.spans.items())

    @property
    def offsets_left(self) -> int:
        """How many are not."""
        return self.offsets - self.offsets_done

    def shares(self, number: int) -> "list[Plan]":
        """The plan as so many, whole partitions each and about the same left to do; those with nothing are left out."""
        loads: list[dict[TopicPartition, int]] = [{} for _ in range(number)]
        for one, span in sorted(self.left.items(), key=lambda item: (-item[1].size, item[0])):
            min(loads, key=lambda load: sum(load.values()))[one] = span.size
        return [
            replace(self, spans={one: self.spans[one] for one in load}, done={one: self.done[one] for one in load})
            for load in loads
            if load
        ]

    def metadata(self, partition: TopicPartition) -> str:
        """What is written beside a partition's offset."""
        span = self.spans[partition]
        return json.dumps({"start": span.start, "end": span.end, "began": self.began_ms, "replay": self.digest})


def group_of(replay_id: str) -> str:
    """The consumer group of a replay. Raises InputError."""
    if not _ID.fullmatch(replay_id):
        raise InputError(f"--id: {replay_id!r:.120} does not match {_ID.pattern}")
    return GROUP_PREFIX + replay_id


async def make(
    settings: Settings, replay_id: str, selection: Selection, digest: str, *, workers: int = 1, keep: bool = True
) -> Plan:
    """The plan of this id: the one that it was begun with, else a new one up to the ends as of now.

    `keep`: write a new one down. Raises InputError when the id belongs to a replay of something else, and when there
    are more workers than partitions.
    """
    group = group_of(replay_id)
    assigned = await partitions(settings, selection.topics)
    known = await _known(settings, group, assigned)
    if known:
        spans, began_ms = {}, 0
        for partition, (_, metadata) in known.items():
            try:
                kept = json.loads(metadata)
                spans[partition] = Span(kept["start"], kept["end"])
                began_ms = int(kept["began"])
                same = kept["replay"] == digest
            except (ValueError, KeyError, TypeError):
                raise BrokerError(
                    f"{group}: cannot be resumed: {settings.kafka_bootstrap} keeps nothing beside a group's offsets"
                ) from None
            if not same:
                raise InputError(f"--id {replay_id}: begun with other options; give the same, or another id")
        _check_workers(workers, spans)
        return Plan(group, digest, spans, {one: offset for one, (offset, _) in known.items()}, began_ms, resumed=True)
    async with Scanner(settings, group) as scanner:
        spans = await _spans(scanner, assigned, selection)
        _check_workers(workers, spans)
        plan = Plan(group, digest, spans, {one: span.start for one, span in spans.items()}, now_ms(), resumed=False)
        if keep:
            await write(scanner, plan, plan.done)
    return plan


async def write(scanner: Scanner, plan: Plan, done: Mapping[TopicPartition, int]) -> None:
    """Write down how far partitions of the plan are done."""
    await scanner.commit({one: (offset, plan.metadata(one)) for one, offset in done.items()})


def _check_workers(workers: int, spans: Spans) -> None:
    if workers > len(spans):
        raise InputError(
            f"--workers {workers}: the replay has {len(spans)} partitions, and each is one worker's; give fewer"
        )


async def _known(
    settings: Settings, group: str, assigned: list[TopicPartition]
) -> dict[TopicPartition, tuple[int, str]]:
    """The group's offsets and what stands beside them. A broker that has had no group yet first makes a coordinator."""
    deadline = time.monotonic() + settings.broker_retry_s
    with translated(settings):
        admin = AIOKafkaAdminClient(**settings.client_options())
        try:
            await start(admin)
            while True:
                try:
                    found = await admin.list_consumer_group_offsets(group, partitions=assigned)
                except KafkaError as error:
                    if not error.retriable or time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(RETRY_S)
                else:
                    return {one: (at.offset, at.metadata) for one, at in found.items() if at.offset >= 0}
        finally:
            await stop(admin)


async def _spans(scanner: Scanner, assigned: list[TopicPartition], selection: Selection) -> dict[TopicPartition, Span]:
    beginnings, ends = await scanner.beginnings(assigned), await scanner.ends(assigned)
    spans = {one: Span(beginnings[one], ends[one]) for one in assigned}
    for moment, is_start in ((selection.since_ms, True), (selection.until_ms, False)):
        if moment is not None:
            for one, offset in (await scanner.at(assigned, moment)).items():
                at = ends[one] if offset is None else offset
                spans[one] = spans[one]._replace(start=at) if is_start else spans[one]._replace(end=min(at, ends[one]))
    if selection.ranges:
        chosen: dict[TopicPartition, Span] = {}
        for asked in selection.ranges:
            one = TopicPartition(asked.topic, asked.partition)
            if one not in spans:
                raise InputError(f"{asked.topic}/{asked.partition}: no such partition among the topics of the replay")
            if one in chosen:
                raise InputError(f"{asked.topic}/{asked.partition}: named twice")
            end = spans[one].end if asked.end is None else min(asked.end, spans[one].end)
            chosen[one] = Span(max(asked.start, spans[one].start), end)
        spans = chosen
    return {one: Span(min(span.start, span.end), span.end) for one, span in spans.items()}
