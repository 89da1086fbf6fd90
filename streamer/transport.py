"""Faust's Kafka consumer with seven changes: it hands messages over without four tasks for each, it refuses to jump
over lost offsets, it reads nothing that a transaction has aborted, the fetch wait is a setting, what a batch inflates
to is bounded (streamer.unpack), it tells the watchdog (streamer.watchdog) what Faust does not look at, and a static
member never takes its name back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streamer import unpack
from streamer.errors import BrokerError, Fenced, OffsetLost
from streamer.settings import Settings
from streamer.stream import FAUST_LOGGER

YIELD_EVERY = 100  # messages handed over before the event loop gets a turn

unpack.install()


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]  # faust is untyped
    """The thread that owns the aiokafka consumer."""

    logger = FAUST_LOGGER

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust passes 1,500 and offers no setting; the fetcher reads this when the consumer starts.
        consumer._fetch_max_wait_ms = self.consumer.fetch_max_wait_ms
        # Faust reads what a transaction has aborted too, unless it is in one itself.
        consumer._isolation_level = "read_committed"
        return consumer

    async def on_start(self) -> None:
        """As the driver's. A static member that the broker does not know any more ends, since aiokafka would take the
        name back at once, and two workers of one name would go on with that for ever."""
        await super().on_start()
        consumer = self._consumer
        coordinator, name = consumer._coordinator, consumer._group_instance_id
        if name is None:
            return
        join, joined = coordinator.ensure_active_group, False

        async def join_once(*arguments: Any) -> Any:
            nonlocal joined
            if joined and not coordinator.member_id:
                raise Fenced(
                    f"group_instance_id {name}: another worker has come with this name, or nothing was heard of this "
                    f"one for the session's {consumer._session_timeout_ms / 1000:g} s"
                )
            assignment = await join(*arguments)
            joined = bool(coordinator.member_id)
            return assignment

        coordinator.ensure_active_group = join_once

    @property
    def fetches(self) -> dict[TP, int | None]:
        """When the last fetch of each partition was answered (ms), None for never: of those that have a leader, are not
        paused, and have nothing left that waits to be handed over. From any thread."""
        consumer = self._consumer
        subscription = consumer._subscription.subscription if consumer is not None else None
        assignment = subscription.assignment if subscription is not None else None
        if assignment is None:
            return {}
        leader_of, waiting = consumer._client.cluster.leader_for_partition, consumer._fetcher._records
        # of this one assignment: its own thread may be putting another in its place
        states = {partition: assignment.state_value(partition) for partition in assignment.tps}
        return {
            partition: state.timestamp
            for partition, state in states.items()
            if not state.paused and partition not in waiting and leader_of(partition) not in (None, -1)
        }

    def check_group(self) -> None:
        """Raises what has ended aiokafka's part in the group. Nothing else does: Faust goes on fetching, and what it
        tags is never committed."""
        coordinator = self._consumer._coordinator if self._consumer is not None else None
        task = coordinator._coordination_task if coordinator is not None else None
        if task is None or not task.done() or task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error.__cause__, Fenced):
            raise error.__cause__
        raise BrokerError(f"the consumer has left its group: {error}")

    async def on_thread_stop(self) -> None:
        """As the driver's; while the broker is gone, aiokafka lets out the cancellation of a task of its own."""
        with contextlib.suppress(asyncio.CancelledError):
            await super().on_thread_stop()

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek to the group's offsets; raises OffsetLost where the broker no longer has the committed record.

        aiokafka seeks nowhere where nothing is committed, or 0: what was fetched there and dropped while partitions
        moved would never be read again.
        """
        committed: Mapping[TP, int] = await super().seek_to_committed()
        beginnings = await self.earliest_offsets(*committed) if committed else {}
        for partition, offset in committed.items():
            if offset is not None and offset < beginnings[partition]:
                raise OffsetLost(partition.topic, partition.partition, offset, beginnings[partition])
        await self.seek_wait({one: beginnings[one] for one, offset in committed.items() if not offset})
        return committed


class Consumer(driver.Consumer):  # type: ignore[misc]  # faust is untyped
    """The consumer as Faust sees it, in the worker's event loop."""

    logger = FAUST_LOGGER

    max_buffered_bytes = 16 * 1024 * 1024
    fetch_max_wait_ms = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        self._n_acked = 0
        self._buffered_bytes = 0
        self._room = asyncio.Event()

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's own stall messages need its Monitor; the worker's watchdog does this job."""

    @property
    def fetches(self) -> Mapping[TP, int | None]:
        """As the thread's; nothing while partitions move."""
        thread = self._thread
        return thread.fetches if thread is not None and self.flow_active else {}

    def check_group(self) -> None:
        """As the thread's."""
        if self._thread is not None:
            self._thread.check_group()

    def release(self, nbytes: int) -> None:
        """Say that so many bytes of handed-over values are finished with."""
        self._buffered_bytes = max(0, self._buffered_bytes - nbytes)
        if self._buffered_bytes < self.max_buffered_bytes:
            self._room.set()

    def on_buffer_drop(self, tp: TP) -> None:
        """As Faust's: the stream's buffer has emptied to two fifths."""
        super().on_buffer_drop(tp)
        self._room.set()

    def stop_flow(self) -> None:
        """As Faust's; what is buffered is dropped next, and read again after the rebalance."""
        super().stop_flow()
        self._buffered_bytes = 0
        self._buffered_partitions.clear()
        self._room.set()

    @property
    def _full(self) -> bool:
        """Too many bytes are buffered, or the stream's buffer was found at four fifths and has not emptied since."""
        return self._buffered_bytes >= self.max_buffered_bytes or bool(self._buffered_partitions)

    async def _drain_messages(self, fetcher: Any) -> None:
        # As in faust.transport.consumer, but Faust races each message against "flow suspended", "stopped" and
        # "crashed", four tasks for each and half of its cost, since its stream's buffer may be full. We wait here
        # before it can be.
        callback = self.callback
        read_offsets = self._read_offset
        handed_over = 0
        try:
            while not (self.should_stop or fetcher.should_stop):
                messages: AsyncIterator[tuple[TP, Any]] = self.getmany(timeout=1.0)
                await asyncio.sleep(0)
                checked: set[TP] = set()  # where the first gap of this poll is none of retention's, nor are the others
                async for partition, message in messages:
                    offset = message.offset
                    last = read_offsets[partition]
                    if last is not None and offset < last:
                        continue
                    if last is not None and offset - last > 1 and self.app.topics.acks_enabled_for(message.topic):
                        await self._check_gap(partition, last, checked)
                        # Faust adds the message behind the gap too, and its commits then stop at the doubled offset
                        await self._add_gap(partition, last + 1, offset - 1)
                    if self._n_acked >= self._commit_every:
                        self._n_acked = 0
                        await self.commit()
                    while self._full and self.flow_active:
                        self._room.clear()
                        await self._room.wait()
                    if not self.flow_active:
                        continue  # a rebalance began meanwhile; getmany ends by itself
                    read_offsets[partition] = offset  # before waiting: a rebalance seeks, and must have the last word
                    self._buffered_bytes += len(message.value or b"")
                    await callback(message)
                    handed_over += 1
                    if handed_over % YIELD_EVERY == 0:
                        await asyncio.sleep(0)
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.transport.app.should_stop:
                raise

    async def _check_gap(self, partition: TP, last: int, checked: set[TP]) -> None:
        """Offsets are missing: fine after compaction and transactions, not when retention has overtaken us."""
        if partition in checked:
            return
        beginning = (await self._thread.earliest_offsets(partition))[partition]
        if beginning > last + 1:
            raise OffsetLost(partition.topic, partition.partition, last + 1, beginning)
        checked.add(partition)


class Transport(driver.Transport):  # type: ignore[misc]  # faust is untyped
    """The transport of a worker's app."""

    Consumer = Consumer

    def __init__(self, url: Any, app: Any, settings: Settings) -> None:
        super().__init__(url, app)
        self._settings = settings

    def create_consumer(self, callback: Any, **options: Any) -> Any:
        """The app's consumer, with the settings that Faust has no name for."""
        consumer: driver.Consumer = super().create_consumer(callback, **options)
        consumer.fetch_max_wait_ms = self._settings.fetch_max_wait_ms
        consumer.max_buffered_bytes = self._settings.queue_bytes
        return consumer
