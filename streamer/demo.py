"""The whole path once, for real: a broker, a worker process, the sample listings in, their tags out, a summary."""

import asyncio
import json
import math
import os
import shutil
import signal
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console

from streamer import topics
from streamer.broker import HOST, EmbeddedBroker, free_port
from streamer.codec import Codec
from streamer.connection import Reader
from streamer.demo_adapter import MERCHANT, NAME, MerchantAdapter
from streamer.errors import DecodeError, StreamerError
from streamer.publish import Pace, Publisher, samples
from streamer.records import Coordinates, DeadLetter, tag_key
from streamer.settings import Settings
from streamer.table import TagTable
from streamer.tail import Sighting, Spotter, Unreadable
from streamer.workerprocess import WorkerProcess, cancelled
from taggen.tag import Model

HARD_LIMIT_S = 300.0  # for everything
SETTLE_S = 60.0  # without any news after the last listing was published

# Published among the samples, so that the dead letters are not empty: no Avro and no JSON, and a listing without title.
BROKEN = (
    b"this is not a listing",
    json.dumps(
        {"merchant_id": "sole-republic", "product_id": "broken", "listing_version": 1, "event_time": 0}
    ).encode(),
)
BROKEN_AFTER = (20, 40)  # so many samples
ADAPTER_AFTER = 30


class DemoError(StreamerError):
    """The demo could not be carried through; says why."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What went in and what came out. Latencies are from the listing's record to its tag event's, nearest rank."""

    events_in: int
    tag_events: int
    dead_letters: int
    without_outcome: tuple[str, ...]  # neither tag event nor dead letter
    without_tags: tuple[str, ...]  # a tag event that holds none
    latency_p50_ms: int | None
    latency_p99_ms: int | None
    listings_per_second: float | None  # from the first record published to the last tag event
    published_per_second: float  # as asked for; they cannot come out faster
    model: Model | None  # of the first of them
    by_own_adapter: int  # tag events of the merchant that gained an adapter, by that
    seconds: float  # all of it, with start and stop

    @property
    def good(self) -> bool:
        """Every listing has tags or a dead letter."""
        return not self.without_outcome and not self.without_tags

    def as_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self), ensure_ascii=False)


@dataclass
class _Ledger:
    """What was published, and what has become of each record."""

    names: dict[Coordinates, str] = field(default_factory=dict)
    outcomes: dict[Coordinates, Sighting | DeadLetter] = field(default_factory=dict)
    started: float = 0.0
    last: float = 0.0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def missing(self) -> tuple[str, ...]:
        return tuple(name for place, name in self.names.items() if place not in self.outcomes)

    def put(self, place: Coordinates, outcome: Sighting | DeadLetter) -> bool:
        """Whether it is the first outcome of that record."""
        first = place not in self.outcomes
        self.outcomes[place] = outcome
        self.last = time.monotonic()
        self.news.set()
        return first


class Demo:
    """One run. `console` gets the progress, `table` (if any) the events as they come."""

    def __init__(self, settings: Settings, console: Console, table: TagTable | None, rate: float) -> None:
        self._settings = settings
        self._console = console
        self._table = table
        self._rate = rate
        self._began = time.monotonic()

    async def run(self, *, own_broker: bool) -> Summary:
        """Start everything, publish, wait for the outcomes, stop everything.

        `own_broker`: use the one that the settings name instead of the embedded one. Raises StreamerError. Ends the
        child processes whatever happens; SIGTERM counts as Ctrl-C.
        """
        if (task := asyncio.current_task()) is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        folder = Path(tempfile.mkdtemp(prefix="streamer-demo-"))
        try:
            async with asyncio.timeout(HARD_LIMIT_S):
                ledger = await self._in(folder, own_broker)
        except TimeoutError:
            raise DemoError(f"not done within {HARD_LIMIT_S:.0f} s; the logs are in {folder}") from None
        except asyncio.CancelledError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        summary = self._summary(ledger)
        if summary.good:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            self._say(f"The logs are in {folder}")
        return summary

    async def _in(self, folder: Path, own_broker: bool) -> _Ledger:
        with ExitStack() as children:
            if own_broker:
                self._say(f"Broker      {self._settings.kafka_bootstrap}, topics and group named demo-...")
                self._settings = _beside_others(self._settings)
            else:
                broker = children.enter_context(EmbeddedBroker(log=folder / "broker.log"))
                self._settings = _embedded(self._settings, broker)
                self._say(f"Broker      {broker.bootstrap}, embedded, in memory")
            wanted = topics.wanted(self._settings)
            await topics.ensure(wanted, **self._settings.client_options())
            self._say("Topics      " + ", ".join(topic.name for topic in wanted))
            adapter = MerchantAdapter(self._settings, folder)
            self._settings = adapter.settings
            worker = children.enter_context(WorkerProcess(self._settings, folder / "worker.log"))
            try:
                ledger = await worker.while_alive(self._with(worker, adapter))
            finally:
                self._say("Stopping the worker" + ("" if own_broker else " and the broker"))
        return ledger

    async def _with(self, worker: WorkerProcess, adapter: MerchantAdapter) -> _Ledger:
        began = time.monotonic()
        with self._console.status("The worker loads its model and joins its group"):
            await adapter.build()
            await worker.ready()
        self._say(f"Worker      ready after {time.monotonic() - began:.1f} s")
        ledger = _Ledger()
        async with AsyncExitStack() as stack:
            spotter = await stack.enter_async_context(Spotter(self._settings))
            outputs = [self._settings.tags_topic, self._settings.dead_letter_topic]
            reader = await stack.enter_async_context(Reader(self._settings, outputs, from_beginning=False))
            reading = asyncio.create_task(self._read(reader, spotter, ledger))
            publishing = asyncio.create_task(self._publish_and_settle(ledger, adapter))
            try:
                await asyncio.wait({reading, publishing}, return_when=asyncio.FIRST_COMPLETED)
                await (publishing if publishing.done() else reading)
            finally:
                await cancelled(reading, publishing)
        return ledger

    async def _publish_and_settle(self, ledger: _Ledger, adapter: MerchantAdapter) -> None:
        """Publish everything, then wait until every record has its outcome or nothing more comes."""
        listings = list(samples())
        self._say(
            f"Publishing  {len(listings)} sample listings, {self._rate:g} a second; {len(BROKEN)} records among "
            "them are broken on purpose and come out as dead letters\n"
        )
        broken = dict(zip(BROKEN_AFTER, BROKEN, strict=True))
        pace = Pace(self._rate)
        deliveries: list[tuple[str, asyncio.Task[Coordinates]]] = []
        gaining: asyncio.Task[None] | None = None
        ledger.started = time.monotonic()
        async with Publisher(self._settings, self._settings.source_topics[0]) as publisher:
            for number, listing in enumerate(samples()):
                if number == ADAPTER_AFTER:
                    gaining = asyncio.create_task(adapter.publish(self._say))
                if number in broken:
                    delivery = await publisher.send_raw(tag_key("broken", str(number)), broken[number])
                    deliveries.append((f"broken record {number}", delivery))
                if gaining is not None and listing.merchant_id == MERCHANT:
                    await gaining  # what the merchant publishes from here on is tagged by it
                    gaining, pace = None, Pace(self._rate)  # no hurry to make up for the wait
                await pace.wait()
                name = f"{listing.merchant_id}/{listing.product_id}"
                deliveries.append((name, await publisher.send(listing)))
            for name, delivery in deliveries:
                ledger.names[await delivery] = name
        if gaining is not None:
            await gaining
        while ledger.missing():
            ledger.news.clear()
            try:
                async with asyncio.timeout(SETTLE_S):
                    await ledger.news.wait()
            except TimeoutError:
                return

    async def _read(self, reader: Reader, spotter: Spotter, ledger: _Ledger) -> None:
        codec = Codec.from_settings(self._settings)
        async for record in reader:
            if record.topic == self._settings.tags_topic:
                sighting = await spotter.spot(record)
                if isinstance(sighting, Unreadable):
                    raise DemoError(f"{record.topic}/{record.partition}/{record.offset}: {sighting.reason}")
                if ledger.put(sighting.event.source, sighting) and self._table:
                    self._table.add(sighting)
            else:
                try:
                    letter = codec.decode_dead_letter(record.value or b"")
                except DecodeError as error:
                    raise DemoError(f"{record.topic}/{record.partition}/{record.offset}: {error}") from error
                if ledger.put(Coordinates(letter.topic, letter.partition, letter.offset), letter) and self._table:
                    self._table.add_dead_letter(letter)

    def _summary(self, ledger: _Ledger) -> Summary:
        outcomes = [(name, ledger.outcomes[place]) for place, name in ledger.names.items() if place in ledger.outcomes]
        sightings = [(name, outcome) for name, outcome in outcomes if isinstance(outcome, Sighting)]
        latencies = sorted(sighting.latency_ms for _, sighting in sightings if sighting.latency_ms is not None)
        span = ledger.last - ledger.started
        return Summary(
            events_in=len(ledger.names),
            tag_events=len(sightings),
            dead_letters=len(outcomes) - len(sightings),
            without_outcome=ledger.missing(),
            without_tags=tuple(name for name, sighting in sightings if not sighting.event.tags),
            latency_p50_ms=_nearest_rank(latencies, 0.50),
            latency_p99_ms=_nearest_rank(latencies, 0.99),
            listings_per_second=round(len(sightings) / span, 1) if sightings else None,
            published_per_second=self._rate,
            model=next((sighting.event.model for _, sighting in sightings), None),
            by_own_adapter=sum(_adapter(sighting) == NAME for _, sighting in sightings),
            seconds=round(time.monotonic() - self._began, 1),
        )

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_summary(summary: Summary, console: Console) -> None:
    """The summary for people."""
    lines = [
        f"{summary.events_in} events in, {summary.tag_events} tag events out, {summary.dead_letters} dead letters",
        f"Latency from publish to tag: p50 {summary.latency_p50_ms} ms, p99 {summary.latency_p99_ms} ms",
        f"{summary.listings_per_second} listings per second, published at {summary.published_per_second:g}; "
        f"{summary.seconds} s in all",
    ]
    if (model := summary.model) is not None:
        lines.append(f"Tagged by {model.base} ({model.quantization}), adapter {model.adapter} {model.version}")
    lines.append(f"{summary.by_own_adapter} of {MERCHANT}'s by the adapter that it gained meanwhile")
    for problem, names in (
        ("Neither tags nor a dead letter", summary.without_outcome),
        ("No tags", summary.without_tags),
    ):
        if names:
            lines.append(f"{problem}: {', '.join(names)}")
    console.print("\n" + "\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _embedded(settings: Settings, broker: EmbeddedBroker) -> Settings:
    """The settings for the embedded broker, which is alone on its machine."""
    return settings.model_copy(
        update={
            "kafka_bootstrap": broker.bootstrap,
            "security_protocol": "PLAINTEXT",
            "idempotent_producer": False,
            "fetch_max_wait_ms": 50,  # it answers an empty fetch after half of it, whatever comes in meanwhile
            "session_timeout_s": 4.0,  # it waits half of it for more members at the first join
            # Broker, worker and this process share the machine; torch's threads wait for each other, spinning.
            "torch_threads": settings.torch_threads or max(1, (os.cpu_count() or 2) // 2),
            "web_host": HOST,
            "web_port": free_port(),
        }
    )


def _beside_others(settings: Settings) -> Settings:
    """The settings for a broker that others use too: topics and a group of the demo's own."""
    return settings.model_copy(
        update={
            "source_topics": tuple(f"demo-{name}" for name in settings.source_topics),
            "tags_topic": f"demo-{settings.tags_topic}",
            "dead_letter_topic": f"demo-{settings.dead_letter_topic}",
            "retry_topic": f"demo-{settings.retry_topic}",
            "attempts_topic": f"demo-{settings.attempts_topic}",
            "latest_topic": None,
            "adapters_topic": f"demo-{settings.adapters_topic}",
            "adapter_status_topic": f"demo-{settings.adapter_status_topic}",
            "group_id": f"demo-{settings.group_id}",
            "web_host": HOST,
            "web_port": free_port(),
        }
    )


def _adapter(sighting: Sighting) -> str | None:
    model = sighting.event.model
    return None if model is None else model.adapter


def _nearest_rank(ordered: list[int], share: float) -> int | None:
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None
