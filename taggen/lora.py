"""LoRA (Hu et al. 2021) beside frozen layers, another adapter for each row: serving, where PEFT trains.

A page holds 16 rows of the rank of every layer of the encoder: A [16, in] and B [16, out], alpha / r in B, zeros where
the adapter has nothing. One page is one row of one matrix, so that loading an adapter is one copy for each of its
pages, however many layers there are. In a forward pass the rows gather their pages layer by layer, and two batched
products (Punica, Chen et al. 2023, calls it BGMV) are added to the frozen layer's output, which may be 8-bit.
"""

from collections import defaultdict
from collections.abc import Sequence
from threading import local
from typing import NamedTuple

import torch
from torch import Tensor, nn

from taggen.adapter import Adapter
from taggen.base import linear_layers
from taggen.errors import AdapterError, BaseModelError
from taggen.pages import PAGE_ROWS, Group, gather, page_count


class Pass(local):
    """What the layers must know of the calling thread's forward pass: its rows, the tokens of each, and the groups of
    rows."""

    rows: int = 0
    tokens: int = 0
    groups: Sequence[Group] = ()


class PagedLinear(nn.Module):
    """A frozen linear layer with each row's low-rank update: y = base(x) + (x Aᵀ) B.

    `a` is [pages, 16, in], `b` [pages, 16, out]: this layer's columns of the pages. Where they have fewer bits than x,
    the first product has as many as they, the second is y's.
    """

    def __init__(self, name: str, base: nn.Linear, a: Tensor, b: Tensor, current: Pass) -> None:
        super().__init__()
        self.name, self.base, self.current = name, base, current
        self.a, self.b = a, b  # no buffers: they are views of one memory, and stay where they are

    def forward(self, x: Tensor) -> Tensor:
        """[rows, tokens, in] to [rows, tokens, out], or both with rows and tokens in one dimension."""
        rows, tokens = self.current.rows, self.current.tokens
        if x.shape[:-1] not in ((rows, tokens), (rows * tokens,)):
            raise BaseModelError(
                f"layer {self.name} of this base reads {tuple(x.shape)} where the tokens of {rows} rows were expected: "
                "it cannot have an adapter for each row"
            )
        y: Tensor = self.base(x)
        by_row, out = x.reshape(rows, tokens, -1), y.view(rows, tokens, -1)
        for group in self.current.groups:
            a, b = gather(self.a, group, self.a.dtype), gather(self.b, group, y.dtype)
            narrow = torch.bmm(by_row[group.rows].to(a.dtype), a.transpose(1, 2))
            out[group.rows].baddbmm_(narrow.to(y.dtype), b)
        return y


class _Layers(NamedTuple):
    """Layers of one shape. Their matrices are side by side in a page: A [layers, 16, in], then B [layers, 16, out]."""

    names: tuple[str, ...]
    shape: tuple[int, int]  # in and out
    a: slice
    b: slice


class LoraPages:
    """The memory of all adapters' updates for one encoder, whose linear layers it replaces in place.

    Its pages are allocated once and hold whatever was in memory before until they are filled.
    """

    def __init__(self, encoder: nn.Module, pages: int, dtype: torch.dtype, device: torch.device) -> None:
        self.current = Pass()
        self._memory = torch.empty(pages, page_width(encoder), dtype=dtype, device=device)
        self._shapes: dict[str, tuple[int, int]] = {}
        self._layers: list[_Layers] = []
        layers = dict(linear_layers(encoder))
        by_shape: dict[tuple[int, int], list[str]] = defaultdict(list)
        for name, layer in layers.items():
            self._shapes[name] = layer.in_features, layer.out_features
            by_shape[self._shapes[name]].append(name)
        end = 0
        for shape, names in by_shape.items():
            start, middle = end, end + PAGE_ROWS * shape[0] * len(names)
            end = middle + PAGE_ROWS * shape[1] * len(names)
            self._layers.append(_Layers(tuple(names), shape, slice(start, middle), slice(middle, end)))
            a, b = (self._stacked(self._memory, place, len(names)) for place in self._layers[-1][2:])
            for at, name in enumerate(names):
                paged = PagedLinear(name, layers[name], a[:, at], b[:, at], self.current)
                encoder.set_submodule(name, paged)

    @staticmethod
    def _stacked(pages: Tensor, place: slice, layers: int) -> Tensor:
        """These columns of pages as the matrices of so many layers: [pages, layers, 16, in or out]."""
        return pages[:, place].view(len(pages), layers, PAGE_ROWS, -1)

    def image(self, adapter: Adapter) -> Tensor:
        """The adapter's update as it goes into its pages, [its pages, page width], on the CPU.

        Raises AdapterError (shapes) when a layer or a shape is not this encoder's.
        """
        matrices, rank = adapter.matrices(), adapter.rank
        for name, (a, b) in matrices.items():
            if name not in self._shapes:
                raise AdapterError(f"adapter {adapter.card.name}: the base has no layer {name}", "shapes")
            if (a.shape[1], b.shape[0]) != self._shapes[name]:
                raise AdapterError(f"adapter {adapter.card.name}: the shape of {name} is not the base's", "shapes")
        make = torch.zeros if rank % PAGE_ROWS else torch.empty  # what the rank does not fill must be zero
        pages = page_count(rank)
        image = make(pages, self._memory.shape[1], dtype=self._memory.dtype, pin_memory=self._memory.is_cuda)
        for layers in self._layers:
            nothing = torch.zeros(rank, layers.shape[0]), torch.zeros(layers.shape[1], rank)
            pairs = [matrices.get(name, nothing) for name in layers.names]
            a = torch.stack([a for a, _ in pairs])
            b = torch.stack([b for _, b in pairs]).float().mul_(adapter.scale).transpose(1, 2)
            for place, matrix in ((layers.a, a), (layers.b, b)):
                region = self._stacked(image, place, len(pairs))
                for page in range(pages):
                    rows = matrix[:, page * PAGE_ROWS : (page + 1) * PAGE_ROWS]
                    region[page, :, : rows.shape[1]] = rows
        return image

    def fill(self, pages: Sequence[int], image: Tensor) -> None:
        """Copy an adapter's image into its pages."""
        for page, content in zip(pages, image, strict=True):
            self._memory[page].copy_(content, non_blocking=True)


def page_width(encoder: nn.Module) -> int:
    """Numbers that a page holds."""
    return sum(PAGE_ROWS * (layer.in_features + layer.out_features) for _, layer in linear_layers(encoder))
