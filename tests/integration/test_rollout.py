"""Writing to the control topic among others who do, and hearing the workers out."""

import asyncio
import time
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaProducer

from streamer import rollout, topics
from streamer.broker import BrokerProcess
from streamer.codec import Codec
from streamer.errors import BrokerError, TopicMissing
from streamer.records import AdapterStatus, WorkerState
from streamer.rollout import AdapterLog, Entry, Step, Workers
from streamer.routing import MerchantRoute, RouteChange
from streamer.settings import Settings
from taggen.reference import Reference

BASE = "f" * 64
SHOES = [Reference("shoes", str(number), f"{number:064x}") for number in range(1, 6)]


@pytest.fixture
async def settings(broker: BrokerProcess, unique: Callable[[str], str]) -> Settings:
    """Of a publisher with topics of its own."""
    settings = Settings(
        kafka_bootstrap=broker.bootstrap,
        idempotent_producer=broker.kind == "kafka",
        adapters_topic=unique("adapters"),
        adapter_status_topic=unique("status"),
        fetch_max_wait_ms=50,
    )
    wanted = [topics.adapters(settings.adapters_topic), topics.adapter_status(settings.adapter_status_topic)]
    await topics.ensure(wanted, **settings.client_options())
    return settings


def assign(version: Reference) -> Callable[[MerchantRoute], Step]:
    """The step that assigns a version, whatever was before."""
    return lambda state: Step("assign", version)


async def test_of_publishers_at_the_same_time_each_wins_a_revision(settings: Settings) -> None:
    """Records whose revision was taken stay in the log, void, and are written anew; all read the same in the end."""

    async def publish(version: Reference) -> tuple[RouteChange, int]:
        async with AdapterLog(settings, "acme") as log:
            return await log.append(BASE, assign(version))

    written = await asyncio.gather(*map(publish, SHOES))
    assert sorted(change.revision for change, _ in written) == [1, 2, 3, 4, 5]
    async with AdapterLog(settings, "acme") as log:
        assert sorted(entry.change for entry in log.history if entry.valid) == sorted(change for change, _ in written)
        last = max(written)[0]
        assert log.merchant(BASE).versions[0] == last.adapter
        assert log.merchant("e" * 64).revision == 0
        assert {offset for _, offset in written} <= set(range(len(log.history)))


async def test_a_step_follows_from_what_the_log_comes_to(settings: Settings) -> None:
    """What somebody else wrote in the meantime counts, and what the step raises leaves the topic as it is."""
    async with AdapterLog(settings, "acme") as slow, AdapterLog(settings, "acme") as fast:
        await fast.append(BASE, assign(SHOES[0]))
        await fast.append(BASE, assign(SHOES[1]))
        change, _ = await slow.append(BASE, lambda state: Step("rollback", state.versions[1]))
        assert (change.revision, change.adapter) == (3, SHOES[0])

        def refuse(state: MerchantRoute) -> Step:
            raise LookupError(state.revision)

        with pytest.raises(LookupError, match="3"):
            await slow.append(BASE, refuse)
        assert [entry.valid for entry in slow.history if entry.change.revision == 3].count(True) == 1


async def test_what_is_no_record_is_passed_over(settings: Settings) -> None:
    """And another merchant's records are routed, but no part of the history."""
    async with AIOKafkaProducer(**settings.client_options()) as producer:
        await producer.send_and_wait(settings.adapters_topic, b"junk", b"k")
    async with AdapterLog(settings, "nordic") as log:
        await log.append(BASE, assign(SHOES[0]))
    async with AdapterLog(settings, "acme") as log:
        change, offset = await log.append(BASE, assign(SHOES[1]))
        assert log.history == [Entry(change, valid=True)]
        assert offset == 2
        assert sorted(name for name, _ in log.routings[BASE].merchants()) == ["acme", "nordic"]


async def test_a_control_topic_of_several_partitions_is_refused(
    broker: BrokerProcess, settings: Settings, new_topic: Callable[..., "asyncio.Future[str]"]
) -> None:
    """It has no order that all workers could follow; a topic that is not there is named."""
    several = settings.model_copy(update={"adapters_topic": await new_topic("adapters", partitions=2)})
    with pytest.raises(BrokerError, match="has 2 partitions"):
        async with AdapterLog(several):
            pass
    with pytest.raises(TopicMissing, match=r"missing-topic.*streamer topics create"):
        async with AdapterLog(settings.model_copy(update={"adapters_topic": "missing-topic"})):
            pass


class Fleet:
    """Says what workers say."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._codec = Codec()

    async def says(
        self, worker: str, state: WorkerState, offset: int, revision: int | None = None, base: str = BASE
    ) -> None:
        """Write a status."""
        of_a_version = state != "heartbeat"
        status = AdapterStatus(
            worker,
            base,
            state,
            offset,
            "acme" if of_a_version else None,
            revision,
            SHOES[0] if of_a_version else None,
            "base" if state == "refused" else None,
            None,
            round(time.time() * 1000),
        )
        async with AIOKafkaProducer(**self._settings.client_options()) as producer:
            await producer.send_and_wait(
                self._settings.adapter_status_topic, self._codec.encode_adapter_status(status), worker.encode()
            )


CHANGE = RouteChange("acme", BASE, 4, "assign", SHOES[0], None, 0)
OFFSET = 9  # of its record


async def test_every_live_worker_is_heard_out(settings: Settings) -> None:
    """Those that were there before the record; not one on another base, nor one that began behind the record. What
    they said of older records does not count, a retry is no answer yet, and a refusal is one."""
    fleet = Fleet(settings)
    await fleet.says("early", "heartbeat", 3)
    await fleet.says("other base", "heartbeat", 3, base="e" * 64)
    await fleet.says("late", "heartbeat", OFFSET + 1)
    await fleet.says("refuses", "verified", 3, revision=3)
    heard: list[dict[str, str | None]] = []
    async with Workers(settings, "acme", BASE) as workers:
        answers = workers.answers(CHANGE, OFFSET)
        async for found in answers:
            states = {name: None if one is None else one.state for name, one in found.items()}
            if states.keys() != {"early", "refuses"} or states in heard:
                continue
            heard.append(states)
            match len(heard):
                case 1:
                    await fleet.says("early", "retrying", OFFSET + 1, revision=4)
                case 2:
                    await fleet.says("refuses", "refused", OFFSET + 1, revision=4)
                case 3:
                    await fleet.says("early", "verified", OFFSET + 1, revision=4)
    assert heard == [
        {"early": None, "refuses": None},
        {"early": "retrying", "refuses": None},
        {"early": "retrying", "refuses": "refused"},
        {"early": "verified", "refuses": "refused"},
    ]


async def test_a_worker_that_falls_silent_is_not_waited_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ten seconds it counts as dead (here: after one)."""
    fleet = Fleet(settings)
    await fleet.says("silent", "heartbeat", 3)
    monkeypatch.setattr(rollout, "LIVE_S", 1.0)
    monkeypatch.setattr(rollout, "LISTEN_S", 1.0)
    async with Workers(settings, "acme", BASE, since_s=60) as workers:
        heard = [set(found) async for found in workers.answers(CHANGE, OFFSET)]
    assert {"silent"} in heard
    assert heard[-1] == set()


async def test_the_last_word_of_each_worker(settings: Settings) -> None:
    """Of the merchant asked about, out of what is there."""
    fleet = Fleet(settings)
    await fleet.says("one", "retrying", 5, revision=3)
    await fleet.says("one", "verified", 5, revision=3)
    await fleet.says("one", "heartbeat", 5)
    await fleet.says("two", "heartbeat", 5)
    async with Workers(settings, "acme", BASE, since_s=60) as workers:
        said = await workers.said()
    assert {name: status.state for name, status in said.items()} == {"one": "verified"}
