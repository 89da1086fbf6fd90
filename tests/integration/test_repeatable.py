"""A replay with the model of the workers: the same bits, and the command from end to end."""

import asyncio
import json
import signal
import sys
from collections import Counter

import psutil
import pytest

from streamer import topics
from streamer.errors import InputError
from streamer.pipeline import STALE
from streamer.plan import Range
from streamer.records import TagEvent
from streamer.tally import Tally
from streamer.worker import load_tagger
from tests.brokers import KAFKA, SLOW_ON_KAFKA
from tests.integration.test_replay import Run
from tests.integration.test_worker import avro
from tests.workers import PATIENCE_S, ROOT, Stage


@SLOW_ON_KAFKA
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


@SLOW_ON_KAFKA
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


@pytest.mark.slow
async def test_another_numerics_class(stage: Stage) -> None:
    """With plain weights a processor of fewer instructions gives the same ids and tags, and confidences a little apart;
    `verify` says how far and finds nothing wrong."""
    await stage.create_topics()
    await stage.publish([avro(number) for number in range(100)])
    await stage.command("replay", "--id", f"{stage.name}-1", "--all", quantization="none")
    # a process of its own: a forked one has torch's choice of instructions from its parent
    command = (sys.executable, "-m", "streamer", "replay", "--id", f"{stage.name}-2", "--all")
    environment = stage.environment({"quantization": "none"}) | {"ATEN_CPU_CAPABILITY": "default"}
    other = await asyncio.create_subprocess_exec(*command, env=environment, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL)
    assert await other.wait() == 0
    verdict = json.loads(await stage.command("verify", "--all", "--json"))
    assert verdict["good"]
    assert verdict["ids_of_several_numerics_classes"] == 100
    assert 0 < verdict["most_confidence_difference"] < 1e-4
    assert "100 ids came from several numerics classes" in await stage.command("verify", "--all")


@KAFKA
@pytest.mark.slow
async def test_the_command_and_its_processes(stage: Stage) -> None:
    """SIGTERM ends all its processes and tells how to go on; a command that is killed takes them along; the id goes on
    with more of them, and one report has the counts of all."""
    await stage.create_topics()
    places = await stage.publish([avro(number) for number in range(300)])
    report = stage.folder / "report.json"
    base = ("replay", "--id", stage.name, "--all", "--report", str(report))
    command = (sys.executable, "-m", "streamer", *base, "--workers", "2", "--rate", "20")
    for end, code, written in ((signal.SIGTERM, 130, 20), (signal.SIGKILL, -signal.SIGKILL, 120)):
        running = await asyncio.create_subprocess_exec(
            *command, env=stage.environment({}), cwd=ROOT, stderr=asyncio.subprocess.PIPE
        )
        try:
            await stage.until_written(written)
            crew = psutil.Process(running.pid).children(recursive=True)
            running.send_signal(end)
            _, errors = await asyncio.wait_for(running.communicate(), PATIENCE_S)
        finally:
            if running.returncode is None:
                running.kill()
        assert running.returncode == code, errors.decode()
        assert (f"stopped; --id {stage.name} goes on" in errors.decode()) == (end == signal.SIGTERM)
        assert len(crew) >= 2
        _, alive = psutil.wait_procs(crew, timeout=PATIENCE_S)
        assert alive == []
    before = Tally.from_file(report, stage.name)
    assert 0 < before.records < 300
    output = json.loads(await stage.command(*base, "--workers", "3", "--json"))
    assert (output["resumed"], output["finished_before"]) == (True, False)
    assert before.records < output["tally"]["records"] <= 300
    assert Tally.from_file(report, stage.name).as_json() == output["tally"]
    await stage.outcomes(places)
    assert "--workers 5: the replay has 4 partitions" in await stage.command(*base, "--workers", "5", code=2)
