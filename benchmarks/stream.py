"""What an event costs the worker around the model: CPU time and rate, beside Faust's and aiokafka's own.

Four consumers (consumers.py), each in a process of its own, read the same listings from the same embedded broker: our
worker with a tagger that answers at once, Faust's bare `events()` loop, aiokafka in and out, aiokafka in.

CPU time is that of the consumer's process, user and system, from "it has joined its group" to the last acknowledged
event: starting up is not in it. A round takes a few seconds a consumer.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import typer
from consumers import CONSUMERS, NullTagger, Task, Usage, consumer
from report import Figure, Neighbours, describe, machine, print_json, show

from streamer import topics
from streamer.broker import EmbeddedBroker, free_port
from streamer.codec import Codec
from streamer.pipeline import Pipeline
from streamer.records import Record, tag_key
from streamer.settings import Settings
from taggen import corpus
from taggen.listing import Listing

AIM = 1.3  # the worker's CPU time over that of Faust's own loop
PARTITIONS = 4
START_S = 60.0  # imports, the first connection, joining the group
FINISH_S = 120.0
Event = tuple[bytes, bytes]  # key and value


def listings(count: int) -> list[Listing]:
    """The listings that ship with taggen, again and again under new product ids."""
    written = [item.listing for path in corpus.train_files() for item in corpus.read(path)]
    written += [item.listing for item in corpus.held_out()]
    return [
        replace(listing, product_id=f"{listing.product_id}-{number}", event_id=f"event-{number}")
        for number, listing in enumerate(islice(cycle(written), count))
    ]


async def publish(task: Task, events: Sequence[Event]) -> None:
    """Write the events to the topic, partitions in turn."""
    from aiokafka import AIOKafkaProducer  # noqa: PLC0415

    async with AIOKafkaProducer(bootstrap_servers=task.bootstrap, linger_ms=5, max_batch_size=2**18) as producer:
        sent = [
            await producer.send(task.topic, value, key, partition=number % PARTITIONS)
            for number, (key, value) in enumerate(events)
        ]
        await asyncio.gather(*sent)


def measure(name: str, round_: int, broker: EmbeddedBroker, events: Sequence[Event], folder: Path) -> dict[str, float]:
    """CPU microseconds an event and events a second of one consumer over all events."""
    topic = f"listings-{name}-{round_}"
    task = Task(broker.bootstrap, topic, f"{topic}-out", len(events), free_port())
    asyncio.run(topics.ensure(topics.wanted(task.settings(), PARTITIONS), bootstrap_servers=broker.bootstrap))
    with consumer(name, task, folder) as running:
        running.until(running.ready, START_S)
        before: Usage = running.ask("now")
        with running.stopped():  # so that publishing takes no CPU from it
            asyncio.run(publish(task, events))
        after: Usage = running.until(running.finished, FINISH_S)
        began: Usage = running.ask("first")
    user, system = after.user - before.user, after.system - before.system
    return {
        "cpu_us": (user + system) / len(events) * 1e6,
        "system_us": system / len(events) * 1e6,
        "events_s": len(events) / (after.at - began.at),
    }


def pipeline_split(events: Sequence[Event], batch: int) -> dict[str, float]:
    """CPU microseconds an event of the worker's own steps, in this process, on one thread."""
    settings = Settings()
    codec = Codec()
    pipeline = Pipeline(settings, codec, NullTagger())
    records = [Record("listings", 0, offset, 0, *event) for offset, event in enumerate(events)]
    spent = dict.fromkeys(("decode", "prepare", "tag", "encode"), 0.0)
    for start in range(0, len(records), batch):
        part = records[start : start + batch]
        times = [time.thread_time()]
        for record in part:
            codec.decode_listing(record)
        times.append(time.thread_time())
        entries = pipeline.prepare(part)
        times.append(time.thread_time())
        outcomes = pipeline.tag(entries)
        times.append(time.thread_time())
        pipeline.encode(outcomes)
        times.append(time.thread_time())
        for step, begin, end in zip(spent, times, times[1:], strict=False):
            spent[step] += end - begin
    spent["prepare"] -= spent["decode"]  # prepare decodes too
    return {step: seconds / len(events) * 1e6 for step, seconds in spent.items()}


def run(count: int, rounds: int) -> dict[str, Any]:
    """All consumers in turn, `rounds` times over."""
    neighbours = Neighbours()
    codec = Codec()
    events = [
        (tag_key(listing.merchant_id, listing.product_id), codec.encode_listing(listing)) for listing in listings(count)
    ]
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in CONSUMERS}
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker() as broker:
        for round_ in range(rounds):
            for name, results in measured.items():
                results.append(measure(name, round_, broker, events, Path(folder)))
    splits = [pipeline_split(events, Settings().batch_listings) for _ in range(max(3, rounds))]

    def figure(name: str, key: str) -> Figure:
        return Figure.of([result[key] for result in measured[name]])

    def ratio(name: str, other: str) -> Figure:
        pairs = zip(measured[name], measured[other], strict=True)
        return Figure.of([ours["cpu_us"] / theirs["cpu_us"] for ours, theirs in pairs])

    split = {step: Figure.of([one[step] for one in splits]) for step in splits[0]}
    own = sum(step.median for step in split.values())
    produce = figure("in-out", "cpu_us").median - figure("in", "cpu_us").median
    rest = figure("worker", "cpu_us").median - own - produce
    return {
        "machine": machine(neighbours),
        "events": count,
        "event_bytes": round(sum(len(value) for _, value in events) / count),
        "rounds": rounds,
        "consumers": {
            name: {key: figure(name, key) for key in ("cpu_us", "system_us", "events_s")} for name in measured
        },
        "split_us": {**split, "produce": produce, "consume": rest},
        "worker_to_faust": ratio("worker", "faust"),
        "worker_to_in_out": ratio("worker", "in-out"),
        "consume_to_faust": rest / figure("faust", "cpu_us").median,
        "aim": AIM,
    }


EXPLAINED = {
    "decode": "bytes to a checked listing",
    "prepare": "versions seen, isolation of culprits",
    "tag": "null tagger",
    "encode": "event id, key, Avro",
    "produce": "aiokafka's sending: in-out less in",
    "consume": "the rest: consume, hand over, batch, acknowledge, count, log",
}


def print_tables(result: dict[str, Any]) -> None:
    """For people."""
    show(
        f"An event's cost: {result['events']:,} listings of {result['event_bytes']} bytes, rounds: {result['rounds']}",
        ["consumer", "CPU µs", "of it system", "events/s"],
        [[name, one["cpu_us"], one["system_us"], one["events_s"]] for name, one in result["consumers"].items()],
    )
    show(
        "Where the worker's goes",
        ["step", "CPU µs", "what"],
        [
            [step, figure if isinstance(figure, Figure) else f"{figure:.1f}", EXPLAINED[step]]
            for step, figure in result["split_us"].items()
        ],
        {
            f"worker / Faust's events() (aim: at most {AIM})": result["worker_to_faust"],
            "its consuming part / Faust's events()": f"{result['consume_to_faust']:.2f}",
            "worker / aiokafka in and out": result["worker_to_in_out"],
            "machine": describe(result["machine"]),
        },
    )


def main(
    events: Annotated[int, typer.Option(min=100, help="Listings per consumer and round.")] = 20_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often each consumer is measured.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="2,000 listings, one round: does it run?")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Measure what an event costs the worker around the model, beside Faust's and aiokafka's own."""
    result = run(2_000, 1) if quick else run(events, rounds)
    if as_json:
        print_json(result)
    else:
        print_tables(result)


if __name__ == "__main__":
    typer.run(main)
