"""Verify: read the input, tag and dead-letter topics and decide whether the guarantees were kept.

    lost          an input that the group has acknowledged has no outcome
    invented      an outcome without its input, or one that does not follow from it
    contradicted  one event id, different tags
    reordered     two records of a product and partition whose tags were first written the other way round
    unreadable    a record on an output topic that none of ours wrote

It may run beside the workers: what the group has acknowledged is asked first, the outputs are read up to the end of
then, the inputs up to an end taken after that.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streamer.codec import Codec
from streamer.connection import partitions
from streamer.ledger import KINDS, Difference, Finding, Ledger
from streamer.records import Record
from streamer.scan import Scanner, Span
from streamer.settings import Settings

SHOWN = 10  # findings of each kind that a verdict quotes
CLOCK_SKEW_MS = 60 * 60 * 1000  # outputs are looked for from so long before the first input


@dataclass(frozen=True)
class Verdict:
    """What was read, how many findings of each kind there are, and the first of them."""

    counts: dict[str, int]
    found: dict[str, int]
    examples: tuple[Finding, ...]
    difference: Difference

    @property
    def good(self) -> bool:
        """No findings."""
        return not any(self.found.values())

    def as_json(self) -> dict[str, Any]:
        """Everything, for `json.dumps`."""
        return {
            "good": self.good,
            **self.counts,
            "found": self.found,
            "examples": [
                {
                    "kind": one.kind,
                    "record": one.source and one.source._asdict(),
                    "outcome": one.outcome and one.outcome._asdict(),
                    "problem": one.problem,
                }
                for one in self.examples
            ],
            "ids_of_several_numerics_classes": self.difference.ids,
            "most_confidence_difference": self.difference.most,
        }


def judge(ledger: Ledger) -> Verdict:
    """The verdict on a complete ledger."""
    found: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    examples = []
    for finding in ledger.findings():
        found[finding.kind] += 1
        if found[finding.kind] <= SHOWN:
            examples.append(finding)
    return Verdict(ledger.counts(), dict(found), tuple(examples), ledger.difference())


async def verify(
    settings: Settings, console: Console, *, everything: bool = False, since_ms: int | None = None
) -> Verdict:
    """Read the topics and judge them.

    `everything`: every input there is must have an outcome, not only those that the group has acknowledged. `since_ms`:
    only inputs whose record is not older, outputs an hour more. Raises BrokerError and RegistryError.
    """
    sources = await partitions(settings, settings.source_topics)
    retries = await partitions(settings, [settings.retry_topic])
    tags = await partitions(settings, [settings.tags_topic])
    letters = await partitions(settings, [settings.dead_letter_topic])
    inputs, outputs = sources + retries, tags + letters
    async with Scanner(settings, settings.group_id) as scanner:
        acknowledged = {one: at or 0 for one, at in (await scanner.committed(inputs)).items()}
        earlier_ms = None if since_ms is None else since_ms - CLOCK_SKEW_MS
        spans = await _spans(scanner, outputs, earlier_ms)  # before the inputs' ends: no output without its input
        spans |= await _spans(scanner, inputs, since_ms)
        held = {(one.topic, one.partition): spans[one] for one in inputs}
        with (
            Ledger(Codec.from_settings(settings), held) as ledger,
            _progress(console) as progress,
        ):
            enter = {settings.tags_topic: ledger.enter_tags, settings.dead_letter_topic: ledger.enter_letter}
            task = progress.add_task("Reading", total=sum(span.size for span in spans.values()))
            async for records in scanner.read(spans):
                topic = records[0].topic
                if topic in enter:
                    for record in records:
                        enter[topic](record)
                else:
                    expected = float("inf") if everything else acknowledged[_partition(records[0])]
                    enter_input = ledger.enter_retry if topic == settings.retry_topic else ledger.enter_input
                    for record in records:
                        enter_input(record, record.offset < expected)
                progress.advance(task, len(records))
            progress.update(task, description="Comparing", total=None)
            ledger.close()
            return judge(ledger)


async def _spans(scanner: Scanner, of: list[TopicPartition], since_ms: int | None) -> dict[TopicPartition, Span]:
    """From the oldest record, or the first that is not older than `since_ms`, to the end as of now."""
    beginnings, ends = await scanner.beginnings(of), await scanner.ends(of)
    if since_ms is not None:
        for partition, offset in (await scanner.at(of, since_ms)).items():
            beginnings[partition] = ends[partition] if offset is None else offset
    return {one: Span(beginnings[one], max(beginnings[one], ends[one])) for one in of}


def _partition(record: Record) -> TopicPartition:
    return TopicPartition(record.topic, record.partition)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
