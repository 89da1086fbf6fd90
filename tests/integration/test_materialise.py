"""The topic of each product's newest tags, on Apache Kafka: what is in it, and that one owner a partition writes it."""

import asyncio
import gc
import logging
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.partitioner import DefaultPartitioner

from streamer import topics
from streamer.broker import BrokerProcess
from streamer.codec import Codec
from streamer.errors import Fenced
from streamer.newest import rank
from streamer.owner import Owner, Progress
from streamer.records import TagEvent, tag_key
from streamer.settings import Settings
from tests.brokers import KAFKA
from tests.unit.test_newest import event
from tests.workers import PATIENCE_S, Stage, WorkerProcess

CODEC = Codec()
PARTITIONS = 4
SESSION_S = 3  # as the stage's processes are told
SEED = 20261124


@dataclass
class Shelf:
    """The two topics of one test, and the processes that fill the second from the first."""

    stage: Stage

    @property
    def latest(self) -> str:
        return f"latest-{self.stage.name}"

    @property
    def settings(self) -> Settings:
        return self.stage.here(latest_topic=self.latest)

    async def create_topics(self, partitions: int = PARTITIONS, latest: int = PARTITIONS) -> None:
        wanted = [topics.Topic(self.stage.tags, partitions), topics.latest(self.latest, 1_000_000, latest)]
        await topics.ensure(wanted, bootstrap_servers=self.stage.broker.bootstrap)

    def start(self) -> WorkerProcess:
        log = self.stage.folder / f"materialiser-{len(self.stage.started)}.log"
        environment = self.stage.environment({"latest_topic": self.latest})
        process = WorkerProcess.of_command([sys.executable, "-m", "streamer", "materialise"], environment, log)
        self.stage.started.append(process)
        return process

    async def publish(self, events: Sequence[TagEvent]) -> None:
        """As the workers do, keyed by product."""
        values = [CODEC.encode_tags(one) for one in events]
        keys = [tag_key(one.merchant_id, one.product_id) for one in events]
        await self.stage.publish(values, keys, self.stage.tags)

    async def ends(self, topic: str) -> dict[int, int]:
        async with self._reader() as reader:
            partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
            return {one.partition: end for one, end in (await reader.end_offsets(partitions)).items()}

    async def until_done(self) -> None:
        """Wait until the group's offsets are at the end of the tag events."""
        ends = await self.ends(self.stage.tags)
        deadline = time.monotonic() + PATIENCE_S
        async with self._reader(group_id=self.latest) as reader:
            partitions = [TopicPartition(self.stage.tags, number) for number in range(PARTITIONS)]
            reader.assign(partitions)
            while True:
                committed = {one.partition: await reader.committed(one) or 0 for one in partitions}
                if committed == ends:
                    return
                if time.monotonic() > deadline:
                    raise AssertionError(f"committed {committed} of {ends}; {self.stage.logs()}")
                await asyncio.sleep(0.05)

    async def written(self, isolation_level: str = "read_committed") -> list[TagEvent]:
        """All that stands there, partition by partition."""
        found: dict[int, list[TagEvent]] = {number: [] for number in range(PARTITIONS)}
        async with self._reader(isolation_level=isolation_level) as reader:
            partitions = [TopicPartition(self.latest, number) for number in range(PARTITIONS)]
            ends = await reader.end_offsets(partitions)
            reader.assign(partitions)
            await reader.seek_to_beginning()
            while any([await reader.position(one) < ends[one] for one in partitions]):
                for partition, messages in (await reader.getmany(timeout_ms=100)).items():
                    for message in messages:
                        one = CODEC.decode_tags(message.value)
                        assert message.key == tag_key(one.merchant_id, one.product_id)
                        found[partition.partition].append(one)
        return [one for partition in found.values() for one in partition]

    async def newest(self) -> dict[str, str]:
        """The event of each product, after a check that nothing older or equal was ever written behind one."""
        last: dict[str, TagEvent] = {}
        for one in await self.written():
            before = last.get(one.product_id)
            assert before is None or rank(one) > rank(before), (before, one)
            last[one.product_id] = one
        return {product: one.event_id for product, one in last.items()}

    def _reader(self, **options: object) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            bootstrap_servers=self.stage.broker.bootstrap,
            enable_auto_commit=False,
            fetch_max_wait_ms=100,
            auto_offset_reset="earliest",
            **options,
        )


@pytest.fixture
def shelf(broker: BrokerProcess, tmp_path: Path, unique: Callable[[str], str]) -> Iterator[Shelf]:
    """Topics of the test's own, and no processes that outlive it."""
    stage = Stage(broker, None, tmp_path, unique("shelf"))
    try:
        yield Shelf(stage)
    finally:
        for process in stage.started:
            process.kill()


def events(count: int, seed: int = SEED) -> list[TagEvent]:
    """Of few products, so that many are repeats, older, of a rollback, or a deletion."""
    chance = random.Random(seed)  # noqa: S311
    return [
        event(
            f"p{chance.randrange(40)}",
            chance.randint(1, 6),
            generation=chance.randint(1, 3),
            revision=chance.randint(0, 3),
            fallback=chance.random() < 0.3,
            deleted=chance.random() < 0.1,
        )
        for _ in range(count)
    ]


def expected(of: Sequence[TagEvent]) -> dict[str, str]:
    """What must be there in the end."""
    newest: dict[str, TagEvent] = {}
    for one in of:
        if one.product_id not in newest or rank(one) > rank(newest[one.product_id]):
            newest[one.product_id] = one
    return {product: one.event_id for product, one in newest.items()}


@KAFKA
async def test_the_newest_of_each_product(shelf: Shelf) -> None:
    """Whatever the order; a replay of everything writes nothing, not after a restart either, and brings no deleted
    product back; SIGTERM ends it with 0."""
    await shelf.create_topics()
    first, everything = events(400), events(800)
    await shelf.publish(first)
    with shelf.start() as process:
        await shelf.until_done()
        assert await shelf.newest() == expected(first)
        process.terminate()
        assert await process.exit_code() == 0
    with shelf.start() as process:
        await shelf.publish(everything[400:])
        await shelf.until_done()
        before = await shelf.written()
        assert await shelf.newest() == expected(everything)
        await shelf.publish([one._replace(event_id=f"replayed {one.event_id}") for one in reversed(everything)])
        await shelf.until_done()
        assert await shelf.written() == before
        process.terminate()
        assert await process.exit_code() == 0


@KAFKA
async def test_an_owner_that_was_replaced_writes_nothing(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    """It has records in hand when the next one takes over, and tries: not one of them gets in, aborted or committed.
    What an owner before had begun to write and not committed was never there."""
    await shelf.create_topics()
    begun = AIOKafkaProducer(
        bootstrap_servers=shelf.stage.broker.bootstrap,
        transactional_id=f"{shelf.latest}-0",
        transaction_timeout_ms=60_000,
    )
    products = [one for one in (f"q{number}" for number in range(200)) if _partition_of(one) == 0][:20]
    async with begun:
        await begun.begin_transaction()
        for product in products:
            value = CODEC.encode_tags(event(product, 9))
            await begun.send(shelf.latest, value, tag_key("acme", product), partition=0)
        await begun.flush()
        sleeper, progress = _owner(shelf)
        running = asyncio.create_task(sleeper.run())
        await shelf.publish([event(product, 1) for product in products])
        await _until(lambda: progress.read == 20, running)
        await sleeper.turn.acquire()  # it sleeps
        await shelf.publish([event(product, 2) for product in products])
        other, done = _owner(shelf)
        awake = asyncio.create_task(other.run())
        await _until(lambda: done.read == 20, awake)
        await shelf.publish([event(product, 3) for product in products])
        await _until(lambda: done.read == 40, awake)
        sleeper.turn.release()
        with pytest.raises(Fenced, match=f"{shelf.latest}/0: another process owns it now"):
            await asyncio.wait_for(running, PATIENCE_S)
        awake.cancel()
        await asyncio.wait({awake})
        with caplog.at_level(logging.CRITICAL, "asyncio"):  # aiokafka leaves the failed producer's futures to nobody
            del running, sleeper
            gc.collect()
    assert [one.listing_version for one in await shelf.written()] == [1] * 20 + [2] * 20 + [3] * 20
    uncommitted = [one.listing_version for one in await shelf.written("read_uncommitted")]
    assert uncommitted == [9] * 20 + [1] * 20 + [2] * 20 + [3] * 20


async def test_refusals(shelf: Shelf) -> None:
    """A broker without transactions, another number of partitions, no topic: one line each, and not 0."""
    if shelf.stage.broker.kind == "tansu":
        await shelf.create_topics()
        line = await shelf.stage.command("materialise", code=1, latest_topic=shelf.latest)
        assert "this broker has no transactions" in line
        assert "BrokerError" in line
        line = await shelf.stage.command("materialise", code=2)
        assert "STREAMER_LATEST_TOPIC: not set" in line
    else:
        line = await shelf.stage.command("materialise", code=1, latest_topic=shelf.latest)
        assert "no such topic" in line
        await shelf.create_topics(latest=PARTITIONS + 1)
        line = await shelf.stage.command("materialise", code=1, latest_topic=shelf.latest)
        assert f"{shelf.latest}: has 5 partitions and {shelf.stage.tags} has 4" in line


@pytest.mark.slow
@KAFKA
async def test_a_process_that_wakes_up_writes_nothing(shelf: Shelf) -> None:
    """Stopped under load, with records fetched, until another has taken over and done all there was to do: the one that
    wakes up rejoins or ends, and nothing has been added to the topic, committed or not."""
    await shelf.create_topics()
    everything = events(6_000)
    published = asyncio.create_task(_publish_slowly(shelf, everything))
    sleeper = shelf.start()
    while len(await shelf.written()) < 50:
        assert sleeper.running
    sleeper.send_signal(signal.SIGSTOP)
    other = shelf.start()
    await published
    await shelf.until_done()
    assert await shelf.newest() == expected(everything)
    before = await shelf.written("read_uncommitted")
    sleeper.send_signal(signal.SIGCONT)
    await _until(lambda: not sleeper.running or [one["event"] for one in sleeper.events].count("assigned") == 2)
    await asyncio.sleep(1)
    assert await shelf.written("read_uncommitted") == before
    assert sleeper.running or sleeper.events[-1]["error"] == "Fenced"
    assert other.running


@pytest.mark.slow
@pytest.mark.timeout(600)
@KAFKA
async def test_kills_and_sleep(shelf: Shelf) -> None:
    """Two processes under load: one is killed and started again, one is stopped for longer than its session and woken,
    over and over. The content is what it must be, and nothing older was ever written behind anything newer."""
    chance = random.Random(SEED)  # noqa: S311
    await shelf.create_topics()
    everything = events(20_000)
    published = asyncio.create_task(_publish_slowly(shelf, everything))
    processes = [shelf.start(), shelf.start()]
    for number in range(8):
        victim = processes.pop(0)
        await victim.until("assigned")
        await asyncio.sleep(chance.uniform(0.2, 2))
        if number % 2:
            victim.kill()
            processes.append(shelf.start())
        else:
            victim.send_signal(signal.SIGSTOP)
            await asyncio.sleep(2 * SESSION_S)
            victim.send_signal(signal.SIGCONT)
            await asyncio.sleep(chance.uniform(0.5, 2))
            processes.append(victim if victim.running else shelf.start())
    await published
    await shelf.until_done()
    assert await shelf.newest() == expected(everything)
    for process in shelf.stage.started:
        process.terminate()
        await process.exit_code()
        failed = [one for one in process.events if one["event"] == "stopped" and one["level"] == "error"]
        assert [one["error"] for one in failed] in ([], ["Fenced"])


async def _publish_slowly(shelf: Shelf, events: Sequence[TagEvent]) -> None:
    for at in range(0, len(events), 100):
        await shelf.publish(events[at : at + 100])
        await asyncio.sleep(0.2)


def _owner(shelf: Shelf) -> tuple[Owner, Progress]:
    progress = Progress()
    return Owner(shelf.settings, CODEC, shelf.latest, 0, PARTITIONS, progress), progress


def _partition_of(product: str) -> int:
    numbers = list(range(PARTITIONS))
    return int(DefaultPartitioner()(tag_key("acme", product), numbers, numbers))


async def _until(condition: Callable[[], bool], task: asyncio.Task[None] | None = None) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            if task is not None and task.done():
                await task
            await asyncio.sleep(0.05)
