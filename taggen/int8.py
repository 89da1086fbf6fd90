"""bitsandbytes' steps around the 8-bit product on a CPU, in fewer passes over memory and with the same bits.

LLM.int8() (Dettmers et al. 2022) scales each token's activations to 8 bits before the product and back after it. On a
CPU bitsandbytes does both in plain torch, with a new tensor for each step, and a maximum that finds positions that
nobody asks for: on small models that takes longer than the product itself.
"""

from functools import cache

import torch
from torch import Tensor

_BACK = 6.200124e-05  # bitsandbytes' 1 / 127 ** 2
_DEFAULT = torch._C.DispatchKeySet(torch._C.DispatchKey.CompositeExplicitAutograd)  # where its own kernels are


@cache
def install() -> None:
    """Have bitsandbytes use these on tensors of the CPU, in all of the process."""
    import bitsandbytes  # noqa: F401, PLC0415  defines the operators; seconds to import

    torch.library.register_kernel("bitsandbytes::int8_vectorwise_quant", "cpu")(quantize)
    torch.library.register_kernel("bitsandbytes::int8_mm_dequant", "cpu")(dequantize)


def quantize(A: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor, Tensor | None]:  # noqa: N803  theirs
    """Activations [tokens, in], float16, as int8 [tokens, in], and the largest magnitude of each token, float32.

    With a threshold, which is not used here, bitsandbytes' own kernel keeps outliers apart.
    """
    if threshold > 0:
        operator = torch.ops.bitsandbytes.int8_vectorwise_quant.default
        found: tuple[Tensor, Tensor, Tensor | None] = operator.redispatch(_DEFAULT, A, threshold)
        return found
    values = A.float()
    largest = values.abs().amax(1)
    return values.mul_((127.0 / largest).unsqueeze(-1)).round_().to(torch.int8), largest, None


def dequantize(
    A: Tensor,  # noqa: N803  theirs
    row_stats: Tensor,
    col_stats: Tensor,
    dtype: torch.dtype | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """The product, int32 [..., out], in the dtype asked for (float16 if none), given the largest magnitudes of tokens
    [tokens] and of the weight's rows [out]."""
    scaled = (row_stats.reshape(-1, 1) * col_stats.reshape(1, -1)).mul_(A.view(-1, A.shape[-1])).mul_(_BACK)
    if bias is not None:
        scaled += bias
    return scaled.to(dtype or torch.float16)
