"""The agent: three tasks that carry events from Faust's stream to acknowledged outputs.

    read    events of the stream, not acknowledged by Faust, into a bounded intake
    batch   gathers a micro-batch, decodes and tokenises it, gives it to the model's thread
    finish  waits for the model, writes the outputs, waits for the broker, then acknowledges, first in first out

Whatever fails in one of them ends the agent, and so the worker, with its inputs unacknowledged: they come again.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import structlog

from streamer.batch import Intake, cut
from streamer.codec import Record
from streamer.deadletters import ShareGuard
from streamer.delivery import Delivery
from streamer.errors import RegistryUnavailable
from streamer.metrics import Metrics
from streamer.pipeline import Deleted, Job, Outcome, Output, Pipeline, Rejected, now_ms
from streamer.settings import Settings
from taggen.errors import DeviceError

BATCHES_IN_HAND = 3  # one in the model, one ready behind it, one being delivered

RETRY_FIRST_S, RETRY_MOST_S = 0.5, 5.0  # the pause doubles from one to the other

A = TypeVar("A")
R = TypeVar("R")

log = structlog.get_logger(__name__)


@dataclass
class Progress:
    """How far the agent is; the watchdog and the lag metric read it."""

    in_hand: int = 0
    last: float = field(default_factory=time.monotonic)  # when a batch was finished last
    finished: dict[tuple[str, int], int] = field(default_factory=dict)  # partition → last finished offset


class Batch(NamedTuple):
    """A micro-batch on its way; `tagged` resolves to its outcomes and the seconds the model took."""

    events: Sequence[Any]
    tokens: int  # with padding
    padding: int
    tagged: asyncio.Future[tuple[list[Outcome], float]]
    queue_s: float
    prepare_s: float


class TaggingAgent:
    """Runs one stream; the streams of a worker share everything else."""

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        delivery: Delivery,
        metrics: Metrics,
        model_thread: ThreadPoolExecutor,
    ) -> None:
        self.progress = Progress()
        self._settings = settings
        self._pipeline = pipeline
        self._delivery = delivery
        self._metrics = metrics
        self._model_thread = model_thread
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="stage")  # one prepares while one encodes
        self._guard = ShareGuard(settings.dead_letter_share, settings.dead_letter_window, settings.dead_letter_minimum)

    async def run(self, stream: Any) -> None:
        """Carry the events of a Faust stream until it ends; raises the first failure of the three tasks."""
        intake: Intake[Any] = Intake(2 * self._settings.batch_listings)
        batches: asyncio.Queue[Batch] = asyncio.Queue()
        slots = asyncio.Semaphore(BATCHES_IN_HAND)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(stream, intake), name="read")
                tasks.create_task(self._batch(stream, intake, batches, slots), name="batch")
                tasks.create_task(self._finish(batches, slots), name="finish")
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _read(self, stream: Any, intake: Intake[Any]) -> None:
        progress = self.progress
        async for event in stream.events():
            if not progress.in_hand:
                progress.last = time.monotonic()
            progress.in_hand += 1
            await intake.add(event)

    async def _batch(
        self,
        stream: Any,
        intake: Intake[Any],
        batches: asyncio.Queue[Batch],
        slots: asyncio.Semaphore,
    ) -> None:
        loop = asyncio.get_running_loop()
        settings = self._settings
        while True:
            events, queue_s = await intake.gather(settings.batch_listings, settings.batch_wait_ms / 1000)
            records = [_record(event.message) for event in events]
            stream.app.consumer.release(sum(len(record.value or b"") for record in records))
            entries, prepare_s = await loop.run_in_executor(self._threads, self._timed, self._pipeline.prepare, records)
            start = 0
            for group in cut(entries, settings.batch_tokens):
                await slots.acquire()
                end = start + len(group)
                tagged = loop.run_in_executor(self._model_thread, self._timed, self._pipeline.tag, group)
                tokens = sum(entry.tokens for entry in group)
                padding = sum(entry.tokens - entry.prepared.filled for entry in group if isinstance(entry, Job))
                batches.put_nowait(Batch(events[start:end], tokens, padding, tagged, queue_s, prepare_s))
                start = end

    async def _finish(self, batches: asyncio.Queue[Batch], slots: asyncio.Semaphore) -> None:
        loop = asyncio.get_running_loop()
        progress = self.progress
        while True:
            batch = await batches.get()
            outcomes, model_s = await batch.tagged
            outputs, encode_s = await loop.run_in_executor(self._threads, self._timed, self._pipeline.encode, outcomes)
            for outcome in outcomes:
                if isinstance(outcome, Rejected):
                    self._guard.record(outcome.reason, outcome.merchant_id)
                else:
                    self._guard.record(None, outcome.listing.merchant_id)
            started = time.perf_counter()
            await self._delivery.send(outputs)
            deliver_s = time.perf_counter() - started
            for event in batch.events:
                event.ack()  # not `await stream.ack`, which tells the sensors too: we have none
                message = event.message
                progress.finished[message.topic, message.partition] = message.offset
            progress.in_hand -= len(batch.events)
            progress.last = time.monotonic()
            slots.release()
            stages = {"queue": batch.queue_s, "prepare": batch.prepare_s, "model": model_s}
            self._report(batch, outputs, {**stages, "encode": encode_s, "deliver": deliver_s})

    def _timed(self, stage: Callable[[A], R], argument: A) -> tuple[R, float]:
        """Run one stage of the pipeline, in a thread; what is nobody's fault is tried again for a while.

        Returns its result and the seconds it took.
        """
        started = time.perf_counter()
        pause_s = RETRY_FIRST_S
        while True:
            try:
                return stage(argument), time.perf_counter() - started
            except (RegistryUnavailable, DeviceError) as error:
                if time.perf_counter() - started + pause_s > self._settings.broker_retry_s:
                    raise
                log.warning("retrying", error=type(error).__name__, message=str(error), in_s=pause_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MOST_S)

    def _report(self, batch: Batch, outputs: list[Output], stages: dict[str, float]) -> None:
        """Count a finished batch and log it, never with text of a listing."""
        metrics = self._metrics
        now = now_ms()
        tags = deleted = rejected = 0
        since_record, since_event = metrics.latency.labels("record"), metrics.latency.labels("event")
        topics: dict[str, int] = {}
        offsets: dict[tuple[str, int], list[int]] = {}  # the first and the last of each partition
        for output in outputs:
            outcome = output.outcome
            record = outcome.record
            topics[record.topic] = topics.get(record.topic, 0) + 1
            offsets.setdefault((record.topic, record.partition), [record.offset, 0])[1] = record.offset
            since_record.observe(max(0, now - record.timestamp) / 1000)
            if isinstance(outcome, Rejected):
                rejected += 1
                metrics.dead_letters.labels(outcome.reason).inc()
                log.warning(
                    "dead_letter",
                    topic=record.topic,
                    partition=record.partition,
                    offset=record.offset,
                    reason=outcome.reason,
                    field=outcome.field,
                    merchant=outcome.merchant_id,
                    cause=outcome.cause,
                )
                continue
            since_event.observe(max(0, now - outcome.listing.event_time) / 1000)
            if outcome.stale:
                metrics.stale.inc()
            if isinstance(outcome, Deleted):
                deleted += 1
            else:
                tags += 1
                for flag in outcome.tagging.flags:
                    metrics.flags.labels(flag).inc()
        for topic, count in topics.items():
            metrics.events_in.labels(topic).inc(count)
        for kind, count in (("tags", tags), ("deletion", deleted), ("dead_letter", rejected)):
            if count:
                metrics.events_out.labels(kind).inc(count)
        metrics.batch_listings.observe(len(outputs))
        metrics.batch_tokens.observe(batch.tokens)
        metrics.padding_tokens.inc(batch.padding)
        metrics.in_hand.set(self.progress.in_hand)
        for stage, seconds in stages.items():
            metrics.stage_seconds.labels(stage).observe(seconds)
        log.info(
            "batch",
            tagged=tags,
            deleted=deleted,
            dead_letters=rejected,
            tokens=batch.tokens,
            offsets={f"{topic}/{partition}": ends for (topic, partition), ends in offsets.items()},
            **{f"{stage}_ms": round(seconds * 1000, 1) for stage, seconds in stages.items()},
        )


def _record(message: Any) -> Record:
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp=round((message.timestamp or 0) * 1000),
        key=message.key,
        value=message.value,
        headers=tuple(message.headers or ()),
    )
