"""The commands for dead letters, on real brokers and with a real worker."""

import json
from dataclasses import asdict
from hashlib import sha256

import pytest

from streamer.codec import Codec
from streamer.dlq import Filed, Filter, Purged, Redriven, find, one, purge, redrive
from streamer.errors import BrokerError, InputError
from streamer.records import Coordinates, DeadLetter, TagEvent
from tests.brokers import KAFKA
from tests.faulty import RAISE
from tests.integration.test_worker import avro, titled
from tests.workers import Stage

CODEC = Codec()


def letter(offset: int, merchant: str = "acme", reason: str = "undecodable", failed_at: int = 1_000) -> DeadLetter:
    """A dead letter of a record that nobody has published."""
    value = b"%d of %s" % (offset, merchant.encode())
    digest = sha256(value).hexdigest()
    return DeadLetter(
        *("product-created", 0, offset, 1, reason, None, merchant, b"key", value, (), False, len(value), digest),
        failed_at,
    )


async def file(stage: Stage, *letters: DeadLetter) -> None:
    """Write dead letters, all to one partition."""
    await stage.publish([CODEC.encode_dead_letter(one) for one in letters], [b"one"] * len(letters), stage.dead_letters)


@KAFKA
async def test_redrive(stage: Stage) -> None:
    """What failed in the model is tagged after a redrive, under the event id that a replay would give it, and traced to
    its source record; what is broken fails again, until the limit; a letter is redriven once; verify agrees."""
    await stage.create_topics()
    broken = await stage.publish([avro(0), titled(1, RAISE), b"junk"])
    with stage.worker("tests.faulty") as worker:
        await stage.outcomes(broken)
        worker.terminate()
        await worker.exit_code()
    with stage.worker():  # this one has a model that does not fail
        settings = stage.here(redrive_limit=2)
        assert await redrive(settings, Filter(), dry_run=True) == Redriven(sent=2)
        assert json.loads(await stage.command("dlq", "redrive", "--json")) == asdict(Redriven(sent=2))
        await stage.until_written(5)
        # the letter of the repaired one, and the first of the junk, have been redriven
        assert await redrive(settings, Filter()) == Redriven(sent=1, repeated=2)
        await stage.until_written(6)
        assert await redrive(settings, Filter()) == Redriven(repeated=3, exhausted=1)
        found = await stage.outcomes(broken)
    repaired = [one for one in found[broken[1]] if isinstance(one, TagEvent)]
    assert [one.source for one in repaired] == [Coordinates(*broken[1])]
    assert repaired[0].source_event_id == "/".join(map(str, broken[1]))
    assert [one.attempts for one in found[broken[2]] if isinstance(one, DeadLetter)] == [0, 1, 2]
    assert {one.value for one in found[broken[2]] if isinstance(one, DeadLetter)} == {b"junk"}
    verdict = json.loads(await stage.command("verify", "--all", "--json"))
    assert (verdict["good"], verdict["redriven"], verdict["repeats"]) == (True, 3, 0)


async def test_find_and_show(stage: Stage) -> None:
    """Letters are found by reason, merchant and time; a listing's words show in `show` alone, and junk is counted."""
    await stage.create_topics()
    await file(stage, letter(0), letter(1, "globex"), letter(2, reason="model_error"), letter(3, failed_at=90_000_000))
    await stage.publish([b"no letter"], [b"one"], stage.dead_letters)
    day = 24 * 60 * 60 * 1000
    wanted = {
        Filter(): [0, 1, 2, 3],
        Filter(merchant_id="globex"): [1],
        Filter(reason="model_error"): [2],
        Filter(until_ms=day): [0, 1, 2],
        Filter(since_ms=day): [3],
        Filter("model_error", "globex"): [],
    }
    for filtered, offsets in wanted.items():
        found = [one async for one in find(stage.here(redrive_limit=2), filtered)]
        assert [one.letter.offset for one in found if isinstance(one, Filed)] == offsets
        assert len(found) == len(offsets) + 1  # the junk
    lines = await stage.command("dlq", "list", "--merchant", "globex", "--json")
    assert "1 of globex" not in lines
    place = json.loads(lines)["place"]
    assert await stage.command("dlq", "show", place, "--raw") == "1 of globex"
    for nowhere in (f"{place}00", "9/1", "here"):
        with pytest.raises(InputError, match=nowhere):
            await one(stage.here(redrive_limit=2), nowhere)


async def test_redrive_of_a_truncated_letter(stage: Stage) -> None:
    """The whole record is read from its source again; one that the source does not have is counted as gone."""
    await stage.create_topics()
    [there, other] = await stage.publish([b"the whole record", b"another one"])
    whole = letter(0)._replace(
        topic=there[0], partition=there[1], offset=there[2], value=b"the", truncated=True, value_length=16
    )
    whole = whole._replace(value_sha256=sha256(b"the whole record").hexdigest())
    gone = whole._replace(offset=900)
    replaced = whole._replace(partition=other[1], offset=other[2])
    await file(stage, whole, gone, replaced)
    done = await redrive(stage.here(redrive_limit=2), Filter())
    assert done == Redriven(sent=1, gone=2)
    [sent] = await stage.records(stage.retries, 1)
    assert sent.value == b"the whole record"


async def test_purge(stage: Stage) -> None:
    """Those that are meant are gone, the others are there with their bytes, key and time, wherever they stood."""
    await stage.create_topics()
    letters = [letter(number, "acme" if number % 2 else "globex", failed_at=number) for number in range(10)]
    await file(stage, *letters)
    before = await stage.records(stage.dead_letters, 10)
    if stage.broker.kind == "tansu":
        with pytest.raises(BrokerError, match="deletes no records"):
            await purge(stage.here(redrive_limit=2), Filter(merchant_id="acme"))
        return
    assert json.loads(await stage.command("dlq", "purge", "--merchant", "acme", "--yes", "--json")) == {
        "purged": 5,
        "rewritten": 5,
    }
    after = await stage.records(stage.dead_letters, 5)
    kept = [one for one in before if CODEC.decode_dead_letter(one.value or b"").merchant_id == "globex"]
    assert sorted((one.key, one.value, one.timestamp) for one in after) == sorted(
        (one.key, one.value, one.timestamp) for one in kept
    )
    assert (await purge(stage.here(redrive_limit=2), Filter(), dry_run=True)).purged == 5
    assert await purge(stage.here(redrive_limit=2), Filter()) == Purged(purged=5)
    assert [one async for one in find(stage.here(redrive_limit=2), Filter())] == []
