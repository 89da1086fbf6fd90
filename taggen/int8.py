"""bitsandbytes' 8-bit linear layer on a CPU, in fewer steps and with the same bits.

LLM.int8() (Dettmers et al. 2022) scales each token's activations to 8 bits before the product and back after it. On a
CPU bitsandbytes does both in plain torch, with a new tensor for each step, a maximum that finds positions that nobody
asks for, and an operator of its own around every part: on small models that takes longer than the product itself.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

_BACK = 6.200124e-05  # bitsandbytes' 1 / 127 ** 2


def linear(plain: nn.Linear) -> nn.Module:
    """bitsandbytes' `Linear8bitLt` with the weights of a layer, which become 8-bit when it is brought to its device.

    The outlier threshold is 0: above it bitsandbytes picks outlier columns over the whole batch, and rows would touch
    each other.
    """
    layer: nn.Module = _layer_type()(
        plain.in_features, plain.out_features, bias=plain.bias is not None, has_fp16_weights=False, threshold=0.0
    )
    layer.load_state_dict(plain.state_dict())
    return layer


@cache
def _layer_type() -> Any:
    import bitsandbytes  # noqa: PLC0415  seconds to import, and not there on every machine that trains

    class Linear(bitsandbytes.nn.Linear8bitLt):  # type: ignore[misc]
        """Serves on a CPU by itself; has bitsandbytes do the rest, its first call, which sets it up, included."""

        def forward(self, x: Tensor) -> Tensor:
            """[..., in] to [..., out], in the dtype of x."""
            weight, scales = self.state.CB, self.state.SCB
            if weight is None or x.device.type != "cpu" or torch.is_grad_enabled():
                y: Tensor = super().forward(x)
                return y
            values, largest = quantize(x.reshape(-1, x.shape[-1]))
            product = torch.ops.bitsandbytes.int8_linear_matmul.default(values, weight)
            return dequantize(product, largest, scales, self.bias).to(x.dtype).view(*x.shape[:-1], -1)

    return Linear


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Activations [tokens, in] as int8, by way of float16, and each token's largest magnitude, float32 [tokens, 1]: all
    there is to know of a token that is all zeros or not finite.
    """
    values = x.half().float()
    largest = values.abs().amax(1, keepdim=True)
    return values.mul_(127.0 / largest).round_().to(torch.int8), largest


def dequantize(product: Tensor, rows: Tensor, columns: Tensor, bias: Tensor | None) -> Tensor:
    """A product, int32 [tokens, out], in float32, given the largest magnitudes of its tokens [tokens, 1] and of its
    weight's rows [out]."""
    scaled = (rows * columns).mul_(product).mul_(_BACK)
    if bias is not None:
        scaled += bias
    return scaled
