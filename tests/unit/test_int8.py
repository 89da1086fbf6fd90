"""The steps around the 8-bit product: bitsandbytes' own bits, sooner."""

from typing import Any

import bitsandbytes
import pytest
import torch
from torch import Tensor

from taggen import int8

QUANTIZE = torch.ops.bitsandbytes.int8_vectorwise_quant.default
DEQUANTIZE = torch.ops.bitsandbytes.int8_mm_dequant.default


def theirs(operator: Any, *arguments: Any) -> Any:
    """What bitsandbytes' own kernel gives."""
    return operator.redispatch(int8._DEFAULT, *arguments)


def same_bits(ours: Tensor, other: Tensor) -> bool:
    """Equal to the last bit."""
    return ours.dtype == other.dtype and ours.numpy().tobytes() == other.numpy().tobytes()


@pytest.mark.parametrize("tokens", [1, 7, 200])
def test_activations_have_the_bits_of_bitsandbytes(tokens: int) -> None:
    """Whatever their size. A token that is not finite, or nothing but zeros, is what its largest magnitude says it is,
    whatever stands in its 8 bits."""
    int8.install()
    activations = (torch.randn(tokens, 96, generator=torch.manual_seed(tokens)) * 30).half()
    activations[::3] *= 1e-4
    activations[1::5] = 0
    activations[2::7, 3] = torch.inf
    activations[3::7, 4] = torch.nan
    before = activations.clone()
    ours, other = QUANTIZE(activations), theirs(QUANTIZE, activations, 0.0)
    torch.testing.assert_close(ours[1], other[1], rtol=0, atol=0, equal_nan=True)
    usual = (ours[1] > 0) & ours[1].isfinite()
    assert usual.any()
    assert same_bits(ours[0][usual], other[0][usual])
    assert ours[2] is other[2] is None
    assert same_bits(activations, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, None])
@pytest.mark.parametrize("biased", [True, False])
def test_products_have_the_bits_of_bitsandbytes(dtype: torch.dtype | None, biased: bool) -> None:
    """In each dtype that is computed in, with a bias and without."""
    int8.install()
    chance = torch.manual_seed(0)
    product = torch.randint(-2_000_000, 2_000_000, (33, 48), dtype=torch.int32, generator=chance)
    rows, columns = torch.rand(33, generator=chance) * 9, torch.rand(48, generator=chance)
    bias = torch.randn(48, generator=chance).to(dtype or torch.float16) if biased else None
    arguments = (product, rows, columns, dtype, bias)
    assert same_bits(DEQUANTIZE(*arguments).float(), theirs(DEQUANTIZE, *arguments).float())
    assert DEQUANTIZE(*arguments).dtype == (dtype or torch.float16)


def test_outliers_are_bitsandbytes_own_business() -> None:
    """A threshold, which the tagger never sets, still works for whoever sets one in the same process."""
    int8.install()
    activations = torch.randn(5, 32, generator=torch.manual_seed(1)).half()
    activations[:, 7] = 20
    ours, other = QUANTIZE(activations.clone(), 6.0), theirs(QUANTIZE, activations.clone(), 6.0)
    assert all(torch.equal(one, two) for one, two in zip(ours, other, strict=True))
    assert ours[2].tolist() == [7]


def test_a_layer_runs_through_them() -> None:
    """bitsandbytes' linear layer finds the kernels, and gives what it gave without them."""
    layer = bitsandbytes.nn.Linear8bitLt(64, 32, has_fp16_weights=False, threshold=0.0)
    layer.load_state_dict(torch.nn.Linear(64, 32).state_dict())
    layer = layer.to("cpu").eval()
    x = torch.randn(4, 64, generator=torch.manual_seed(2))
    int8.install()
    with torch.inference_mode():
        y = layer(x)
        quantized, largest, _ = theirs(QUANTIZE, x.half(), 0.0)
        weight, scales = layer.state.CB, layer.state.SCB
        product = torch._int_mm(quantized, weight.t())
        assert same_bits(y, theirs(DEQUANTIZE, product, largest, scales, torch.float32, layer.bias))
