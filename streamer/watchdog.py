"""The watchdog: what no exception tells of. A broker that is gone, a record that does not get finished, a partition
that is not fetched any more while others go on, a consumer that does not belong to its group any more."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol

import structlog

from streamer.delivery import Delivery
from streamer.errors import BrokerUnavailable, NotFetched, Stalled
from streamer.flow import Progress
from streamer.settings import Settings

WATCH_S = 1.0
PING_EVERY_S = 5.0

log = structlog.get_logger(__name__)


class Watched(Protocol):
    """What is asked of the consumer."""

    @property
    def fetches(self) -> Mapping[Any, int | None]:
        """When a fetch was last answered, by any clock, of each partition that ought to be fetched."""

    def check_group(self) -> None:
        """Raises what has ended its part in the group."""


class Watchdog:
    """Watches a worker's broker, the records in hand, and its consumer."""

    def __init__(
        self, settings: Settings, delivery: Delivery, progress: Progress, consumer: Callable[[], Watched]
    ) -> None:
        self._settings = settings
        self._delivery = delivery
        self._progress = progress
        self._consumer = consumer
        self._answers: dict[Any, tuple[int | None, float]] = {}  # the last one, and since when (time.monotonic)

    async def run(self) -> NoReturn:
        """Raises BrokerUnavailable when the broker is gone for too long, Stalled when a partition's oldest record in
        hand does not get finished, NotFetched when nothing answers a partition's fetches, Fenced or BrokerError when
        the consumer has left its group."""
        settings = self._settings
        next_ping = 0.0
        gone_since: float | None = None
        while True:
            await asyncio.sleep(WATCH_S)
            now = time.monotonic()
            if now >= next_ping:
                alive = await self._delivery.alive()
                gone_since = None if alive else gone_since or now
                next_ping = now + (PING_EVERY_S if alive else 0)
            if gone_since is not None:
                log.warning("broker_not_reachable", bootstrap=settings.kafka_bootstrap)
                if now - gone_since > settings.broker_retry_s:
                    raise BrokerUnavailable(
                        f"{settings.kafka_bootstrap}: no broker answered for {now - gone_since:.0f} s; {self._left()}"
                    )
            self._consumer().check_group()
            self._look_at_records()
            self._look_at_fetches(time.monotonic())

    def _look_at_records(self) -> None:
        stalled = self._progress.acknowledgements.stalled(self._settings.stall_s)
        if stalled is not None:
            topic, partition, offset = stalled
            raise Stalled(
                f"{topic}/{partition}/{offset}: in hand and not finished for {self._settings.stall_s:g} s, and nothing "
                f"behind it acknowledged; {self._left()}"
            )

    def _look_at_fetches(self, now: float) -> None:
        before, self._answers = self._answers, {}
        for partition, answer in self._consumer().fetches.items():
            last, since = before.get(partition, (answer, now))
            self._answers[partition] = answer, now if answer != last else since
            if answer == last and now - since > self._settings.stall_s:
                raise NotFetched(
                    f"{partition.topic}/{partition.partition}: no fetch answered for {self._settings.stall_s:g} s, "
                    f"though the broker answers and the partition has a leader; {self._left()}"
                )

    def _left(self) -> str:
        return f"{self._progress.in_hand} records in hand stay unacknowledged"
