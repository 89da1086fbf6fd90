"""An adapter cut out of another one."""

from pathlib import Path

import pytest
import torch

from taggen import adapter as adapters
from taggen.adapter import TagType
from taggen.errors import AdapterError
from taggen.subset import cut
from tests.tiny import Tiny

TAGS = {"color": TagType("colourway", "attribute", 0.9), "occasion": TagType("occasion", "occasion")}


def test_the_kept_tags_have_their_weights(tiny: Tiny, tmp_path: Path) -> None:
    """In the source's order, under names and thresholds of one's own; it is an adapter that can be read."""
    source = adapters.read(tiny.adapter)
    card = cut(tiny.adapter, tmp_path / "cut", "shop", "3", "acme", TAGS)
    adapter = adapters.read(tmp_path / "cut")
    assert adapter.card == card
    assert (card.name, card.version, card.merchant, card.labels) == ("shop", "3", "acme", ())
    assert card.tags == (TAGS["color"], TAGS["occasion"])
    places = [tag.name for tag in source.card.tags]
    rows = [0]
    for name in TAGS:
        rows += [2 * places.index(name) + 1, 2 * places.index(name) + 2]
    for ours, theirs in zip(adapter.head(), source.head(), strict=True):
        assert torch.equal(ours, theirs[rows])
    for layer, (a, b) in source.updates().items():
        assert torch.equal(adapter.updates()[layer][0], a)
        assert torch.equal(adapter.updates()[layer][1], b)


def test_nothing_to_keep(tiny: Tiny, tmp_path: Path) -> None:
    """A source without any of the tags is an error that names them."""
    with pytest.raises(AdapterError, match="voltage"):
        cut(tiny.adapter, tmp_path, "shop", "3", "acme", {"voltage": TagType("voltage", "attribute")})
