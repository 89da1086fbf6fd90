"""The agent around the pipeline: rows that wait aside, slots given back whatever happens, acknowledged in order."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from streamer import suspects
from streamer.adapters import FALLBACK
from streamer.agent import TaggingAgent
from streamer.attempts import Attempts
from streamer.batch import Intake
from streamer.codec import Codec
from streamer.errors import DeliveryError
from streamer.modelthread import ModelThread
from streamer.pipeline import Output, Pipeline, Rejected
from streamer.records import DeadLetter, TagEvent
from streamer.routing import RouteChange
from streamer.scan import Span
from streamer.settings import Settings
from streamer.suspects import Mark, Partition
from taggen.errors import DeviceError
from taggen.reference import Reference
from tests.unit.test_adapters import BASE, ONE, SOON_S, TWO, Stage, version

CODEC = Codec()


class Message:
    """A Kafka record as Faust hands it over."""

    topic, timestamp, key, headers, generation_id = "in", 0.001, b"k", (), 1

    def __init__(self, offset: int, value: bytes, partition: int = 0) -> None:
        self.offset = offset
        self.value = value
        self.partition = partition


class Event:
    """One event of the stream."""

    def __init__(self, message: Message, acknowledged: list[int]) -> None:
        self.message = message
        self._acknowledged = acknowledged

    def ack(self) -> None:
        self._acknowledged.append(self.message.offset)


class Found(Attempts):
    """The attempts of a worker that has found a mark on partition 0, which says that offsets 0 to 7 are suspects; what
    it writes is noted in the journal."""

    def __init__(self, mark: Mark, journal: list[Any]) -> None:
        super().__init__(Settings(), None)  # type: ignore[arg-type]
        self._mark = mark
        self._journal = journal

    async def _find(self, partitions: Any) -> dict[Partition, suspects.Found]:
        return {("in", 0): suspects.Found(self._mark, Span(0, 8))}

    async def _write(self, marks: Any) -> None:
        self._journal += [mark for partition, mark in marks.items() if partition == ("in", 0)]


class Run:
    """An agent with its stream and its outputs; what is published comes in, until it is cancelled."""

    def __init__(self, stage: Stage, model_thread: ModelThread, mark: Mark | None = None, **settings: Any) -> None:
        """`mark`: as the owner before has left it."""
        chosen = Settings(batch_wait_ms=1, **settings)
        self.journal: list[Any] = []  # marks, and the offsets that are written at once
        self.app = self
        self.consumer = self
        self.acknowledged: list[int] = []
        self.written: list[TagEvent] = []
        self.letters: list[DeadLetter] = []
        self.refuse = False
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._published = 0
        pipeline = Pipeline(chosen, CODEC, stage.tagger)
        attempts = None if mark is None else Found(mark, self.journal)
        self.agent = TaggingAgent(
            chosen,
            pipeline,
            self,  # type: ignore[arg-type]
            stage.metrics,
            model_thread,
            stage.adapters,
            attempts=attempts,
        )
        self.task = asyncio.create_task(self.agent.run(self))

    def publish(self, merchant: str, product: str = "p", title: str = "Boots", partition: int = 0) -> None:
        """A listing."""
        fields = {"merchant_id": merchant, "product_id": product, "title": title, "event_time": 1}
        value = json.dumps(fields | {"listing_version": self._published}).encode()
        self._queue.put_nowait(Event(Message(self._published, value, partition), self.acknowledged))
        self._published += 1

    async def events(self) -> AsyncIterator[Event]:
        while True:
            yield await self._queue.get()

    def release(self, nbytes: int) -> None:
        """Of the consumer: bytes that have left the buffers."""

    def assignment(self) -> set[Partition]:
        """Of the consumer."""
        return {("in", 0), ("in", 1)}

    async def commit(self) -> None:
        """Of the consumer."""
        self.journal.append("commit")

    async def send(self, outputs: Sequence[Output]) -> None:
        """Of the delivery."""
        if self.refuse:
            raise DeliveryError("refused")
        self.journal.append([output.outcome.record.offset for output in outputs])
        for output in outputs:
            if isinstance(output.outcome, Rejected):
                self.letters.append(CODEC.decode_dead_letter(output.value))
            else:
                self.written.append(CODEC.decode_tags(output.value))

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait for a condition, or for the end of the agent."""
        async with asyncio.timeout(SOON_S):
            while not happened() and not self.task.done():  # noqa: ASYNC110  nothing tells
                await asyncio.sleep(0.001)

    async def cancel(self) -> None:
        """End the agent as Faust does."""
        self.task.cancel()
        await asyncio.wait({self.task})


@pytest.fixture
def model_thread():
    """The thread that the model has to itself."""
    with ModelThread() as thread:
        yield thread


@pytest.fixture
async def stage(model_thread):
    """Two merchants with a version each, acme's in memory, globex's behind a gate until it is opened."""
    stage = Stage(model_thread)
    await stage.adapters.preload(SOON_S)
    assign(stage, "acme", 1, ONE)
    await stage.until(lambda: stage.tags_by(ONE, 1))
    yield stage
    stage.adapters.close()


def assign(stage: Stage, merchant: str, revision: int, reference: Reference) -> None:
    """A record of the control topic."""
    stage.adapters.follow(RouteChange(merchant, BASE, revision, "assign", reference, None, 0), 0)


async def put_out_of_memory(stage: Stage, gate: threading.Event) -> None:
    """Let globex's version be known and then leave the memory, to come back when the gate opens."""
    assign(stage, "globex", 1, TWO)
    await stage.until(lambda: stage.store.cached(TWO) is not None and "globex" in stage.adapters._certain)
    stage.store._cached.pop(TWO)
    stage.store.gate = lambda: gate.wait(SOON_S) and None  # type: ignore[assignment]


async def test_rows_of_a_cold_merchant_wait_and_nobody_else(stage: Stage, model_thread: ModelThread) -> None:
    """They go when their adapter has come, in the order of their product; until then nothing behind is acknowledged."""
    gate = threading.Event()
    await put_out_of_memory(stage, gate)
    run = Run(stage, model_thread, adapter_wait_ms=60_000)
    for number in range(4):
        run.publish("globex", "cold", f"cold {number}")
        run.publish("acme", f"{number}")
    await run.until(lambda: len(run.written) == 4)
    assert {event.merchant_id for event in run.written} == {"acme"}
    assert run.acknowledged == []
    gate.set()
    await run.until(lambda: len(run.acknowledged) == 8)
    assert run.acknowledged == list(range(8))
    assert [event.listing_version for event in run.written[4:]] == [0, 2, 4, 6]
    assert {(event.model.version, event.flags) for event in run.written[4:] if event.model} == {("2", ())}
    assert (stage.tagger.held, run.agent.progress.in_hand) == ({}, 0)
    await run.cancel()


async def test_a_row_waits_no_longer_than_it_is_told(stage: Stage, model_thread: ModelThread) -> None:
    """Then the default adapter stands in, and the event says so."""
    gate = threading.Event()
    await put_out_of_memory(stage, gate)
    run = Run(stage, model_thread, adapter_wait_ms=30)
    run.publish("globex")
    await run.until(lambda: run.acknowledged == [0])
    [event] = run.written
    assert event.model is not None
    assert (event.model.adapter, event.model.revision, event.flags) == ("default", 1, (FALLBACK,))
    gate.set()
    await run.cancel()


async def test_waiting_rows_fill_the_intake(stage: Stage, model_thread: ModelThread) -> None:
    """No more is read than it holds, so that memory stays bounded; all of it is served in the end."""
    gate = threading.Event()
    await put_out_of_memory(stage, gate)
    run = Run(stage, model_thread, adapter_wait_ms=60_000, batch_listings=4)
    for number in range(40):
        run.publish("globex", f"{number}")
    await run.until(lambda: run._queue.qsize() <= 31)
    await asyncio.sleep(0.05)
    assert 27 <= run._queue.qsize() <= 31  # eight aside or in the intake, one batch and one event on their way
    gate.set()
    await run.until(lambda: len(run.acknowledged) == 40)
    assert run.acknowledged == list(range(40))
    await run.cancel()


async def test_rows_of_a_length_wait_for_each_other_while_the_model_is_at_work(
    stage: Stage, model_thread: ModelThread
) -> None:
    """What comes meanwhile is prepared, and goes in batches of one length when there is room for them in hand."""
    gate = threading.Event()
    model_thread.submit(gate.wait, SOON_S)
    run = Run(stage, model_thread)
    for number in range(9):
        run.publish("acme", f"{number}", title="Boots" if number % 2 else "Long boots")
        await asyncio.sleep(0.02)
    gate.set()
    await run.until(lambda: len(run.acknowledged) == 9)
    assert run.journal == [[0], [1], [2, 4, 6, 8], [3, 5, 7]]  # two were on their way to the model
    await run.cancel()


async def test_rows_whose_wait_is_over_do_not_keep_the_agent_busy(
    stage: Stage, model_thread: ModelThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While as many batches are in hand as may be, nothing is due: the end of one lets them go."""
    gate, loading = threading.Event(), threading.Event()
    await put_out_of_memory(stage, loading)
    model_thread.submit(gate.wait, SOON_S)
    run = Run(stage, model_thread, adapter_wait_ms=1)
    run.publish("globex", "cold")
    for number in range(3):
        run.publish("acme", f"{number}")
        await asyncio.sleep(0.02)
    looked = []
    monkeypatch.setattr(Intake, "gather", lambda *its, gather=Intake.gather: looked.append(its) or gather(*its))
    run.publish("globex", "colder")
    await asyncio.sleep(0.2)
    assert len(looked) < 10
    gate.set()
    await run.until(lambda: len(run.acknowledged) == 5)
    loading.set()
    await run.cancel()


async def test_rows_wait_for_room_on_the_device(model_thread: ModelThread) -> None:
    """More adapters than slots: a batch holds no more than fit, the others' rows go when a batch is done."""
    stage = Stage(model_thread, slots=1)
    merchants = [f"merchant-{number}" for number in range(5)]
    for number, merchant in enumerate(merchants, 1):
        assign(stage, merchant, 1, version(number))
    await stage.adapters.preload(SOON_S)
    run = Run(stage, model_thread, adapter_wait_ms=0)
    for number in range(40):
        run.publish(merchants[number % 5], f"{number}")
    await run.until(lambda: len(run.acknowledged) == 40)
    assert {event.flags for event in run.written} == {()}
    assert all(
        event.model is not None and int(event.model.version) == 1 + merchants.index(event.merchant_id)
        for event in run.written
    )
    assert stage.tagger.held == {}
    await run.cancel()
    stage.adapters.close()


async def test_slots_are_given_back_when_the_device_fails(stage: Stage, model_thread: ModelThread) -> None:
    """The agent ends with the failure, its inputs unacknowledged."""
    run = Run(stage, model_thread, broker_retry_s=0.01)
    run.publish("acme", "p", "device")
    await run.until(lambda: False)
    with pytest.raises(DeviceError):
        await run.task
    await stage.until(lambda: stage.tagger.held == {})
    assert run.acknowledged == []


async def test_slots_are_given_back_when_outputs_are_not_taken(stage: Stage, model_thread: ModelThread) -> None:
    """As above; also those of the batches behind."""
    run = Run(stage, model_thread, batch_listings=1)
    run.refuse = True
    for number in range(8):
        run.publish("acme", f"{number}")
    await run.until(lambda: False)
    with pytest.raises(DeliveryError):
        await run.task
    await stage.until(lambda: stage.tagger.held == {})
    assert run.acknowledged == []


async def test_slots_outlive_a_cancelled_agent(stage: Stage, model_thread: ModelThread) -> None:
    """What the device works on stays held until it has finished, and is given back then; so are the batches that it
    has not begun with."""
    gate = threading.Event()
    model_thread.submit(gate.wait, SOON_S)
    run = Run(stage, model_thread, batch_listings=1)
    for number in range(3):
        run.publish("acme", f"{number}")
    await run.until(lambda: stage.tagger.held.get(ONE.digest, 0) > 1)
    await run.cancel()
    gate.set()
    await stage.until(lambda: stage.tagger.held == {})


async def test_a_moved_partition_waits_for_the_control_topic(stage: Stage, model_thread: ModelThread) -> None:
    """The first event of a generation is taken when all records of before are followed, once for each generation."""
    reads: list[None] = []
    gate = asyncio.Event()

    async def read_to_end() -> None:
        await gate.wait()
        reads.append(None)

    stage.adapters.connect(lambda *_: None, read_to_end)  # type: ignore[arg-type]
    run = Run(stage, model_thread)
    run.publish("acme", "a")
    run.publish("acme", "b")
    await asyncio.sleep(0.05)
    assert run.written == []
    gate.set()
    await run.until(lambda: len(run.acknowledged) == 2)
    assert len(reads) == 1
    await run.cancel()


def publish_in_turn(run: Run) -> None:
    """Ten rows of acme: even offsets on partition 0, odd ones on partition 1."""
    for number in range(10):
        run.publish("acme", f"{number}", partition=number % 2)


async def test_suspects_are_tried_with_nothing_else_in_hand(stage: Stage, model_thread: ModelThread) -> None:
    """Marked before and unmarked when they are committed; the rows that are no suspects go before and after."""
    run = Run(stage, model_thread, Mark())
    publish_in_turn(run)
    await run.until(lambda: len(run.acknowledged) == 10)
    assert run.journal == [Mark(), [1, 3, 5, 7, 9], Mark(0, 7, in_hand=True), [0, 2, 4, 6], "commit", Mark(), [8]]
    await run.cancel()


async def test_rows_in_hand_at_a_death_are_tried_alone(stage: Stage, model_thread: ModelThread) -> None:
    """One by one, in the order of their partition."""
    run = Run(stage, model_thread, Mark(2, 5, in_hand=True))
    publish_in_turn(run)
    await run.until(lambda: len(run.acknowledged) == 10)
    known = Mark(2, 5)
    tried = [(0, known), (2, known), (4, Mark()), (6, Mark())]
    steps = [[Mark(one, one + 1, alone=True, in_hand=True), [one], "commit", after] for one, after in tried]
    assert run.journal == [known, [1, 3, 5, 7, 9], *(step for of_row in steps for step in of_row), [8]]
    await run.cancel()


async def test_a_condemned_row_is_not_tried(stage: Stage, model_thread: ModelThread) -> None:
    """Nor is it decoded; its neighbours have their tags."""
    run = Run(stage, model_thread, Mark(2, 3, alone=True, deaths=1, in_hand=True))
    publish_in_turn(run)
    await run.until(lambda: len(run.acknowledged) == 10)
    [letter] = run.letters
    assert (letter.offset, letter.reason, letter.merchant_id) == (2, "worker_died", None)
    assert sorted(event.source.offset for event in run.written) == [0, 1, 3, 4, 5, 6, 7, 8, 9]
    await run.cancel()


async def test_a_suspect_waits_for_its_adapter_too(stage: Stage, model_thread: ModelThread) -> None:
    """And is tagged by it, not by the default adapter."""
    gate = threading.Event()
    await put_out_of_memory(stage, gate)
    run = Run(stage, model_thread, Mark(), adapter_wait_ms=60_000)
    run.publish("globex")
    await run.until(lambda: len(run.journal) == 2)
    assert run.journal == [Mark(), Mark(0, 1, alone=True, in_hand=True)]
    gate.set()
    await run.until(lambda: run.acknowledged == [0])
    [event] = run.written
    assert (event.model and event.model.version, event.flags) == ("2", ())
    await run.cancel()
