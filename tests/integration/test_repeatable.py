"""A replay with the model of the workers: the same bits, and the command from end to end."""

import json
from collections import Counter

import pytest

from streamer import topics
from streamer.codec import TagEvent
from streamer.errors import InputError
from streamer.pipeline import STALE
from streamer.plan import Range
from streamer.tally import Tally
from streamer.worker import load_tagger
from tests.integration.test_replay import Run
from tests.integration.test_worker import avro
from tests.workers import Stage


async def test_the_same_ids_and_bits(stage: Stage) -> None:
    """The model of the workers, in other batches and another order of arrival: every event id again, with the same tags
    to the last bit of a confidence."""
    await stage.create_topics()
    run = Run(stage)
    places = await stage.publish([avro(number) for number in range(400)])
    with stage.worker() as worker:
        found = await stage.outcomes(places)
        worker.terminate()
        await worker.exit_code()
    before = {one.event_id: one for one in await run.events()}
    assert sum(bool(one.tags) for one in before.values()) > 200
    into = f"again-{stage.name}"
    await topics.ensure([topics.Topic(into, 4)], bootstrap_servers=stage.broker.bootstrap)
    ends = Counter(partition for _, partition, _ in places)
    halves = [
        tuple(Range(stage.source, one, start, end) for one in ends)
        for start, end in ((50, None), (0, 50))  # the second half first
    ]
    limits = {"batch_listings": 5, "batch_tokens": 300}
    for number, ranges in enumerate(halves):
        tagger = load_tagger(stage.here())
        await run.done(f"half-{number}", tagger=tagger, into=into, ranges=ranges, settings=limits)
    again = await run.events(into)
    assert [one.listing_version for one in again] != [one.listing_version for one in before.values()]
    assert len(again) == len(found) == 400
    for one in again:
        assert _repeated(one) == _repeated(before[one.event_id])


def _repeated(event: TagEvent) -> TagEvent:
    """What a replay repeats: all but the time, and the flag that depends on the order of arrival."""
    return event._replace(tagged_at=0, flags=tuple(flag for flag in event.flags if flag != STALE))


async def test_the_command(stage: Stage) -> None:
    """It prints its report, keeps it in a file that a later run of the id adds to, and says what is wrong."""
    await stage.create_topics()
    await stage.publish([avro(number) for number in range(20)] + [b"junk"])
    report = stage.folder / "report.json"
    base = ("replay", "--id", stage.name, "--report", str(report))
    output = json.loads(await stage.command(*base, "--all", "--json"))
    assert output["tally"]["listings"] == 20
    assert output["tally"]["dead_letters"] == {"undecodable": 1}
    kept = Tally.from_file(report, stage.name)
    assert (kept.listings, kept.records) == (20, 21)
    with pytest.raises(InputError, match="another replay"):
        Tally.from_file(report, "another")
    assert "say what to replay" in await stage.command(*base, code=2)
