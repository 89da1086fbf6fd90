"""Real worker processes for tests, and what they read and write."""

import asyncio
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from streamer import failpoints, topics
from streamer.broker import BrokerProcess
from streamer.codec import Codec
from streamer.connection import Reader
from streamer.records import DeadLetter, Record, TagEvent
from streamer.settings import Settings
from tests.forks import Forked

if TYPE_CHECKING:
    from tests.brokers import KafkaCluster
    from tests.tiny import Tiny  # imports torch, which takes seconds

CODEC = Codec()
ROOT = Path(__file__).parent.parent
PATIENCE_S = 120.0  # for what must happen; a loaded machine is slow

Place = tuple[str, int, int]  # topic, partition, offset


@dataclass
class Stage:
    """The topics and the group of one test, and the environment of its workers."""

    broker: "BrokerProcess | KafkaCluster"
    tiny: "Tiny | None"  # what the workers tag with; None: there are none
    folder: Path
    name: str
    settings: dict[str, str] = field(default_factory=dict)
    started: list["WorkerProcess"] = field(default_factory=list)
    codec: Codec = CODEC  # to read outcomes with
    _commands: int = 0

    @property
    def source(self) -> str:
        """The topic that the workers read."""
        return f"created-{self.name}"

    @property
    def tags(self) -> str:
        """The topic of tag events."""
        return f"tags-{self.name}"

    @property
    def dead_letters(self) -> str:
        """The topic of dead letters."""
        return f"dlq-{self.name}"

    @property
    def retries(self) -> str:
        """The topic of redriven records, which the workers read too."""
        return f"retry-{self.name}"

    @property
    def attempts(self) -> str:
        """The topic in which the workers mark their partitions."""
        return f"attempts-{self.name}"

    async def create_topics(self, max_output_bytes: int = 1_000_000) -> None:
        """Four partitions each, one for the attempts."""
        limit = {"max.message.bytes": str(max_output_bytes)}
        large = {"max.message.bytes": "16000000"}
        inputs = (topics.Topic(name, 4, large) for name in (self.source, self.retries))
        wanted = [*inputs, *(topics.Topic(n, 4, limit) for n in self.targets), topics.attempts(self.attempts)]
        await topics.ensure(wanted, bootstrap_servers=self.broker.bootstrap)

    @property
    def targets(self) -> tuple[str, str]:
        """What the workers write."""
        return self.tags, self.dead_letters

    def worker(self, module: str = "streamer", fail_at: str = "", **settings: object) -> "WorkerProcess":
        """Start a worker: `streamer`, or `tests.faulty`, whose model fails where a title says so.

        `fail_at`: the fail point that kills it.
        """
        log = self.folder / f"worker-{len(self.started)}.log"
        environment = self.environment(settings) | {failpoints.VARIABLE: fail_at}
        worker = WorkerProcess(Forked(module, ["worker"], environment, ROOT, log), log)
        self.started.append(worker)
        return worker

    def here(self, **settings: Any) -> Settings:
        """The settings of the workers' topics and group, for calls in this process."""
        return Settings(
            kafka_bootstrap=self.broker.bootstrap,
            group_id=self.name,
            source_topics=(self.source,),
            tags_topic=self.tags,
            dead_letter_topic=self.dead_letters,
            retry_topic=self.retries,
            attempts_topic=self.attempts,
            **self._model(),
            torch_threads=1,
            idempotent_producer=self.broker.kind == "kafka",
            fetch_max_wait_ms=100,
            **settings,
        )

    def _model(self) -> dict[str, Any]:
        return {} if self.tiny is None else {"base_model": str(self.tiny.base), "default_adapter": self.tiny.adapter}

    async def command(self, *arguments: str, code: int = 0, **settings: object) -> str:
        """Run a command of `streamer` to its end; returns its output, after a check of its exit code."""
        self._commands += 1
        output, errors = (self.folder / f"command-{self._commands}.{kind}" for kind in ("out", "err"))
        process = Forked("streamer", arguments, self.environment(settings), ROOT, output, errors)
        try:
            found = await asyncio.to_thread(process.wait, PATIENCE_S)
        finally:
            process.kill()
        said, complained = output.read_text("utf-8"), errors.read_text("utf-8")
        assert found == code, (said + complained)[-3000:]
        return said or complained

    def environment(self, settings: Mapping[str, object]) -> dict[str, str]:
        """Of a process of this stage, with these settings besides."""
        # tests that inherit a setting from the machine would be somebody else's tests
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}
        own = {
            "kafka_bootstrap": self.broker.bootstrap,
            "group_id": self.name,
            "source_topics": self.source,
            "tags_topic": self.tags,
            "dead_letter_topic": self.dead_letters,
            "retry_topic": self.retries,
            "attempts_topic": self.attempts,
            **self._model(),
            "torch_threads": 1,
            "idempotent_producer": self.broker.kind == "kafka",
            "fetch_max_wait_ms": 100,
            "session_timeout_s": 3,  # the embedded broker lets the first member wait for half of it
            "web_port": 0,
            **self.settings,
            **settings,
        }
        return environment | {f"STREAMER_{name.upper()}": str(value) for name, value in own.items()}

    async def publish(
        self, values: Sequence[bytes | None], keys: Sequence[bytes] | None = None, topic: str | None = None
    ) -> list[Place]:
        """Write values to the source topic or another; returns where each of them stands."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.broker.bootstrap, linger_ms=5, max_request_size=16_000_000, acks="all"
        )
        async with producer:
            sent = [
                await producer.send(topic or self.source, value, key=keys[index] if keys else f"{index}".encode())
                for index, value in enumerate(values)
            ]
            stored = [await future for future in sent]
        return [(one.topic, one.partition, one.offset) for one in stored]

    async def outcomes(
        self, places: Iterable[Place], quiet_s: float = 0.5, others: bool = False
    ) -> dict[Place, list[TagEvent | DeadLetter]]:
        """Read both target topics from the beginning until each place has an outcome and nothing more comes.

        `others`: there may be outcomes of other places too.
        """
        found: dict[Place, list[TagEvent | DeadLetter]] = {place: [] for place in places}
        missing = len(found)
        deadline = time.monotonic() + PATIENCE_S
        async with self._reader() as consumer:
            await self._assign_targets(consumer)
            latest = time.monotonic()
            while missing or time.monotonic() < latest + quiet_s:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{missing} of {len(found)} inputs without an outcome; {self.logs()}")
                for messages in (await consumer.getmany(timeout_ms=100)).values():
                    latest = time.monotonic()
                    for message in messages:
                        outcome = self._decoded(message)
                        place = place_of(outcome)
                        if others and place not in found:
                            continue
                        missing -= not found[place]
                        found[place].append(outcome)
        return found

    def _decoded(self, message: Any) -> TagEvent | DeadLetter:
        if message.topic == self.tags:
            return self.codec.decode_tags(message.value)
        return self.codec.decode_dead_letter(message.value)

    async def until_written(self, count: int) -> None:
        """Wait until there are so many outcomes."""
        deadline = time.monotonic() + PATIENCE_S
        async with self._reader() as consumer:
            await self._assign_targets(consumer)
            while count > 0:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{count} outcomes short; {self.logs()}")
                count -= sum(len(messages) for messages in (await consumer.getmany(timeout_ms=100)).values())

    async def records(self, topic: str, count: int) -> list[Record]:
        """The first records of a topic."""
        found: list[Record] = []
        settings = Settings(kafka_bootstrap=self.broker.bootstrap, fetch_max_wait_ms=100)
        async with asyncio.timeout(PATIENCE_S), Reader(settings, [topic], from_beginning=True) as reader:
            async for record in reader:
                found.append(record)
                if len(found) == count:
                    break
        return found

    async def _assign_targets(self, consumer: AIOKafkaConsumer) -> None:
        consumer.assign([TopicPartition(topic, number) for topic in self.targets for number in range(4)])
        await consumer.seek_to_beginning()

    async def committed(self) -> dict[int, int]:
        """The group's offsets by partition, 0 for none."""
        async with self._reader(group_id=self.name) as consumer:
            partitions = [TopicPartition(self.source, number) for number in range(4)]
            consumer.assign(partitions)
            return {one.partition: await consumer.committed(one) or 0 for one in partitions}

    def logs(self) -> str:
        """The end of each worker's log, for a failing test's message."""
        return "\n".join(f"{worker.log}:\n{worker.log.read_text()[-3000:]}" for worker in self.started)

    def _reader(self, **options: Any) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            bootstrap_servers=self.broker.bootstrap, enable_auto_commit=False, fetch_max_wait_ms=100, **options
        )


class WorkerProcess:
    """A worker in a process of its own; it is killed with the `with` block that it may be used in."""

    def __init__(self, process: "Forked | subprocess.Popen[bytes]", log: Path) -> None:
        """`log`: where its output goes."""
        self.log = log
        self._process = process

    @classmethod
    def of_command(cls, command: Sequence[str], environment: dict[str, str], log: Path) -> Self:
        """Start a command."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        return cls(process, log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it has logged; a line that is no JSON is an error."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def events_of(self, kind: str) -> list[dict[str, Any]]:
        """Those of one kind."""
        return [event for event in self.events if event["event"] == kind]

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def until(self, event: str, times: int = 1) -> dict[str, Any]:
        """Wait for an event in its log, for the so manieth of its kind."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            lines = self.log.read_text().splitlines(keepends=True)
            found = [one for line in lines if line.endswith("\n") and (one := json.loads(line))["event"] == event]
            if len(found) >= times:
                return found[times - 1]
            if not self.running:
                break
            await asyncio.sleep(0.05)
        raise AssertionError(f"no event {event!r} in {self.log}:\n{self.log.read_text()[-3000:]}")

    async def shares(self, partitions: int) -> None:
        """Wait until it has so many partitions, by what it last said."""
        deadline = time.monotonic() + PATIENCE_S
        while not (said := self.events_of("assigned")) or len(said[-1]["partitions"]) != partitions:
            if not self.running or time.monotonic() > deadline:
                raise AssertionError(f"not {partitions} partitions: {self.log.read_text()[-3000:]}")
            await asyncio.sleep(0.1)

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of its web server's answer."""
        url = (await self.until("starting"))["web"] + path

        def fetch() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # our own
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as refused:
                return refused.code, refused.read().decode()

        return await asyncio.to_thread(fetch)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()

    async def exit_code(self, within_s: float = PATIENCE_S) -> int:
        """Wait for its end."""
        try:
            return await asyncio.to_thread(self._process.wait, within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within_s} s: {self.log.read_text()[-3000:]}") from None


def place_of(outcome: TagEvent | DeadLetter) -> Place:
    """Where the record stands that this is the outcome of."""
    if isinstance(outcome, TagEvent):
        return tuple(outcome.source)
    return outcome.topic, outcome.partition, outcome.offset
