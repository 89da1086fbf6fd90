"""Replay: tag records of the source topics again, beside the workers and after them.

    read     the spans of the plan, the records that are meant
    tag      through the pipeline that the workers use, in batches of one order
    deliver  the outputs, wait for the broker, then write down how far it is

It is in no consumer group with the workers, and lets them go first: while they are too far behind, it pauses.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from aiokafka import TopicPartition

from streamer import plan as planning
from streamer.codec import Codec
from streamer.connection import partitions
from streamer.delivery import Delivery
from streamer.history import History
from streamer.pipeline import Outcome, Pipeline, Tagger
from streamer.plan import Plan, Selection
from streamer.preflight import preflight
from streamer.publish import Pace
from streamer.records import Record
from streamer.scan import Scanner
from streamer.settings import Settings
from streamer.stages import Chooser, Stages
from streamer.survey import is_meant, survey
from streamer.tally import Tally

COMMIT_S = 1.0  # repeats after a crash are bounded by it
LAG_S = 1.0  # between two looks at the live group
SAMPLE = 128  # listings that a dry run tags for its estimate


@dataclass(frozen=True)
class Options:
    """What is to be done; `rate` in listings a second."""

    replay_id: str
    selection: Selection
    into: str | None = None  # None: the live topic of tag events
    adapter: str = "latest"
    rate: float | None = None
    max_lag: int = 1_000  # records that the live group may be behind
    workers: int = 1  # processes


class Status(NamedTuple):
    """How far a replay is, in offsets of the source topics."""

    done: int
    total: int
    listings: int
    different: int
    paused: bool


class Result(NamedTuple):
    """The end of a replay. `finished`: it had nothing left to do."""

    plan: Plan
    tally: Tally
    finished: bool
    estimate_s: float | None = None  # of a dry run


@dataclass
class _Chunk:
    """Records that are meant, how many were read for them, and how far the partitions are when they are done."""

    records: list[Record] = field(default_factory=list)
    read: int = 0
    done: dict[TopicPartition, int] = field(default_factory=dict)


async def begin(settings: Settings, options: Options, *, keep: bool = True) -> Plan:
    """The plan of a replay, as `streamer.plan.make`."""
    selection = options.selection
    digest = selection.digest(options.into or settings.tags_topic, options.adapter)
    return await planning.make(settings, options.replay_id, selection, digest, workers=options.workers, keep=keep)


class Replay:
    """One run of a replay, in this process."""

    def __init__(
        self,
        settings: Settings,
        options: Options,
        load: Callable[[Settings], Tagger],
        tally: Tally | None = None,
        saved: Callable[[Plan, Tally], None] = lambda plan, tally: None,
    ) -> None:
        """`load` makes the tagger; `tally` goes on with the counts of an earlier run of the id; `saved` is called
        whenever what was done is written down."""
        self._options = options
        self._live = settings
        changed = {
            "tags_topic": options.into or settings.tags_topic,
            "group_id": planning.group_of(options.replay_id),
            "remembered_versions": 0,  # it reads the past in an order of its own: stale is what a worker saw
        }
        self._settings = settings.model_copy(update=changed)
        self._codec = Codec.from_settings(self._settings)
        self._load = load
        self._saved = saved
        self._tally = tally or Tally()
        self._go = asyncio.Event()
        self._go.set()
        self._history: History
        self._done: dict[TopicPartition, int] = {}
        self._plan: Plan | None = None

    @property
    def status(self) -> Status | None:
        """How far it is; None before there is a plan."""
        if self._plan is None:
            return None
        plan = replace(self._plan, done=self._done)
        return Status(
            plan.offsets_done, plan.offsets, self._tally.listings, self._tally.different, not self._go.is_set()
        )

    async def run(self, *, dry_run: bool = False) -> Result:
        """Do it, or tell what it would be. Raises BrokerError, RegistryError, InputError and TaggenError; what was
        written down before is done."""
        plan = await begin(self._live, self._options, keep=not dry_run)
        if not plan.left:
            return Result(plan, self._tally, finished=True)
        return await self.carry(plan, partial(survey, self._live, self._options.selection, plan), dry_run=dry_run)

    async def carry(self, plan: Plan, surveyed: Callable[[], Awaitable[History]], *, dry_run: bool = False) -> Result:
        """Do what is left of a plan, with what was surveyed for it. Raises as `run`."""
        loop = asyncio.get_running_loop()
        self._plan, self._done = plan, dict(plan.done)
        with ThreadPoolExecutor(1, "model") as model_thread:
            max_output_bytes = await preflight(self._settings)
            tagger = await loop.run_in_executor(model_thread, self._load, self._settings)
            pipeline = Pipeline(self._settings, self._codec, tagger, max_output_bytes)
            serving = await self._serving(tagger, model_thread)
            stages = Stages(self._settings, pipeline, tagger, serving, model_thread)
            with await surveyed() as self._history:
                if dry_run:
                    return await self._estimate(plan, stages)
                await self._carry(plan, stages, max_output_bytes)
        return Result(plan, self._tally, finished=False)

    async def _serving(self, tagger: Any, model_thread: ThreadPoolExecutor) -> Chooser | None:
        if self._live.adapter_store is None and self._options.adapter in ("latest", "default"):
            return None
        from streamer.serving import Serving  # noqa: PLC0415  torch

        serving = Serving(self._live, self._codec, tagger, self._options.adapter, model_thread)
        await serving.start()
        return serving

    def _meant(self, record: Record) -> bool:
        return is_meant(record, self._options.selection, self._codec, self._history)

    async def _estimate(self, plan: Plan, stages: Stages) -> Result:
        """Count what is meant, and tag some of it, writing nothing."""
        sample: list[Record] = []
        meant = 0
        async with Scanner(self._live) as scanner:
            async for records in scanner.read(plan.left):
                self._tally.records += len(records)
                for record in filter(self._meant, records):
                    meant += 1
                    if len(sample) < SAMPLE:
                        sample.append(record)
        self._tally.listings = meant
        await stages.tag(stages.prepare(sample))  # the first calls are slower than those that follow
        began = time.perf_counter()
        stages.encode(await stages.tag(stages.prepare(sample)))
        seconds = (time.perf_counter() - began) * meant / max(1, len(sample))
        if self._options.rate:
            seconds = max(seconds, meant / self._options.rate)
        return Result(plan, self._tally, finished=False, estimate_s=seconds)

    async def _carry(self, plan: Plan, stages: Stages, max_output_bytes: int) -> None:
        """Read, tag, deliver and write down, each ahead of the next by one chunk."""
        async with AsyncExitStack() as stack:
            scanner = await stack.enter_async_context(Scanner(self._live, plan.group))
            delivery = Delivery(self._settings, max_output_bytes)
            stack.push_async_callback(delivery.stop)
            await delivery.start()
            read: asyncio.Queue[_Chunk | None] = asyncio.Queue(1)
            tagged: asyncio.Queue[tuple[_Chunk, list[Outcome]] | None] = asyncio.Queue(1)
            try:
                async with asyncio.TaskGroup() as tasks:
                    watching = tasks.create_task(self._let_live_go_first())
                    tasks.create_task(self._read(plan, scanner, read))
                    tasks.create_task(self._tag(stages, read, tagged))
                    await self._deliver(plan, scanner, delivery, stages, tagged)
                    watching.cancel()
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None

    async def _read(self, plan: Plan, scanner: Scanner, read: "asyncio.Queue[_Chunk | None]") -> None:
        pace, chunk, last = Pace(self._options.rate), _Chunk(), time.monotonic()
        async for records in scanner.read(plan.left):
            one = TopicPartition(records[0].topic, records[0].partition)
            for record in records:
                if self._meant(record):
                    if self._options.rate:
                        await pace.wait()
                    chunk.records.append(record)
                chunk.read += 1
                chunk.done[one] = record.offset + 1
                full = len(chunk.records) >= self._settings.batch_listings and record is records[-1]
                if full or time.monotonic() > last + COMMIT_S:
                    await read.put(chunk)
                    chunk, last = _Chunk(), time.monotonic()
        chunk.done = {one: span.end for one, span in plan.left.items()}  # the last offsets may be nobody's to deliver
        await read.put(chunk)
        await read.put(None)

    async def _tag(
        self,
        stages: Stages,
        read: "asyncio.Queue[_Chunk | None]",
        tagged: "asyncio.Queue[tuple[_Chunk, list[Outcome]] | None]",
    ) -> None:
        while (chunk := await read.get()) is not None:
            entries = await asyncio.to_thread(stages.prepare, chunk.records)
            await self._go.wait()
            await tagged.put((chunk, await stages.tag(entries)))
        await tagged.put(None)

    async def _deliver(
        self,
        plan: Plan,
        scanner: Scanner,
        delivery: Delivery,
        stages: Stages,
        tagged: "asyncio.Queue[tuple[_Chunk, list[Outcome]] | None]",
    ) -> None:
        written = time.monotonic()
        while (item := await tagged.get()) is not None:
            chunk, outcomes = item
            outputs = await asyncio.to_thread(stages.encode, outcomes)
            await delivery.send(outputs)
            for output in outputs:
                self._tally.count(output, self._history)
            self._tally.records += chunk.read
            self._done |= chunk.done
            if time.monotonic() > written + COMMIT_S:
                await self._write_down(plan, scanner)
                written = time.monotonic()
        await self._write_down(plan, scanner)

    async def _write_down(self, plan: Plan, scanner: Scanner) -> None:
        await planning.write(scanner, plan, {one: self._done[one] for one in plan.left})
        self._saved(plan, self._tally)

    async def _let_live_go_first(self) -> None:
        """Pause while the live group is more than `max_lag` records behind, until it is only half as far."""
        inputs = await partitions(self._live, self._live.input_topics)
        async with Scanner(self._live, self._live.group_id) as scanner:
            while True:
                committed = await scanner.committed(inputs)
                ends = await scanner.ends(inputs)
                lag = sum(max(0, ends[one] - at) for one, at in committed.items() if at is not None)
                if lag > self._options.max_lag:
                    self._go.clear()
                elif lag <= self._options.max_lag // 2:
                    self._go.set()
                await asyncio.sleep(LAG_S)
