"""Merchants' adapters in running workers: each its own tags, swapped under load, refused, out of reach for a while."""

import asyncio
import itertools
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from streamer.adapters import FALLBACK
from streamer.codec import Codec
from streamer.records import TagEvent
from streamer.routing import Canary, RouteChange, Routing
from taggen import adapter
from taggen.listing import Listing
from taggen.reference import Reference
from taggen.store import Store
from taggen.tag import Tag
from tests.brokers import SLOW_ON_KAFKA
from tests.merchants import Merchants, huge, not_finite, other_content, pickled, truncated
from tests.workers import CODEC, PATIENCE_S, Place, Stage

MERCHANTS = tuple(f"merchant-{number}" for number in range(6))
TITLES = (
    "Nike water proof running shoes",
    "Red cotton dress for summer parties",
    "Leather office bag, black",
    "Garden chair of oak, weather proof",
    "Wool socks, grey, two pairs",
    "Steel bottle for hiking, 750 ml",
)


def listing(merchant: str, number: int) -> Listing:
    """A listing event of a merchant: 20 products, edited again and again."""
    title = TITLES[number % len(TITLES)]
    return Listing(merchant, f"product-{number % 20}", number, title, event_time=round(time.time() * 1000))


@dataclass
class Published:
    """What was published: each listing by where it stands, and when that was (seconds)."""

    stage: Stage
    listings: dict[Place, tuple[Listing, float]] = field(default_factory=dict)

    async def publish(self, listings: Sequence[Listing]) -> list[Place]:
        """Publish listings, keyed by product."""
        now = time.time()
        keys = [f"{one.merchant_id}/{one.product_id}".encode() for one in listings]
        places = await self.stage.publish([Codec().encode_listing(one) for one in listings], keys)
        self.listings |= {place: (one, now) for place, one in zip(places, listings, strict=True)}
        return places

    async def events(self, places: Sequence[Place] | None = None) -> dict[Place, list[TagEvent]]:
        """The tag events of the places, which must all have one; of all places without any named."""
        found = await self.stage.outcomes(places or self.listings, others=places is not None)
        events = {place: [one for one in outcomes if isinstance(one, TagEvent)] for place, outcomes in found.items()}
        assert all(len(events[place]) == len(outcomes) > 0 for place, outcomes in found.items())
        return events


class Checker:
    """Tags listings again, each alone, with the adapter that its event names."""

    def __init__(self, stage: Stage, store: Path) -> None:
        from taggen import tagger  # noqa: PLC0415  torch

        self._store = store
        self._default = adapter.read(stage.tiny.adapter)
        self._tagger = tagger.load(str(stage.tiny.base), stage.tiny.adapter, device="cpu")
        self._known: dict[tuple[str, ...], tuple[str, tuple[Tag, ...]]] = {}

    def check(self, event: TagEvent, listing: Listing) -> None:
        """The event has the tags and the fingerprint that this adapter gives."""
        model = event.model
        assert model is not None
        key = model.adapter, model.version, listing.title
        if key not in self._known:
            own = self._default
            if (model.adapter, model.version) != (own.card.name, own.card.version):
                own = adapter.read(self._store / model.adapter / model.version)
            slot = self._tagger.acquire(own)
            assert slot is not None
            [tagging] = self._tagger.tag(self._tagger.prepare([listing]), [slot])
            self._tagger.release(slot)
            written = CODEC.decode_tags(CODEC.encode_tags(event._replace(tags=tagging.tags)))
            self._known[key] = self._tagger.model_of(own, 0).fingerprint, written.tags
        assert (model.fingerprint, event.tags) == self._known[key]


@SLOW_ON_KAFKA
async def test_each_merchant_has_its_own_tags(stage: Stage, tmp_path: Path) -> None:
    """Two merchants gain adapters with different tag sets while the stream runs: from then on each one's events carry
    its own tags, name adapter, version and revision, and a third merchant's stay with the default adapter. A record
    that is none is passed over."""
    merchants = await Merchants.enter(stage, tmp_path)
    published = Published(stage)
    with stage.worker() as worker:
        before = await published.publish([listing(merchant, number) for merchant in MERCHANTS[:3] for number in (0, 1)])
        for events in (await published.events(before)).values():
            assert [(one.model.adapter, one.model.revision, one.flags) for one in events if one.model] == [
                ("tiny-0", 0, ())
            ]
        await merchants.send_raw(b"not a record", b"junk")
        changes = [
            await merchants.send(name, "assign", merchants.version(f"for-{name}", 1, merchant=name))
            for name in MERCHANTS[:2]
        ]
        for change in changes:
            await merchants.settled(change)
        after = await published.publish([listing(merchant, number) for merchant in MERCHANTS[:3] for number in (2, 3)])
        events = await published.events(after)
        assert sum(bool(one.tags) for [one] in events.values()) > 4
        for [event] in events.values():
            assert event.model is not None
            own = event.merchant_id in MERCHANTS[:2]
            expected = (f"for-{event.merchant_id}", "1", 1) if own else ("tiny-0", "1", 0)
            assert (event.model.adapter, event.model.version, event.model.revision) == expected
            assert all(tag.name.startswith(f"for-{event.merchant_id} ") == own for tag in event.tags)
        await merchants.settled(changes[1], "in_use")
        skipped = worker.events_of("control_record_skipped")
        assert [event["offset"] for event in skipped] == [0]
        _, metrics = await worker.get("/metrics")
        assert 'streamer_adapter_loads_total{outcome="ready"} 2.0' in metrics
        assert "streamer_adapter_slots 3.0" in metrics
        assert "streamer_adapter_swap_seconds_count 2.0" in metrics


@SLOW_ON_KAFKA
@pytest.mark.parametrize(
    ("events", "swaps"), [(500, 10), pytest.param(5_000, 20, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
async def test_swaps_under_load(stage: Stage, tmp_path: Path, events: int, swaps: int) -> None:
    """Assignments, canaries, rollbacks, retirements and refusals while events flow over two workers, one of which is
    killed right after a refusal and replaced: no event is lost and none mis-served. Each has the tags that the adapter
    gives that it names, alone; that version was the merchant's under that revision, or, flagged, one that could stand
    in for it; what all workers had settled before an event was published it follows; refused versions change nothing;
    in the end both workers serve what the log comes to."""
    merchants = await Merchants.enter(stage, tmp_path)
    published = Published(stage)
    refused: dict[str, set[Reference]] = {name: set() for name in MERCHANTS}
    settled: list[tuple[float, RouteChange]] = []
    stage.worker(batch_listings=32)
    second = stage.worker(batch_listings=32)
    await merchants.until(lambda statuses: len({status.worker for status in statuses}) == 2)

    async def change_routes() -> None:
        nonlocal second
        for number, (version, action, state) in enumerate(itertools.islice(plan(merchants), swaps)):
            merchant = MERCHANTS[number % len(MERCHANTS)]
            valid = merchants.routing.merchant(merchant).versions
            reference = valid[-1] if action == "rollback" and valid else version
            canary = Canary(0.5, "ramp") if number % 7 == 6 and action == "assign" else None
            change = await merchants.send(merchant, action, reference, canary)
            await merchants.settled(change, state, workers=2)
            if state == "refused":
                assert reference is not None
                refused[merchant].add(reference)
                merchants.routing.withhold(merchant, reference)
                if sum(map(len, refused.values())) == 1:
                    second.kill()
                    second = stage.worker(batch_listings=32)
                    await merchants.until(lambda statuses: len({status.worker for status in statuses}) == 3)
            else:
                settled.append((time.time(), change))

    changing = asyncio.create_task(change_routes())
    number = 0
    while len(published.listings) < events or not changing.done():
        await published.publish([listing(MERCHANTS[one % len(MERCHANTS)], number + one) for one in range(50)])
        number += 50
        await asyncio.sleep(0.2)
    await changing
    last = await published.publish([listing(merchant, number + one) for merchant in MERCHANTS for one in range(20)])
    outcomes = await published.events()
    checker = Checker(stage, merchants.store)
    for place, repeats in outcomes.items():
        one, at = published.listings[place]
        for event in repeats:
            checker.check(event, one)
            check_route(event, merchants.changes, refused[event.merchant_id], merchants.base)
            floor = max(
                (change.revision for when, change in settled if when < at and change.merchant_id == event.merchant_id),
                default=0,
            )
            assert event.model is not None
            assert event.model.revision >= floor
    for place in last:
        for event in outcomes[place]:
            route = merchants.routing.route(event.merchant_id, event.product_id)
            assert event.model is not None
            name, version = (route.reference.name, route.reference.version) if route.reference else ("tiny-0", "1")
            assert (event.model.adapter, event.model.version) == (name, version)
            assert (event.model.revision, event.flags) == (route.revision, ())
    flagged = sum(FALLBACK in event.flags for repeats in outcomes.values() for event in repeats)
    print(f"{len(outcomes)} events, {len(merchants.changes)} changes, {flagged} flagged")


def plan(merchants: Merchants):
    """References, actions and what the workers will say, without end: a version for each merchant, then all kinds."""
    versions = itertools.count(1)
    for merchant in MERCHANTS:
        yield merchants.version("common", next(versions)), "assign", "verified"
        if merchant == MERCHANTS[2]:
            yield merchants.version("broken", next(versions), truncated), "assign", "refused"
    damages = itertools.cycle([other_content, huge, pickled, truncated])
    while True:
        yield merchants.version("common", next(versions)), "assign", "verified"
        yield None, "rollback", "verified"
        yield merchants.version("broken", next(versions), next(damages)), "assign", "refused"
        yield None, "retire", "verified"
        yield merchants.version("foreign", next(versions), merchant="somebody-else"), "assign", "refused"
        yield merchants.version("common", next(versions)), "assign", "verified"
        yield merchants.version("other-base", next(versions), base_fingerprint="0" * 64), "assign", "refused"
        yield merchants.version("nan", next(versions), spoil=not_finite), "assign", "refused"


def check_route(event: TagEvent, changes: Sequence[RouteChange], refused: set[Reference], base: str) -> None:
    """The version that the event names is the one of its revision, or one that may stand in for it."""
    assert event.model is not None
    routing = Routing(base)
    for reference in refused:
        routing.withhold(event.merchant_id, reference)
    for change in changes:
        if change.merchant_id == event.merchant_id and change.revision <= event.model.revision:
            routing.apply(change)
    route = routing.route(event.merchant_id, event.product_id)
    served = event.model.adapter, event.model.version
    names = [(one.name, one.version) if one else ("tiny-0", "1") for one in (route.reference, *route.previous, None)]
    assert route.revision == event.model.revision
    assert served in names[1:] if FALLBACK in event.flags else served == names[0]


@pytest.mark.slow
async def test_a_store_out_of_reach_of_one_worker(stage: Stage, tmp_path: Path) -> None:
    """Its old version serves on, by its own revision, and it says that it is trying again; the other worker has the new
    one; once the store is back both serve the same."""
    merchants = await Merchants.enter(stage, tmp_path)
    published = Published(stage)
    numbers = itertools.count()

    async def served() -> set[tuple[str, int, tuple[str, ...]]]:
        """What serves the merchant, over all partitions: version, revision, flags."""
        places = await published.publish([listing(MERCHANTS[0], next(numbers)) for _ in range(100)])
        events = [event for repeats in (await published.events(places)).values() for event in repeats]
        return {(event.model.version, event.model.revision, event.flags) for event in events if event.model}

    mirror = tmp_path / "mirror"
    first = merchants.version("common", 1)
    shutil.copytree(merchants.store, mirror)
    for root in (merchants.store, mirror):
        stage.worker(adapter_store=root)
    await merchants.until(lambda statuses: len({status.worker for status in statuses}) == 2)
    await merchants.settled(await merchants.send(MERCHANTS[0], "assign", first), workers=2)
    shutil.move(mirror, tmp_path / "away")
    change = await merchants.send(MERCHANTS[0], "assign", merchants.version("common", 2))
    await merchants.settled(change, "retrying")
    await merchants.settled(change)
    async with asyncio.timeout(PATIENCE_S):
        while (found := await served()) != {("1", 1, ()), ("2", 2, ())}:
            assert found <= {("1", 1, ()), ("2", 2, ())}  # all partitions are with one of them at first
    shutil.copytree(merchants.store, mirror)
    await merchants.settled(change, workers=2)
    assert await served() == {("2", 2, ())}


class Gate:
    """A way to a server that can be shut: then connections are taken and nothing is answered, as by a server that is
    overloaded. Opened again, those that waited are dropped."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.open = True
        self._to = port
        self._held: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "Gate":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.let_go()
        self._server.close()

    def let_go(self) -> None:
        """Open, and drop what waits."""
        self.open = True
        for writer in self._held:
            writer.transport.abort()
        self._held.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open:
            self._held.append(writer)
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        await asyncio.gather(self._copy(reader, back), self._copy(there, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if not self.open:
                    self._held.append(writer)
                    return
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.mark.slow
async def test_an_object_store_that_does_not_answer(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version before serves and the worker says what it waits for; when the store answers again the new version
    takes over. A worker that waits for the store ends in time when it is told to."""
    for name, value in {"ACCESS_KEY_ID": "none", "SECRET_ACCESS_KEY": "none", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    merchants = await Merchants.enter(stage, tmp_path)
    published = Published(stage)
    versions = [merchants.version("common", number) for number in (1, 2, 3)]
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        port = server.get_host_and_port()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        await asyncio.to_thread(_fill, [merchants.store / one.name / one.version for one in versions])
        async with Gate(port) as gate:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{gate.port}")
            with stage.worker(adapter_store="s3://adapters/store") as worker:
                await merchants.until(bool)
                await merchants.settled(await merchants.send(MERCHANTS[0], "assign", versions[0]))
                gate.open = False
                change = await merchants.send(MERCHANTS[0], "assign", versions[1])
                await merchants.settled(change, "retrying")
                places = await published.publish([listing(MERCHANTS[0], number) for number in range(20)])
                events = [event for [event] in (await published.events(places)).values()]
                assert {event.model.version for event in events if event.model} == {"1"}
                gate.let_go()
                await merchants.settled(change)
                gate.open = False
                await merchants.settled(await merchants.send(MERCHANTS[0], "assign", versions[2]), "retrying")
                worker.terminate()
                assert await worker.exit_code(10) == 0
    finally:
        server.stop()


def _fill(folders: Sequence[Path]) -> None:
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir("adapters")
    store = Store("s3://adapters/store")
    for folder in folders:
        store.put(folder)
