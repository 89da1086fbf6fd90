"""Pages of adapters' matrices, and the groups of rows that gather them.

A memory is [pages, PAGE_ROWS, width]: a matrix of n rows takes ceil(n / PAGE_ROWS) pages, anywhere, the rest of the
last one padded.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

PAGE_ROWS = 16  # of LoRA's rank; an adapter of rank 16 takes one page, and one of rank 64 costs the others nothing
SHARED_ROWS = 4  # of one adapter that stand together and are worth a product of their own, without copies of it


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of a forward pass that stand together and whose adapters take equally many pages, `size` each.

    `pages` is [rows * size], or [size] when all of the rows have one adapter.
    """

    rows: slice
    size: int
    pages: Tensor


def page_count(rows: int, page_rows: int = PAGE_ROWS) -> int:
    """Pages that a matrix of so many rows takes."""
    return -(-rows // page_rows)


def group(kinds: Sequence[Hashable], pages: Sequence[tuple[int, ...]], device: torch.device) -> list[Group]:
    """Group the rows of a pass: those of one kind, which have equally many pages, stand together in it, and so do those
    of one adapter."""
    groups: list[Group] = []
    first = 0

    def add(members: list[tuple[int, ...]], shared: bool) -> None:
        nonlocal first
        listed = members[0] if shared else [page for row in members for page in row]
        rows = slice(first, first + len(members))
        groups.append(Group(rows, len(members[0]), torch.tensor(listed, device=device)))
        first = rows.stop

    for _, same_kind in groupby(zip(kinds, pages, strict=True), key=lambda row: row[0]):
        mixed: list[tuple[int, ...]] = []
        for own, same in groupby(pages for _, pages in same_kind):
            rows = [own for _ in same]
            if len(rows) < SHARED_ROWS:
                mixed += rows
                continue
            if mixed:
                add(mixed, shared=False)
                mixed = []
            add(rows, shared=True)
        if mixed:
            add(mixed, shared=False)
    return groups


def gather(memory: Tensor, group: Group, dtype: torch.dtype) -> Tensor:
    """The matrices of a group's rows, [rows, size * page rows, width], out of a memory [pages, page rows, width]."""
    taken = memory.index_select(0, group.pages).to(dtype).view(-1, group.size * memory.shape[1], memory.shape[2])
    return taken.expand(group.rows.stop - group.rows.start, -1, -1)
