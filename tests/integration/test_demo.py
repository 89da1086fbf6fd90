"""The demo as a process: what a user sees, and what is left behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise

import psutil
import pytest
from aiokafka import AIOKafkaProducer

from streamer import topics
from streamer.broker import answers
from streamer.codec import Codec
from streamer.demo import BROKEN
from streamer.publish import samples
from streamer.settings import Settings
from taggen.normalize import Rules
from tests.brokers import SLOW_ON_KAFKA
from tests.conftest import client_options

TIMEOUT_S = 280
NIKE = "Nike Air Force 1 Low 07 男子运动鞋"
TAGS = {
    "brand": {"nike"},
    "product_type": {"运动鞋"},
    "material": {"皮革"},
    "function": {"耐磨", "防水"},
    "occasion": {"日常休闲", "运动"},
    "audience": {"men"},
}


@pytest.fixture
def demo(tiny, tmp_path):
    """Start the demo with settings and arguments; ended after the test. `tiny=True`: with the random model."""
    started = []

    def start(*arguments, small=True, **settings):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}
        if small:
            settings = {"base_model": tiny.base, "default_adapter": tiny.adapter} | settings
        environment |= {f"STREAMER_{name.upper()}": str(value) for name, value in settings.items()}
        process = subprocess.Popen(
            [sys.executable, "-m", "streamer", "demo", *arguments],
            env=environment | {"COLUMNS": "2000", "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def assert_nothing_left(children, tmp_path):
    """Neither processes nor files."""
    _, alive = psutil.wait_procs(children, 5)
    assert not alive
    assert not list(tmp_path.glob("streamer-demo-*"))


def test_the_flagship_listing(demo, tmp_path):
    """The demo on the shipped model: exit code 0, the listing that must come out right with the words of each tag,
    adapter and latency, two dead letters, the summary, plain text, nothing left behind."""
    process = demo(small=False)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, out[-3000:] + err
    assert "\x1b" not in out
    lines = out.splitlines()
    [row] = [above for above, line in pairwise(lines) if line.startswith(NIKE)]
    tags = re.findall(r'(\w+)=(.+?) "(.+?)" (\d\.\d\d)', row)
    for name, values in TAGS.items():
        assert values <= {value for found, value, _, _ in tags if found == name}
    for name, value, words, confidence in tags:
        assert Rules().normalize(name, words) == value
        assert 0 < float(confidence) <= 1
    assert re.search(r"default \S+ +\d+ ms", row)
    assert "74 events in, 72 tag events out, 2 dead letters" in lines
    assert re.search(r"^Latency from publish to tag: p50 \d+ ms, p99 \d+ ms$", out, re.MULTILINE)
    assert re.search(r"^\d+\.\d listings per second", out, re.MULTILINE)
    gained = out.index("sole-republic gains an adapter of its own")
    assert "shoe_type=" in out[gained:]
    assert "shoe_type=" not in out[:gained]
    assert re.search(r"^[1-9]\d* of sole-republic's by the adapter", out, re.MULTILINE)
    assert not answers(int(re.search(r"127\.0\.0\.1:(\d+), embedded", out)[1]))
    assert_nothing_left([], tmp_path)


@SLOW_ON_KAFKA
async def test_a_broker_of_ones_own(demo, broker):
    """On a broker that others use, the demo keeps to topics of its own and counts only what it published itself, not
    what is left there from before."""
    wanted = [topics.Topic(f"demo-{topic.name}", topic.partitions) for topic in topics.wanted(Settings())]
    names = [topic.name for topic in wanted]
    await topics.ensure(wanted, **client_options(broker))
    async with AIOKafkaProducer(**client_options(broker)) as producer:
        for value in (BROKEN[1], Codec().encode_listing(next(samples()))):
            await producer.send_and_wait(names[0], value)
    process = demo(
        "--json", "--rate", "200", "--bootstrap", broker.bootstrap, idempotent_producer=broker.kind == "kafka"
    )
    out, err = process.communicate(timeout=TIMEOUT_S)
    summary = json.loads(out)
    assert (summary["events_in"], summary["tag_events"], summary["dead_letters"]) == (74, 72, 2), err
    assert summary["without_outcome"] == []
    assert summary["model"]["adapter"] == "tiny-0"
    # a random model leaves some listings without tags, and the exit code says so
    assert process.returncode == (1 if summary["without_tags"] else 0)
    assert ", ".join(names) in err


def test_worker_that_dies(demo, tmp_path):
    """When the worker dies, the demo ends with exit code 1 and shows the end of the worker's log."""
    process = demo(base_model=tmp_path / "nowhere")
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert err.startswith("streamer: the worker ended with status 1; its log is ")
    assert "nowhere" in err
    assert not answers(int(re.search(r"127\.0\.0\.1:(\d+), embedded", out)[1]))


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_child_outlives_the_demo(demo, by, tmp_path):
    """However the demo is ended, worker and broker end too."""
    process = demo()
    children = []
    deadline = time.monotonic() + TIMEOUT_S
    while len(children) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(by)
    process.wait(TIMEOUT_S)
    if by == signal.SIGKILL:
        _, alive = psutil.wait_procs(children, 5)
        assert not alive
    else:
        assert process.returncode == 130
        assert_nothing_left(children, tmp_path)
