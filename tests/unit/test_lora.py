from dataclasses import replace

import pytest
import torch
from torch import nn

from taggen import lora
from taggen.adapter import Adapter, Card, TagType
from taggen.errors import AdapterError, BaseModelError
from taggen.normalize import Rules
from taggen.pages import Group

CPU = torch.device("cpu")


class Encoder(nn.Module):
    """Two layers of 4 to 6 and 6 to 4."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(4, 6)
        self.output = nn.Linear(6, 4)


def adapter_of(layer: str, inputs: int, outputs: int, rank: int = 2) -> Adapter:
    """An adapter for one layer, its scale 0.5."""
    tensors = {
        f"base_model.model.encoder.{layer}.lora_A.weight": torch.randn(rank, inputs),
        f"base_model.model.encoder.{layer}.lora_B.weight": torch.randn(outputs, rank),
    }
    card = Card("one", "1", "*", "base", "0", (TagType("color", "attribute"),))
    return Adapter(card, rank, 0.5, tensors, Rules(), "0")


def read(layer: nn.Module, pages: lora.LoraPages, x: torch.Tensor, *groups: Group) -> torch.Tensor:
    """The layer's output in a pass of these rows."""
    pages.current.rows, pages.current.tokens, pages.current.groups = *x.shape[:2], groups
    with torch.inference_mode():
        y: torch.Tensor = layer(x)
    return y


@pytest.mark.parametrize("rank", [2, 16, 35])
def test_the_update_stands_beside_the_layer(rank: int) -> None:
    """It comes out as if B A times the scale had been added to the layer's weight; the layer itself stays, and so do
    rows and layers without an update. Pages need not be neighbours."""
    encoder = Encoder()
    frozen = encoder.dense
    weight = frozen.weight.detach().clone()
    pages = lora.LoraPages(encoder, 8, torch.float32, CPU)
    one = adapter_of("dense", 4, 6, rank)
    image = pages.image(one)
    places = [5, 2, 7][: len(image)]
    pages.fill(places, image)
    a, b = one.tensors.values()
    x = torch.randn(3, 5, 4)
    plain = nn.functional.linear(x, weight, frozen.bias)
    merged = nn.functional.linear(x, weight + 0.5 * b @ a, frozen.bias)
    found = read(encoder.dense, pages, x, Group(slice(1, 3), len(places), torch.tensor(places)))
    torch.testing.assert_close(found, torch.cat((plain[:1], merged[1:])), rtol=1e-4, atol=1e-4)
    assert torch.equal(frozen.weight, weight)
    wide = torch.randn(3, 5, 6)
    untouched = read(encoder.output, pages, wide, Group(slice(0, 3), len(places), torch.tensor(places)))
    assert torch.equal(untouched, encoder.output.base(wide))


def test_pages_of_half_the_bits_hold_the_update_too() -> None:
    """What is read is rounded to 8 bits, which the update of a bfloat16 adapter shows by no more than that; the layer's
    own output, and what is added to it, keep theirs."""
    encoder = Encoder()
    weight = encoder.dense.weight.detach().clone()
    pages = lora.LoraPages(encoder, 1, torch.bfloat16, CPU)
    one = adapter_of("dense", 4, 6, 16)
    one = replace(one, tensors={name: tensor.bfloat16().float() for name, tensor in one.tensors.items()})
    pages.fill([0], pages.image(one))
    a, b = one.tensors.values()
    x = torch.randn(3, 5, 4)
    found = read(encoder.dense, pages, x, Group(slice(1, 3), 1, torch.tensor([0])))
    assert found.dtype == torch.float32
    plain = nn.functional.linear(x, weight, encoder.dense.base.bias)
    torch.testing.assert_close(found[:1], plain[:1])
    update, found_update = (0.5 * x @ a.T @ b.T)[1:], (found - plain)[1:]
    assert not torch.equal(found_update, update)
    bound = 0.5 * (x.abs() @ a.abs().T @ b.abs().T)[1:] * 2**-6
    assert ((found_update - update).abs() <= bound).all()


@pytest.mark.parametrize(("layer", "inputs", "outputs"), [("other", 4, 6), ("dense", 5, 6), ("dense", 4, 7)])
def test_an_adapter_for_other_layers_is_refused(layer: str, inputs: int, outputs: int) -> None:
    """A layer that the base lacks, or one of another shape, is named."""
    with pytest.raises(AdapterError, match=layer) as caught:
        lora.LoraPages(Encoder(), 1, torch.float32, CPU).image(adapter_of(layer, inputs, outputs))
    assert caught.value.reason == "shapes"


def test_a_layer_that_reads_no_rows_is_refused() -> None:
    """Some bases send positions through their layers: whose adapter should that be?"""
    encoder = Encoder()
    pages = lora.LoraPages(encoder, 1, torch.float32, CPU)
    pages.current.rows, pages.current.tokens = 2, 5
    with pytest.raises(BaseModelError, match="dense"):
        encoder.dense(torch.randn(1, 10, 4))
