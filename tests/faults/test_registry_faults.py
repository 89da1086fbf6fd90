"""A worker and a real Schema Registry: frames in, frames out, and what becomes of it without the registry."""

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest

import schemas
from streamer.broker import free_port
from streamer.codec import Codec
from streamer.connection import Reader
from streamer.records import DeadLetter, TagEvent
from streamer.registry import Registry
from streamer.settings import Settings
from taggen.listing import Listing
from tests import debezium
from tests.apicurio import Apicurio
from tests.brokers import TANSU
from tests.faults.test_worker_faults import stopped_with
from tests.workers import Stage

MAPPING = Path(__file__).parents[2] / "docs" / "examples" / "debezium.toml"
TITLE = "Nike water proof running shoes"

pytestmark = TANSU  # it has no part in this


def frame(schema_id: int, body: bytes) -> bytes:
    """The Confluent frame."""
    return struct.pack(">bI", 0, schema_id) + body


async def first_value(stage: Stage, topic: str) -> bytes:
    """The first value of a topic, as it stands there."""
    settings = Settings(kafka_bootstrap=stage.broker.bootstrap)
    async with Reader(settings, [topic], from_beginning=True) as reader:
        value = (await anext(aiter(reader))).value
    assert value is not None
    return value


@pytest.mark.registry
async def test_the_registry_killed_in_mid_stream(stage: Stage, own_registry: Apicurio) -> None:
    """Frames of our schema, of Debezium's through a mapping, and JSON are tagged, in frames of the registered ids; and
    still are when the registry is gone. An id that was never seen stops the worker, with its record unacknowledged."""
    await stage.create_topics()
    naming = {"subject_naming": "topic_record"}  # the topic's own subject is that of others
    stage.settings |= {"schema_registry_url": own_registry.url, "mapping": MAPPING, "web_port": 0, **naming}
    told = [json.loads(line) for line in (await stage.command("schemas", "register", "--json")).splitlines()]
    ids = {one["schema"]: one["id"] for one in told}
    registry = Registry(own_registry.url)
    stage.codec = Codec(registry)
    ours, theirs = Codec(registry, subject_naming="topic_record"), registry.register("theirs", debezium.ENVELOPE)

    def values(first: int) -> list[bytes]:
        row = debezium.row(first, TITLE)
        created = {"op": "c", "after": row | {"price": "", "name": f"{TITLE} {first}"}, "source": {"lsn": 1}}
        return [
            ours.encode_listing(Listing("acme", str(first), 1, TITLE, event_time=1), stage.source),
            frame(theirs, debezium.change(first, "c", None, row)),
            frame(theirs, debezium.change(first + 1, "d", row, None)),
            json.dumps(created).encode(),
            frame(theirs, debezium.change(first, "c", None, debezium.row(first, None))),
        ]

    places = await stage.publish(values(10))
    with stage.worker(broker_retry_s=2) as worker:
        await stage.outcomes(places)
        own_registry.kill()
        places += await stage.publish(values(20))
        found = await stage.outcomes(places)
        for number, place in enumerate(places):
            [outcome] = found[place]
            if number % 5 == 4:
                assert isinstance(outcome, DeadLetter)
                assert (outcome.reason, outcome.field, outcome.expression) == ("unmapped", "title", "after.name")
            else:
                assert isinstance(outcome, TagEvent)
                assert outcome.merchant_id == ("acme" if number % 5 == 0 else "17")
                assert outcome.deleted == (number % 5 == 2) == (outcome.model is None)
        assert (await first_value(stage, stage.tags))[:5] == frame(ids[schemas.TAGS], b"")
        assert (await first_value(stage, stage.dead_letters))[:5] == frame(ids[schemas.DEAD_LETTER], b"")
        assert worker.running
        await stage.publish([frame(999_999, b"")])
        message = await stopped_with(worker, "RegistryUnavailable")
        assert own_registry.bootstrap in message
    assert sum((await stage.committed()).values()) == len(places)


@pytest.mark.registry
async def test_an_incompatible_schema_stops_the_start(stage: Stage, registry: Apicurio) -> None:
    """Where the tags' subject has a schema that ours breaks, `schemas check` and `register` fail, and a worker ends at
    once, before it has loaded a model, with the registry's reason."""
    newer: dict[str, Any] = json.loads(json.dumps(schemas.load(schemas.TAGS)))
    newer["fields"].append({"name": "score", "type": "double"})
    stage.settings |= {"schema_registry_url": registry.url}
    subject = f"{stage.tags}-value"
    Registry(registry.url).register(subject, newer)
    assert f"{subject}: product-tags, FULL_TRANSITIVE: new" in await stage.command("schemas", "check", code=1)
    told = await stage.command("schemas", "register", "--json", code=1)
    [refused] = [one for line in told.splitlines() if (one := json.loads(line))["problem"]]
    assert (refused["name"], refused["state"]) == (subject, "refused")
    assert "/fields/11" in refused["problem"]
    checked = await stage.command("schemas", "check", "--json", code=1)
    [refused] = [one for line in checked.splitlines() if (one := json.loads(line))["problem"]]
    assert refused["problem"] == "not compatible with what is there (level FULL_TRANSITIVE)"
    message = await stopped_with(stage.worker(), "RegistryError")
    assert subject in message
    assert "Incompatible artifact" in message
    assert "/fields/11" in message


async def test_a_registry_that_is_down_at_the_start(stage: Stage) -> None:
    """One line and exit code 1, before a model is loaded; the commands too."""
    url = f"http://127.0.0.1:{free_port()}"
    began = time.monotonic()
    message = await stopped_with(stage.worker(schema_registry_url=url), "RegistryUnavailable")
    assert message == f"schema registry {url}: ConnectError"
    told = await stage.command("schemas", "register", code=1, schema_registry_url=url)
    assert told == f"streamer: schema registry {url}: ConnectError\n"
    assert time.monotonic() - began < 60
