"""Publish listings: JSON lines in, one record each on a source topic, keyed by product."""

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import NamedTuple, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from rich import progress
from rich.console import Console

from streamer.codec import Codec
from streamer.connection import partitions, start, stop, translated
from streamer.errors import DeliveryError, InputError
from streamer.records import Coordinates, tag_key
from streamer.settings import MIB, Settings
from taggen import corpus
from taggen.errors import InvalidListing
from taggen.listing import Listing

MAX_IN_FLIGHT = 1_000  # records sent and not yet taken by the broker
MAX_REQUEST_BYTES = 5 * MIB  # the source topics take records of four


class BadLine(NamedTuple):
    """A line that holds no listing; `problem` never quotes it."""

    source: str
    number: int
    problem: str

    def __str__(self) -> str:
        return f"{self.source}:{self.number}: {self.problem}"


def read_listings(lines: Iterable[bytes], source: str) -> Iterator[Listing | BadLine]:
    """Read one listing a line (the fields of product-listing.avsc); blank lines are nothing.

    A listing without `event_time` happens now. `source` is what the lines come from, for messages.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode())
            if isinstance(record, dict) and record.get("event_time") is None:
                record["event_time"] = _now_ms()
            yield Listing.from_record(record)
        except UnicodeDecodeError:
            yield BadLine(source, number, "not UTF-8")
        except json.JSONDecodeError as error:
            yield BadLine(source, number, f"not JSON: {error.msg} at character {error.pos + 1}")
        except (ValueError, RecursionError):  # a number of too many digits, too deep a nesting
            yield BadLine(source, number, "not JSON that can be read")
        except InvalidListing as error:
            yield BadLine(source, number, str(error))


def samples() -> Iterator[Listing]:
    """The listings that come with the project, as if their merchants published them now."""
    for labelled in corpus.held_out():
        yield replace(labelled.listing, event_time=_now_ms())


@contextmanager
def listings(file: str | None, console: Console) -> Iterator[Iterable[Listing | BadLine]]:
    """The listings of a file, of standard input (`-`) or the samples (None), with a progress bar on a terminal.

    Raises InputError for a file that cannot be opened.
    """
    hidden = not console.is_terminal
    if file is None:
        labelled = list(samples())
        yield progress.track(labelled, "Publishing", console=console, transient=True, disable=hidden)
    elif file == "-":
        yield read_listings(sys.stdin.buffer, "<stdin>")
    else:
        try:
            opened = progress.open(
                file, "rb", description="Publishing", console=console, transient=True, disable=hidden
            )
        except OSError as error:
            raise InputError(f"{file}: {error.strerror}") from None
        with opened as lines:
            yield read_listings(lines, file)


class Publisher:
    """Writes listings and raw records to one topic; an async context manager.

    A record counts as published once every in-sync replica has it. Entering raises BrokerUnavailable, BrokerError or
    TopicMissing.
    """

    def __init__(self, settings: Settings, topic: str, *, as_json: bool = False) -> None:
        self._settings = settings
        self._topic = topic
        self._as_json = as_json
        self._codec = Codec.from_settings(settings)
        # Idempotence would shut out brokers that have none; a repeated listing does no harm.
        self._producer = AIOKafkaProducer(acks="all", max_request_size=MAX_REQUEST_BYTES, **settings.client_options())

    async def __aenter__(self) -> Self:
        try:
            await partitions(self._settings, [self._topic])  # sending to a topic that is not there would wait long
            with translated(self._settings):
                await start(self._producer)
        except BaseException:
            await stop(self._producer)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop(self._producer)

    def encode(self, listing: Listing) -> bytes:
        """The value of a listing's record."""
        if self._as_json:
            return json.dumps(asdict(listing), ensure_ascii=False, separators=(",", ":")).encode()
        return self._codec.encode_listing(listing, self._topic)

    async def send(self, listing: Listing) -> "asyncio.Task[Coordinates]":
        """Hand a listing to the client; the task ends when the broker has it, or with DeliveryError."""
        return await self.send_raw(tag_key(listing.merchant_id, listing.product_id), self.encode(listing))

    async def send_raw(
        self, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]] = ()
    ) -> "asyncio.Task[Coordinates]":
        """As `send`, for any bytes."""
        try:
            delivery = await self._producer.send(self._topic, value, key, headers=list(headers))
        except KafkaError as error:
            raise self._failed(error) from error
        return asyncio.create_task(self._delivered(delivery))

    async def _delivered(self, delivery: "asyncio.Future[object]") -> Coordinates:
        try:
            metadata = await delivery
        except KafkaError as error:
            raise self._failed(error) from error
        return Coordinates(metadata.topic, metadata.partition, metadata.offset)  # type: ignore[attr-defined]

    def _failed(self, error: KafkaError) -> DeliveryError:
        return DeliveryError(
            f"{self._topic}: a listing was not taken by {self._settings.kafka_bootstrap}: {type(error).__name__}"
        )


class Pace:
    """Lets `rate` things a second through, evenly; None: as fast as they come."""

    def __init__(self, rate: float | None) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._next = time.monotonic()

    async def wait(self) -> None:
        """Return when the next one is due."""
        await asyncio.sleep(max(0.0, self._next - time.monotonic()))
        self._next += self._interval


async def publish(
    settings: Settings,
    listings: Iterable[Listing | BadLine],
    topic: str,
    *,
    as_json: bool = False,
    rate: float | None = None,
    skip: Callable[[BadLine], None] | None = None,
) -> int:
    """Publish all listings, `rate` a second, and return how many once the broker has them.

    `skip` is told of bad lines. Without it the first one raises InputError; what came before it is published. Raises
    BrokerError and RegistryError.
    """
    sent = 0
    bad: BadLine | None = None
    pace = Pace(rate)
    deliveries: deque[asyncio.Task[Coordinates]] = deque()
    async with Publisher(settings, topic, as_json=as_json) as publisher:
        for listing in listings:
            if isinstance(listing, BadLine):
                if skip is None:
                    bad = listing
                    break
                skip(listing)
                continue
            await pace.wait()
            deliveries.append(await publisher.send(listing))
            sent += 1
            if len(deliveries) >= MAX_IN_FLIGHT:
                await deliveries.popleft()
        await asyncio.gather(*deliveries)
    if bad is not None:
        raise InputError(f"{bad} (published before it: {sent}; --skip-bad passes over such lines)")
    return sent


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
