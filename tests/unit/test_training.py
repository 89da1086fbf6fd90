import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from taggen import corpus, training, windows
from taggen.adapter import CARD, CONFIG, TENSORS, Card, TagType
from taggen.adapter import read as read_adapter
from taggen.base import Base, load_base
from taggen.corpus import Labelled, Span
from taggen.listing import Listing
from tests.tiny import Tiny

TAG_SET = tuple(TagType(tag, kind) for tag, kind in corpus.TAGS.items())
NUMBERS = {tag.name: number for number, tag in enumerate(TAG_SET, 1)}
BRAND, COLOR = 2 * NUMBERS["brand"] - 1, 2 * NUMBERS["color"] - 1
IGNORED = -100


@pytest.fixture(scope="module")
def base(tiny: Tiny) -> Base:
    """The tiny base, for what changes nothing of it."""
    return load_base(str(tiny.base))


def train(tiny: Tiny, seed: int, **changes: object) -> tuple[nn.Module, list[float]]:
    """A short training on the held-out listings; the model and the smoothed loss of each step."""
    settings = training.Settings(**({"epochs": 1, "rank": 4, "alpha": 8, "seed": seed} | changes))
    losses: list[float] = []
    model = training.train(
        load_base(str(tiny.base)), corpus.held_out(), TAG_SET, settings, lambda step: losses.append(step.loss)
    )
    return model, losses


def trained(model: nn.Module) -> torch.Tensor:
    """All weights that were trained, in one row."""
    return torch.cat([parameter.flatten() for parameter in model.parameters() if parameter.requires_grad])


def test_a_seed_gives_the_same_weights(tiny: Tiny) -> None:
    """Bit for bit, on one machine; another seed gives others."""
    first, second, other = (trained(train(tiny, seed)[0]) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_loss_falls(tiny: Tiny) -> None:
    """Even a tiny model learns that most words carry no tag."""
    _, losses = train(tiny, 0, epochs=6, learning_rate=1e-2, batch_listings=8)
    assert len(losses) == 6 * 9
    assert losses[-1] < 0.9 * losses[0]


def test_the_base_stays_as_it_is(tiny: Tiny) -> None:
    """LoRA and head are trained, nothing else, and what is saved is for this base."""
    before = load_base(str(tiny.base))
    weights = {name: value.clone() for name, value in before.encoder.state_dict().items()}
    model, _ = train(tiny, 0)
    after = {
        name.replace(".base_layer", ""): value for name, value in model.base_model.model.encoder.state_dict().items()
    }
    assert all(torch.equal(value, after[name]) for name, value in weights.items())
    names = {name.split(".")[-3] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == {"lora_A", "lora_B", "modules_to_save"}


def test_what_is_saved_is_small_and_read_again(tiny: Tiny, tmp_path: Path) -> None:
    """Three files in bfloat16, the same bytes each time, readable for everybody."""
    model, _ = train(tiny, 0)
    card = Card("a", "1", "*", "tiny", load_base(str(tiny.base)).fingerprint, TAG_SET)
    for folder in ("one", "two"):
        training.save(model, card, tmp_path / folder)
    assert {path.name for path in (tmp_path / "one").iterdir()} == {CONFIG, TENSORS, CARD}
    assert len({path.stat().st_mode for path in (tmp_path / "one").iterdir()}) == 1
    adapter = read_adapter(tmp_path / "one")
    assert adapter.digest == read_adapter(tmp_path / "two").digest
    assert {tensor.dtype for tensor in adapter.tensors.values()} == {torch.bfloat16}
    a, b = adapter.updates()["encoder.layer.0.attention.self.query"]
    assert (a.shape, b.shape, adapter.scale) == ((32, 4), (4, 32), 2.0)
    assert b.abs().max() > 0


def labels_of(item: Labelled, base: Base) -> list[int]:
    """The labels of the listing's tokens."""
    (prepared,) = windows.prepare([item.listing], base.tokenizer, base.special)
    return training.token_labels(item, prepared, NUMBERS)


def test_tokens_are_labelled_by_the_span_that_holds_most_of_them(base: Base) -> None:
    """The first begins, the next go on; a neighbouring span of the same tag begins anew; separators are not taught."""
    listing = Listing("m", "p", 1, "nike shoe red blue", description="red", attributes={"Colour": "black"})
    spans = (
        Span("title", 0, 9, "brand"),
        Span("title", 10, 13, "color"),
        Span("title", 14, 18, "color"),
        Span("description", 0, 3, "color"),
    )
    # nike shoe red blue | colour : black | red
    assert labels_of(Labelled(listing, spans), base) == [
        *(BRAND, BRAND + 1, COLOR, COLOR, IGNORED),
        *(IGNORED, IGNORED, 0, IGNORED),
        COLOR,
    ]
    assert labels_of(Labelled(listing, spans, partial=True), base)[-3:] == [IGNORED, IGNORED, COLOR]


@pytest.mark.parametrize(("end", "label"), [(1, 0), (2, BRAND), (3, BRAND), (4, BRAND)])
def test_a_token_that_straddles_an_edge_goes_with_its_half(end: int, label: int, base: Base) -> None:
    """A token belongs to the span that holds at least half of its characters in the original."""
    item = Labelled(Listing("m", "p", 1, "nike"), (Span("title", 0, end, "brand"),))
    assert labels_of(item, base) == [label]


def test_labels_find_their_way_through_mark_up(base: Base) -> None:
    """Spans are in the original, tokens in the clean text."""
    title = "<i>Ni<b>ke</b></i> &amp; red"
    item = Labelled(Listing("m", "p", 1, title), (Span("title", 3, 14, "brand"), Span("title", 25, 28, "color")))
    assert labels_of(item, base) == [BRAND, 0, COLOR]


def test_rows_of_a_batch_line_up(base: Base) -> None:
    """Ids, mask and labels of a window stand in one row; padding and framing tokens are not taught."""
    item = Labelled(Listing("m", "p", 1, "nike red"), (Span("title", 0, 4, "brand"),))
    long = replace(item, listing=Listing("m", "p", 1, "nike " + "red " * 300))
    batch = [(one, windows.prepare([one.listing], base.tokenizer, base.special)[0]) for one in (item, long)]
    ids, mask, labels = training.collate(batch, NUMBERS, base)
    assert ids.shape == mask.shape == labels.shape == (3, max(window.padded for window in batch[1][1].windows))
    special = base.special
    nike, red = batch[0][1].ids
    assert ids[0, :5].tolist() == [special.start, nike, red, special.separator, special.padding]
    assert mask.sum(-1).tolist() == [4, 256, 301 - 254 + windows.OVERLAP_TOKENS + 2]
    assert labels[0, :5].tolist() == [IGNORED, BRAND, 0, IGNORED, IGNORED]
    assert (labels[~mask] == IGNORED).all()


def test_an_epoch_holds_every_listing_once(base: Base) -> None:
    """In batches of the size asked for, similar lengths together."""
    items = corpus.held_out()
    augmenter = training.Augmenter(items)
    batches = list(training._batches(items, base, augmenter, 7, random.Random(0)))  # noqa: S311
    ids = [item.listing.product_id for batch in batches for item, _ in batch]
    assert sorted(ids) == sorted(item.listing.product_id for item in items)
    assert sorted(len(batch) for batch in batches) == [2] + [7] * 10
