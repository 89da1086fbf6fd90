"""The consumers that benchmarks/stream.py measures, each in a process of its own.

worker    ours, with a tagger that answers at once: decodes, writes a tag event each, acknowledges
faust     Faust's `async for event in stream.events()`, which acknowledges and does nothing else
in-out    aiokafka alone: consume, send the value on, wait for the broker
in        aiokafka alone: consume
"""

import asyncio
import multiprocessing
import os
import resource
import signal
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from streamer.settings import Settings
from taggen.listing import Listing
from taggen.tag import Model, Tagging

POLL_S = 0.01
SESSION_S = 4  # the embedded broker waits half of it when a group's first member joins


class Usage(NamedTuple):
    """CPU seconds of a process so far, and the clock."""

    user: float
    system: float
    at: float

    @classmethod
    def now(cls) -> "Usage":
        """Of this process."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return cls(used.ru_utime, used.ru_stime, time.monotonic())


class Meter:
    """In the consumer's process: says when it has begun and finished, and what it has used, when asked."""

    def __init__(self, connection: Connection, events: int) -> None:
        self._connection = connection
        self._events = events
        self._seen = 0
        self.ready = False
        self.first: Usage | None = None
        self.last: Usage | None = None
        threading.Thread(target=self._answer, daemon=True).start()

    def count(self, events: int = 1) -> None:
        """Count events that are finished, or, in our worker, tagged."""
        if self.first is None:
            self.first = Usage.now()
        self._seen += events
        if self._seen >= self._events:
            self.last = Usage.now()

    def _answer(self) -> None:
        while True:
            question = self._connection.recv()
            self._connection.send(Usage.now() if question == "now" else getattr(self, question))


@dataclass(frozen=True)
class Task:
    """What a consumer's process is told."""

    bootstrap: str
    topic: str
    output: str
    events: int
    web_port: int

    def settings(self) -> Settings:
        """The worker's settings: as shipped, but for the broker."""
        return Settings(
            kafka_bootstrap=self.bootstrap,
            group_id=f"{self.topic}-worker",
            source_topics=(self.topic,),
            tags_topic=self.output,
            idempotent_producer=False,  # the embedded broker has none
            session_timeout_s=SESSION_S,
            web_port=self.web_port,
        )


class NullPrepared:
    """As many tokens as a short listing, with padding and without."""

    tokens = 64
    filled = 60


class NullTagger:
    """Answers at once, without a tag."""

    model = Model("none", 1, "none", "float32", "null", "1", 0, "0" * 64, "none")

    def __init__(self, count: Callable[[int], None] = lambda events: None) -> None:
        self._count = count

    def prepare(self, listings: Sequence[Listing]) -> list[NullPrepared]:
        """Nothing to do."""
        return [NullPrepared() for _ in listings]

    def tag(self, prepared: Sequence[NullPrepared], slots: Sequence[object] | None = None) -> list[Tagging]:
        """No tags."""
        self._count(len(prepared))
        return [Tagging(()) for _ in prepared]


def worker(task: Task, meter: Meter) -> None:
    """Our worker, whole: web server and logging included."""
    from streamer.worker import run  # noqa: PLC0415

    run(task.settings(), NullTagger(meter.count))


def faust(task: Task, meter: Meter) -> None:
    """Faust's loop with its own settings, but for what would create topics and serve pages."""
    import faust  # noqa: PLC0415

    async def main() -> None:
        app = faust.App(
            f"{task.topic}-faust",
            broker=f"kafka://{task.bootstrap}",
            store="memory://",
            datadir=tempfile.mkdtemp(),
            broker_session_timeout=SESSION_S,
            broker_heartbeat_interval=SESSION_S / 4,
            web_enabled=False,
            topic_disable_leader=True,
            topic_allow_declare=False,
        )
        topic = app.topic(task.topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

        @app.agent(topic)  # type: ignore[untyped-decorator]
        async def consume(stream: Any) -> None:
            async for _ in stream.events():
                meter.count()

        await app.start()
        while not (app.tables.recovery.completed.is_set() and app.consumer.assignment()):  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        meter.ready = True
        await asyncio.Event().wait()

    asyncio.run(main())


def in_out(task: Task, meter: Meter) -> None:
    """Consume, send the value on, wait for the broker."""
    from aiokafka import AIOKafkaProducer  # noqa: PLC0415

    async def main() -> None:
        async with (
            _consumer(task, "in-out") as consumer,
            AIOKafkaProducer(bootstrap_servers=task.bootstrap, acks="all", linger_ms=5) as producer,
        ):
            await _joined(consumer, meter)
            while True:
                for records in (await consumer.getmany(timeout_ms=1000, max_records=500)).values():
                    sent = [await producer.send(task.output, record.value, record.key) for record in records]
                    await asyncio.wait(sent)
                    meter.count(len(records))

    asyncio.run(main())


def only_in(task: Task, meter: Meter) -> None:
    """Consume; offsets are committed once a second."""

    async def main() -> None:
        async with _consumer(task, "in") as consumer:
            await _joined(consumer, meter)
            while True:
                for records in (await consumer.getmany(timeout_ms=1000, max_records=500)).values():
                    meter.count(len(records))

    asyncio.run(main())


def _consumer(task: Task, name: str) -> Any:
    from aiokafka import AIOKafkaConsumer  # noqa: PLC0415

    return AIOKafkaConsumer(
        task.topic,
        bootstrap_servers=task.bootstrap,
        group_id=f"{task.topic}-{name}",
        auto_offset_reset="earliest",
        auto_commit_interval_ms=1000,
        session_timeout_ms=SESSION_S * 1000,
        heartbeat_interval_ms=SESSION_S * 250,
    )


async def _joined(consumer: Any, meter: Meter) -> None:
    while not consumer.assignment():  # noqa: ASYNC110  # nothing to wait for
        await asyncio.sleep(POLL_S)
    meter.ready = True


CONSUMERS: dict[str, Callable[[Task, Meter], None]] = {
    "worker": worker,
    "faust": faust,
    "in-out": in_out,
    "in": only_in,
}


def _process(name: str, task: Task, connection: Connection, errors: str) -> None:
    """The consumer's process."""
    with Path(errors).open("wb") as file:  # logs, and what went wrong
        os.dup2(file.fileno(), 2)
        CONSUMERS[name](task, Meter(connection, task.events))


class Consumer:
    """A consumer's process, seen from outside."""

    def __init__(self, name: str, task: Task, process: BaseProcess, connection: Connection, errors: Path) -> None:
        self._name = name
        self._task = task
        self._process = process
        self._connection = connection
        self._errors = errors

    def ask(self, question: str) -> Any:
        """An attribute of its meter; "now" for what it has used."""
        try:
            self._connection.send(question)
            return self._connection.recv()
        except (EOFError, OSError):
            raise self._failure() from None

    def until(self, condition: Callable[[], Any], limit_s: float) -> Any:
        """The first answer that is not empty; fails when the process ends or takes too long."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline and self._process.is_alive():
            if answer := condition():
                return answer
            time.sleep(POLL_S)
        raise self._failure()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Its process stands still."""
        os.kill(self._process.pid or 0, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid or 0, signal.SIGCONT)

    def ready(self) -> bool:
        """It consumes."""
        if self._name != "worker":
            return bool(self.ask("ready"))
        return self._get("/readyz") is not None

    def finished(self) -> Usage | None:
        """What it had used when the last event was acknowledged."""
        last: Usage | None = self.ask("last")
        if last is None or self._name != "worker":
            return last
        done = f'streamer_events_out_total{{kind="tags"}} {self._task.events:.1f}'
        return self.ask("now") if done in (self._get("/metrics") or "") else None

    def _failure(self) -> SystemExit:
        return SystemExit(f"{self._name} failed or took too long:\n{self._errors.read_text()[-2000:]}")

    def _get(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._task.web_port}{path}", timeout=5) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            return None


@contextmanager
def consumer(name: str, task: Task, folder: Path) -> Iterator[Consumer]:
    """Start a consumer; its process is killed in the end."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    errors = folder / f"{task.topic}-{name}.log"
    process = spawn.Process(target=_process, args=(name, task, theirs, str(errors)), daemon=True)
    process.start()
    theirs.close()  # else its end would not be noticed
    try:
        yield Consumer(name, task, process, ours, errors)
    finally:
        process.kill()
        process.join()
