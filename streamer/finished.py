"""A finished batch in figures: metrics and a line of the log, never with text of a listing."""

from collections.abc import Mapping, Sequence

import structlog

from streamer.flow import Batch
from streamer.metrics import Metrics
from streamer.pipeline import Deleted, Output, Rejected, now_ms

log = structlog.get_logger(__name__)


def report(
    batch: Batch, outputs: Sequence[Output], stages: Mapping[str, float], metrics: Metrics, in_hand: int
) -> None:
    """Count a batch whose outputs are delivered and acknowledged, and log it.

    `stages` are seconds by name; `in_hand` is how many inputs the worker still holds.
    """
    now = now_ms()
    tags = deleted = rejected = 0
    since_record, since_event = metrics.latency.labels("record"), metrics.latency.labels("event")
    topics: dict[str, int] = {}
    offsets: dict[tuple[str, int], list[int]] = {}
    for output in outputs:
        outcome = output.outcome
        record = outcome.record
        topics[record.topic] = topics.get(record.topic, 0) + 1
        if not record.attempts:  # a redriven record has the coordinates and the age of its source record
            offsets.setdefault((record.topic, record.partition), []).append(record.offset)
            since_record.observe(max(0, now - record.timestamp) / 1000)
        if isinstance(outcome, Rejected):
            rejected += 1
            metrics.dead_letters.labels(outcome.reason).inc()
            log.warning(
                "dead_letter",
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                reason=outcome.reason,
                field=outcome.field,
                merchant=outcome.merchant_id,
                cause=outcome.cause,
            )
            continue
        if not record.attempts:
            since_event.observe(max(0, now - outcome.listing.event_time) / 1000)
        if outcome.stale:
            metrics.stale.inc()
        if isinstance(outcome, Deleted):
            deleted += 1
        else:
            tags += 1
            for flag in outcome.tagging.flags:
                metrics.flags.labels(flag).inc()
    for topic, count in topics.items():
        metrics.events_in.labels(topic).inc(count)
    for kind, count in (("tags", tags), ("deletion", deleted), ("dead_letter", rejected)):
        if count:
            metrics.events_out.labels(kind).inc(count)
    metrics.batch_listings.observe(len(outputs))
    metrics.batch_tokens.observe(batch.tokens)
    metrics.padding_tokens.inc(batch.padding)
    metrics.in_hand.set(in_hand)
    for stage, seconds in stages.items():
        metrics.stage_seconds.labels(stage).observe(seconds)
    log.info(
        "batch",
        tagged=tags,
        deleted=deleted,
        dead_letters=rejected,
        tokens=batch.tokens,
        offsets={f"{topic}/{partition}": _ranges(its) for (topic, partition), its in offsets.items()},
        **{f"{stage}_ms": round(seconds * 1000, 1) for stage, seconds in stages.items()},
    )


def _ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The first and the last of each run of numbers that follow each other."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return runs
