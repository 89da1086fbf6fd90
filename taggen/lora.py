"""LoRA beside frozen layers (Hu et al. 2021): serving, where PEFT trains.

The update is added to the frozen layer's output in the compute dtype; the frozen layer may be 8-bit.
"""

import torch
from torch import Tensor, nn

from taggen.adapter import Adapter
from taggen.errors import AdapterError


class LoraLinear(nn.Module):
    """A frozen linear layer with a low-rank update: y = base(x) + (x A) B.

    `a` is [in, r]; `b` is [r, out] with alpha / r already in it.
    """

    a: Tensor
    b: Tensor

    def __init__(self, base: nn.Module, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("a", a, persistent=False)
        self.register_buffer("b", b, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        y: Tensor = self.base(x)
        return y + (x @ self.a) @ self.b


def attach(encoder: nn.Module, adapter: Adapter, dtype: torch.dtype, device: torch.device) -> None:
    """Put the adapter's update beside each layer of the encoder that it adapts, in place.

    Raises AdapterError when a layer or a shape is not this encoder's.
    """
    for name, (a, b) in adapter.updates().items():
        try:
            base = encoder.get_submodule(name)
        except AttributeError:
            raise AdapterError(f"adapter {adapter.card.name}: the base has no layer {name}") from None
        if not isinstance(base, nn.Linear) or (base.in_features, base.out_features) != (a.shape[0], b.shape[1]):
            raise AdapterError(f"adapter {adapter.card.name}: the shape of {name} is not the base's")
        encoder.set_submodule(name, LoraLinear(base, a.to(device, dtype), b.to(device, dtype)))
