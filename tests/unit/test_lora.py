from dataclasses import replace

import pytest
import torch
from torch import nn

from taggen import adapter, lora
from taggen.errors import AdapterError
from tests.tiny import Tiny


class Encoder(nn.Module):
    """One layer of 4 to 6."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(4, 6)


def adapter_of(tiny: Tiny, layer: str, inputs: int, outputs: int) -> adapter.Adapter:
    """An adapter of rank 2 for one layer, its scale 0.5."""
    tensors = {
        f"base_model.model.encoder.{layer}.lora_A.weight": torch.randn(2, inputs),
        f"base_model.model.encoder.{layer}.lora_B.weight": torch.randn(outputs, 2),
    }
    return replace(adapter.read(tiny.adapter), tensors=tensors, scale=0.5)


def test_the_update_stands_beside_the_layer(tiny: Tiny) -> None:
    """It comes out as if B A times the scale had been added to the layer's weight; the layer itself stays."""
    encoder = Encoder()
    weight = encoder.dense.weight.detach().clone()
    one = adapter_of(tiny, "dense", 4, 6)
    a, b = one.tensors.values()
    x = torch.randn(3, 5, 4)
    merged = nn.functional.linear(x, weight + 0.5 * b @ a, encoder.dense.bias)
    lora.attach(encoder, one, torch.float32, torch.device("cpu"))
    torch.testing.assert_close(encoder.dense(x), merged)
    assert torch.equal(encoder.dense.base.weight, weight)


@pytest.mark.parametrize(("layer", "inputs", "outputs"), [("other", 4, 6), ("dense", 5, 6), ("dense", 4, 7)])
def test_an_adapter_for_other_layers_is_refused(tiny: Tiny, layer: str, inputs: int, outputs: int) -> None:
    """A layer that the base lacks, or one of another shape, is named."""
    with pytest.raises(AdapterError, match=layer):
        lora.attach(Encoder(), adapter_of(tiny, layer, inputs, outputs), torch.float32, torch.device("cpu"))
