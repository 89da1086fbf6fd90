"""Changing who is served by what: the control topic read to its end and written to, and what the live workers say.

A record counts when it won its revision: after it is written the topic is read again, and where somebody else was
faster it is written anew, on what that one came to.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from streamer.codec import Codec
from streamer.connection import consumer, partitions, start, stop, translated
from streamer.control import Control
from streamer.errors import BrokerError, BrokerUnavailable, DecodeError, DeliveryError
from streamer.pipeline import now_ms
from streamer.records import AdapterStatus, route_key
from streamer.reporter import HEARTBEAT_S
from streamer.routing import Action, Canary, MerchantRoute, RouteChange, Routing
from streamer.settings import Settings
from taggen.reference import Reference

LIVE_S = 10.0  # a worker that was heard within it is live
LISTEN_S = HEARTBEAT_S + 2  # by then every live worker has been heard
POLL_MS = 250
TRIES = 10


class Entry(NamedTuple):
    """A record of the control topic; `valid` unless its revision was taken."""

    change: RouteChange
    valid: bool


class Step(NamedTuple):
    """What is to be done to a merchant's route."""

    action: Action
    adapter: Reference | None = None
    canary: Canary | None = None


class AdapterLog:
    """The control topic, as far as it goes when it is entered, and on from there; an async context manager.

    `history` has the records of the merchant that it is opened for. Raises TopicMissing, BrokerUnavailable, BrokerError
    and RegistryError.
    """

    def __init__(self, settings: Settings, merchant_id: str | None = None) -> None:
        self.routings: dict[str, Routing] = {}  # by base fingerprint
        self.history: list[Entry] = []
        self._merchant_id = merchant_id
        self._settings = settings
        self._codec = Codec.from_settings(settings)
        self._control = Control(settings, self._codec, self._follow)
        self._following: asyncio.Task[None] | None = None

    def _follow(self, change: RouteChange, timestamp: int) -> None:
        base = change.base_fingerprint
        valid = self.routings.setdefault(base, Routing(base)).apply(change)
        if change.merchant_id == self._merchant_id:
            self.history.append(Entry(change, valid))

    async def __aenter__(self) -> Self:
        try:
            await self._control.start()
        except BaseException:
            await self._control.stop()
            raise
        self._following = asyncio.create_task(self._control.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})
        await self._control.stop()

    def merchant(self, base_fingerprint: str) -> MerchantRoute:
        """The merchant's state on a base; revision 0 when it was never routed there."""
        return self.routings.get(base_fingerprint, Routing(base_fingerprint)).merchant(self._merchant_id or "")

    async def append(self, base_fingerprint: str, step: Callable[[MerchantRoute], Step]) -> tuple[RouteChange, int]:
        """Write the record of the step that follows from the merchant's state; returns it, once it has won its
        revision, and its offset. Raises what `step` raises, and DeliveryError."""
        merchant_id = self._merchant_id
        if merchant_id is None:
            raise ValueError("the log was opened for no merchant")
        settings = self._settings
        producer = AIOKafkaProducer(
            acks="all", enable_idempotence=settings.idempotent_producer, **settings.client_options()
        )
        try:
            with translated(settings):
                await start(producer)
            await self._caught_up()
            for _ in range(TRIES):
                state = self.merchant(base_fingerprint)
                action, adapter, canary = step(state)
                revision = state.revision + 1
                change = RouteChange(merchant_id, base_fingerprint, revision, action, adapter, canary, now_ms())
                offset = await self._send(producer, change)
                await self._caught_up()
                if Entry(change, valid=True) in self.history:
                    return change, offset
        finally:
            await stop(producer)
        raise BrokerError(f"{settings.adapters_topic}: others keep changing the route of merchant {merchant_id}")

    async def _send(self, producer: AIOKafkaProducer, change: RouteChange) -> int:
        topic = self._settings.adapters_topic
        value = await asyncio.to_thread(self._codec.encode_route_change, change)
        key = route_key(change.merchant_id, change.base_fingerprint)
        try:
            return int((await producer.send_and_wait(topic, value, key)).offset)
        except KafkaError as error:
            raise DeliveryError(
                f"{topic}: a record was not taken by {self._settings.kafka_bootstrap}: {type(error).__name__}"
            ) from error

    async def _caught_up(self) -> None:
        """Follow to the end; not for ever, if the follower fails or the broker is gone."""
        assert self._following is not None  # noqa: S101  # entered
        reading = asyncio.create_task(self._control.up_to_date())
        limit_s = self._settings.broker_retry_s
        done, _ = await asyncio.wait({reading, self._following}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        reading.cancel()
        if not done:
            raise BrokerUnavailable(
                f"{self._settings.kafka_bootstrap}: {self._settings.adapters_topic} not read within {limit_s:g} s"
            )
        for task in done:
            task.result()


@dataclass
class Worker:
    """A worker as it was heard: when last, what of the control topic it had read when it was heard first, and its last
    word on the merchant's versions."""

    heard: float  # time.monotonic()
    first_offset: int
    report: AdapterStatus | None = None


class Workers:
    """What the workers on one base say of a merchant's versions; an async context manager.

    It begins with what was said in the last `since_s` seconds. Raises as `AdapterLog`.
    """

    def __init__(self, settings: Settings, merchant_id: str, base_fingerprint: str, since_s: float = LIVE_S) -> None:
        self.by_name: dict[str, Worker] = {}
        self._settings = settings
        self._merchant_id = merchant_id
        self._base_fingerprint = base_fingerprint
        self._since_s = since_s
        self._codec = Codec.from_settings(settings)
        self._consumer = consumer(settings, "latest")
        self._entered = 0.0

    async def __aenter__(self) -> Self:
        settings = self._settings
        try:
            assigned = await partitions(settings, [settings.adapter_status_topic])
            with translated(settings):
                await start(self._consumer)
                self._consumer.assign(assigned)
                since = now_ms() - round(1000 * self._since_s)
                found = await self._consumer.offsets_for_times(dict.fromkeys(assigned, since))
                for partition, first in found.items():
                    if first is not None:
                        self._consumer.seek(partition, first.offset)
        except BaseException:
            await stop(self._consumer)
            raise
        self._entered = time.monotonic()
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop(self._consumer)

    async def listen(self) -> None:
        """Take in what comes, for a moment."""
        with translated(self._settings):
            polled = await self._consumer.getmany(timeout_ms=POLL_MS)
        for messages in polled.values():
            for status in await asyncio.to_thread(self._decode, [message.value for message in messages]):
                self._hear(status)

    def _decode(self, values: list[bytes | None]) -> list[AdapterStatus]:
        statuses = []
        for value in values:
            try:
                statuses.append(self._codec.decode_adapter_status(value or b""))
            except DecodeError:  # of a release to come, or nobody's
                continue
        return statuses

    def _hear(self, status: AdapterStatus) -> None:
        if status.base_fingerprint != self._base_fingerprint:
            return
        now = time.monotonic()
        worker = self.by_name.setdefault(status.worker, Worker(now, status.control_offset))
        worker.heard = now
        if status.merchant_id == self._merchant_id and status.revision is not None:
            worker.report = status

    async def said(self) -> dict[str, AdapterStatus]:
        """The last word of each worker, once all that is there has been taken in."""
        deadline = self._entered + self._settings.broker_retry_s
        while not await self._at_the_end() and time.monotonic() < deadline:
            await self.listen()
        return {name: worker.report for name, worker in self.by_name.items() if worker.report is not None}

    async def _at_the_end(self) -> bool:
        for partition in self._consumer.assignment():
            end = self._consumer.highwater(partition)
            if end is None or await self._consumer.position(partition) < end:
                return False
        return True

    def live(self) -> dict[str, Worker]:
        """Those heard within ten seconds."""
        now = time.monotonic()
        return {name: worker for name, worker in self.by_name.items() if now - worker.heard < LIVE_S}

    async def answers(self, change: RouteChange, offset: int) -> AsyncIterator[dict[str, AdapterStatus | None]]:
        """What each live worker says of a record written at `offset`, None as long as it says nothing, again and again;
        ends when each has verified or refused it.

        A worker whose first word came after it had read the record has begun with it and is not asked.
        """
        while True:
            await self.listen()
            answers: dict[str, AdapterStatus | None] = {}
            for name, worker in self.live().items():
                report = worker.report
                if report is not None and (report.revision or 0) >= change.revision:
                    answers[name] = report
                elif worker.first_offset <= offset:
                    answers[name] = None
            yield answers
            final = all(answer is not None and answer.state != "retrying" for answer in answers.values())
            if final and (answers or time.monotonic() - self._entered > LISTEN_S):
                return
