"""Load of a seed on a stage while something goes wrong, and the verdict afterwards.

`SOAK_S`, the seconds that a soak may take, makes the tests of `tests/faults` run long; without it they stop at what
shows the fault. Each prints its figures, which `docs/reliability.md` quotes.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Self

from streamer.codec import Codec
from taggen.listing import Listing
from tests.workers import PATIENCE_S, Place, Stage

SEED = int(os.environ.get("FAULT_SEED", "20261124"))
SOAK_S = float(os.environ.get("SOAK_S", "0"))
PRODUCTS = 400
MERCHANTS = ("acme", "globex", "initech")
TICK_S = 0.05

_WORDS = ("red", "blue", "steel", "cotton", "water proof", "running shoes", "office bag", "garden chair", "wool socks")


def listings(seed: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values without end: products created and edited, one in fifty deleted, one in a hundred unreadable."""
    chance = random.Random(seed)  # noqa: S311  a load, not a secret
    codec = Codec()
    versions: dict[int, int] = {}
    while True:
        product = chance.randrange(PRODUCTS)
        key = f"product-{product}".encode()
        versions[product] = versions.get(product, 0) + 1
        if chance.random() < 0.01:
            yield key, chance.randbytes(40)
            continue
        title = " ".join(chance.choices(_WORDS, k=chance.randint(2, 12)))
        deleted = chance.random() < 0.02
        merchant = MERCHANTS[product % len(MERCHANTS)]
        listing = Listing(merchant, str(product), versions[product], title, deleted=deleted, event_time=1)
        yield key, codec.encode_listing(listing)


class Load:
    """Publishes the listings of a seed at a rate, until the `async with` block ends. `places`: where they stand."""

    def __init__(self, stage: Stage, rate: float = 50, seed: int = SEED) -> None:
        """`rate`: records a second while the block runs."""
        self.places: list[Place] = []
        self._stage = stage
        self._rate = rate
        self._listings = listings(seed)
        self._ending = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._publishing = asyncio.create_task(self._publish())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending.set()
        await self._publishing

    def take(self, count: int) -> list[tuple[bytes, bytes]]:
        """The next so many keys and values, for the test to publish."""
        return [next(self._listings) for _ in range(count)]

    async def burst(self, count: int) -> None:
        """Publish so many at once."""
        keys, values = zip(*self.take(count), strict=True)
        self.places += await self._stage.publish(values, keys)

    async def _publish(self) -> None:
        due = time.monotonic()
        while not self._ending.is_set():
            due += TICK_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), max(0.0, due - time.monotonic()))
            behind = max(0.0, time.monotonic() - due)
            await self.burst(max(1, round((TICK_S + behind) * self._rate)))
            due += behind


async def until_committed(stage: Stage, load: Load) -> None:
    """Wait until the group has acknowledged everything that was published."""
    deadline = time.monotonic() + PATIENCE_S
    while sum((await stage.committed()).values()) < len(load.places):
        if time.monotonic() > deadline:
            raise AssertionError(f"{await stage.committed()} of {len(load.places)} acknowledged; {stage.logs()}")
        await asyncio.sleep(0.2)


async def judged(stage: Stage, load: Load, fault: str, count: int, everything: bool = True) -> dict[str, Any]:
    """The verdict of `streamer verify` on the stage's topics, which must be good; prints the figures."""
    told = await stage.command("verify", "--json", *(["--all"] if everything else []))
    verdict: dict[str, Any] = json.loads(told)
    print(
        f"\n{fault}: faults {count}, inputs {verdict['inputs']}, lost {verdict['found']['lost']}, "
        f"repeated {verdict['repeats']}, dead letters {verdict['dead_letters']} (seed {SEED})"
    )
    assert verdict["good"]
    assert verdict["inputs"] == verdict["required"] == len(load.places)
    return verdict
