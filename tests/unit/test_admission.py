"""Admission: each folder that must not serve is refused for its reason, on the way that publisher and worker share."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from taggen import adapter, tagger
from taggen.adapter import CARD, CONFIG, RULES, TENSORS
from taggen.admission import admit
from taggen.errors import AdapterError
from taggen.listing import Listing
from taggen.reference import Reference
from taggen.store import Store
from taggen.tagger import Tagger
from tests.tiny import Tiny, make_tiny_adapter, make_tiny_base

Damage = Callable[[Path], object]
HEAD = "base_model.model.head"
QUERY = "base_model.model.encoder.encoder.layer.0.attention.self.query"
LISTING = Listing("acme", "p-1", 1, "Waterproof leather boots")


@pytest.fixture(scope="module")
def engine(tiny: Tiny) -> Tagger:
    """A tagger on the tiny base."""
    return tagger.load(str(tiny.base), tiny.adapter, "none")


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    """Where a store at tmp_path keeps version 7 of `shoes`, made for acme."""
    folder = make_tiny_adapter(tiny.base, tmp_path / "shoes" / "7", seed=3, merchant="acme")
    card(name="shoes", version="7")(folder)
    return folder


def card(**changes: Any) -> Damage:
    """Change the card."""
    return lambda folder: (folder / CARD).write_text(json.dumps(json.loads((folder / CARD).read_text()) | changes))


def config(**changes: Any) -> Damage:
    """Change PEFT's configuration."""
    return lambda folder: (folder / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()) | changes))


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """Change the tensors."""

    def damage(folder: Path) -> None:
        found = load_file(folder / TENSORS)
        change(found)
        save_file(found, folder / TENSORS)

    return damage


def cut(name: str) -> Damage:
    """Leave half of a file."""
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: (folder / name).stat().st_size // 2]
    )


def sparse(name: str) -> Damage:
    """A gigabyte that takes no room."""

    def damage(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.truncate(2**30)

    return damage


def admitted(engine: Tagger, folder: Path, digest: str | None = None, merchant: str = "acme") -> None:
    """What publisher and worker do with a version: load it by its reference, then ask for admission.

    The digest is that of the folder as it is, so that it hides nothing, unless another one is given.
    """
    digest = digest or adapter.digest({path.name: path.read_bytes() for path in folder.iterdir() if _small(path)})
    reference = Reference("shoes", "7", digest)
    admit(Store(folder.parents[1]).load(reference), reference, merchant, engine)


def _small(path: Path) -> bool:
    return path.stat().st_size < adapter.MAX_BYTES


def test_a_sound_adapter_is_admitted(engine: Tagger, folder: Path) -> None:
    """For its merchant; with `*` in its card for everybody."""
    admitted(engine, folder)
    card(merchant="*")(folder)
    admitted(engine, folder, merchant="nordic")


class Trap:
    """Is sprung when it is unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Trap, "sprung", True)


@pytest.mark.parametrize(
    ("reason", "damage"),
    [
        pytest.param("format", cut(TENSORS), id="truncated tensors"),
        pytest.param("format", cut(CARD), id="truncated card"),
        pytest.param("config", cut(CONFIG), id="truncated config"),
        pytest.param("format", lambda folder: (folder / TENSORS).write_bytes(pickle.dumps(Trap())), id="pickle"),
        pytest.param(
            "format", lambda folder: torch.save({"w": torch.ones(2)}, folder / TENSORS), id="a zip of torch.save's"
        ),
        pytest.param("size", sparse(TENSORS), id="a gigabyte of tensors"),
        pytest.param("size", sparse(CARD), id="a gigabyte of card"),
        pytest.param("values", tensors(lambda t: t[f"{QUERY}.lora_A.weight"].fill_(torch.nan)), id="NaN in LoRA"),
        pytest.param("values", tensors(lambda t: t[f"{HEAD}.bias"].fill_(torch.inf)), id="infinity in the head"),
        pytest.param("values", tensors(lambda t: t.update({f"{HEAD}.bias": torch.ones(11).long()})), id="integers"),
        pytest.param("config", config(use_dora=True), id="DoRA"),
        pytest.param("config", config(bias="lora_only"), id="bias"),
        pytest.param("config", config(peft_type="IA3"), id="IA3"),
        pytest.param("config", config(rank_pattern={"query": 8}), id="ranks of layers' own"),
        pytest.param("config", config(lora_alpha=float("inf")), id="infinite alpha"),
        pytest.param("shapes", config(r=8), id="another rank than the tensors'"),
        pytest.param(
            "shapes",
            tensors(lambda t: t.update({f"{QUERY}.lora_A.weight": torch.ones(4, 31)})),
            id="a layer narrower than the base's",
        ),
        pytest.param(
            "shapes",
            tensors(
                lambda t: [t.update({k.replace("query", "quarry"): t.pop(k)}) for k in list(t) if "0.attention" in k]
            ),
            id="a layer that the base does not have",
        ),
        pytest.param("shapes", tensors(lambda t: t.update({f"{HEAD}.weight": torch.ones(11, 31)})), id="narrow head"),
        pytest.param("shapes", tensors(lambda t: t.update({f"{HEAD}.extra": torch.ones(1)})), id="one tensor more"),
        pytest.param("shapes", tensors(lambda t: t.pop(f"{QUERY}.lora_B.weight")), id="one tensor less"),
        pytest.param("shapes", card(tags=[{"name": "a", "kind": "attribute"}]), id="fewer tags than the head has"),
        pytest.param("tag_set", card(tags=[], labels=[]), id="no tags"),
        pytest.param("tag_set", card(tags=[{"name": "<b>", "kind": "attribute"}]), id="mark-up for a tag"),
        pytest.param("tag_set", card(tags=[{"name": "a", "kind": "mood"}]), id="a kind that is none"),
        pytest.param("tag_set", card(tags=[{"name": "a", "kind": "attribute"}] * 2), id="one tag twice"),
        pytest.param(
            "tag_set", card(tags=[{"name": "a", "kind": "attribute", "threshold": 2}]), id="a threshold above one"
        ),
        pytest.param("rules", lambda folder: (folder / RULES).write_text('{"color": 7}'), id="rules of another form"),
        pytest.param("merchant", card(merchant="nordic"), id="another merchant's"),
        pytest.param("name", card(name="../../etc"), id="a card with a path for its name"),
        pytest.param("name", card(version="8"), id="a card of another version"),
        pytest.param("base", card(base_fingerprint="0" * 64), id="another base's fingerprint"),
    ],
)
def test_what_must_not_serve_is_refused(engine: Tagger, folder: Path, reason: str, damage: Damage) -> None:
    """By a code, the same each time; the tagger tags on as before."""
    before = engine.tag(engine.prepare([LISTING]))
    damage(folder)
    for _ in range(2):
        with pytest.raises(AdapterError) as refused:
            admitted(engine, folder)
        assert refused.value.reason == reason, refused.value
    assert not Trap.sprung
    assert engine.tag(engine.prepare([LISTING])) == before


def test_a_wrong_hash_is_refused(engine: Tagger, folder: Path) -> None:
    """Whatever the content is worth."""
    with pytest.raises(AdapterError, match="digest") as refused:
        admitted(engine, folder, digest="0" * 64)
    assert refused.value.reason == "digest"


def test_an_adapter_that_was_trained_on_another_base_is_refused(engine: Tagger, folder: Path, tmp_path: Path) -> None:
    """Same shapes, other weights below: only the fingerprint tells."""
    other = make_tiny_adapter(make_tiny_base(tmp_path / "base", seed=9), tmp_path / "other", merchant="acme")
    card(name="shoes", version="7")(other)
    shutil.rmtree(folder)
    shutil.copytree(other, folder)
    with pytest.raises(AdapterError, match="trained on") as refused:
        admitted(engine, folder)
    assert refused.value.reason == "base"


def test_values_that_overflow_on_the_way_are_refused(engine: Tagger, folder: Path) -> None:
    """Each is finite and so is their product with alpha; what the layers make of them is not."""
    tensors(lambda t: [one.fill_(1e30) for name, one in t.items() if "lora_" in name])(folder)
    with pytest.raises(AdapterError) as refused:
        admitted(engine, folder)
    assert refused.value.reason == "smoke"


def test_admission_asks_about_the_reference_that_it_was_given(engine: Tagger, folder: Path) -> None:
    """An adapter at hand is not taken for the one that the record names."""
    loaded = adapter.read(folder)
    for reference, reason in (
        (Reference("shoes", "7", "0" * 64), "digest"),
        (Reference("boots", "7", loaded.digest), "name"),
        (Reference("shoes", "8", loaded.digest), "name"),
    ):
        with pytest.raises(AdapterError) as refused:
            admit(loaded, reference, "acme", engine)
        assert refused.value.reason == reason
