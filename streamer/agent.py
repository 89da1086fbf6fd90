"""The agent: three tasks that carry events from Faust's stream to acknowledged outputs.

    read    events of the stream, not acknowledged by Faust, into a bounded intake
    batch   decodes and tokenises what came in, forms micro-batches of what can be served as the model's thread gets
            free for them; rows whose merchant's adapter is not there yet wait aside
    finish  waits for the model, writes the outputs, waits for the broker, then acknowledges, first in first out

Rows that a worker may have died of go the same way, with nothing else in hand: `streamer.suspects`.
Whatever fails in one of the tasks ends the agent, and so the worker, with its inputs unacknowledged: they come again.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from streamer import failpoints, finished
from streamer.acknowledge import Acknowledgements
from streamer.attempts import Attempts
from streamer.batch import Former, Intake
from streamer.deadletters import ShareGuard
from streamer.delivery import Delivery
from streamer.errors import RegistryUnavailable
from streamer.flow import BATCHES_IN_HAND, Adapters, Batch, Flow, Progress, Row
from streamer.metrics import Metrics
from streamer.pipeline import Job, Outcome, Output, Pipeline, Rejected, Stage, condemned
from streamer.records import Record
from streamer.retry import restored
from streamer.settings import Settings
from streamer.suspects import Care
from taggen.errors import DeviceError

if TYPE_CHECKING:
    from streamer.tracing import Tracing

ASIDE_S = 0.01  # between two looks at rows that wait for an adapter while nothing else is in hand
RETRY_FIRST_S, RETRY_MOST_S = 0.5, 5.0  # the pause doubles from one to the other

A = TypeVar("A")
R = TypeVar("R")

log = structlog.get_logger(__name__)


class TaggingAgent:
    """Runs one stream; the streams of a worker share everything else."""

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        delivery: Delivery,
        metrics: Metrics,
        model_thread: Executor,
        adapters: Adapters | None = None,
        tracing: "Tracing | None" = None,
        attempts: Attempts | None = None,
    ) -> None:
        """`adapters` None: the default adapter serves everybody. `tracing` None: nobody traces. `attempts` None: nobody
        knows of deaths."""
        self.progress = Progress()
        self._settings = settings
        self._pipeline = pipeline
        self._delivery = delivery
        self._metrics = metrics
        self._model_thread = model_thread
        self._adapters = adapters
        self._tracing = tracing
        self._attempts = attempts
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="stage")  # one prepares while one encodes
        self._guard = ShareGuard(settings.dead_letter_share, settings.dead_letter_window, settings.dead_letter_minimum)

    async def run(self, stream: Any) -> None:
        """Carry the events of a Faust stream until it ends; raises the first failure of the three tasks."""
        settings = self._settings
        intake: Intake[Any] = Intake(2 * settings.batch_listings)
        former = self._former()
        acknowledgements = self.progress.acknowledgements = Acknowledgements()
        flow = Flow(stream, intake)

        if self._adapters is not None:
            self._adapters.watch(lambda: intake.wake() if former else None)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(stream, intake, acknowledgements), name="read")
                tasks.create_task(self._batch(flow, former), name="batch")
                tasks.create_task(self._finish(flow, acknowledgements), name="finish")
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _read(self, stream: Any, intake: Intake[Any], acknowledgements: Acknowledgements) -> None:
        progress = self.progress
        generation: int | None = None
        async for event in stream.events():
            progress.in_hand += 1
            acknowledgements.read(event)
            if event.message.generation_id != generation:  # partitions have moved
                generation = event.message.generation_id
                if self._adapters is not None:  # their former owner may have followed records that we have not
                    await self._adapters.up_to_date()
                if self._attempts is not None:  # or have died
                    await self._attempts.take(stream.app.consumer.assignment())
            await intake.add(event)

    async def _batch(self, flow: Flow, former: Former[Row]) -> None:
        """What comes while the model is at work is prepared and waits for others of its length."""
        loop = asyncio.get_running_loop()
        settings, intake = self._settings, flow.intake
        rows: deque[Row] = deque()
        timer: asyncio.TimerHandle | None = None
        while True:
            events, queue_s = await intake.gather(settings.batch_listings, settings.batch_wait_ms / 1000)
            for care, some in [(Care.NONE, events)] if self._attempts is None else self._attempts.groups(events):
                if care is Care.NONE:
                    rows.extend(await self._prepared(some, queue_s))
                elif self._attempts is not None:
                    await self._hand_over(flow, former, rows)
                    await self._try(flow, self._attempts, care, some, queue_s)
            await self._hand_over(flow, former, rows, while_room=True)
            intake.aside(len(former) + len(rows))
            self._metrics.waiting.set(len(former))
            if timer is not None:
                timer.cancel()
            due = None if flow.full else former.due()  # else the end of a batch wakes the intake
            timer = None if due is None else loop.call_later(due - time.monotonic(), intake.wake)

    async def _prepared(self, events: list[Any], queue_s: float) -> list[Row]:
        """Decoded and tokenised rows; `queue_s` is how long the oldest has waited before that."""
        if not events:
            return []
        loop = asyncio.get_running_loop()
        read = time.time() - queue_s
        records = [self._record(event.message) for event in events]
        entries, prepare = await loop.run_in_executor(self._threads, self._timed, self._pipeline.prepare, records)
        if self._adapters is not None:
            self._adapters.prefetch([entry.listing for entry in entries if isinstance(entry, Job)])
        return [Row(event, entry, read, prepare.seconds) for event, entry in zip(events, entries, strict=True)]

    async def _hand_over(self, flow: Flow, former: Former[Row], rows: deque[Row], *, while_room: bool = False) -> None:
        """Form batches of the rows that can go, and hand them to the model's thread; others stay in the former.

        `while_room`: no more than would not stand behind others, so that the rest waits for more of its length.
        """
        while (rows or former) and not (while_room and flow.full):
            await flow.at_most(BATCHES_IN_HAND - 1)
            batch = self._form(former, rows)
            if batch is None:
                return
            taken, tagged = batch
            formed = time.time()
            prepare_s = max(row.prepare_s for row in taken)
            queue_s = max(0.0, formed - min(row.read for row in taken) - prepare_s)
            flow.put(Batch(taken, tagged, formed, queue_s, prepare_s))

    async def _try(self, flow: Flow, attempts: Attempts, care: Care, events: list[Any], queue_s: float) -> None:
        """Rows that a worker may have died of: with nothing else in hand, and marked until they are committed."""
        await flow.at_most(0)
        await attempts.begin(events)
        if care is Care.CONDEMNED:
            records = [self._record(event.message) for event in events]
            read = time.time() - queue_s
            rows = deque(Row(one, condemned(record), read, 0.0) for one, record in zip(events, records, strict=True))
        else:
            rows = deque(await self._prepared(events, queue_s))
        former = self._former()
        await self._hand_over(flow, former, rows)
        while former:  # for adapters
            await asyncio.sleep(ASIDE_S)
            await self._hand_over(flow, former, rows)
        await flow.at_most(0)
        await flow.stream.app.consumer.commit()
        await attempts.end()

    def _former(self) -> Former[Row]:
        settings = self._settings
        return Former(settings.batch_listings, settings.batch_tokens, settings.adapter_wait_ms / 1000)

    def _form(
        self, former: Former[Row], rows: deque[Row]
    ) -> tuple[list[Row], asyncio.Future[tuple[list[Outcome], Stage]]] | None:
        """Form a batch and hand it to the model's thread; None when no row can go.

        Its slots are held until that thread has finished with it, or will never begin.
        """
        if self._adapters is None:
            batch = former.form(rows, lambda row, _: row)
            return (batch, asyncio.wrap_future(self._submit(batch))) if batch else None
        lease = self._adapters.lease()

        def serve(row: Row, expired: bool) -> Row | None:
            entry = row.entry
            if not isinstance(entry, Job):
                return row
            served = lease.serve(entry.listing, expired)
            return None if served is None else row._replace(entry=entry._replace(served=served))

        try:
            batch = former.form(rows, serve)
            future = self._submit(batch) if batch else None
        except BaseException:
            lease.release()
            raise
        if future is None:
            lease.release()
            return None
        future.add_done_callback(lambda _: lease.release())
        return batch, asyncio.wrap_future(future)

    def _submit(self, batch: Sequence[Row]) -> Future[tuple[list[Outcome], Stage]]:
        return self._model_thread.submit(self._timed, self._pipeline.tag, [row.entry for row in batch])

    async def _finish(self, flow: Flow, acknowledgements: Acknowledgements) -> None:
        loop = asyncio.get_running_loop()
        progress = self.progress
        while True:
            batch = await flow.batches.get()
            outcomes, model = await batch.tagged
            outputs, encode = await loop.run_in_executor(self._threads, self._timed, self._pipeline.encode, outcomes)
            for outcome in outcomes:
                if isinstance(outcome, Rejected):
                    self._guard.record(outcome.reason, outcome.merchant_id)
                else:
                    self._guard.record(None, outcome.listing.merchant_id)
            failpoints.reach("encoded")
            started = time.perf_counter()
            with self._traced(batch, outputs, model) as outputs:
                await self._delivery.send(outputs)
            deliver_s = time.perf_counter() - started
            failpoints.reach("delivered")
            for row in batch.rows:
                offset = acknowledgements.finish(row.event)
                if offset is not None:
                    progress.finished[row.event.message.topic, row.event.message.partition] = offset
            failpoints.reach("acknowledged")
            progress.in_hand -= len(batch.rows)
            flow.stream.app.consumer.release(sum(len(row.event.message.value or b"") for row in batch.rows))
            flow.done()
            stages = {"queue": batch.queue_s, "prepare": batch.prepare_s, "model": model.seconds}
            stages |= {"encode": encode.seconds, "deliver": deliver_s}
            finished.report(batch, outputs, stages, self._metrics, progress.in_hand)

    def _record(self, message: Any) -> Record:
        record = _record(message)
        return restored(record) if message.topic == self._settings.retry_topic else record

    def _traced(self, batch: Batch, outputs: list[Output], model: Stage) -> AbstractContextManager[list[Output]]:
        if self._tracing is None:
            return nullcontext(outputs)
        return self._tracing.batch(outputs, [row.read for row in batch.rows], batch.formed, model)

    def _timed(self, stage: Callable[[A], R], argument: A) -> tuple[R, Stage]:
        """Run one stage of the pipeline, in a thread; what is nobody's fault is tried again for a while.

        Returns its result and when it was at work.
        """
        began, started = time.time(), time.perf_counter()
        pause_s = RETRY_FIRST_S
        while True:
            try:
                return stage(argument), Stage(began, time.perf_counter() - started)
            except (RegistryUnavailable, DeviceError) as error:
                if time.perf_counter() - started + pause_s > self._settings.broker_retry_s:
                    raise
                log.warning("retrying", error=type(error).__name__, message=str(error), in_s=pause_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MOST_S)


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
