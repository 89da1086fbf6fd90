"""Apache Kafka itself, one node, as the tests run it: the jars by Maven, the data in a folder of the test."""

import base64
import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from streamer.broker import HOST, BrokerProcess, free_port

TESTS = Path(__file__).parent
POM = TESTS / "kafka" / "pom.xml"
CACHE = TESTS.parent / ".cache" / "kafka"


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
    """One node, broker and controller in one. Its data outlive `stop` and `kill`: `start` goes on with them."""

    kind = "kafka"
    start_timeout_s = 60.0
    stop_timeout_s = 30.0

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(port, folder / "kafka.log")
        self._jars = jars()
        self._folder = folder
        self._controller_port = free_port()

    def command(self) -> Sequence[str | Path]:
        """Return the server's command line; formats the data folder the first time."""
        properties = self._folder / "server.properties"
        if not properties.exists():
            properties.write_text("".join(f"{name}={value}\n" for name, value in self._properties().items()))
            cluster_id = base64.urlsafe_b64encode(os.urandom(16)).rstrip(b"=").decode()
            tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", f"--config={properties}"]
            subprocess.run(self._java(*tool), check=True, stdout=subprocess.DEVNULL)
        return self._java("kafka.Kafka", str(properties))

    def _java(self, *arguments: str) -> list[str]:
        # starts fast and stays small: these are short runs beside the worker under test
        flags = ["-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]
        return ["java", *flags, "-cp", f"{self._jars}/*", *arguments]

    def _properties(self) -> dict[str, object]:
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{HOST}:{self._controller_port}",
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": self._folder / "data",
            "auto.create.topics.enable": "false",
            # one node
            "default.replication.factor": 1,
            "min.insync.replicas": 1,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            # tests do not wait for more members to join, and may ask for short session timeouts
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            # a killed broker's registration is not waited for when it comes back
            "broker.heartbeat.interval.ms": 500,
            "broker.session.timeout.ms": 2000,
            # the default of 128 MB would fill a third of the heap
            "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,
        }
