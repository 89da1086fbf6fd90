from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from taggen import corpus, tagger, trainable, training
from taggen.adapter import Adapter, Card, LabelType, TagType
from taggen.adapter import read as read_adapter
from taggen.base import load_base
from taggen.checkpoint import Checkpoint
from taggen.corpus import Labelled
from taggen.errors import AdapterError, TrainingError
from taggen.evaluate import Score
from taggen.listing import Listing
from taggen.training import Epoch, Settings, Step, Trained
from tests.tiny import Tiny, make_tiny_base

LISTINGS = corpus.held_out()[:32]
TAG_SET = tuple(TagType(tag, kind) for tag, kind in corpus.TAGS.items())


def train(tiny: Tiny, items: Sequence[Labelled] = LISTINGS, **options: Any) -> Trained:
    """A short training: two steps an epoch unless told otherwise."""
    names = ("dev", "init", "checkpoint", "progress", "labels")
    others = {key: options.pop(key) for key in names if key in options}
    tags = options.pop("tags", TAG_SET)
    settings = Settings(**({"epochs": 1, "rank": 4, "alpha": 8} | options))
    return training.train(load_base(str(tiny.base)), items, tags, settings, **others)


def weights(trained: Trained) -> torch.Tensor:
    """All weights that were trained, in one row."""
    return torch.cat([weight.flatten() for weight in trained.model.parameters() if weight.requires_grad])


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_seed_gives_the_same_weights(dropout: float, tiny: Tiny) -> None:
    """Bit for bit, on one machine; another seed gives others."""
    first, second, other = (weights(train(tiny, seed=seed, dropout=dropout)) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_loss_falls(tiny: Tiny) -> None:
    """Even a tiny model learns that most words carry no tag; every step and epoch is told."""
    told: list[Step | Epoch] = []
    trained = train(tiny, epochs=4, learning_rate=1e-2, batch_listings=8, progress=told.append)
    assert [report.step for report in told if isinstance(report, Step)] == list(range(1, 4 * 4 + 1))
    assert tuple(report for report in told if isinstance(report, Epoch)) == trained.epochs
    assert trained.epochs[-1].loss < 0.9 * trained.epochs[0].loss
    assert (trained.kept, trained.epochs[-1].f1) == (4, None)


def test_the_best_epoch_on_dev_is_kept(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training stops when F1 stays below its best for so many epochs, and goes back to that epoch's weights; as long as
    nothing is found at all it goes on, and a development part too small to go by decides nothing."""
    scores = iter([0, 0, 0, 1, 0, 1, 3])
    seen: list[torch.Tensor] = []

    def score(_: object, model: nn.Module) -> Score:
        seen.append(weights(Trained(model, (), 0)))
        return Score(3, 3, next(scores))

    monkeypatch.setattr(training.Development, "score", score)
    items = corpus.held_out()[:4]
    monkeypatch.setattr(training, "FEWEST", len(items))
    trained = train(tiny, items, epochs=9, patience=2, dev=items, learning_rate=1e-2)
    assert [epoch.f1 for epoch in trained.epochs] == [0, 0, 0, 1 / 3, 0, 1 / 3]
    assert trained.kept == 4
    assert torch.equal(weights(trained), seen[3])
    assert not torch.equal(weights(trained), seen[5])
    scores = iter([3, 0, 0, 0])
    few = train(tiny, items, epochs=4, patience=2, dev=items[:3], learning_rate=1e-2)
    assert ([epoch.f1 for epoch in few.epochs], few.kept) == ([1, 0, 0, 0], 4)


def test_a_batch_that_teaches_nothing_changes_no_number_to_nan(tiny: Tiny) -> None:
    """Listings of which nothing is marked, and of which nobody knows what else is there."""
    trained = train(tiny, [replace(item, spans=(), partial=True) for item in LISTINGS[:4]])
    assert trained.epochs[0].loss == 0
    assert torch.isfinite(weights(trained)).all()


def test_the_base_stays_as_it_is(tiny: Tiny) -> None:
    """LoRA and head are trained, nothing else, and what is saved is for this base."""
    before = load_base(str(tiny.base))
    kept = {name: value.clone() for name, value in before.encoder.state_dict().items()}
    model = train(tiny).model
    after = {
        name.replace(".base_layer", ""): value for name, value in model.base_model.model.encoder.state_dict().items()
    }
    assert all(torch.equal(value, after[name]) for name, value in kept.items())
    names = {name.split(".")[-3] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == {"lora_A", "lora_B", "modules_to_save"}


def test_only_the_named_layers_are_adapted(tiny: Tiny) -> None:
    """By their names' ends; a name that no layer has is told, with those that there are."""
    model = train(tiny, targets=("query", "intermediate.dense")).model
    names = {name.partition(".lora_A")[0] for name, _ in model.named_parameters() if "lora_A" in name}
    assert {name.rpartition("layer.")[2] for name in names} == {
        f"{layer}.{name}" for layer in (0, 1) for name in ("attention.self.query", "intermediate.dense")
    }
    with pytest.raises(TrainingError, match=r"no linear layer named 'queries': it has dense, key, query, value"):
        train(tiny, targets=("queries",))


def saved(trained: Trained, tiny: Tiny, folder: Path, tags: tuple[TagType, ...] = TAG_SET) -> Adapter:
    """The trained model as an adapter in memory."""
    card = Card("a", "1", "*", "tiny", load_base(str(tiny.base)).fingerprint, tags)
    trainable.save(trained.model, card, folder)
    return read_adapter(folder)


def test_training_goes_on_from_an_adapter(tiny: Tiny, tmp_path: Path) -> None:
    """Rank, alpha, layers and update are its; so are the head's rows of tags that both have, wherever they stand."""
    init = saved(train(tiny, targets=("query", "value"), rank=6, alpha=9), tiny, tmp_path / "init")
    base = load_base(str(tiny.base))
    settings = training.continued(Settings(epochs=0), init, base)
    assert (settings.rank, settings.alpha, settings.targets) == (6, 9, ("query", "value"))
    tags = (TagType("heel", "attribute"), TagType("material", "attribute"), TagType("brand", "attribute"))
    went_on = saved(training.train(base, [], tags, settings, init=init), tiny, tmp_path / "on", tags)
    assert went_on.rank == 6
    for layer, (a, b) in init.updates().items():
        assert torch.equal(went_on.updates()[layer][0], a)
        assert torch.equal(went_on.updates()[layer][1], b)
    (weight, bias), (old_weight, old_bias) = went_on.head(), init.head()
    numbers = {tag.name: number for number, tag in enumerate(TAG_SET, 1)}
    theirs = [0, *(2 * numbers[name] + row for name in ("material", "brand") for row in (-1, 0))]
    assert torch.equal(weight[[0, 3, 4, 5, 6]], old_weight[theirs])
    assert torch.equal(bias[[0, 3, 4, 5, 6]], old_bias[theirs])
    assert not any(torch.equal(weight[1], row) for row in old_weight)


def test_labels_are_learnt_and_taken_over(tiny: Tiny, tmp_path: Path) -> None:
    """What the words say of the whole listing, from listings that nobody marked; an adapter that goes on keeps the rows
    of the labels that both have."""
    words = {"home": "sofa table", "sport": "ball shoe"}
    items = [
        Labelled(Listing("m", str(number), 1, title), (), partial=True, labels={"use": (value,)})
        for number, (value, title) in enumerate(list(words.items()) * 8)
    ]
    labels = tuple(LabelType("use", value, "occasion") for value in words)
    trained = train(
        tiny, items, tags=(), labels=labels, dev=items, epochs=15, batch_listings=4, patience=15, learning_rate=1e-2
    )
    assert trained.epochs[-1].f1 == 1.0
    card = Card("a", "1", "*", "tiny", load_base(str(tiny.base)).fingerprint, (), labels=labels)
    trainable.save(trained.model, card, tmp_path / "init")
    served = tagger.load(str(tiny.base), tmp_path / "init", device="cpu")
    taggings = served.tag(served.prepare([item.listing for item in items[:2]]))
    assert [[tag.value for tag in tagging.tags] for tagging in taggings] == [["home"], ["sport"]]
    init = read_adapter(tmp_path / "init")
    others = (LabelType("use", "garden", "occasion"), labels[1])
    settings = training.continued(Settings(epochs=0), init, load_base(str(tiny.base)))
    model = training.train(load_base(str(tiny.base)), [], TAG_SET, settings, init=init, labels=others).model
    weight = trainable.head_of(model).weight.detach()
    assert weight.shape[0] == 2 * len(TAG_SET) + 3
    assert torch.equal(weight[-1], init.head()[0][-1])
    assert not torch.equal(weight[-2], init.head()[0][-2])


def test_an_adapter_for_another_base_is_not_gone_on_from(tiny: Tiny, tmp_path: Path) -> None:
    """Its update would mean nothing there."""
    init = saved(train(tiny), tiny, tmp_path / "init")
    with pytest.raises(AdapterError, match="was trained on tiny, not on"):
        training.continued(Settings(), init, load_base(str(make_tiny_base(tmp_path / "other", seed=1))))


class Killed(Exception):
    """The end, in the middle of an epoch."""


def test_a_run_goes_on_from_its_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    """Cut off in the third epoch it ends with the weights of a run that was not, the best ones, dropout and all."""
    settings = {"epochs": 4, "dropout": 0.1, "learning_rate": 1e-2, "dev": LISTINGS[: training.FEWEST]}
    checkpoint = Checkpoint(tmp_path, {"what": "this"})

    def kill(report: Step | Epoch) -> None:
        if isinstance(report, Step) and report.step == 2 * 2 + 1:
            raise Killed

    with pytest.raises(Killed):
        train(tiny, **settings, checkpoint=checkpoint, progress=kill)
    told: list[Step | Epoch] = []
    again = train(tiny, **settings, checkpoint=checkpoint, progress=told.append)
    through = train(tiny, **settings)
    assert isinstance(told[0], Step)
    assert told[0].step == 2 * 2 + 1
    assert again.epochs == through.epochs
    assert again.kept == through.kept
    assert torch.equal(weights(again), weights(through))
