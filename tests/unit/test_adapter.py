import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from taggen import adapter, tagger
from taggen.adapter import CARD, CONFIG, TENSORS, Card, LabelType, TagType
from taggen.errors import AdapterError
from tests.tiny import Tiny, make_tiny_base

HEAD = "base_model.model.head"
LABEL = {"name": "use", "value": "garden", "kind": "occasion"}
QUERY = "base_model.model.encoder.encoder.layer.0.attention.self.query"


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    """A copy of the tiny adapter, to be damaged."""
    return Path(shutil.copytree(tiny.adapter, tmp_path / "adapter"))


def edit_json(path: Path, **changes: Any) -> None:
    """Change some keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the adapter's tensors."""
    tensors = load_file(folder / TENSORS)
    change(tensors)
    save_file(tensors, folder / TENSORS)


def test_a_card_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Tag set, labels, training and scores included; a card without labels is one of none."""
    tags = (TagType("brand", "attribute", 0.25), TagType("防水", "function"))
    labels = (LabelType("category", "shoes", "attribute", 0.3), LabelType("category", "男鞋", "attribute"))
    card = Card("name", "1.2", "m-7", "base", "f" * 64, tags, {"epochs": 3}, {"en": {"micro": 0.5}}, labels=labels)
    card.write(tmp_path)
    assert Card.from_json((tmp_path / CARD).read_bytes()) == card
    content = json.loads((tmp_path / CARD).read_text())
    without_tags = content | {"tags": []}
    assert Card.from_json(json.dumps(without_tags).encode()) == replace(card, tags=())
    del content["labels"]
    assert Card.from_json(json.dumps(content).encode()) == replace(card, labels=())


def test_the_digest_is_of_all_three_files(folder: Path) -> None:
    """A threshold, a byte of the weights or a setting of PEFT's makes another adapter."""
    digests = {adapter.read(folder).digest}
    edit_json(folder / CARD, version="2")
    digests.add(adapter.read(folder).digest)
    edit_json(folder / CONFIG, lora_dropout=0.2)
    digests.add(adapter.read(folder).digest)
    edit_tensors(folder, lambda tensors: tensors[f"{HEAD}.bias"].add_(1))
    digests.add(adapter.read(folder).digest)
    assert len(digests) == 4


@pytest.mark.parametrize("name", [CONFIG, TENSORS, CARD])
def test_a_missing_or_huge_file_is_named(name: str, folder: Path) -> None:
    """Nothing larger than an adapter can be is read into memory."""
    with (folder / name).open("r+b") as file:
        file.truncate((adapter.MAX_BYTES if name == TENSORS else adapter.MAX_TEXT_BYTES) + 1)
    with pytest.raises(AdapterError, match=rf"{name}: larger than") as raised:
        adapter.read(folder)
    assert raised.value.reason == "size"
    (folder / name).unlink()
    with pytest.raises(AdapterError, match=rf"{name}: No such file") as raised:
        adapter.read(folder)
    assert raised.value.reason == "missing"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora = True is not served"),
        ({"use_rslora": True}, "use_rslora"),
        ({"bias": "all"}, "bias"),
        ({"rank_pattern": {"query": 8}}, "rank_pattern"),
        ({"alpha_pattern": {"query": 8}}, "alpha_pattern"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"of_a_later_peft": True}, "of_a_later_peft"),
        ({"peft_type": "IA3"}, "only LORA is served"),
        ({"r": 0}, "r = 0"),
        ({"r": 5}, "no partner of rank 5"),
        ({"r": "4"}, "r = '4'"),
        ({"lora_alpha": float("nan")}, "lora_alpha = nan"),
    ],
)
def test_what_would_be_served_wrongly_is_refused(changes: dict[str, Any], message: str, folder: Path) -> None:
    """LoRA in its plain form is served; every variation is named and refused."""
    edit_json(folder / CONFIG, **changes)
    with pytest.raises(AdapterError, match=message):
        adapter.read(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2, this program reads 3: train it anew"),
        ({"name": ""}, "strings of 1 to 256"),
        ({"merchant": None}, "strings of 1 to 256"),
        ({"tags": [], "labels": []}, "1 to 512 different tags, or labels"),
        ({"tags": [{"name": "a", "kind": "function"}] * 2}, "different tags"),
        ({"tags": [{"name": ["a"], "kind": "function"}]}, "tag name"),
        ({"tags": [{"name": "<b>", "kind": "function"}]}, "tag name '<b>'"),
        ({"tags": [{"name": "a", "kind": "feeling"}]}, "kind 'feeling'"),
        ({"tags": [{"name": "a", "kind": "function", "threshold": 1.5}]}, "threshold 1.5"),
        ({"tags": [{"name": "a"}]}, "kind"),
        ({"tags": 7}, "not iterable"),
        ({"surprise": 7}, "surprise"),
        ({"labels": 7}, "not iterable"),
        ({"labels": [LABEL | {"name": "<b>"}]}, "tag name '<b>'"),
        ({"labels": [LABEL | {"value": ""}]}, "label use: value ''"),
        ({"labels": [LABEL | {"value": "a\nb"}]}, "label use: value"),
        ({"labels": [LABEL | {"value": "a" * 65}]}, "label use: value"),
        ({"labels": [LABEL | {"value": ["a"]}]}, "label use: value"),
        ({"labels": [LABEL | {"kind": "feeling"}]}, "kind 'feeling'"),
        ({"labels": [LABEL | {"threshold": -1}]}, "threshold -1"),
        ({"labels": [LABEL] * 2}, "all different"),
        ({"labels": [LABEL | {"value": str(n)} for n in range(513)]}, "at most 512 labels"),
        ({"labels": [LABEL, LABEL | {"value": "b", "kind": "attribute"}]}, "label use: of two kinds"),
        ({"labels": [LABEL | {"name": "brand"}]}, "label brand: of two kinds"),
        ({"labels": [LABEL]}, "12 rows for 5 tags and 1 labels"),
        ({"tags": [{"name": "a", "kind": "function"}]}, "5 rows for 1 tags and 2 labels"),
    ],
)
def test_a_card_that_breaks_the_format_is_refused(changes: dict[str, Any], message: str, folder: Path) -> None:
    """The message names what is wrong; a head of another width than the tag set is too."""
    edit_json(folder / CARD, **changes)
    with pytest.raises(AdapterError, match=message):
        adapter.read(folder)


@pytest.mark.parametrize("name", [CONFIG, CARD])
@pytest.mark.parametrize("text", ["", "[]", "7", "null", "{", "[" * 100_000, '{"r": 4}', "\ud800"])
def test_what_is_no_json_object_is_refused(name: str, text: str, folder: Path) -> None:
    """Damaged, empty, nested without end: one exception for all, with the file's name."""
    (folder / name).write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(AdapterError, match=name):
        adapter.read(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors[f"{HEAD}.bias"].fill_(float("nan")), "head.bias holds values that are not finite"),
        (lambda tensors: tensors[f"{QUERY}.lora_A.weight"].fill_(float("inf")), "not finite"),
        (lambda tensors: tensors.pop(f"{QUERY}.lora_B.weight"), "query.lora_A.weight has no partner"),
        (lambda tensors: tensors.pop(f"{QUERY}.lora_A.weight"), "query.lora_B.weight has no partner"),
        (lambda tensors: tensors.update({f"{QUERY}.lora_B.weight": torch.ones(4)}), "no partner of rank 4"),
        (lambda tensors: tensors.update({"encoder.x.lora_A.weight": torch.ones(4, 4)}), "neither LoRA nor head"),
        (lambda tensors: tensors.update({f"{QUERY}.weight": torch.ones(4)}), "neither LoRA nor head"),
        (lambda tensors: tensors.update({f"{HEAD}.bias": torch.ones(11, dtype=torch.int8)}), "torch.int8"),
        (lambda tensors: tensors.pop(f"{HEAD}.bias"), "does not have 13 rows for 5 tags and 2 labels"),
        (lambda tensors: tensors.update({f"{HEAD}.weight": torch.ones(11)}), "does not have 13 rows"),
        (lambda tensors: tensors.update({f"{HEAD}.weight": torch.tensor(1.0)}), "does not have 13 rows"),
    ],
)
def test_tensors_that_do_not_belong_are_refused(
    change: Callable[[dict[str, torch.Tensor]], object], message: str, folder: Path
) -> None:
    """Each tensor is LoRA with its partner, or the head; each value is finite."""
    edit_tensors(folder, change)
    with pytest.raises(AdapterError, match=message):
        adapter.read(folder)


def test_only_whole_safetensors_are_opened(folder: Path) -> None:
    """A cut file and a pickle in its place are refused, and the pickle is not run."""
    whole = (folder / TENSORS).read_bytes()
    for damaged in (whole[:-10], whole[:100], b"", pickle.dumps(_Trap())):
        (folder / TENSORS).write_bytes(damaged)
        with pytest.raises(AdapterError, match=TENSORS):
            adapter.read(folder)
    assert not _Trap.sprung


class _Trap:
    """Is sprung when it is unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (_Trap, "sprung", True))


def test_an_adapter_for_another_base_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    """The message names both, and says what to do."""
    other = make_tiny_base(tmp_path / "other", seed=1)
    with pytest.raises(AdapterError, match=rf"tiny-0 1 was trained on tiny, not on {other}.*taggen train"):
        tagger.load(str(other), tiny.adapter)


def test_a_head_of_another_width_than_the_base_is_refused(tiny: Tiny, folder: Path) -> None:
    """The fingerprint fits, the shapes do not."""
    edit_tensors(folder, lambda tensors: tensors.update({f"{HEAD}.weight": torch.ones(13, 31)}))
    with pytest.raises(AdapterError, match="31 wide, not 32"):
        tagger.load(str(tiny.base), folder)


def test_a_merchants_rules_belong_to_the_adapter(folder: Path) -> None:
    """They are read and checked with it, and change its digest."""
    before = adapter.read(folder)
    (folder / adapter.RULES).write_text('{"color": {"synonyms": {"deep sea": ["navy"]}}}')
    after = adapter.read(folder)
    assert (before.rules.normalize("color", "Navy"), after.rules.normalize("color", "Navy")) == ("navy", "deep sea")
    assert before.digest != after.digest
    (folder / adapter.RULES).write_text('{"color": {"claims": "never"}}')
    with pytest.raises(AdapterError, match=r"rules\.json: color"):
        adapter.read(folder)
