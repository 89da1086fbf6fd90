"""The brokers as processes, and what clients can do on them."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from streamer import topics
from streamer.broker import BrokerProcess, EmbeddedBroker, answers, free_port, port_in_use
from streamer.errors import BrokerError


async def test_round_trip(broker, new_topic, unique):
    """What a producer sends, with key, headers and timestamp, a consumer of a group gets back; its commit holds."""
    topic = await new_topic("round-trip", partitions=2)
    producer = AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap, acks="all", enable_idempotence=broker.kind == "kafka", linger_ms=5
    )
    async with producer:
        for number in range(20):
            await producer.send_and_wait(
                topic, b"value", key=b"key", partition=number % 2, timestamp_ms=number, headers=[("h", b"1")]
            )
    group = unique("group")
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=broker.bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=2000,  # the embedded broker's first join takes half of it
    )
    async with consumer:
        records = [await consumer.getone() for _ in range(20)]
        await consumer.commit()
        committed = [await consumer.committed(partition) for partition in sorted(consumer.assignment())]
    assert {record.timestamp for record in records} == set(range(20))
    assert {(record.key, record.value, record.headers) for record in records} == {(b"key", b"value", (("h", b"1"),))}
    assert committed == [10, 10]


async def test_restart_on_the_same_port(own_broker, unique):
    """A killed broker starts again on its port; Kafka's topics are still there, the embedded broker's are gone."""
    topic = topics.Topic(unique("kept"))
    await topics.ensure([topic], bootstrap_servers=own_broker.bootstrap)
    own_broker.kill()
    assert not own_broker.running
    assert not answers(own_broker.port)
    own_broker.start()
    [again] = await topics.ensure([topic], bootstrap_servers=own_broker.bootstrap)
    assert again.created == (own_broker.kind == "tansu")


def test_stop_leaves_nothing(own_broker):
    """After stop the process is gone and the port is free; a second stop does nothing."""
    pid = own_broker.pid
    own_broker.stop()
    own_broker.stop()
    assert not psutil.pid_exists(pid)
    assert not port_in_use(own_broker.port)


def test_port_in_use():
    """A taken port is named in the error, and whoever has it is left alone."""
    with EmbeddedBroker() as first:
        with pytest.raises(BrokerError, match=f"port {first.port} on 127.0.0.1 is in use"):
            EmbeddedBroker(first.port).start()
        assert answers(first.port)


def test_process_that_ends(tmp_path):
    """A broker that ends while starting is an error at once, naming its status and its log."""

    class Broken(BrokerProcess):
        kind = "broken"

        def command(self):
            return [sys.executable, "-c", "raise SystemExit(7)"]

    with pytest.raises(BrokerError, match=r"broken broker on .* ended with status 7; its log is .*broker.log"):
        Broken(log=tmp_path / "broker.log").start()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a process to its parent")
def test_dies_with_its_parent():
    """A killed parent takes its broker with it: nothing is left behind."""
    port = free_port()
    script = (
        f"from streamer.broker import EmbeddedBroker as B; b = B({port}); b.start(); print(b.pid, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        broker = psutil.Process(int(parent.stdout.readline()))
        assert answers(port)
        os.kill(parent.pid, signal.SIGKILL)
    broker.wait(timeout=10)
    deadline = time.monotonic() + 10
    while port_in_use(port):
        assert time.monotonic() < deadline
        time.sleep(0.02)
