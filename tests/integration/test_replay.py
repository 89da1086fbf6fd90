"""Replays on real brokers: what comes out, where they end, how they go on, and that they let the workers go first."""

import asyncio
import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from streamer import topics
from streamer.broker import BrokerProcess
from streamer.codec import Codec
from streamer.errors import InputError
from streamer.plan import Range, Selection
from streamer.records import Coordinates, TagEvent
from streamer.replay import Options, Replay, Result
from taggen.listing import Listing
from taggen.tag import Tagging
from tests.brokers import KAFKA, SLOW_ON_KAFKA
from tests.unit.fakes import FakePrepared, FakeTagger
from tests.workers import Stage

CODEC = Codec()
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
MERCHANTS = ("acme", "globex", "initech")


def listing(number: int, title: str = "shoes", **fields: Any) -> Listing:
    """The listing of an event; every tenth event edits the product of the one before."""
    product = number - 1 if number % 10 == 9 else number
    version = 1 + number - product
    return Listing(
        MERCHANTS[product % 3], f"product-{product}", version, f"{title} {number}", event_time=number, **fields
    )


def avro(number: int, **fields: Any) -> bytes:
    """A listing event."""
    return CODEC.encode_listing(listing(number, **fields))


class BrokenTagger(FakeTagger):
    """Fails for good at its fifth call."""

    def tag(self, prepared: Sequence[FakePrepared]) -> list[Tagging]:
        if len(self.calls) == 4:
            raise MemoryError
        return super().tag(prepared)


class Run:
    """Replays over a stage's topics, each with a fake tagger if no other is named."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def replay(self, name: str = "r", tagger: Any = None, into: str | None = None, **options: Any) -> Replay:
        settings = self.stage.here(**options.pop("settings", {}))
        given = {key: options.pop(key) for key in ("adapter", "rate", "max_lag") if key in options}
        tally = options.pop("tally", None)
        selection = Selection(topics=settings.source_topics, **options)
        made = Options(f"{self.stage.name}-{name}", selection, into, **given)
        return Replay(settings, made, lambda _: tagger or FakeTagger(), tally)

    async def done(self, name: str = "r", dry_run: bool = False, **options: Any) -> Result:
        return await asyncio.wait_for(self.replay(name, **options).run(dry_run=dry_run), 120)

    async def events(self, topic: str | None = None) -> list[TagEvent]:
        """All tag events of a topic, which has four partitions."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.stage.broker.bootstrap, fetch_max_wait_ms=100)
        found: list[TagEvent] = []
        idle = 0
        async with consumer:
            consumer.assign([TopicPartition(topic or self.stage.tags, number) for number in range(4)])
            await consumer.seek_to_beginning()
            while idle < 3:
                polled = await consumer.getmany(timeout_ms=150)
                idle = 0 if polled else idle + 1
                for messages in polled.values():
                    found += [CODEC.decode_tags(one.value) for one in messages]
        return found


@pytest.fixture
def stage(broker: BrokerProcess, tmp_path: Path, unique: Callable[[str], str]) -> Stage:
    """Topics without workers, so that nothing here waits for torch."""
    return Stage(broker, None, tmp_path, unique("stage"))


@pytest.fixture
async def run(stage: Stage) -> Run:
    """Topics, and what replays over them."""
    await stage.create_topics()
    return Run(stage)


async def test_ends_where_it_began(stage: Stage, run: Run) -> None:
    """What comes while it runs is not its business; the counts say what changed against the tags of before."""
    await stage.publish([avro(number) for number in range(30)])
    first = await run.done("first")
    assert (first.tally.listings, first.tally.unknown, first.tally.records) == (30, 30, 30)

    class Publishes(FakeTagger):
        """A new model, while listings go on being published."""

        model = FakeTagger.model

        def tag(self, prepared: Sequence[FakePrepared]) -> list[Tagging]:
            return [Tagging(()) if index == 0 else one for index, one in enumerate(super().tag(prepared))]

    replay = run.replay("second", tagger=Publishes(), settings={"batch_listings": 1})
    publishing = asyncio.create_task(stage.publish([avro(number) for number in range(30, 60)]))
    second = await replay.run()
    await publishing
    assert 30 <= second.tally.records <= 60  # those that were there when it began
    assert second.tally.records == sum(span.size for span in second.plan.spans.values())
    compared = second.tally.same + second.tally.different + second.tally.superseded + second.tally.unknown
    assert second.tally.listings == compared
    assert second.tally.tags["product"].removed == second.tally.different > 0


@KAFKA
async def test_goes_on_where_it_stopped(stage: Stage, run: Run) -> None:
    """The same id goes on with the ends of its beginning, once finished says so, and refuses other options."""
    places = await stage.publish([avro(number) for number in range(600)])
    small = {"batch_listings": 8}
    with pytest.raises(MemoryError):
        await run.done(tagger=BrokenTagger(), settings=small)
    written = len(await run.events())
    await stage.publish([avro(number) for number in range(600, 610)])
    with pytest.raises(InputError, match="begun with other options"):
        await run.done(merchants=frozenset({"acme"}))
    result = await run.done(settings=small)
    assert (result.plan.resumed, result.finished) == (True, False)
    assert {tuple(one.source) for one in await run.events()} == set(places)
    assert result.tally.listings <= 600
    assert written + result.tally.listings >= 600
    again = await run.done(settings=small)
    assert again.finished
    assert {span.end for span in again.plan.spans.values()} == {span.end for span in result.plan.spans.values()}


async def test_what_is_meant(stage: Stage, run: Run) -> None:
    """By merchant, product, category and offset; the newest version of each product; what went out under a flag."""
    listings = [listing(number, category="shoes" if number % 2 else "bags") for number in range(40)]
    places = await stage.publish([CODEC.encode_listing(one) for one in listings] + [b"junk"])
    acme = frozenset({"acme"})

    async def tagged(name: str, **selection: Any) -> list[tuple[str, int]]:
        into = f"{name}-{stage.name}"
        await topics.ensure([topics.Topic(into, 4)], bootstrap_servers=stage.broker.bootstrap)
        await run.done(name, into=into, **selection)
        return sorted((one.product_id, one.listing_version) for one in await run.events(into))

    def expected(meant: Callable[[Any], bool]) -> list[tuple[str, int]]:
        return sorted((one.product_id, one.listing_version) for one in listings if meant(one))

    assert await tagged("merchant", merchants=acme) == expected(lambda one: one.merchant_id == "acme")
    both = await tagged("both", merchants=acme, categories=frozenset({"bags"}))
    assert both == expected(lambda one: one.merchant_id == "acme" and one.category == "bags")
    one_product = await tagged("product", products=frozenset({"product-8"}))
    assert one_product == [("product-8", 1), ("product-8", 2)]
    newest = await tagged("newest", newest=True)
    superseded = {one.product_id for one in listings if one.listing_version == 2}
    assert newest == expected(lambda one: one.listing_version == 2 or one.product_id not in superseded)
    start = places[0]
    by_offset = await tagged("offset", ranges=(Range(*start, start[2] + 1),))
    assert by_offset == [(listings[0].product_id, 1)]

    flagged = [("f", 0), ("f", 1), ("g", 2)]
    await stage.publish(
        [
            CODEC.encode_tags(
                TagEvent(f"{name}{index}", "s", Coordinates(*places[index]), "m", name, 1, False, (), None, 1, flags)
            )
            for name, index in flagged
            for flags in ((("adapter_fallback",), ()) if index == 1 else (("adapter_fallback",),))
        ],
        topic=stage.tags,
    )
    assert await tagged("flag", flag="adapter_fallback") == expected(lambda one: one in (listings[0], listings[2]))


async def test_dry_run(stage: Stage, run: Run) -> None:
    """Counts and an estimate; nothing is written, and nothing is begun."""
    await stage.publish([avro(number) for number in range(50)])
    tagger = FakeTagger()
    result = await run.done(dry_run=True, tagger=tagger, merchants=frozenset({"acme"}), rate=0.5)
    assert (result.tally.records, result.tally.listings) == (50, 17)
    assert result.estimate_s is not None
    assert result.estimate_s >= 34
    assert await run.events() == []
    assert not (await run.done()).plan.resumed


@KAFKA
async def test_aborted_records_and_markers(stage: Stage, run: Run) -> None:
    """What a transaction has aborted is not tagged, and a partition that ends with markers ends the replay."""
    producer = AIOKafkaProducer(bootstrap_servers=stage.broker.bootstrap, transactional_id=stage.name)
    async with producer:
        for abort in (False, True, False, True):
            await producer.begin_transaction()
            for number in range(3):
                await producer.send(stage.source, avro(number, title="aborted" if abort else "committed"), partition=0)
            await (producer.abort_transaction() if abort else producer.commit_transaction())
    result = await run.done()
    assert result.plan.spans[TopicPartition(stage.source, 0)].end == 16
    assert {one.tags[0].value.split()[0] for one in await run.events()} == {"committed"}
    assert result.tally.listings == 6
    assert (await run.done()).finished


@SLOW_ON_KAFKA
async def test_events_that_are_not_ours(stage: Stage, run: Run) -> None:
    """A topic that is mapped is replayed as the workers read it: somebody's JSON, with filters and deletions, an event
    that gives no listing as a dead letter."""
    shoes, withdrawn = (json.loads(line) for line in (EXAMPLES / "marketplace.jsonl").read_text().splitlines())
    bag = copy.deepcopy(shoes)
    bag["payload"]["seller"]["code"], bag["payload"]["offer"]["sku"] = "leather-house", "bag-1"
    nameless = copy.deepcopy(shoes)
    nameless["payload"]["offer"] |= {"sku": "nameless", "content": []}
    places = await stage.publish([json.dumps(one).encode() for one in (shoes, bag, withdrawn, nameless)])
    mapped = {"mapping": EXAMPLES / "marketplace.json"}
    result = await run.done(settings=mapped)
    assert (result.tally.listings, result.tally.deletions) == (2, 1)
    assert result.tally.dead_letters == {"unmapped": 1}
    found = {tuple(one.source): one for one in await run.events()}
    title = shoes["payload"]["offer"]["content"][1]["title"]
    assert [(found[place].merchant_id, found[place].product_id) for place in places[:3]] == [
        ("nanjing-sport", "AF1-07-41"),
        ("leather-house", "bag-1"),
        ("nanjing-sport", "AF1-07-41"),
    ]
    assert [[tag.value for tag in found[place].tags] for place in places[:3]] == [[title], [title], []]
    assert (found[places[0]].source_event_id, found[places[2]].deleted) == ("0b9c1f", True)
    one = await run.done("merchant", merchants=frozenset({"leather-house"}), settings=mapped)
    assert (one.tally.records, one.tally.listings, one.tally.same) == (4, 1, 1)


async def test_live_traffic_goes_first(stage: Stage, run: Run) -> None:
    """It pauses while the workers are too far behind and goes on when they are not."""
    await stage.publish([avro(number) for number in range(100)], [b"one"] * 100)
    [partition] = {one[1] for one in await stage.publish([avro(100)], [b"one"])}
    assert partition in range(4)
    where = TopicPartition(stage.source, partition)
    async with AIOKafkaConsumer(
        bootstrap_servers=stage.broker.bootstrap, group_id=stage.name, enable_auto_commit=False
    ) as consumer:
        consumer.assign([where])
        await consumer.commit({where: 10})
        replay = run.replay(max_lag=20, rate=40)
        running = asyncio.create_task(replay.run())
        try:
            async with asyncio.timeout(60):
                while not ((paused_at := replay.status) and paused_at.paused):
                    await asyncio.wait({running}, timeout=0.05)
            await consumer.commit({where: 101})
            result = await asyncio.wait_for(running, 60)
        finally:
            running.cancel()
    assert paused_at is not None
    assert paused_at.listings < 101
    assert result.tally.listings == 101
