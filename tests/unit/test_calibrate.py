from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from taggen import adapter, corpus, evaluate, tagger, trainable
from taggen.adapter import Card
from taggen.base import Base, load_base
from taggen.calibrate import Calibration, calibrate
from taggen.calibration import calibration_error, outcomes, reliability
from taggen.corpus import Labelled
from taggen.development import Development
from taggen.tagger import Tagger
from tests.tiny import LABELS, TAG_SET, Tiny


@pytest.fixture(scope="module")
def dev(tiny: Tiny) -> list[Labelled]:
    """Listings of which every third mention that the tiny adapter reads is marked, and that have labels by turns."""
    served = tagger.load(str(tiny.base), tiny.adapter, "none", device="cpu")
    items = [replace(item, spans=()) for item in corpus.held_out()]
    marked = []
    for number, (item, output) in enumerate(zip(items, evaluate.read_all(served, items), strict=True)):
        its = sorted(output.mentions, key=lambda span: (span.field, span.start))
        values = (LABELS[number % 2].value,) if number % 5 else ()
        marked.append(replace(item, spans=tuple(its[number % 3 :: 3]), labels={"use": values} if number % 7 else {}))
    return marked


def model_of(folder: Path, base: Base) -> nn.Module:
    """The tiny adapter as a model in training."""
    init = adapter.read(folder)
    labels = [(label.name, label.value) for label in LABELS]
    model = trainable.build(base, [tag.name for tag in TAG_SET], labels, init.rank, 8)
    trainable.load(model, init, [tag.name for tag in TAG_SET], labels)
    return model


def calibrated(
    tiny: Tiny, dev: Sequence[Labelled], folder: Path, precision: float | None
) -> tuple[Calibration, Tagger]:
    """Calibrate the tiny adapter; what came of it, and the new adapter served."""
    base = load_base(str(tiny.base))
    model = model_of(tiny.adapter, base)
    calibration = calibrate(model, Development(dev, base, TAG_SET, LABELS), TAG_SET, LABELS, precision)
    card = Card("a", "1", "*", "tiny", base.fingerprint, calibration.tags, labels=calibration.labels)
    trainable.save(model, card, folder)
    return calibration, tagger.load(str(tiny.base), folder, "none", device="cpu")


def error_of(served: Tagger, dev: Sequence[Labelled]) -> float:
    """The calibration error of the mentions."""
    return calibration_error(reliability(outcomes(dev, evaluate.read_all(served, dev))))


def test_what_is_calibrated_is_what_is_served(tiny: Tiny, dev: list[Labelled], tmp_path: Path) -> None:
    """The saved adapter is less wrong about itself, and finds as much as calibration said, save for the rounding to
    bfloat16."""
    calibration, served = calibrated(tiny, dev, tmp_path / "new", None)
    assert calibration.of_tags.temperature > 1  # the tiny adapter is far surer than a third
    before = tagger.load(str(tiny.base), tiny.adapter, "none", device="cpu")
    assert error_of(served, dev) < error_of(before, dev) - 0.02
    score = evaluate.score(dev, evaluate.tag_all(served, dev))[evaluate.MICRO]
    said = calibration.of_tags.tuned
    assert score.marked == said.marked
    assert (score.found, score.right) == pytest.approx((said.found, said.right), rel=0.02)
    assert calibration.of_tags.tuned.f1 >= calibration.of_tags.plain.f1
    assert calibration.record()["tags"]["at_thresholds"] == said.rounded()


def test_a_target_of_precision_is_met_with_what_recall_it_leaves(
    tiny: Tiny, dev: list[Labelled], tmp_path: Path
) -> None:
    """Of tags and of labels."""
    plain, _ = calibrated(tiny, dev, tmp_path / "plain", None)
    strict, served = calibrated(tiny, dev, tmp_path / "strict", 0.6)
    for quality, other in ((strict.of_tags, plain.of_tags), (strict.of_labels, plain.of_labels)):
        assert quality.tuned.precision >= 0.6 or quality.tuned.found == 0
        assert quality.tuned.recall <= other.tuned.recall
    assert [tag.threshold for tag in served.card.tags] == [tag.threshold for tag in strict.tags]
    assert [label.threshold for label in served.card.labels] == [label.threshold for label in strict.labels]
    assert strict.record()["precision_target"] == 0.6


def test_labels_of_unknown_names_have_no_say(tiny: Tiny, dev: list[Labelled]) -> None:
    """Listings without labels leave them at a half and as they are scaled."""
    base = load_base(str(tiny.base))
    bare = [replace(item, labels={}) for item in dev]
    calibration = calibrate(model_of(tiny.adapter, base), Development(bare, base, TAG_SET, LABELS), TAG_SET, LABELS)
    assert calibration.labels == LABELS
    assert calibration.of_labels.temperature == 1.0
    assert calibration.of_labels.plain.marked == calibration.of_labels.tuned.found == 0
