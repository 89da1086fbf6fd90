"""LoRA (Hu et al. 2021) beside frozen layers, another adapter for each row: serving, where PEFT trains.

A page holds 16 rows of the rank of every layer of the encoder: A [16, in] and B [16, out], alpha / r in B, zeros where
the adapter has nothing. One page is one row of one matrix, so that loading an adapter is one copy for each of its
pages, however many layers there are. In a forward pass the rows gather their pages layer by layer, and two batched
products (Punica, Chen et al. 2023, calls it BGMV) are added to the frozen layer's output, which may be 8-bit.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from taggen.adapter import Adapter
from taggen.base import linear_layers
from taggen.errors import AdapterError, BaseModelError
from taggen.pages import PAGE_ROWS, Group, gather, page_count


class Pass:
    """What the layers must know of the forward pass in hand: its rows, the tokens of each, and the groups of rows."""

    rows: int = 0
    tokens: int = 0
    groups: Sequence[Group] = ()


class PagedLinear(nn.Module):
    """A frozen linear layer with each row's low-rank update: y = base(x) + (x Aᵀ) B.

    `a` is [pages, 16, in], `b` [pages, 16, out]: this layer's columns of the pages.
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
            a, b = gather(self.a, group), gather(self.b, group)
            out[group.rows].baddbmm_(torch.bmm(by_row[group.rows], a.transpose(1, 2)), b)
        return y


class LoraPages:
    """The memory of all adapters' updates for one encoder, whose linear layers it replaces in place.

    Its pages are allocated once and hold whatever was in memory before until they are filled.
    """

    def __init__(self, encoder: nn.Module, pages: int, dtype: torch.dtype, device: torch.device) -> None:
        layers = linear_layers(encoder)
        self.current = Pass()
        self._memory = torch.empty(pages, page_width(encoder), dtype=dtype, device=device)
        self._places: dict[str, tuple[slice, slice]] = {}
        self._shapes = {name: (layer.in_features, layer.out_features) for name, layer in layers}
        end = 0
        for name, layer in layers:
            start, middle, end = end, end + PAGE_ROWS * layer.in_features, 0
            end = middle + PAGE_ROWS * layer.out_features
            self._places[name] = slice(start, middle), slice(middle, end)
            a, b = (self._memory[:, place].view(pages, PAGE_ROWS, -1) for place in self._places[name])
            encoder.set_submodule(name, PagedLinear(name, layer, a, b, self.current))

    @property
    def page_bytes(self) -> int:
        """Bytes of a page."""
        return self._memory.shape[1] * self._memory.element_size()

    def image(self, adapter: Adapter) -> Tensor:
        """The adapter's update as it goes into its pages, [its pages, page width], on the CPU.

        Raises AdapterError (shapes) when a layer or a shape is not this encoder's.
        """
        pages = page_count(adapter.rank)
        image = torch.zeros(pages, self._memory.shape[1], dtype=self._memory.dtype, pin_memory=self._memory.is_cuda)
        for name, (a, b) in adapter.updates().items():
            if name not in self._places:
                raise AdapterError(f"adapter {adapter.card.name}: the base has no layer {name}", "shapes")
            if (a.shape[1], b.shape[0]) != self._shapes[name]:
                raise AdapterError(f"adapter {adapter.card.name}: the shape of {name} is not the base's", "shapes")
            for place, matrix in zip(self._places[name], (a, b.T), strict=True):
                region = image[:, place].view(pages, PAGE_ROWS, -1)
                for page in range(pages):
                    rows = matrix[page * PAGE_ROWS : (page + 1) * PAGE_ROWS]
                    region[page, : len(rows)] = rows
        return image

    def fill(self, pages: Sequence[int], image: Tensor) -> None:
        """Copy an adapter's image into its pages."""
        for page, content in zip(pages, image, strict=True):
            self._memory[page].copy_(content, non_blocking=True)


def page_width(encoder: nn.Module) -> int:
    """Numbers that a page holds."""
    return sum(PAGE_ROWS * (layer.in_features + layer.out_features) for _, layer in linear_layers(encoder))
