"""What a worker says of itself on the status topic: that it is alive, and what became of the versions it was told to
serve. Nobody's events wait for it."""

import asyncio
import os
import platform
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from streamer.codec import Codec
from streamer.connection import start, stop
from streamer.errors import StreamerError
from streamer.pipeline import now_ms
from streamer.records import AdapterStatus, WorkerState
from streamer.settings import Settings
from taggen.reference import Reference

HEARTBEAT_S = 3.0  # who is not heard for 10 s counts as dead
KEPT = 10_000  # reports while the broker is away, oldest out first
DETAIL_CHARS = 500

log = structlog.get_logger(__name__)


class Reporter:
    """Sends reports in their order, and a heartbeat when there is nothing else to say."""

    def __init__(self, settings: Settings, codec: Codec, base_fingerprint: str, offset: Callable[[], int]) -> None:
        """`offset`: of the control topic, what the worker reads next."""
        self.worker = f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._settings = settings
        self._codec = codec
        self._base_fingerprint = base_fingerprint
        self._offset = offset
        self._waiting: deque[AdapterStatus] = deque(maxlen=KEPT)
        self._news = asyncio.Event()

    def report(
        self,
        state: WorkerState,
        merchant_id: str,
        revision: int,
        adapter: Reference | None,
        reason: str | None = None,
        detail: str | None = None,
    ) -> None:
        """Say something of a version; from the event loop."""
        self._waiting.append(self._status(state, merchant_id, revision, adapter, reason, detail))
        self._news.set()

    def _status(
        self,
        state: WorkerState,
        merchant_id: str | None = None,
        revision: int | None = None,
        adapter: Reference | None = None,
        reason: str | None = None,
        detail: str | None = None,
    ) -> AdapterStatus:
        detail = None if detail is None else detail[:DETAIL_CHARS]
        about = self.worker, self._base_fingerprint, state, self._offset()
        return AdapterStatus(*about, merchant_id, revision, adapter, reason, detail, now_ms())

    async def run(self) -> None:
        """Send, without end; what the broker does not take now is sent again later."""
        producer: AIOKafkaProducer | None = None
        try:
            while True:
                try:
                    if producer is None:
                        producer = AIOKafkaProducer(acks="all", **self._settings.client_options())
                        await start(producer)
                    await self._send(producer)
                except (KafkaError, StreamerError) as error:
                    log.warning(
                        "status_not_sent", topic=self._settings.adapter_status_topic, error=type(error).__name__
                    )
                    if producer is not None:
                        await stop(producer)
                        producer = None
                with suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_S):
                        await self._news.wait()
                self._news.clear()
        finally:
            if producer is not None:
                await stop(producer)

    async def _send(self, producer: AIOKafkaProducer) -> None:
        if not self._waiting:
            self._waiting.append(self._status("heartbeat"))
        reports = list(self._waiting)
        values = await asyncio.to_thread(lambda: [self._codec.encode_adapter_status(one) for one in reports])
        topic, key = self._settings.adapter_status_topic, self.worker.encode()
        deliveries = [await producer.send(topic, value, key) for value in values]
        for delivery in deliveries:
            await delivery
            self._waiting.popleft()
