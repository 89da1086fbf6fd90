"""Merchants' adapters in the running worker: how soon a new version tags, what a swap and a start cost, how long the
control topic takes to read.

One worker process on the embedded broker, the shipped base model, and merchants with Zipf-like traffic (1 / rank), each
with an adapter of its own: the default adapter's weights, cut to a part of its tags, so that all are different to the
worker. Their tensors are links to one file: the store is a local folder that the system has in its page cache.

    capacity    listings a second of the worker once it is warm
    start       a fresh worker at 80 % of that, from its /readyz on: the share of events tagged through a fallback
    swaps       under the same load, new versions for the merchant with the most traffic: from the record on the control
                topic to the first tag event by the new version, what of that is waiting for a listing of the merchant
                once the version is ready, and the processor time that its trial took beside the model's thread: no
                batch is delayed by more
    log         a worker's reading of a control topic of 1,000,000 records, beside aiokafka's bare reading of it
"""

import asyncio
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from itertools import accumulate, cycle
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from aiokafka import AIOKafkaProducer
from control_log import measure_log
from report import Neighbours, describe, machine, print_json, show

from streamer import topics
from streamer.broker import EmbeddedBroker, free_port
from streamer.codec import Codec
from streamer.connection import Reader
from streamer.publish import Pace, Publisher
from streamer.records import route_key
from streamer.routing import RouteChange
from streamer.settings import Settings
from streamer.workerprocess import WorkerProcess
from taggen import adapter as adapters
from taggen import corpus
from taggen.adapter import CARD, TENSORS, Card, TagType
from taggen.listing import Listing
from taggen.reference import Reference
from taggen.subset import cut
from taggen.tagger import default_adapter

LOAD = 0.8  # of the capacity
SWAP_EVERY_S = 3.0  # a swap is not to wait for the one before
TAGS = ("brand", "product_type", "color", "material", "size", "audience", "function")
PATIENCE_S = 300.0
CODEC = Codec()


class Seen(NamedTuple):
    """A tag event: whose, by which revision, whether through a fallback, when its listing was published, and when its
    record was written (ms)."""

    merchant: str
    revision: int
    fallback: bool
    published: float
    at: int


class Versions:
    """Makes versions in a store, all of the same tensors."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self._source = folder / "source"
        tags = {name: TagType(name, "attribute") for name in TAGS}
        self._card = cut(default_adapter(), self._source, "shop", "0", "*", tags)
        self._made = 0

    @property
    def base(self) -> str:
        """Fingerprint of the base model."""
        return self._card.base_fingerprint

    @property
    def file_bytes(self) -> int:
        """Size of the tensors' file."""
        return (self._source / TENSORS).stat().st_size

    def make(self, merchant: str) -> Reference:
        """Another version, for this merchant."""
        self._made += 1
        card: Card = replace(self._card, name=merchant, version=str(self._made), merchant=merchant)
        folder = self.store / card.name / card.version
        folder.mkdir(parents=True)
        for path in self._source.iterdir():
            if path.name != CARD:
                os.link(path, folder / path.name)
        card.write(folder)
        return Reference(card.name, card.version, adapters.digest(adapters.read_files(folder)))


class Traffic:
    """Listings of merchants, 1 / rank of each, the same ones at each run."""

    def __init__(self, merchants: Sequence[str]) -> None:
        self._random = random.Random(0)  # noqa: S311
        self._merchants = merchants
        self._weights = list(accumulate(1 / rank for rank in range(1, len(merchants) + 1)))
        written = [item.listing for path in corpus.train_files() for item in corpus.read(path)]
        self._texts = cycle(written)
        self._number = 0

    def __iter__(self) -> Iterator[Listing]:
        return self

    def __next__(self) -> Listing:
        [merchant] = self._random.choices(self._merchants, cum_weights=self._weights)
        self._number += 1
        return replace(next(self._texts), merchant_id=merchant, product_id=f"p{self._number}", event_id=None)


class Scene:
    """A broker with its topics, and a worker on it."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.log = folder / "worker.log"
        self.revisions: dict[str, int] = {}
        self._worker: WorkerProcess | None = None

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[float]:
        """A worker process that is ready, in so many seconds; its log begins anew."""
        self.log.unlink(missing_ok=True)
        began = time.monotonic()
        with WorkerProcess(self.settings, self.log) as self._worker:
            await self._worker.ready()
            yield time.monotonic() - began

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of an event in the worker's log."""
        lines = (json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == event]

    async def assign(self, versions: Sequence[tuple[str, Reference]], base: str) -> int:
        """Write records for merchants; returns the timestamp of the last one (ms)."""
        timestamp = 0
        async with AIOKafkaProducer(bootstrap_servers=self.settings.kafka_bootstrap, linger_ms=2) as producer:
            sent = []
            for merchant, reference in versions:
                self.revisions[merchant] = revision = self.revisions.get(merchant, 0) + 1
                change = RouteChange(merchant, base, revision, "assign", reference, None, round(time.time() * 1000))
                value, key = CODEC.encode_route_change(change), route_key(merchant, base)
                sent.append(await producer.send(self.settings.adapters_topic, value, key))
            for future in sent:
                timestamp = (await future).timestamp
        return timestamp

    async def run(self, listings: Sequence[Listing], rate: float | None) -> list[Seen]:
        """Publish the listings at a rate, None: as fast as they go; returns all tag events, in order."""
        seen: list[Seen] = []
        sent: dict[str, float] = {}  # product → when

        async def read(reader: Reader) -> None:
            async for record in reader:
                event = CODEC.decode_tags(record.value or b"")
                assert event.model is not None
                fallback = "adapter_fallback" in event.flags
                published = sent.pop(event.product_id)
                seen.append(Seen(event.merchant_id, event.model.revision, fallback, published, record.timestamp))
                if len(seen) == len(listings):
                    return

        async with Reader(self.settings, [self.settings.tags_topic], from_beginning=False) as reader:
            reading = asyncio.create_task(read(reader))
            pace = Pace(rate)
            async with Publisher(self.settings, self.settings.source_topics[0]) as publisher:
                deliveries = []
                for listing in listings:
                    await pace.wait()
                    sent[listing.product_id] = time.time() * 1000
                    deliveries.append(await publisher.send(listing))
                await asyncio.gather(*deliveries)
            assert self._worker is not None
            watching = asyncio.create_task(self._worker.watch())
            done, left = await asyncio.wait(
                {reading, watching}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
            )
            for task in left:
                task.cancel()
            if not done:
                raise TimeoutError(f"{len(seen)} of {len(listings)} tag events after {PATIENCE_S:.0f} s")
            for task in done:
                task.result()
        return seen


async def measure_worker(folder: Path, merchants: int, seconds: float, swaps: int) -> dict[str, Any]:
    """Capacity, start and swaps."""
    versions = Versions(folder)
    names = [f"merchant-{number}" for number in range(merchants)]
    traffic = Traffic(names)
    with EmbeddedBroker(log=folder / "broker.log") as broker:
        settings = Settings(
            kafka_bootstrap=broker.bootstrap,
            idempotent_producer=False,
            fetch_max_wait_ms=20,  # the embedded broker answers an empty fetch after half of it, whatever comes
            session_timeout_s=4,
            torch_threads=1,
            adapter_store=str(versions.store),
            web_port=free_port(),
        )
        await topics.ensure(topics.wanted(settings), bootstrap_servers=broker.bootstrap)
        scene = Scene(settings, folder)
        await scene.assign([(name, versions.make(name)) for name in names], versions.base)
        async with scene.worker():
            flood = await scene.run([next(traffic) for _ in range(max(200, round(20 * seconds)))], None)
        warm = flood[len(flood) // 3 :]
        capacity = (len(warm) - 1) / (warm[-1].at - warm[0].at) * 1000
        rate = LOAD * capacity
        async with scene.worker() as ready_s:
            started = await scene.run([next(traffic) for _ in range(round(rate * seconds))], rate)
            swapped = await measure_swaps(scene, versions, traffic, rate, swaps)
        return {
            "merchants": merchants,
            "adapter_bytes": versions.file_bytes,
            "capacity": capacity,
            "rate": rate,
            "ready_s": ready_s,
            "preloaded": scene.logged("adapters_loaded")[0],
            "start_events": len(started),
            "fallback_share": sum(seen.fallback for seen in started) / len(started),
            "swaps": swaps,
            **swapped,
        }


async def measure_swaps(
    scene: Scene, versions: Versions, traffic: Traffic, rate: float, swaps: int
) -> dict[str, dict[str, float]]:
    """New versions for the first merchant, one after the other, under load."""
    merchant = "merchant-0"
    made = [versions.make(merchant) for _ in range(swaps)]
    written: dict[int, int] = {}  # revision → timestamp of its record

    async def swap() -> None:
        for reference in made:
            await asyncio.sleep(SWAP_EVERY_S)
            at = await scene.assign([(merchant, reference)], versions.base)
            written[scene.revisions[merchant]] = at

    before = len(scene.logged("adapter_verified"))
    swapping = asyncio.create_task(swap())
    seen = await scene.run([next(traffic) for _ in range(round(rate * (SWAP_EVERY_S * swaps + 3)))], rate)
    await swapping
    first: dict[int, Seen] = {}
    for one in seen:
        if one.merchant == merchant:
            first.setdefault(one.revision, one)
    verified = [line for line in scene.logged("adapter_verified")[before:] if line["merchant"] == merchant]
    trials = [line["trial_ms"] for line in verified]
    ready = {line["revision"]: datetime.fromisoformat(line["timestamp"]).timestamp() * 1000 for line in verified}
    swaps_ = [(at, ready[revision], first[revision]) for revision, at in written.items() if revision in first]
    batches = [line["model_ms"] for line in scene.logged("batch")]
    return {
        "swap_ms": spread([event.at - at for at, _, event in swaps_]),
        "no_listing_ms": spread([max(0.0, event.published - its) for _, its, event in swaps_]),
        "served_ms": spread([event.at - at - max(0.0, event.published - its) for at, its, event in swaps_]),
        "verified_ms": spread([its - at for at, its, _ in swaps_]),
        "delay_ms": spread(trials),
        "batch_ms": spread(batches),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Count, median, 99th percentile (nearest rank) and highest."""
    ordered = sorted(values)
    if not ordered:
        return {"count": 0}
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return {"count": len(ordered), "median": statistics.median(ordered), "p99": p99, "highest": ordered[-1]}


def run(merchants: int, seconds: float, swaps: int, records: int) -> dict[str, Any]:
    """All of it."""
    neighbours = Neighbours()
    folder = Path(tempfile.mkdtemp(prefix="adapters-stream-"))
    try:
        log = asyncio.run(measure_log(folder, records, min(merchants, records)))
        result = asyncio.run(measure_worker(folder, merchants, seconds, swaps))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"machine": machine(neighbours), **result, **log}


def print_tables(result: dict[str, Any]) -> None:
    """For people."""
    show(
        f"Swaps of one merchant's version at {result['rate']:.0f} listings/s, {result['merchants']:,} merchants",
        ["what", "count", "median ms", "p99 ms", "highest ms"],
        [
            [name, spread.get("count", 0), *(f"{spread.get(key, 0):.0f}" for key in ("median", "p99", "highest"))]
            for name, spread in (
                ("record to first tag event", result["swap_ms"]),
                ("of which the merchant published nothing", result["no_listing_ms"]),
                ("the rest of it", result["served_ms"]),
                ("record to ready", result["verified_ms"]),
                ("trial, beside the model", result["delay_ms"]),
                ("all batches in the model", result["batch_ms"]),
            )
        ],
        {
            "capacity, listings/s": f"{result['capacity']:.0f}",
            f"through a fallback, {result['start_events']:,} events from /readyz on": f"{result['fallback_share']:.2%}",
            "start to /readyz": f"{result['ready_s']:.1f} s",
            f"control topic of {result['log_records']:,} records": f"{result['log_s']:.1f} s",
            "over aiokafka's bare reading": f"{result['log_over_plain']:.1f}",
            "machine": describe(result["machine"]),
        },
    )


def main(
    merchants: Annotated[int, typer.Option(min=2, help="Each with an adapter of its own.")] = 1_000,
    seconds: Annotated[float, typer.Option(min=1, help="Under load from /readyz on.")] = 60,
    swaps: Annotated[int, typer.Option(min=1, help="One every three seconds.")] = 20,
    records: Annotated[int, typer.Option(min=1, help="On the control topic.")] = 1_000_000,
    quick: Annotated[bool, typer.Option("--quick", help="20 merchants, 3 seconds: does it run?")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Measure merchants' adapters in a running worker."""
    result = run(20, 3, 2, 10_000) if quick else run(merchants, seconds, swaps, records)
    if as_json:
        print_json(result)
    else:
        print_tables(result)


if __name__ == "__main__":
    typer.run(main)
