"""The materialiser: keeps the compacted topic of each product's newest tags.

Compaction keeps a key's last record, not its newest, and several writers cannot agree on what is newest: so each
partition has one owner, found by a consumer group over the topic of tag events and fenced by a transactional id.
"""

import asyncio
import signal
from collections.abc import Iterable

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import GroupAuthorizationFailedError

import schemas
from streamer import logs
from streamer.codec import Codec
from streamer.connection import POLL_MS, connect, partitions, stop, translated
from streamer.errors import AccessDenied, BrokerError, SettingsError
from streamer.owner import Owner, Progress
from streamer.settings import Settings

LOG_S = 10.0  # between two lines that say how much was done

log = structlog.get_logger(__name__)


class Materialiser(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """One run of it: a member of the group, and an owner for each partition that the group gives it.

    The group and the transactional ids are named after the topic that is written, so that whoever writes it is in one
    group. An owner outlives a rebalance after which its partition is still ours; between the two it writes nothing.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError when there is no topic to write."""
        if settings.latest_topic is None:
            raise SettingsError("STREAMER_LATEST_TOPIC: not set; it names the topic to write, as product-tags-latest")
        self._settings = settings
        self._latest = settings.latest_topic
        self._codec = Codec.from_settings(settings)
        self._owners: dict[int, Owner] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._held: list[Owner] = []
        self._progress = Progress()
        self._partitions = 0
        self._stopping = asyncio.Event()

    async def serve(self) -> None:
        """Run until a signal. Raises StreamerError; whatever was not committed then is aborted, and done again."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        log.info("starting", source=self._settings.tags_topic, target=self._latest)
        self._partitions = await self._check()
        await asyncio.to_thread(self._codec.register, schemas.TAGS, self._latest)
        self._member = self._consumer()
        try:
            self._member.subscribe([self._settings.tags_topic], listener=self)
            await connect(self._member, self._settings)
            await self._watch()
        finally:
            self._stopping.set()
            log.info("stopping", partitions=sorted(self._owners))
            await asyncio.wait({asyncio.create_task(self._stop())}, timeout=self._settings.drain_s)

    async def _check(self) -> int:
        """How many partitions both topics have. Raises BrokerError."""
        source = self._settings.tags_topic
        found = [one.topic for one in await partitions(self._settings, [source, self._latest])]
        if found.count(source) != found.count(self._latest):
            raise BrokerError(
                f"{self._latest}: has {found.count(self._latest)} partitions and {source} has {found.count(source)}: "
                "make it anew, with as many, so that a product is in the same partition of both"
            )
        return found.count(source)

    def _consumer(self) -> AIOKafkaConsumer:
        settings = self._settings
        return AIOKafkaConsumer(
            group_id=self._latest,
            auto_offset_reset="earliest",  # for nobody: its owners read, each from an offset of its own
            enable_auto_commit=False,
            partition_assignment_strategy=(StickyPartitionAssignor,),  # a partition that moves is loaded anew
            session_timeout_ms=int(settings.session_timeout_s * 1000),
            heartbeat_interval_ms=int(settings.session_timeout_s * 1000 / 4),
            rebalance_timeout_ms=int(settings.rebalance_timeout_s * 1000),
            **settings.client_options(),
        )

    async def _watch(self) -> None:
        """Stay in the group until a signal; raises what an owner raises."""
        loop = asyncio.get_running_loop()
        due, told = loop.time() + LOG_S, 0
        while not self._stopping.is_set():
            with translated(self._settings):
                try:
                    await self._member.getmany(timeout_ms=POLL_MS)  # nothing comes: all is paused
                except GroupAuthorizationFailedError as error:
                    raise AccessDenied(f"the group {self._latest} is not for this user") from error
            for task in [*self._tasks.values()]:
                if task.done():
                    await task
            done = self._progress
            if loop.time() > due and done.read != told:
                log.info("materialised", partitions=len(self._owners), read=done.read, written=done.written)
                due, told = loop.time() + LOG_S, done.read

    async def _stop(self) -> None:
        """Finish the transactions in hand, give the partitions up, leave the group."""
        await self.on_partitions_revoked(())
        for partition in [*self._owners]:
            await self._drop(partition)
        await stop(self._member)

    async def on_partitions_revoked(self, _: Iterable[TopicPartition]) -> None:
        """A rebalance begins: called by the group, which waits."""
        for owner in self._owners.values():
            if owner not in self._held:
                await owner.turn.acquire()  # its transaction in hand is finished, and no other begins
                self._held.append(owner)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """A rebalance is over: what is ours now. Called by the group."""
        if self._stopping.is_set():
            return
        ours = {one.partition for one in assigned}
        self._member.pause(*assigned)
        for partition in self._owners.keys() - ours:
            await self._drop(partition)
        for owner in self._held:
            owner.turn.release()
        self._held.clear()
        for partition in sorted(ours - self._owners.keys()):
            owner = Owner(self._settings, self._codec, self._latest, partition, self._partitions, self._progress)
            self._owners[partition] = owner
            self._tasks[partition] = asyncio.create_task(owner.run())
        log.info("assigned", partitions=sorted(ours))

    async def _drop(self, partition: int) -> None:
        """Give a partition up whose turn is held; what its owner may have run into is the next one's concern."""
        del self._owners[partition]
        task = self._tasks.pop(partition)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()


def run(settings: Settings) -> int:
    """Run it until SIGTERM or SIGINT; returns the exit code, after one clear line about any failure."""
    logs.configure(settings)
    return asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    structlog.contextvars.bind_contextvars(group=settings.latest_topic)
    try:
        await Materialiser(settings).serve()
    except Exception as error:
        return logs.failed(error, settings)
    log.info("stopped")
    return 0
