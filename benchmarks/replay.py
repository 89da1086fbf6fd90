"""How fast a replay is: with a tagger that answers at once beside a bare aiokafka loop, with the real one beside that.

    in-out        aiokafka alone: consume, send the value on, wait for the broker (consumers.py)
    null          a replay whose tagger answers at once: all that is around the model
    alone         the real tagger over the same listings in the same micro-batches, without Kafka
    real          a replay with it
    null 2, real 2    the same by two processes (`--workers 2`), each with half of the cores

All read from the embedded broker, which shares the machine. A replay's time is from the first listing that its tagger
is given to the time of its last tag event, the loop's from its first record to its last: loading and joining is not in
it. The ratios are those of one round each.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from consumers import NullTagger, Task, consumer
from report import Figure, Neighbours, describe, machine, print_json, show
from stream import FINISH_S, PARTITIONS, Event, listings, publish
from tagging import micro_batches

from streamer import topics
from streamer.broker import EmbeddedBroker
from streamer.codec import Codec
from streamer.connection import partitions
from streamer.crew import Crew
from streamer.plan import Selection
from streamer.records import tag_key
from streamer.replay import Options, Replay
from streamer.scan import Scanner, Span
from streamer.settings import Settings
from streamer.worker import load_tagger
from taggen.tagger import Tagger

NO_LIMIT = 10**9  # records that nobody's live group is behind


class Clocked:
    """A tagger that writes down when it was first asked."""

    def __init__(self, tagger: Any, file: Path) -> None:
        self._tagger = tagger
        self._file: Path | None = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tagger, name)

    def prepare(self, items: Sequence[Any]) -> Any:
        """As the tagger's."""
        if self._file is not None:
            self._file.write_text(repr(time.time()))
            self._file = None
        return self._tagger.prepare(items)


def load(real: bool, folder: Path, settings: Settings) -> Any:
    """The tagger of each process of a replay."""
    return Clocked(load_tagger(settings) if real else NullTagger(), folder / str(os.getpid()))


async def times(settings: Settings, topic: str) -> tuple[int, float, float]:
    """How many records a topic holds, and the times of the first and the last, in seconds."""
    assigned = await partitions(settings, [topic])
    async with Scanner(settings) as scanner:
        spans = {one: Span(0, end) for one, end in (await scanner.ends(assigned)).items()}
        stamps = [record.timestamp / 1000 async for records in scanner.read(spans) for record in records]
    return len(stamps), min(stamps), max(stamps)


def replay(settings: Settings, events: int, workers: int, real: bool) -> float:
    """Listings a second of a replay over the source topic."""
    name = f"{settings.source_topics[0]}-{'real' if real else 'null'}-{workers}"
    asyncio.run(topics.ensure([topics.Topic(name, PARTITIONS)], bootstrap_servers=settings.kafka_bootstrap))
    selection = Selection(topics=settings.source_topics)
    options = Options(name, selection, into=name, max_lag=NO_LIMIT, workers=workers)
    with tempfile.TemporaryDirectory() as folder:
        how = Replay if workers == 1 else Crew
        asyncio.run(how(settings, options, partial(load, real, Path(folder))).run())
        began = min(float(file.read_text()) for file in Path(folder).iterdir())
    count, _, last = asyncio.run(times(settings, name))
    assert count == events
    return events / (last - began)


def in_out(settings: Settings, events: int, folder: Path) -> float:
    """Records a second of the bare loop."""
    topic = settings.source_topics[0]
    task = Task(settings.kafka_bootstrap, topic, f"{topic}-out", events, 0)
    asyncio.run(topics.ensure([topics.Topic(task.output, PARTITIONS)], bootstrap_servers=settings.kafka_bootstrap))
    with consumer("in-out", task, folder) as running:
        running.until(running.finished, FINISH_S)
    count, first, last = asyncio.run(times(settings, task.output))
    assert count == events
    return events / (last - first)


def alone(tagger: Tagger, items: Sequence[Any]) -> float:
    """Listings a second of the tagger."""
    started = time.perf_counter()
    for batch in micro_batches(tagger, items):
        tagger.tag(batch)
    return len(items) / (time.perf_counter() - started)


def sourced(broker: EmbeddedBroker, topic: str, events: Sequence[Event]) -> Settings:
    """The settings of replays over a topic with these events."""
    settings = Settings(
        kafka_bootstrap=broker.bootstrap,
        group_id=topic,
        source_topics=(topic,),
        tags_topic=f"{topic}-tags",
        idempotent_producer=False,  # the embedded broker has none
    )
    asyncio.run(topics.ensure(topics.wanted(settings, PARTITIONS), bootstrap_servers=broker.bootstrap))
    asyncio.run(publish(Task(broker.bootstrap, topic, "", len(events), 0), events))
    return settings


def run(null: int, real: int, rounds: int) -> dict[str, Any]:
    """All of them in turn, `rounds` times over; `null` and `real` listings."""
    neighbours = Neighbours()
    codec = Codec()
    items = listings(max(null, real))
    events = [(tag_key(item.merchant_id, item.product_id), codec.encode_listing(item)) for item in items]
    crews = [workers for workers in (1, 2) if workers <= (os.cpu_count() or 1)]
    tagger = load_tagger(Settings())
    alone(tagger, items[:64])  # warm
    rates: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker() as broker:
        for round_ in range(rounds):
            light = sourced(broker, f"null-{round_}", events[:null])
            heavy = sourced(broker, f"real-{round_}", events[:real])
            found = {"in-out": in_out(light, null, Path(folder)), "alone": alone(tagger, items[:real])}
            for workers in crews:
                suffix = "" if workers == 1 else f" {workers}"
                found[f"null{suffix}"] = replay(light, null, workers, real=False)
                found[f"real{suffix}"] = replay(heavy, real, workers, real=True)
            rates.append(found)

    def over(name: str, peer: str) -> Figure:
        return Figure.of([one[name] / one[peer] for one in rates])

    return {
        "machine": machine(neighbours) | {"threads": torch.get_num_threads()},
        "listings": {"null": null, "real": real},
        "rounds": rounds,
        "listings_s": {name: Figure.of([one[name] for one in rates]) for name in rates[0]},
        "null_to_in_out": {name: over(name, "in-out") for name in rates[0] if name.startswith("null")},
        "real_to_alone": {name: over(name, "alone") for name in rates[0] if name.startswith("real")},
    }


def print_tables(result: dict[str, Any]) -> None:
    """For people."""
    count = result["listings"]
    ratios = result["null_to_in_out"] | result["real_to_alone"]
    show(
        f"Replays: {count['null']:,} listings without a model, {count['real']:,} with it, rounds: {result['rounds']}",
        ["", "listings/s", "of its peer"],
        [[name, rate, ratios.get(name, "")] for name, rate in result["listings_s"].items()],
        {"peers": "null: in-out; real: alone", "machine": describe(result["machine"])},
    )


def main(
    null: Annotated[int, typer.Option(min=100, help="Listings where no model runs.")] = 20_000,
    real: Annotated[int, typer.Option(min=64, help="Listings where one does.")] = 1_500,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Few listings, one round: does it run?")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Measure how fast a replay is, around the model and with it."""
    result = run(2_000, 128, 1) if quick else run(null, real, rounds)
    if as_json:
        print_json(result)
    else:
        print_tables(result)


if __name__ == "__main__":
    typer.run(main)
