"""`streamer adapters` with running workers: a merchant's life, and what a refusal looks like."""

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from typer.testing import CliRunner

import streamer.cli
import taggen.cli
from streamer.routing import Canary
from taggen import trainable
from taggen.adapter import CARD, TENSORS, Card
from taggen.base import load_base
from taggen.listing import Listing
from tests.brokers import TANSU
from tests.merchants import Merchants
from tests.tiny import TAG_SET
from tests.workers import CODEC, Stage

pytestmark = TANSU  # test_rollout.py has both

# Small, and enough for the tiny base's adapters; beside 8-bit layers their size would depend on the processor.
MEMORY = {"adapter_memory": 2**20, "quantization": "none"}
COLOURS = ("red", "blue", "green", "black", "white", "grey")
THINGS = ("shoes", "boots", "dress", "bag", "socks", "chair")


async def run(stage: Stage, *arguments: object, code: int = 0, **settings: object) -> str:
    """Run `streamer adapters` in this process, torch being loaded here; returns its output."""
    environment = stage.environment(MEMORY | settings)
    line = ["adapters", *map(str, arguments)]
    result = await asyncio.to_thread(CliRunner().invoke, streamer.cli.app, line, env=environment)
    assert result.exit_code == code, result.output
    return result.output if code else result.stdout


def train(stage: Stage, folder: Path, merchant: str, version: int, *tags: str) -> Path:
    """An adapter of a merchant's that finds colours and things, under names of its own."""
    data = folder / "data.jsonl"
    titles = [
        f"<{tags[0]}>{colour}</{tags[0]}> <{tags[1]}>{thing}</{tags[1]}>" for colour in COLOURS for thing in THINGS
    ]
    data.write_text("".join(json.dumps({"title": title}) + "\n" for title in titles))
    out = folder / f"{merchant}-{version}"
    options: dict[str, object] = {
        "out": out,
        "name": f"for-{merchant}",
        "version": version,
        "merchant": merchant,
        "base-model": stage.tiny.base,
        "dev-share": 0,
        "epochs": 12,
        "learning-rate": 0.02,
        "rank": 4,
        "threads": 1,
    }
    line = ["train", *(f"--{name}={value}" for name, value in options.items()), str(data)]
    result = CliRunner().invoke(taggen.cli.app, line)
    assert result.exit_code == 0, result.output
    return out


def listing(merchant: str, number: int) -> Listing:
    """A listing of a merchant's."""
    return Listing(merchant, f"p-{number}", 1, f"{COLOURS[number % 6]} {THINGS[number % 5]}", event_time=1)


async def tagged(stage: Stage, merchant: str, products: int = 12) -> Mapping[str, Any]:
    """Publish listings of a merchant's; their tag events by product."""
    listings = [listing(merchant, number) for number in range(products)]
    places = await stage.publish([CODEC.encode_listing(one) for one in listings])
    found = await stage.outcomes(places, others=True)
    return {event.product_id: event for [event] in found.values()}


async def test_a_merchants_life(stage: Stage, tmp_path: Path) -> None:
    """Two merchants train adapters with tags of their own and publish them while a worker runs: each one's events carry
    its own tags from then on. One tries the next version on half of its products, rolls it back, and retires."""
    await Merchants.enter(stage, tmp_path)
    acme = train(stage, tmp_path, "acme", 1, "shade", "item")
    nordic = train(stage, tmp_path, "nordic", 1, "colour", "ware")
    assert "No merchant has" in await run(stage, "list")
    with stage.worker(**MEMORY) as worker:
        await worker.until("consuming")
        lines = (await run(stage, "publish", "acme", acme)).splitlines()
        assert [line.split()[0] for line in lines] == ["Checked", "Stored", "Published", "Verified"]
        assert lines[0].startswith("Checked    for-acme 1: 2 tags, rank 4")
        assert lines[-1] == "Verified   by 1 of 1 live workers"
        published = json.loads(await run(stage, "publish", "nordic", nordic, "--json"))
        assert (published["revision"], published["timed_out"], len(published["workers"])) == (1, False, 1)
        for merchant, tags in (("acme", {"shade", "item"}), ("nordic", {"colour", "ware"}), ("other", None)):
            for event in (await tagged(stage, merchant)).values():
                if tags is None:
                    assert (event.model.adapter, event.model.revision) == ("tiny-0", 0)
                else:
                    assert (event.model.adapter, event.model.revision) == (f"for-{merchant}", 1)
                    assert {tag.name for tag in event.tags} == tags

        second = tmp_path / "acme-2"
        shutil.copytree(acme, second)
        (second / CARD).write_text((second / CARD).read_text().replace('"version": "1"', '"version": "2"'))
        await run(stage, "publish", "acme", second, "--canary", "0.5")
        for product, event in (await tagged(stage, "acme")).items():
            chosen = Canary(0.5, "for-acme/2").takes("acme", product)
            assert (event.model.version, event.model.revision) == ("2" if chosen else "1", 2)
        routes = {route["merchant_id"]: route for route in json.loads(await run(stage, "list", "--json"))}
        assert routes["acme"]["canary"] == {"share": 0.5, "id": "for-acme/2"}
        assert [version["version"] for version in routes["acme"]["versions"]] == ["2", "1"]
        assert "for-acme 2 for 50 %" in await run(stage, "list")

        assert "Verified   by 1 of 1" in await run(stage, "rollback", "acme")
        assert {event.model.version for event in (await tagged(stage, "acme")).values()} == {"1"}
        assert "retired: default adapter" in await run(stage, "retire", "acme")
        assert {event.model.adapter for event in (await tagged(stage, "acme")).values()} == {"tiny-0"}
        assert "served by the default adapter already" in await run(stage, "rollback", "acme", code=2)
        await run(stage, "rollback", "acme", "--to", "2")
        assert {event.model.version for event in (await tagged(stage, "acme")).values()} == {"2"}
        shown = json.loads(await run(stage, "show", "acme", "--json"))
        actions = [(record["revision"], record["action"], record["valid"]) for record in shown["records"]]
        names = ["assign", "assign", "rollback", "retire", "rollback"]
        assert actions == [(number, action, True) for number, action in enumerate(names, 1)]
        assert {status["revision"] for status in shown["workers"].values()} == {5}
        assert "in_use revision 5, for-acme 2" in await run(stage, "show", "acme")


async def test_what_the_publisher_refuses_is_nowhere(stage: Stage, tmp_path: Path) -> None:
    """Neither in the store nor on the topic, with its reason: damaged, another merchant's, worse than what serves now,
    other content of a version that is there."""
    merchants = await Merchants.enter(stage, tmp_path)
    good = train(stage, tmp_path, "acme", 1, "shade", "item")
    await run(stage, "publish", "acme", good, "--no-wait")
    stored = sorted(merchants.store.rglob("*"))

    for number, (merchant, code, damage, words) in enumerate(REFUSALS):
        folder = Path(shutil.copytree(good, tmp_path / f"refused-{number}"))
        damage(folder)
        output = await run(stage, "publish", merchant, folder, code=code)
        assert words in output
    refused = json.loads(await run(stage, "publish", "nordic", good, "--json", code=1))
    assert refused["refused"]["reason"] == "merchant"

    worse = Path(shutil.copytree(good, tmp_path / "worse"))
    (worse / CARD).write_text(edited(worse, version="2", tags=[tag | {"threshold": 1.0} for tag in tags_of(worse)]))
    data = tmp_path / "data.jsonl"
    output = await run(stage, "publish", "acme", worse, "--data", data, code=1)
    assert [line.split()[0] for line in output.splitlines()] == ["Checked", "Evaluated", "F1", "Worse"]
    assert "on 36 listings, against for-acme 1, in use\n           F1 of mentions 0.0, in use " in output

    assert sorted(merchants.store.rglob("*")) == stored
    [route] = json.loads(await run(stage, "list", "--json"))
    assert (route["merchant_id"], route["revision"]) == ("acme", 1)
    assert "never routed" in await run(stage, "retire", "nobody", code=2)
    assert "never served" in await run(stage, "rollback", "acme", "--to", "9", code=2)
    canary = await run(stage, "publish", "acme", good, "--canary", "0.5", code=2)
    assert "serves all products of acme already" in canary
    del stage.settings["adapter_store"]
    assert "STREAMER_ADAPTER_STORE: needed" in await run(stage, "publish", "acme", good, code=2)


def edited(folder: Path, **changes: object) -> str:
    """The card with some fields changed."""
    return json.dumps(json.loads((folder / CARD).read_text()) | changes)


def tags_of(folder: Path) -> list[dict[str, Any]]:
    """The card's tags."""
    return list(json.loads((folder / CARD).read_text())["tags"])


REFUSALS: list[tuple[str, int, Callable[[Path], object], str]] = [
    ("acme", 1, lambda folder: (folder / TENSORS).write_bytes(b"\x80\x04."), "Refused    format: "),
    ("acme", 1, lambda folder: (folder / CARD).write_text(edited(folder, scores={"f1": 1})), "Refused    taken: "),
    ("acme", 1, lambda folder: (folder / CARD).write_text(edited(folder, name="../up")), "Refused    name: "),
    ("nordic", 1, lambda folder: None, "Refused    merchant: "),
    ("acme", 1, lambda folder: (folder / CARD).unlink(), "Refused    missing: "),
]


async def test_what_a_worker_cannot_reach_or_refuses_fails_the_command(stage: Stage, tmp_path: Path) -> None:
    """A worker that does not reach the store tries again, and the command gives up in time; one that has too little
    memory for the version refuses it. The command says which and why; listings stay with what served before."""
    merchants = await Merchants.enter(stage, tmp_path)
    large = make_large_adapter(stage, tmp_path / "large")
    elsewhere = tmp_path / "elsewhere"
    with stage.worker(**MEMORY, adapter_store=elsewhere) as worker:
        await worker.until("consuming")
        output = await run(stage, "publish", "acme", large, "--timeout", 4, code=1, adapter_memory=2**24)
        assert "Timed out  0 of 1 verified, 1 retrying" in output
        assert "retrying revision 1, large 1: store_unavailable: " in output
        elsewhere.symlink_to(merchants.store)
        output = await run(stage, "publish", "acme", large, code=1, adapter_memory=2**24)
        assert "Refused    0 of 1 verified, 1 refused" in output
        assert "refused revision 2, large 1: size: " in output
        assert {event.model.adapter for event in (await tagged(stage, "acme")).values()} == {"tiny-0"}


def make_large_adapter(stage: Stage, folder: Path) -> Path:
    """An adapter of rank 256: sixteen pages, more than the small memory has."""
    base = load_base(str(stage.tiny.base))
    model = trainable.build(base, [tag.name for tag in TAG_SET], [], rank=256, alpha=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.clamp_(-0.1, 0.1)
    trainable.save(model, Card("large", "1", "*", "tiny", base.fingerprint, TAG_SET), folder)
    return folder
