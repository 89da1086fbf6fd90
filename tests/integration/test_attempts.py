"""The attempts topic on real brokers: what one worker leaves, the next one finds."""

from collections.abc import Awaitable, Callable

import pytest
from aiokafka import AIOKafkaProducer

from streamer.attempts import Attempts
from streamer.broker import BrokerProcess
from streamer.delivery import Delivery
from streamer.errors import Stalled
from streamer.settings import Settings
from streamer.suspects import Care
from taggen.errors import DeviceError
from tests.brokers import SLOW_ON_KAFKA
from tests.conftest import client_options
from tests.unit.test_suspects import Event, Message

pytestmark = SLOW_ON_KAFKA

NewTopic = Callable[..., Awaitable[str]]


class Workers:
    """The attempts of workers of one group, one after the other, over two partitions with three records each."""

    def __init__(self, settings: Settings, delivery: Delivery) -> None:
        self._settings = settings
        self._delivery = delivery
        [self._source] = settings.source_topics

    async def next(self, group: str | None = None) -> Attempts:
        """A worker that has taken both."""
        settings = self._settings.model_copy(update={"group_id": group or self._settings.group_id})
        attempts = Attempts(settings, self._delivery)
        await attempts.take([(self._source, 0), (self._source, 1)])
        return attempts

    def rows(self, *places: tuple[int, int]) -> list[Event]:
        """By partition and offset."""
        return [Event(Message(self._source, *place)) for place in places]

    def care(self, attempts: Attempts, *places: tuple[int, int]) -> list[Care]:
        """How each of these rows is tried."""
        cares = {one: care for care, some in attempts.groups(self.rows(*places)) for one in some}
        return [cares[one] for one in self.rows(*places)]


@pytest.fixture
async def workers(broker: BrokerProcess, new_topic: NewTopic, unique: Callable[[str], str]):
    """On topics of the test's own."""
    source = await new_topic("created", partitions=2)
    settings = Settings(
        kafka_bootstrap=broker.bootstrap,
        group_id=unique("group"),
        source_topics=(source,),
        attempts_topic=await new_topic("attempts", settings={"cleanup.policy": "compact"}),
        idempotent_producer=broker.kind == "kafka",
        fetch_max_wait_ms=100,
    )
    async with AIOKafkaProducer(acks="all", **client_options(broker)) as producer:
        for number in range(6):
            await producer.send_and_wait(source, b"value", partition=number % 2)
        for junk in (b"junk", b'["one", 2]', b"7"):  # passed over
            await producer.send_and_wait(settings.attempts_topic, b"junk", junk, partition=0)
    delivery = Delivery(settings, 1_000_000)
    await delivery.start()
    yield Workers(settings, delivery)
    await delivery.stop()


async def test_a_clean_end_leaves_nothing(workers: Workers) -> None:
    """Neither letting go at a rebalance nor an end that is nobody's fault makes suspects, nor does another group's."""
    await (await workers.next()).revoked()
    await (await workers.next()).close()
    await (await workers.next("others")).begin(workers.rows((0, 0)))
    last = await workers.next()
    assert workers.care(last, (0, 0), (1, 0)) == [Care.NONE, Care.NONE]
    await last.close(DeviceError("lost"))
    assert workers.care(await workers.next(), (0, 0)) == [Care.NONE]


async def test_from_a_death_to_the_verdict(workers: Workers) -> None:
    """Suspects, then those in hand alone, then one of them condemned; what came after a death is no suspect."""
    await workers.next()
    second = await workers.next()
    assert workers.care(second, (0, 0), (1, 2), (1, 3)) == [Care.TOGETHER, Care.TOGETHER, Care.NONE]
    await second.begin(workers.rows((0, 0), (0, 1), (1, 0)))
    for _ in range(2):
        worker = await workers.next()
        assert workers.care(worker, (0, 0), (0, 2), (1, 0)) == [Care.ALONE, Care.TOGETHER, Care.ALONE]
        await worker.begin(workers.rows((0, 0)))
    last = await workers.next()
    assert workers.care(last, (0, 0), (0, 1), (1, 0)) == [Care.CONDEMNED, Care.TOGETHER, Care.ALONE]


@pytest.mark.parametrize("end", [Stalled("a model call"), RuntimeError("a bug")])
async def test_an_end_that_a_row_may_be_to_blame_for(workers: Workers, end: Exception) -> None:
    """It counts as a death."""
    await (await workers.next()).close(end)
    assert workers.care(await workers.next(), (0, 0)) == [Care.TOGETHER]


async def test_what_survives_is_not_suspect_any_more(workers: Workers) -> None:
    """When all suspects have been tried, a clean end leaves nothing."""
    await workers.next()
    second = await workers.next()
    tried = workers.rows((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2))
    assert [care for care, some in second.groups(tried) if some] == [Care.TOGETHER]
    await second.begin(tried)
    await second.end()
    await second.close()
    assert workers.care(await workers.next(), (0, 0), (1, 0)) == [Care.NONE, Care.NONE]
