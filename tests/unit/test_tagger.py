import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from taggen import adapter as adapters
from taggen import corpus, evaluate, head, mixed, normalize, tagger
from taggen.adapter import Adapter
from taggen.base import load_base
from taggen.errors import AdapterError, DeviceError, NonFiniteScores
from taggen.listing import Listing
from taggen.tag import Evidence, Tagging
from taggen.tagger import Tagger
from tests.adapters import write_adapter
from tests.tiny import Tiny
from tests.unit.test_adapter import edit_json

WAYS = [("int8", "float32"), ("int8", "bfloat16"), ("none", "float32"), ("none", "bfloat16")]
PIECES = [
    "Nike",
    "red",
    "shoe,",
    "water-proof",
    "防水",
    "leather",
    "男子运动鞋",
    "<b>soft</b>",
    "&amp;",
    "½",
    "\u0301",
    "🚀",
]


def random_listings(count: int, random_: random.Random) -> list[Listing]:
    """Listings of one to some 400 tokens, some of them longer than a window."""
    return [
        Listing("m", str(number), 1, " ".join(random_.choices(PIECES, k=random_.choice((1, 2, 5, 12, 40, 100)))))
        for number in range(count)
    ]


def tag(served: Tagger, listings: Sequence[Listing]) -> list[Tagging]:
    """Tag in one micro-batch."""
    return served.tag(served.prepare(listings))


@pytest.mark.parametrize(("quantization", "dtype"), WAYS)
def test_a_tag_depends_on_its_listing_alone(quantization: Any, dtype: str, tiny: Tiny) -> None:
    """A listing's tags and confidences have the same bits alone and in any batch beside any neighbours."""
    served = tagger.load(str(tiny.base), tiny.adapter, quantization, dtype, "cpu")
    random_ = random.Random(dtype + quantization)  # noqa: S311
    listings = random_listings(40, random_)
    alone = [tag(served, [listing])[0] for listing in listings]
    assert sum(len(tagging.tags) for tagging in alone) > 100
    for size in (40, 3, 7, 13, 25):
        chosen = random_.sample(range(40), size)
        assert tag(served, [listings[at] for at in chosen]) == [alone[at] for at in chosen]


def test_a_pass_holds_what_the_cache_does(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one length go through the model some at a time, one at least, and come out as they were."""
    served = tagger.load(str(tiny.base), tiny.adapter, device="cpu")
    listings = random_listings(40, random.Random(1))  # noqa: S311
    expected = tag(served, listings)
    passes: list[tuple[int, int]] = []
    served._model.encoder.register_forward_pre_hook(
        lambda _, __, inputs: passes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    monkeypatch.setattr(mixed, "PASS_BYTES", 4 * served._model._widest * 64 // torch.get_num_threads())
    assert tag(served, listings) == expected
    assert all(rows == 1 or rows * tokens <= 64 for rows, tokens in passes)
    assert max(rows for rows, _ in passes) > 1
    assert len(passes) > len({tokens for _, tokens in passes})


def test_another_run_gives_the_same_bits(tiny: Tiny) -> None:
    """Loaded anew and with another number of threads too."""
    listings = random_listings(10, random.Random(0))  # noqa: S311
    threads = torch.get_num_threads()
    runs = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            runs.append(tag(tagger.load(str(tiny.base), tiny.adapter, device="cpu"), listings))
    finally:
        torch.set_num_threads(threads)
    assert runs[0] == runs[1]
    assert sum(len(tagging.tags) for tagging in runs[0]) > 20


def test_nothing_has_no_tags(tiny: Tiny) -> None:
    """Neither has a listing whose title is mark-up alone, nor a batch without listings."""
    served = tagger.load(str(tiny.base), tiny.adapter, device="cpu")
    assert tag(served, [Listing("m", "p", 1, "<br>")]) == [Tagging((), ())]
    assert tag(served, []) == []


def test_a_label_has_the_probability_of_the_surest_window(tiny: Tiny) -> None:
    """Of a listing that is read in several."""
    served = tagger.load(str(tiny.base), tiny.adapter, device="cpu")
    (prepared,) = served.prepare([Listing("m", "p", 1, " ".join([*PIECES * 20, *["leather"] * 200]))])
    assert len(prepared.windows) > 2
    alone = [served.read([replace(prepared, windows=[window])])[0].labels for window in prepared.windows]
    assert [max(column) for column in zip(*alone, strict=True)] == served.read([prepared])[0].labels
    assert len({labels[0] for labels in alone}) > 1


def test_flags_come_through(tiny: Tiny) -> None:
    """A listing that is not read to its end says so beside its tags."""
    served = tagger.load(str(tiny.base), tiny.adapter, device="cpu")
    description = "㌕" * 20_000  # of four letters each; all one word
    whole, cut = tag(served, [Listing("m", "p", 1, "red"), Listing("m", "p", 1, "red", description=description)])
    assert (whole.flags, cut.flags) == ((), ("text_truncated",))


@pytest.mark.parametrize("quantization", ["int8", "none"])
def test_scores_that_are_not_finite_are_no_tags(quantization: Any, tiny: Tiny) -> None:
    """A model that answers NaN raises; softmax would make a tag of it."""
    served = tagger.load(str(tiny.base), tiny.adapter, quantization, device="cpu")
    served._model.encoder.encoder.layer[1].output.LayerNorm.weight[5] = float("nan")
    with pytest.raises(NonFiniteScores):
        tag(served, [Listing("m", "p", 1, "red shoe")])


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), DeviceError),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), DeviceError),
        (RuntimeError("shapes cannot be multiplied"), RuntimeError),
    ],
)
def test_a_failing_device_is_told_from_a_failing_model(raised: Exception, expected: type, tiny: Tiny) -> None:
    """Memory and lost devices are nobody's fault; anything else comes through as it is."""
    served = tagger.load(str(tiny.base), tiny.adapter, device="cpu")

    def fail(*_: object) -> None:
        raise raised

    served._model.encoder.register_forward_hook(fail)
    with pytest.raises(expected) as caught:
        tag(served, [Listing("m", "p", 1, "red shoe")])
    assert type(caught.value) is expected


@pytest.mark.parametrize("device", ["cuda:99", "teapot"])
def test_a_device_that_is_not_there_stops_the_start(device: str, tiny: Tiny) -> None:
    """In one line that names it."""
    with pytest.raises(DeviceError, match=f"device {device} cannot be used: ") as caught:
        tagger.load(str(tiny.base), tiny.adapter, device=device)
    assert "\n" not in str(caught.value)


def test_the_fingerprint_is_of_all_that_decides_the_tags(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quantisation, compute dtype, a threshold in the card and rules change it; a generation does not."""

    def fingerprint(
        quantization: Any = "int8", dtype: str = "float32", adapter: Path = tiny.adapter, **more: Any
    ) -> str:
        return tagger.load(str(tiny.base), adapter, quantization, dtype, "cpu", **more).model.fingerprint

    other = Path(shutil.copytree(tiny.adapter, tmp_path / "adapter"))
    edit_json(other / "tagger.json", tags=[{"name": str(n), "kind": "function", "threshold": 0.1} for n in range(5)])
    different = [fingerprint(), fingerprint("none"), fingerprint(dtype="bfloat16"), fingerprint(adapter=other)]
    (other / "rules.json").write_text("{}")
    different.append(fingerprint(adapter=other))
    assert fingerprint(generation=7) == different[0]
    monkeypatch.setattr(normalize, "_built_in", lambda: ({}, "other data"))
    different.append(fingerprint())
    assert len(set(different)) == 6


def test_the_model_names_what_serves(tiny: Tiny) -> None:
    """Base, adapter and the settings that were asked for."""
    model = tagger.load(str(tiny.base), tiny.adapter, "none", "bfloat16", "cpu", generation=4).model
    assert (model.base, model.adapter, model.version) == (str(tiny.base), "tiny-0", "1")
    assert (model.generation, model.quantization, model.compute_dtype) == (4, "none", "bfloat16")
    assert model.numerics_class.endswith(f"torch-{torch.__version__}")


@pytest.fixture(scope="module")
def int8() -> Tagger:
    """The embedded base with the adapter that ships, as it is served unless something else is asked for."""
    return tagger.load(device="cpu")


@pytest.fixture(scope="module")
def plain() -> Tagger:
    """The same without quantisation."""
    return tagger.load(quantization="none", device="cpu")


@pytest.mark.parametrize("fixture", ["int8", "plain"])
def test_so_it_is_in_the_real_model(fixture: str, request: pytest.FixtureRequest) -> None:
    """Held-out listings have the same bits alone and together, also in the real model."""
    served = request.getfixturevalue(fixture)
    listings = [item.listing for item in corpus.held_out()[::5]]
    together = tag(served, listings)
    assert together == [tag(served, [listing])[0] for listing in listings]
    assert sum(len(tagging.tags) for tagging in together) > 50


def test_the_nike_listing_comes_out_right(int8: Tagger) -> None:
    """Each of its tags, with the words that carry it."""
    title = "Nike Air Force 1 Low 07 男子运动鞋"
    description = title + ",采用皮革材质,耐磨防水,适合日常休闲和运动场景。"
    (tagging,) = tag(int8, [Listing("m", "p", 1, title, description=description)])
    found = {(tag_.name, tag_.value): tag_.evidence for tag_ in tagging.tags}
    assert found.keys() >= {
        ("brand", "Nike"),
        ("product_type", "运动鞋"),
        ("material", "皮革"),
        ("function", "耐磨"),
        ("function", "防水"),
        ("occasion", "日常休闲"),
        ("occasion", "运动"),
        ("audience", "男子"),
    }
    assert found["brand", "Nike"] == (Evidence("title", 0, 4), Evidence("description", 0, 4))
    for (_, value), places in found.items():
        texts = {"title": title, "description": description}
        assert [texts[place.field][place.start : place.end] for place in places] == [value] * len(places)
    assert found["occasion", "运动"][0].start > description.index("休闲")


def test_less_probable_mentions_are_read_on_demand(int8: Tagger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides those that are read anyway, which stay as they are, and so do the tags; on words, too, each of which
    carries the tag less probably than what is read anyway."""
    items = corpus.held_out()[:16]
    read = evaluate.read_all(int8, items, least=0.1)
    for usual, more in zip(evaluate.read_all(int8, items), read, strict=True):
        assert more.tagging == usual.tagging
        assert {mention: sure for mention, sure in more.mentions.items() if sure > head.READ} == usual.mentions
    reading = head.reading
    monkeypatch.setattr(head, "reading", lambda posteriors, logits, least: reading(posteriors, logits))
    probable = evaluate.read_all(int8, items, least=0.1)
    count = [sum(len(one.mentions) for one in outputs) for outputs in (evaluate.read_all(int8, items), probable, read)]
    assert count[0] < count[1] < count[2]


def test_int8_gives_the_tags_of_the_unquantised_model(int8: Tagger, plain: Tagger) -> None:
    """Tag by tag and place by place over the held-out listings: the share of all mentions that both find."""
    items = corpus.held_out()
    found = [
        {
            (at, tag_.name, evidence)
            for at, tagging in enumerate(taggings)
            for tag_ in tagging.tags
            for evidence in tag_.evidence
        }
        for taggings in (evaluate.tag_all(int8, items), evaluate.tag_all(plain, items))
    ]
    agreement = len(found[0] & found[1]) / len(found[0] | found[1])
    print(f"int8 and unquantised agree on {100 * agreement:.1f} % of {len(found[0] | found[1])} mentions")
    assert agreement >= 0.95


def test_the_card_that_ships_is_honest(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the training files as they are, and scores that the held-out listings bear out, by language. They were
    taken with updates in float32, which all processors have in common."""
    folder = tagger.default_adapter()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12_000_000
    card = json.loads((folder / "tagger.json").read_text(encoding="utf-8"))
    shipped = {path.name: corpus.digest([path]) for path in corpus.train_files()}
    assert {name: card["training"]["files"].get(name) for name in shipped} == shipped
    monkeypatch.setattr(mixed, "update_dtype", lambda quantization, dtype, device: dtype)
    taggings = evaluate.tag_all(tagger.load(device="cpu"), corpus.held_out())
    measured = evaluate.card(evaluate.by_language(corpus.held_out(), taggings))
    assert {"all", "en", "zh"} <= measured.keys() <= card["scores"].keys()
    for language in ("all", "en", "zh"):
        assert measured[language]["micro"]["f1"] == pytest.approx(card["scores"][language]["micro"]["f1"], abs=0.5)


@pytest.fixture(scope="module")
def merchants(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    """Two adapters for the tiny base, of different tag sets."""
    root, base = tmp_path_factory.mktemp("merchants"), load_base(str(tiny.base))
    shapes = {"many": (16, 12, 4), "few": (32, 2, 0)}
    return [adapters.read(write_adapter(base, root / name, *shape)) for name, shape in shapes.items()]


def test_each_listing_is_tagged_by_its_own_adapter(merchants: list[Adapter], tiny: Tiny) -> None:
    """With its tag set; the default adapter serves beside them, and whoever is in no slot."""
    served = tagger.load(str(tiny.base), tiny.adapter, device="cpu")
    default, many, few = (served.acquire(adapter) for adapter in (served.default, *merchants))
    assert default
    assert many
    assert few
    prepared = served.prepare([Listing("m", "p", 1, "Nike red shoe, water-proof leather")] * 3)
    taggings = served.tag(prepared, [many, default, few])
    names = [{tag_.name for tag_ in tagging.tags} for tagging in taggings]
    assert taggings[1] == served.tag(prepared)[0]
    assert len(names[0] - names[2]) > 3
    assert "label" in names[0]
    assert names[1] <= {tag_.name for tag_ in served.default.card.tags} | {"use"}
    assert names[2] <= {"tag_0", "tag_1"}


def test_a_model_names_adapter_and_revision(merchants: list[Adapter], tiny: Tiny) -> None:
    """Its fingerprint is another for each adapter, whatever the revision; the default adapter's is the tagger's."""
    served = tagger.load(str(tiny.base), tiny.adapter, device="cpu")
    models = [served.model_of(adapter, 7) for adapter in (served.default, *merchants)]
    assert [(model.adapter, model.revision) for model in models] == [("tiny-0", 7), ("many", 7), ("few", 7)]
    assert len({model.fingerprint for model in models}) == 3
    assert models[0].fingerprint == served.model.fingerprint
    assert served.model_of(merchants[0], 8).fingerprint == models[1].fingerprint


@pytest.mark.parametrize("reason", ["base", "shapes", "values", "size"])
def test_an_adapter_that_does_not_fit_is_refused(reason: str, merchants: list[Adapter], tiny: Tiny) -> None:
    """Made for another base, with a layer that this one lacks, overflowing in the compute dtype, or larger than the
    memory beside the default adapter."""
    served = tagger.load(str(tiny.base), tiny.adapter, "none", "float16", "cpu", adapter_bytes=2**18)
    one = merchants[0]
    served.check(one)
    tensors = dict(one.tensors)
    if reason == "base":
        one = replace(one, card=replace(one.card, base_fingerprint="another"))
    elif reason == "shapes":
        tensors = {name.replace("layer.1", "layer.2"): tensor for name, tensor in tensors.items()}
    elif reason == "values":
        tensors = {name: tensor * 1e5 for name, tensor in tensors.items()}
    else:
        one = replace(one, rank=256)
    with pytest.raises(AdapterError) as caught:
        served.check(replace(one, tensors=tensors))
    assert caught.value.reason == reason


def test_an_adapter_without_finite_scores_fails_its_smoke_test(
    merchants: list[Adapter], tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite weights are not enough; a good one passes, and neither keeps its slot, nor torch to one thread."""
    served = tagger.load(str(tiny.base), tiny.adapter, "none", device="cpu")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    served.smoke(merchants[0])
    assert chosen == [1, 3]
    huge = {name: tensor * 1e19 for name, tensor in merchants[0].tensors.items()}
    wild = replace(merchants[0], tensors=huge, digest="wild")
    served.check(wild)
    with pytest.raises(AdapterError) as caught:
        served.smoke(wild)
    assert caught.value.reason == "smoke"
    assert chosen == [1, 3, 1, 3]
    for adapter in (wild, *merchants):
        slot = served.acquire(adapter)
        assert slot
        assert slot.references == 1


def test_the_models_thread_only_tries_a_version(merchants: list[Adapter], tiny: Tiny) -> None:
    """It is in its pages when the model is called, and the call computes with them."""
    served = tagger.load(str(tiny.base), tiny.adapter, "none", device="cpu")
    resident: list[object] = []

    def run(call: Callable[[], object]) -> None:
        slot = served.acquire_resident(merchants[0].digest)
        assert slot
        assert slot.content
        resident.append(slot.content.image)
        served.release(slot)
        call()

    served.smoke(merchants[0], run)
    assert resident == [None]


def test_a_slot_that_nobody_holds_is_not_read(merchants: list[Adapter], tiny: Tiny) -> None:
    """Its pages may be another merchant's by now: an error, never the wrong tags."""
    served = tagger.load(str(tiny.base), tiny.adapter, device="cpu")
    slot = served.acquire(merchants[0])
    assert slot
    served.release(slot)
    with pytest.raises(ValueError, match="without a reference"):
        served.tag(served.prepare([Listing("m", "p", 1, "red shoe")]), [slot])


def test_memory_for_no_adapter_stops_the_start(tiny: Tiny) -> None:
    """The message names the setting."""
    with pytest.raises(AdapterError, match="adapter_memory"):
        tagger.load(str(tiny.base), tiny.adapter, device="cpu", adapter_bytes=1000)
