"""What all tests share: the two brokers, names of one's own, the environment of the processes."""

import os

# Before torch or tokenizers are imported, and inherited by every process that a test starts: on a small machine more
# threads than cores make runs slow and their times random. No test asks a model hub.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("MKL_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import hypothesis
import pytest

from streamer import topics
from streamer.broker import BrokerProcess, EmbeddedBroker
from tests.apicurio import Apicurio, RegistryMissing
from tests.brokers import ApacheKafka, KafkaMissing

if TYPE_CHECKING:
    from tests.tiny import Tiny
    from tests.workers import Stage

# dev looks for new examples at each run; ci gives the same ones each time, so that a red run is about the change in it
hypothesis.settings.register_profile("dev", deadline=None, max_examples=100)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=100, derandomize=True, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

K = TypeVar("K")

BROKERS = ["tansu", pytest.param("kafka", marks=pytest.mark.kafka)]


def _broker(kind: str, folders: pytest.TempPathFactory) -> BrokerProcess:
    folder = folders.mktemp(kind)
    if kind == "tansu":
        return EmbeddedBroker(log=folder / "tansu.log")
    return kafka_or_skip(ApacheKafka, folder)


def kafka_or_skip(kind: Callable[[Path], K], folder: Path) -> K:
    """A Kafka of this kind, not started yet; without Java the test is skipped, unless REQUIRE_JAVA says it must run."""
    try:
        return kind(folder)
    except KafkaMissing as missing:
        if os.environ.get("REQUIRE_JAVA") == "1":
            pytest.fail(f"REQUIRE_JAVA is set: {missing}")
        pytest.skip(str(missing))


@pytest.fixture(scope="session", params=BROKERS)
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A running broker (`.bootstrap`, `.kind`), the embedded one and Apache Kafka in turn, shared by all tests.

    Tests keep apart by names of their own (`unique`, `new_topic`) and leave it running.
    """
    with _broker(request.param, tmp_path_factory) as process:
        yield process


@pytest.fixture(params=BROKERS)
def own_broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A running broker of the test's own, to `stop`, `kill` and `start` again; only Kafka's data outlive that."""
    with _broker(request.param, tmp_path_factory) as process:
        yield process


def _registry(folder: Path) -> Apicurio:
    try:
        return Apicurio(folder)
    except RegistryMissing as missing:
        if os.environ.get("REQUIRE_JAVA") == "1":
            pytest.fail(f"REQUIRE_JAVA is set: {missing}")
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apicurio]:
    """A running Schema Registry (`.url`), shared by all tests, which keep apart by names of their own."""
    with _registry(tmp_path_factory.mktemp("registry")) as process:
        yield process


@pytest.fixture
def own_registry(tmp_path: Path) -> Iterator[Apicurio]:
    """A running Schema Registry of the test's own, to stop."""
    with _registry(tmp_path) as process:
        yield process


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> "Tiny":
    """A two-layer random base (`.base`) and an adapter with many tags (`.adapter`), as folders for the settings."""
    from tests.tiny import make_tiny  # noqa: PLC0415  torch and PEFT take seconds to import

    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Make a name that no other test has, of a topic or a group: unique("in") -> "in-5f0c1a2b"."""
    return lambda name: f"{name}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def new_topic(broker: BrokerProcess, unique: Callable[[str], str]) -> Callable[..., Awaitable[str]]:
    """Create a topic on the shared broker under a unique name: await new_topic("in", partitions=4) -> "in-5f0c1a2b"."""

    async def create(name: str, partitions: int = 1, settings: dict[str, str] | None = None) -> str:
        topic = topics.Topic(unique(name), partitions, settings or {})
        await topics.ensure([topic], **client_options(broker))
        return topic.name

    return create


def client_options(broker: BrokerProcess) -> dict[str, Any]:
    """What an aiokafka client takes to reach a broker of the tests."""
    return {"bootstrap_servers": broker.bootstrap}


@pytest.fixture
def stage(broker: BrokerProcess, tiny: "Tiny", tmp_path: Path, unique: Callable[[str], str]) -> Iterator["Stage"]:
    """Topics and workers of one test on the shared broker; the workers do not outlive it."""
    with _stage(broker, tiny, tmp_path, unique) as stage:
        yield stage


@pytest.fixture
def own_stage(
    own_broker: BrokerProcess, tiny: "Tiny", tmp_path: Path, unique: Callable[[str], str]
) -> Iterator["Stage"]:
    """The same on a broker of the test's own, to stop and kill."""
    with _stage(own_broker, tiny, tmp_path, unique) as stage:
        yield stage


@contextmanager
def _stage(broker: BrokerProcess, tiny: "Tiny", folder: Path, unique: Callable[[str], str]) -> Iterator["Stage"]:
    from tests.workers import Stage  # noqa: PLC0415  torch, as above

    stage = Stage(broker, tiny, folder, unique("stage"))
    try:
        yield stage
    finally:
        for worker in stage.started:
            worker.kill()
