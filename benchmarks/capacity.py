"""What docs/scale.md multiplies: bytes of the records, and what a worker pays for many merchants.

Records are the sample listings as a worker reads and writes them, with the default tagger, one by one and as a Kafka
batch that a producer would compress. The control topic's records are decoded and followed as at a worker's start.
"""

import gzip
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from time import process_time
from typing import Annotated, Any

import typer
from report import Figure, Neighbours, describe, machine, print_json, show

from streamer import worker
from streamer.codec import Codec
from streamer.pipeline import Pipeline
from streamer.records import Record, route_key, tag_key
from streamer.routing import RouteChange, Routing
from streamer.settings import Settings
from taggen import corpus
from taggen.reference import Reference
from taggen.store import Store
from taggen.tagger import default_adapter

BATCH_BYTES = 16_384  # a producer's batch by default
BASE = "0" * 64


def record_bytes() -> dict[str, float]:
    """Mean bytes, key and value, of a listing and of its tag event, and the share that gzip leaves of a batch."""
    codec = Codec()
    listings = [item.listing for item in corpus.held_out()]
    keys = [tag_key(listing.merchant_id, listing.product_id) for listing in listings]
    values = [codec.encode_listing(listing) for listing in listings]
    settings = Settings()
    pipeline = Pipeline(settings, codec, worker.load_tagger(settings))
    records = [
        Record("product-created", 0, offset, 0, key, value)
        for offset, (key, value) in enumerate(zip(keys, values, strict=True))
    ]
    outputs = [(output.key or b"", output.value) for output in pipeline.process(records)]
    inputs = list(zip(keys, values, strict=True))
    return {
        "listing": mean(len(key) + len(value) for key, value in inputs),
        "tag_event": mean(len(key) + len(value) for key, value in outputs),
        "listings_compressed": compressed(inputs),
        "tag_events_compressed": compressed(outputs),
    }


def compressed(records: Sequence[tuple[bytes, bytes]]) -> float:
    """What gzip leaves of records in batches, as a share."""
    batches: list[bytes] = [b""]
    for key, value in records:
        if len(batches[-1]) + len(key) + len(value) > BATCH_BYTES:
            batches.append(b"")
        batches[-1] += key + value
    return sum(len(gzip.compress(batch, 6)) for batch in batches) / sum(map(len, batches))


def control_topic(merchants: int, rounds: int) -> dict[str, Any]:
    """Records of that many merchants: bytes of one, how many a second of CPU follows, bytes that are kept of each."""
    codec = Codec()
    values = [
        codec.encode_route_change(
            RouteChange(f"merchant-{number}", BASE, 1, "assign", Reference(f"merchant-{number}", "1", BASE), None, 0)
        )
        for number in range(merchants)
    ]

    def follow() -> Routing:
        routing = Routing(BASE)
        for value in values:
            routing.apply(codec.decode_route_change(value))
        return routing

    rates = []
    for _ in range(rounds):
        began = process_time()
        follow()
        rates.append(merchants / (process_time() - began))
    tracemalloc.start()
    routing = follow()
    kept = tracemalloc.get_traced_memory()[0] / len(routing)
    tracemalloc.stop()
    key = len(route_key("merchant-100000", BASE))
    return {"record_bytes": key + mean(map(len, values)), "records_per_cpu_s": Figure.of(rates), "kept_bytes": kept}


def store(rounds: int) -> dict[str, Any]:
    """CPU milliseconds to read, check and parse a version from a local folder, and its bytes: the default adapter."""
    with TemporaryDirectory() as folder:
        reference = Store(folder, 0).put(default_adapter())
        times = []
        for _ in range(rounds):
            began = process_time()
            adapter = Store(folder, 0).load(reference)
            times.append((process_time() - began) * 1000)
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        return {
            "load_cpu_ms": Figure.of(times),
            "files": len(files),
            "file_bytes": sum(path.stat().st_size for path in files),
            "memory_bytes": adapter.nbytes,
            "rank": adapter.rank,
        }


def main(
    quick: Annotated[bool, typer.Option(help="Few merchants, one round.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for machines.")] = False,
) -> None:
    """Measure what docs/scale.md multiplies."""
    neighbours = Neighbours()
    rounds = 1 if quick else 3
    result = {
        "records": record_bytes(),
        "control": control_topic(2_000 if quick else 200_000, rounds),
        "store": store(rounds),
    }
    described = machine(neighbours)
    if as_json:
        print_json(result | {"machine": described})
        return
    for part, title in (("records", "Records"), ("control", "Control topic"), ("store", "A version in the store")):
        show(title, ["what", "figure"], [(name, _shown(figure)) for name, figure in result[part].items()])
    print(describe(described))


def _shown(figure: Any) -> str:
    return f"{figure:,.2f}" if isinstance(figure, float) else str(figure)


if __name__ == "__main__":
    typer.run(main)
