"""8-bit layers on a CPU: bitsandbytes' own bits, sooner."""

import bitsandbytes
import pytest
import torch
from torch import Tensor, nn

from taggen import int8


def same_bits(ours: Tensor, other: Tensor) -> bool:
    """Equal to the last bit."""
    return ours.dtype == other.dtype and ours.numpy().tobytes() == other.numpy().tobytes()


def layers(biased: bool = True) -> tuple[nn.Module, nn.Module]:
    """Ours and bitsandbytes', with the same weights, one row of which is zero."""
    chance = torch.manual_seed(0)
    plain = nn.Linear(96, 48, bias=biased)
    with torch.no_grad():
        plain.weight.copy_(torch.randn(48, 96, generator=chance))
        plain.weight[3] = 0
    theirs = bitsandbytes.nn.Linear8bitLt(96, 48, bias=biased, has_fp16_weights=False, threshold=0.0)
    theirs.load_state_dict(plain.state_dict())
    return int8.linear(plain).to("cpu").eval(), theirs.to("cpu").eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", [(1, 96), (7, 96), (200, 96), (3, 5, 96)])
def test_the_bits_of_bitsandbytes(dtype: torch.dtype, biased: bool, shape: tuple[int, ...]) -> None:
    """Whatever the size of the activations and the dtype that is computed in."""
    x = (torch.randn(*shape, generator=torch.manual_seed(len(shape))) * 30).to(dtype)
    x.view(-1, 96)[::3] *= 1e-4
    before = x.clone()
    ours, theirs = layers(biased)
    with torch.inference_mode():
        for _ in range(2):  # the first call sets a layer up
            y = ours(x)
            assert same_bits(y.float(), theirs(x).float())
            assert (y.dtype, y.shape) == (dtype, (*shape[:-1], 48))
    assert same_bits(x.float(), before.float())


def test_bitsandbytes_is_left_out_of_it() -> None:
    """The second call does not go through its operators for scaling: that is what makes it sooner."""
    ours, theirs = layers()
    x = torch.randn(4, 96, generator=torch.manual_seed(2))

    def operators(layer: nn.Module) -> set[str]:
        with torch.inference_mode():
            layer(x)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                layer(x)
        return {event.key for event in profile.key_averages() if event.key.startswith("bitsandbytes::")}

    assert operators(theirs) - operators(ours) >= {"bitsandbytes::int8_vectorwise_quant"}
    assert operators(ours) == {"bitsandbytes::int8_linear_matmul"}


def test_a_token_of_zeros_or_without_a_number_stands_alone() -> None:
    """Others keep their bits; zeros come out as the bias, and what is not finite does not come out as if it were."""
    ours, theirs = layers()
    x = torch.randn(5, 96, generator=torch.manual_seed(3))
    x[1] = 0
    x[2, 4], x[3, 5] = torch.nan, torch.inf
    with torch.inference_mode():
        ours(x)
        y = ours(x)
        assert same_bits(y[::4], theirs(x[::4]))
    assert y.isfinite().all(1).tolist() == [True, True, False, False, True]
    assert same_bits(y[1], ours.bias.detach())


def test_gradients_are_bitsandbytes_own_business() -> None:
    """A layer under training, as PEFT has it, gives what bitsandbytes gives."""
    ours, theirs = layers()
    x = torch.randn(4, 96, generator=torch.manual_seed(4))
    found = []
    for layer in (ours, theirs):
        its = x.clone().requires_grad_()
        layer(its)
        layer(its).sum().backward()  # type: ignore[no-untyped-call]
        assert its.grad is not None
        found.append(its.grad)
    assert same_bits(*found)
