"""A worker process on a real broker: every input exactly one outcome, partitions shared, an orderly end."""

import asyncio
import json
import time
from collections import Counter
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from streamer.codec import Codec
from streamer.records import DeadLetter, TagEvent
from streamer.unpack import MOST_BYTES
from taggen.listing import Listing
from tests.brokers import SLOW_ON_KAFKA
from tests.faulty import NAN, RAISE, SLOW
from tests.workers import Stage

EVENTS = 2_000
MERCHANTS = ("acme", "globex", "initech")
DRAINED_WITHIN_S = 10.0


def listing(number: int, title: str = "Nike water proof running shoes", **fields: Any) -> Listing:
    """The listing of an event; every tenth event edits the product of the one before."""
    product = number - 1 if number % 10 == 9 else number
    values = {"event_time": int(time.time() * 1000), "event_id": f"event-{number}"} | fields
    return Listing(MERCHANTS[product % 3], f"product-{product}", 1 + number - product, f"{title} {number}", **values)


def avro(number: int, **fields: Any) -> bytes:
    """A listing event as a producer of ours writes it."""
    return Codec().encode_listing(listing(number, **fields))


def titled(number: int, title: str) -> bytes:
    """A listing event, in JSON, with exactly this title."""
    return json.dumps(
        {"merchant_id": "acme", "product_id": f"p{number}", "listing_version": 1, "title": title, "event_time": 1}
    ).encode()


def poison(number: int) -> tuple[bytes | None, str]:
    """One of the records that cannot be tagged, and the reason that its dead letter must give."""
    kinds: list[tuple[bytes | None, str]] = [
        (avro(number)[:40], "undecodable"),
        (b'{"title": "\xff"}', "undecodable"),
        (b"\x00\x00\x00\x00\x07of a registry that we do not have", "unknown_schema"),
        (None, "null_value"),
        (titled(number, ""), "invalid_listing"),
        (titled(number, RAISE), "model_error"),
        (titled(number, NAN), "non_finite_scores"),
    ]
    return kinds[number % len(kinds)]


async def test_every_input_has_exactly_one_outcome(stage: Stage) -> None:
    """2,000 events over four partitions and three merchants, one in twenty poison, one deletion in fifty: a tag event,
    a deletion event or a dead letter each, with the original bytes; a product's in order; nothing of a listing in the
    log, which names every offset in its batches; all committed."""
    await stage.create_topics()
    reasons = {number: poison(number)[1] for number in range(7, EVENTS, 20)}
    values = [
        poison(number)[0] if number in reasons else avro(number, deleted=number % 50 == 1) for number in range(EVENTS)
    ]
    keys = [f"product-{number - 1 if number % 10 == 9 else number}".encode() for number in range(EVENTS)]
    places = await stage.publish(values, keys)
    with stage.worker("tests.faulty", queue_bytes=20_000) as worker:  # less than the records of one poll
        found = await stage.outcomes(places)
        for number, place in enumerate(places):
            [outcome] = found[place]
            if number in reasons:
                assert isinstance(outcome, DeadLetter)
                assert (outcome.reason, outcome.value) == (reasons[number], values[number])
            else:
                assert isinstance(outcome, TagEvent)
                assert outcome.source_event_id == f"event-{number}"
                assert outcome.deleted == (number % 50 == 1) == (outcome.model is None)
                assert outcome.flags == ()
        assert sum(bool(one[0].tags) for one in found.values() if isinstance(one[0], TagEvent)) > EVENTS // 2
        _, metrics = await worker.get("/metrics")
        assert f'streamer_events_out_total{{kind="dead_letter"}} {len(reasons)}.0' in metrics
        assert (await worker.get("/readyz"))[0] == 200
        worker.terminate()
        assert await worker.exit_code(DRAINED_WITHIN_S) == 0
        log = worker.log.read_text()
        assert "Nike" not in log
        assert "绝密" not in log
        batches = worker.events_of("batch")
        logged = Counter(
            (partition, offset)
            for batch in batches
            for partition, runs in batch["offsets"].items()
            for first, last in runs
            for offset in range(first, last + 1)
        )
        assert set(logged) == {(f"{topic}/{partition}", offset) for topic, partition, offset in places}
        assert set(logged.values()) == {1}
        assert all(batch["group"] and batch["pid"] for batch in batches)
    assert sum((await stage.committed()).values()) == EVENTS


async def test_an_output_too_large_for_its_topic_is_a_dead_letter(stage: Stage) -> None:
    """So is a 10 MB description; both letters are cut to what the topics take, and the others come out, also where
    those of one partition are too large together."""
    await stage.create_topics(max_output_bytes=6_000)
    many_tags = avro(1, description="Color: red. Brand: Nike. Material: cotton. " * 300)
    values = [avro(0), many_tags, avro(2, description="x" * 10_000_000), *[avro(3)] * 30]
    places = await stage.publish(values)
    with stage.worker():
        found = await stage.outcomes(places)
    outcomes = [found[place][0] for place in places]
    reasons = [one.reason if isinstance(one, DeadLetter) else None for one in outcomes]
    assert reasons == [None, "output_too_large", "too_large", *[None] * 30]
    for outcome, value in zip(outcomes[1:3], values[1:3], strict=True):
        assert isinstance(outcome, DeadLetter)
        assert (outcome.truncated, outcome.value_length) == (True, len(value))
        assert value.startswith(outcome.value or b"none")


async def test_a_batch_that_inflates_beyond_the_bound_is_one_dead_letter(stage: Stage) -> None:
    """Some kilobytes that would become more than the worker unpacks: named by their offsets; what is before and behind
    them is tagged, and the verdict is good."""
    await stage.create_topics()
    places = []
    for values in ([avro(0)], [avro(1), bytes(MOST_BYTES), avro(2)], [avro(3)]):
        bomb = AIOKafkaProducer(
            bootstrap_servers=stage.broker.bootstrap,
            compression_type="zstd",
            linger_ms=1_000,  # one batch
            max_batch_size=2 * MOST_BYTES,
            max_request_size=2 * MOST_BYTES,
        )
        async with bomb:
            sent = [await bomb.send(stage.source, value, partition=0) for value in values]
            places.append((stage.source, 0, (await sent[0]).offset))
    assert [offset for _, _, offset in places] == [0, 1, 4]
    with stage.worker():
        found = await stage.outcomes(places)
        verdict = json.loads(await stage.command("verify", "--all", "--json"))
    [first], [letter], [last] = (found[place] for place in places)
    assert isinstance(first, TagEvent)
    assert isinstance(letter, DeadLetter)
    assert isinstance(last, TagEvent)
    assert (letter.reason, letter.field, letter.value) == ("too_large", "batch of the offsets 1 to 3", b"")
    assert verdict["good"], verdict


@pytest.mark.parametrize("slow", [False, True])
async def test_sigterm_finishes_the_batches_in_hand(stage: Stage, slow: bool) -> None:
    """In mid-stream it ends in time with exit code 0; what is written is committed and the other way round, so the
    next worker goes on without a repeat."""
    await stage.create_topics()
    title = {"title": SLOW} if slow else {}
    values = [titled(number, SLOW) if slow else avro(number, **title) for number in range(600)]
    places = await stage.publish(values)
    with stage.worker("tests.faulty", batch_listings=32) as worker:
        await stage.until_written(64)
        worker.terminate()
        started = time.monotonic()
        assert await worker.exit_code(DRAINED_WITHIN_S) == 0
        assert time.monotonic() - started < DRAINED_WITHIN_S
    committed = sum((await stage.committed()).values())
    assert committed >= 64
    if slow:
        assert committed < 600
        return
    with stage.worker():
        found = await stage.outcomes(places)
    assert {len(outcomes) for outcomes in found.values()} == {1}


@SLOW_ON_KAFKA
async def test_two_workers_share_the_partitions_and_one_leaves(stage: Stage) -> None:
    """A second worker takes over some of the partitions, the first leaves by SIGTERM: no input without an outcome,
    and a repeat carries the same event id."""
    await stage.create_topics()
    places = await stage.publish([avro(number) for number in range(EVENTS)])
    with stage.worker(batch_listings=16, queue_records=100) as first:
        await stage.until_written(200)
        with stage.worker(batch_listings=16, queue_records=100) as second:
            joined = asyncio.create_task(second.until("batch"))
            while not joined.done():  # there must be something to share whenever it is ready
                await asyncio.wait({joined}, timeout=0.3)
                places += await stage.publish([avro(len(places) + number) for number in range(50)])
            await joined
            first.terminate()
            places += await stage.publish([avro(len(places) + number) for number in range(200)])
            assert await first.exit_code(DRAINED_WITHIN_S) == 0
            found = await stage.outcomes(places)
            assert second.running
    assert all(len({one.event_id for one in repeats if isinstance(one, TagEvent)}) == 1 for repeats in found.values())
    repeated = Counter(len(repeats) for repeats in found.values())
    assert repeated[1] > EVENTS
