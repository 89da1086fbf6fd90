"""Apache Kafka itself, as the tests run it: the jars by Maven, the data in a folder of the test."""

import base64
import fcntl
import hashlib
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest

from streamer.broker import HOST, BrokerProcess, answers, free_port
from streamer.errors import BrokerUnavailable
from tests import certificates

TESTS = Path(__file__).parent
POM = TESTS / "kafka" / "pom.xml"
CACHE = TESTS.parent / ".cache" / "kafka"

# Which of the two brokers a test runs on, where it is not both. What differs between them is a matter of the tests of
# delivery and transactions; the others run on Apache Kafka in `make test-kafka`.
TANSU = pytest.mark.parametrize("broker", ["tansu"], indirect=True)
KAFKA = pytest.mark.parametrize("broker", [pytest.param("kafka", marks=pytest.mark.kafka)], indirect=True)
SLOW_ON_KAFKA = pytest.mark.parametrize(
    "broker", ["tansu", pytest.param("kafka", marks=[pytest.mark.kafka, pytest.mark.slow])], indirect=True
)


class KafkaMissing(Exception):
    """Java or Maven is not there, or Maven could not fetch Kafka."""


def jars() -> Path:
    """Return the folder with Kafka's jars, fetched once by Maven and kept in the repository's cache."""
    folder = CACHE / hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    for tool in ("java",) if folder.exists() else ("java", "mvn"):
        if shutil.which(tool) is None:
            raise KafkaMissing(f"Apache Kafka needs Java 17 and Maven: no {tool} on the PATH")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:  # several test runs may share the folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            fetched = subprocess.run(
                ["mvn", "-q", "-B", "-f", POM, "dependency:copy-dependencies", f"-DoutputDirectory={partial}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if fetched.returncode:
                raise KafkaMissing(f"Maven could not fetch Apache Kafka:\n{fetched.stdout[-2000:]}")
            partial.rename(folder)
    return folder


class ApacheKafka(BrokerProcess):
    """A node, broker and controller in one; alone if it is not told of others. Its data outlive `stop` and `kill`:
    `start` goes on with them."""

    kind = "kafka"
    start_timeout_s = 60.0
    stop_timeout_s = 30.0

    def __init__(self, folder: Path, port: int = 0, controllers: Sequence[int] = (), node: int = 1) -> None:
        """`controllers`: the ports on which the nodes of a cluster, this one among them, talk to each other."""
        super().__init__(port, folder / "kafka.log")
        self._jars = jars()
        self.folder = folder
        self._node = node
        self._controllers = controllers or (free_port(),)

    def command(self) -> Sequence[str | Path]:
        """Return the server's command line; formats the data folder the first time."""
        properties = self.folder / "server.properties"
        if not properties.exists():
            properties.write_text("".join(f"{name}={value}\n" for name, value in self._properties().items()))
            # nodes of one cluster have one id
            cluster_id = base64.urlsafe_b64encode(hashlib.md5(repr(self._controllers).encode()).digest())  # noqa: S324
            identity = f"--cluster-id={cluster_id.rstrip(b'=').decode()}"
            tool = ["kafka.tools.StorageTool", "format", identity, f"--config={properties}", *self._formatting()]
            subprocess.run(self._java(*tool), check=True, stdout=subprocess.DEVNULL)
        return self._java("kafka.Kafka", str(properties))

    def launch(self) -> None:
        """Start the process, and do not wait for it: a node of a cluster answers when the others are there."""
        self._process = self._spawn()

    def _java(self, *arguments: str) -> list[str]:
        # starts fast and stays small: these are short runs beside the worker under test
        flags = ["-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]
        return ["java", *flags, "-cp", f"{self._jars}/*", *arguments]

    def _formatting(self) -> Sequence[str]:
        return ()

    def _properties(self) -> dict[str, object]:
        controller_port = self._controllers[self._node - 1]
        replicas = len(self._controllers)
        in_sync = max(1, replicas - 1)
        return {
            "process.roles": "broker,controller",
            "node.id": self._node,
            "controller.quorum.voters": ",".join(
                f"{node}@{HOST}:{port}" for node, port in enumerate(self._controllers, 1)
            ),
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": self.folder / "data",
            "auto.create.topics.enable": "false",
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": replicas,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": in_sync,
            # tests do not wait for more members to join, and may ask for short session timeouts
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            # a killed broker's registration is not waited for when it comes back
            "broker.heartbeat.interval.ms": 500,
            "broker.session.timeout.ms": 2000,
            # the default of 128 MB would fill a third of the heap
            "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,
        }


class KafkaCluster:
    """Three nodes: every topic has three replicas, and a write needs two of them. A context manager."""

    kind = "kafka"

    def __init__(self, folder: Path) -> None:
        ports = [free_port() for _ in range(3)]
        folders = [folder / str(node) for node in (1, 2, 3)]
        for one in folders:
            one.mkdir()
        self.nodes = [ApacheKafka(one, 0, ports, node) for node, one in enumerate(folders, 1)]

    @property
    def bootstrap(self) -> str:
        """The addresses of all nodes."""
        return ",".join(node.bootstrap for node in self.nodes)

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:  # none is ready before a majority is there
                node.launch()
            deadline = time.monotonic() + ApacheKafka.start_timeout_s
            while not all(node.ready() for node in self.nodes):
                if time.monotonic() > deadline:
                    raise BrokerUnavailable(f"no cluster at {self.bootstrap}")
                time.sleep(0.1)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()


class ProxiedKafka(ApacheKafka):
    """One node with a second listener, `behind`, whose clients are sent to a proxy's port before it, `before`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.behind, self.before = free_port(), free_port()

    def _properties(self) -> dict[str, object]:
        properties = super()._properties()
        return properties | {
            "listeners": f"{properties['listeners']},PROXIED://{HOST}:{self.behind}",
            "advertised.listeners": f"{properties['advertised.listeners']},PROXIED://{HOST}:{self.before}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
        }


class SecuredKafka(ApacheKafka):
    """One node that takes clients by TLS and SCRAM alone. It knows two users, `USER`, who may do everything, and
    `GUEST`, who may do nothing; `expired` is the address of a listener whose certificate has expired."""

    USER, GUEST = ("alice", "alice's secret"), ("guest", "guest's secret")
    mechanism = "SCRAM-SHA-512"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._inside, self._expired = free_port(), free_port()
        self.authority = folder / "authority.pem"
        certificates.write(folder)

    @property
    def expired(self) -> str:
        """The address of the listener with the certificate that nobody should accept."""
        return f"{HOST}:{self._expired}"

    def ready(self) -> bool:
        """Tell whether it answers on the listener that needs no credentials."""
        return answers(self._inside)

    def _formatting(self) -> Sequence[str]:
        return [
            f'--add-scram={self.mechanism}=[name="{name}",password="{password}"]'
            for name, password in (self.USER, self.GUEST)
        ]

    def _properties(self) -> dict[str, object]:
        ports = {"INSIDE": self._inside, "SECURE": self.port, "EXPIRED": self._expired}
        clients = [f"{name}://{HOST}:{port}" for name, port in ports.items()]
        properties = super()._properties()
        properties |= {
            "listeners": ",".join([*clients, f"CONTROLLER://{HOST}:{self._controllers[0]}"]),
            "advertised.listeners": ",".join(clients),
            "inter.broker.listener.name": "INSIDE",
            "listener.security.protocol.map": "INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL,EXPIRED:SASL_SSL",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:{self.USER[0]}",
        }
        login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        for listener in ("secure", "expired"):
            prefix = f"listener.name.{listener}"
            properties |= {
                f"{prefix}.sasl.enabled.mechanisms": self.mechanism,
                f"{prefix}.{self.mechanism.lower()}.sasl.jaas.config": login,
                f"{prefix}.ssl.keystore.type": "PEM",
                f"{prefix}.ssl.keystore.location": self.folder / f"{listener}.pem",
            }
        return properties
