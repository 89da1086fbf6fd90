"""The commands as processes, on real brokers."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest
from aiokafka import AIOKafkaProducer

from streamer.broker import answers, free_port
from streamer.codec import Codec
from streamer.connection import Reader
from streamer.pipeline import Pipeline
from streamer.settings import Settings
from tests.conftest import client_options
from tests.unit.fakes import FakeTagger

TIMEOUT_S = 60


def listing(product, **changes):
    """A line of a file of listings."""
    fields = {"merchant_id": "acme", "product_id": product, "listing_version": 1, "title": f"{product} 运动鞋"}
    return json.dumps(fields | changes, ensure_ascii=False)


class Commands:
    """`streamer` with topics of its own on a broker."""

    def __init__(self, broker, unique):
        self.broker = broker
        self.settings = Settings(
            kafka_bootstrap=broker.bootstrap,
            source_topics=(unique("created"), unique("updated")),
            tags_topic=unique("tags"),
            dead_letter_topic=unique("dlq"),
            retry_topic=unique("retry"),
            attempts_topic=unique("attempts"),
            adapters_topic=unique("adapters"),
            adapter_status_topic=unique("status"),
            fetch_max_wait_ms=100,
        )
        others = {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}
        self.environment = others | {
            "STREAMER_KAFKA_BOOTSTRAP": broker.bootstrap,
            "STREAMER_SOURCE_TOPICS": ",".join(self.settings.source_topics),
            "STREAMER_TAGS_TOPIC": self.settings.tags_topic,
            "STREAMER_DEAD_LETTER_TOPIC": self.settings.dead_letter_topic,
            "STREAMER_RETRY_TOPIC": self.settings.retry_topic,
            "STREAMER_ATTEMPTS_TOPIC": self.settings.attempts_topic,
            "STREAMER_ADAPTERS_TOPIC": self.settings.adapters_topic,
            "STREAMER_ADAPTER_STATUS_TOPIC": self.settings.adapter_status_topic,
            "STREAMER_FETCH_MAX_WAIT_MS": "100",
            "COLUMNS": "300",
        }

    def run(self, *arguments, code=0, stdin=None):
        """Run a command to its end; returns it with stdout and stderr as text."""
        done = subprocess.run(
            [sys.executable, "-m", "streamer", *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done

    def published(self, topic, count):
        """The first records of a topic."""

        async def read():
            async with Reader(self.settings, [topic], from_beginning=True) as reader:
                records = aiter(reader)
                return [await asyncio.wait_for(anext(records), TIMEOUT_S) for _ in range(count)]

        return asyncio.run(read())

    def tag(self, records):
        """Do a worker's work on records, with a tagger that tags a listing with its title."""
        outputs = Pipeline(self.settings, Codec(), FakeTagger()).process(records)

        async def write():
            async with AIOKafkaProducer(**client_options(self.broker)) as producer:
                for output in outputs:
                    await producer.send_and_wait(output.topic, output.value, output.key)
                await producer.send_and_wait(self.settings.tags_topic, b"not a tag event")

        asyncio.run(write())


@pytest.fixture
def commands(broker, unique):
    """The commands, with their topics created by one of them."""
    commands = Commands(broker, unique)
    created = commands.run("topics", "create", "--partitions", "2", "--replication-factor", "1").stdout
    assert created.count("created, 2 partitions") == 5
    return commands


def test_topics_create_twice(commands):
    """Topics that are there are left alone; asking for more partitions than they have fails and says so."""
    assert commands.run("topics", "create", "--partitions", "2").stdout.count("is there, 2 partitions") == 5
    assert (
        "exists with 2 partitions, 3 are wanted" in commands.run("topics", "create", "--partitions", "3", code=1).stderr
    )


def test_publish_and_tail(commands, tmp_path):
    """Listings of a file become records that a worker reads; tail shows their tag events, with title, words and
    latency, as JSON and as a table, and passes over what is no tag event."""
    created, updated = commands.settings.source_topics
    file = tmp_path / "listings.jsonl"
    file.write_text("\n".join([listing("a"), "", listing("b")]), encoding="utf-8")
    assert f"published 2 listings to {created}" in commands.run("publish", str(file)).stderr
    commands.run("publish", "--updated", "--json", "-", stdin=listing("a", listing_version=2))
    avro = commands.published(created, 2)
    [as_json] = commands.published(updated, 1)
    assert {record.value[:2] for record in avro} == {b"\xc3\x01"}
    assert json.loads(as_json.value)["listing_version"] == 2
    assert {record.key for record in avro} == {b'["acme","a"]', b'["acme","b"]'}
    assert as_json.key == b'["acme","a"]'
    commands.tag([*avro, as_json])

    seen = commands.run("tail", "--from-beginning", "--json", "--limit", "3")
    events = [json.loads(line) for line in seen.stdout.splitlines()]
    assert sorted((event["product_id"], event["listing_version"]) for event in events) == [("a", 1), ("a", 2), ("b", 1)]
    for event in events:
        [tag] = event["tags"]
        assert event["title"] == tag["evidence"][0]["words"] == f"{event['product_id']} 运动鞋"
        assert event["latency_ms"] >= 0

    table = commands.run("tail", "--from-beginning", "--limit", "3").stdout
    assert 'product=a 运动鞋 "a 运动鞋" 0.50' in table
    assert "\x1b" not in table


def test_publish_bad_line(commands):
    """A bad line stops with file, line and reason and exit code 2; --skip-bad passes over it."""
    created = commands.settings.source_topics[0]
    lines = "\n".join([listing("a"), listing("b", title=""), "{", listing("c")])
    error = commands.run("publish", "-", code=2, stdin=lines).stderr
    assert error == (
        "streamer: <stdin>:2: title: missing (published before it: 1; --skip-bad passes over such lines)\n"
    )
    assert len(commands.published(created, 1)) == 1
    skipping = commands.run("publish", "--skip-bad", "-", stdin=lines).stderr.splitlines()
    assert skipping[0] == "skipped <stdin>:2: title: missing"
    assert skipping[1].startswith("skipped <stdin>:3: not JSON: ")
    assert skipping[2].startswith("published 2 listings to")


def test_publish_without_topics(broker, unique):
    """Without its topic, publish fails at once and names the command that creates it."""
    error = Commands(broker, unique).run("publish", code=1).stderr
    assert "no such topic" in error
    assert "streamer topics create" in error


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_broker(by):
    """The embedded broker prints its address, answers there, and is gone after Ctrl-C or SIGTERM."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "streamer", "broker", "--port", str(port)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == f"127.0.0.1:{port}\n"
        assert answers(port)
        process.send_signal(by)
        assert process.wait(TIMEOUT_S) == 0
        assert not answers(port)
    finally:
        process.kill()
        process.communicate()
