"""Replays through merchants' adapters out of a real store: the routes, one version for all, or none."""

from pathlib import Path
from typing import Any

import pytest

from streamer import topics
from streamer.errors import InputError
from streamer.pipeline import FALLBACK
from streamer.records import TagEvent
from streamer.worker import load_tagger
from taggen.errors import AdapterError
from tests.brokers import SLOW_ON_KAFKA
from tests.integration.test_merchant_adapters import TITLES, Checker, Published, listing
from tests.integration.test_replay import Run
from tests.merchants import Merchants, other_content
from tests.workers import Place, Stage

OWN, OTHER = "merchant-0", "merchant-1"


@SLOW_ON_KAFKA
async def test_which_version_tags(stage: Stage, tmp_path: Path) -> None:
    """`latest` follows the routes, NAME/VERSION takes one for everybody it is for, `default` takes none; each event
    names what it is by, with the revision, and has the tags that this gives a listing alone. A version that is refused
    leaves what was valid before it, never what was rolled back."""
    merchants = await Merchants.enter(stage, tmp_path)
    published, run, checker = Published(stage), Run(stage), Checker(stage, merchants.store)
    first, second = (merchants.version("own", number, merchant=OWN) for number in (1, 2))
    everybody = merchants.version("everybody", 1)
    await merchants.send(OWN, "assign", first)
    await merchants.send(OWN, "assign", second)
    await merchants.send("somebody else", "assign", everybody)
    numbers = range(len(TITLES))
    await published.publish([listing(merchant, number) for merchant in (OWN, OTHER) for number in numbers])
    tagger = load_tagger(stage.here(**stage.settings))

    async def by(name: str, adapter: str, merchant: str | None = None) -> set[tuple[Any, ...]]:
        """Merchant, adapter, version, revision and flags of the events of a replay."""
        into = f"{name}-{stage.name}"
        await topics.ensure([topics.Topic(into, 4)], bootstrap_servers=stage.broker.bootstrap)
        chosen = {"merchants": frozenset({merchant})} if merchant else {}
        options = {"into": into, "adapter": adapter, "settings": stage.settings, **chosen}
        await run.done(name, tagger=tagger, **options)
        events = await run.events(into)
        assert len(events) == len(numbers) * (1 if merchant else 2)
        for event in events:
            checker.check(event, published.listings[_place(event)][0])
        return {(one.merchant_id, *_served(one)) for one in events}

    default = (OTHER, "tiny-0", "1", 0, ())
    assert await by("latest", "latest") == {(OWN, "own", "2", 2, ()), default}
    await merchants.send(OWN, "rollback", first)
    assert await by("rolled-back", "latest") == {(OWN, "own", "1", 3, ()), default}
    assert await by("pinned", "own/2", OWN) == {(OWN, "own", "2", 3, ())}
    assert await by("everybody", "everybody/1") == {
        (OWN, "everybody", "1", 3, ()),
        (OTHER, "everybody", "1", 0, ()),
    }
    assert await by("default", "default") == {(OWN, "tiny-0", "1", 0, ()), default}
    await merchants.send(OWN, "assign", merchants.version("own", 3, damage=other_content))
    assert await by("refused", "latest") == {(OWN, "own", "1", 4, (FALLBACK,)), default}
    with pytest.raises(AdapterError, match=f"--adapter own/2: not for merchant {OTHER}"):
        await by("not-theirs", "own/2", OTHER)
    with pytest.raises(InputError, match=r"--adapter own/9: no record of adapters-.* names it"):
        await by("unpublished", "own/9")


def _served(event: TagEvent) -> tuple[str, str, int, tuple[str, ...]]:
    assert event.model is not None
    return event.model.adapter, event.model.version, event.model.revision, event.flags


def _place(event: TagEvent) -> Place:
    return tuple(event.source)
