"""Merchants with adapters of their own, for the workers of a test: a store, versions in it, records on the control
topic, and what the workers say."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from safetensors.torch import load_file, save_file

from streamer import topics
from streamer.records import AdapterStatus, route_key
from streamer.routing import Action, Canary, RouteChange, Routing
from taggen import adapter
from taggen.adapter import CARD, Card
from taggen.reference import Reference
from tests.tiny import make_tiny_adapter
from tests.workers import CODEC, PATIENCE_S, Stage

Damage = Callable[[Path], None]

SEEDS = 3  # sets of weights, which versions share


@dataclass
class Merchants:
    """The control topic of a stage and the store of its workers."""

    stage: Stage
    store: Path
    base: str  # fingerprint
    sources: Sequence[Path]  # adapter folders, whose weights the versions have
    routing: Routing = field(init=False)  # what the records come to if none is refused
    changes: list[RouteChange] = field(default_factory=list)
    statuses: list[AdapterStatus] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.routing = Routing(self.base)

    @classmethod
    async def enter(cls, stage: Stage, folder: Path) -> "Merchants":
        """Create all topics of the stage and the control topic, and tell the workers to come."""
        sources = [make_tiny_adapter(stage.tiny.base, folder / f"seed-{seed}", seed) for seed in range(1, 1 + SEEDS)]
        control = {"adapters_topic": f"adapters-{stage.name}", "adapter_status_topic": f"status-{stage.name}"}
        store = folder / "store"
        stage.settings |= control | {"adapter_store": str(store)}
        await stage.create_topics()
        wanted = [topics.adapters(control["adapters_topic"]), topics.adapter_status(control["adapter_status_topic"])]
        await topics.ensure(wanted, bootstrap_servers=stage.broker.bootstrap)
        return cls(stage, store, adapter.read(sources[0]).card.base_fingerprint, sources)

    def version(
        self, name: str, version: int, damage: Damage | None = None, spoil: Damage | None = None, **card_fields: object
    ) -> Reference:
        """A version in the store: one of a few sets of weights, its tags named after the adapter, its card as told.

        `spoil` is done to the folder before its digest is taken, `damage` after it.
        """
        folder = self.store / name / str(version)
        shutil.copytree(self.sources[version % SEEDS], folder)
        card = Card.from_json((folder / CARD).read_bytes())
        tags = tuple(replace(tag, name=f"{name} {tag.name}") for tag in card.tags)
        labels = tuple(replace(label, name=f"{name} {label.name}") for label in card.labels)
        own = {"name": name, "version": str(version), "tags": tags, "labels": labels}
        replace(card, **own | card_fields).write(folder)  # type: ignore[arg-type]
        if spoil is not None:
            spoil(folder)
        reference = Reference(name, str(version), adapter.digest(adapter.read_files(folder)))
        if damage is not None:
            damage(folder)
        return reference

    async def send(
        self, merchant: str, action: Action, reference: Reference | None = None, canary: Canary | None = None
    ) -> RouteChange:
        """Write the next record of a merchant."""
        revision = self.routing.revision(merchant) + 1
        change = RouteChange(merchant, self.base, revision, action, reference, canary, round(time.time() * 1000))
        self.routing.apply(change)
        self.changes.append(change)
        await self.send_raw(CODEC.encode_route_change(change), route_key(merchant, self.base))
        return change

    async def send_raw(self, value: bytes | None, key: bytes) -> None:
        """Write anything to the control topic."""
        async with AIOKafkaProducer(bootstrap_servers=self.stage.broker.bootstrap, acks="all") as producer:
            await producer.send_and_wait(str(self.stage.settings["adapters_topic"]), value, key)

    async def until(self, told: Callable[[list[AdapterStatus]], bool]) -> None:
        """Wait until what the workers have said since the beginning answers to a condition."""
        if told(self.statuses):
            return
        partition = TopicPartition(str(self.stage.settings["adapter_status_topic"]), 0)
        deadline = time.monotonic() + PATIENCE_S
        options = {"bootstrap_servers": self.stage.broker.bootstrap, "fetch_max_wait_ms": 20}
        async with AIOKafkaConsumer(enable_auto_commit=False, **options) as consumer:
            consumer.assign([partition])
            consumer.seek(partition, len(self.statuses))
            while not told(self.statuses):
                if time.monotonic() > deadline:
                    raise AssertionError(f"the workers did not say so; {self.stage.logs()}")
                for messages in (await consumer.getmany(timeout_ms=50)).values():
                    self.statuses += [CODEC.decode_adapter_status(message.value) for message in messages]

    async def settled(self, change: RouteChange, state: str = "verified", workers: int = 1) -> None:
        """Wait until so many workers have said this of a record."""
        await self.until(lambda _: len(self.said(change, state)) >= workers)

    def said(self, change: RouteChange, state: str) -> set[str]:
        """The workers that have said this of a record."""
        return {
            status.worker
            for status in self.statuses
            if (status.merchant_id, status.revision, status.state) == (change.merchant_id, change.revision, state)
        }


def truncated(folder: Path) -> None:
    """Half a file."""
    tensors = folder / adapter.TENSORS
    tensors.write_bytes(tensors.read_bytes()[:-100])


def other_content(folder: Path) -> None:
    """A version that was changed."""
    (folder / adapter.RULES).write_text("{}")


def huge(folder: Path) -> None:
    """A gigabyte, as a hole that takes no room."""
    with (folder / adapter.TENSORS).open("r+b") as tensors:
        tensors.truncate(2**30)


def pickled(folder: Path) -> None:
    """What torch.save writes."""
    (folder / adapter.TENSORS).write_bytes(b"PK\x03\x04\x80\x02cbuiltins\nexec\n.")


def not_finite(folder: Path) -> None:
    """One value that is none."""
    tensors = load_file(folder / adapter.TENSORS)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, folder / adapter.TENSORS)
