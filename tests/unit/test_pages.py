import torch
from hypothesis import given, settings, strategies

from taggen.pages import PAGE_ROWS, SHARED_ROWS, gather, group

CPU = torch.device("cpu")
# Adapters by number: page k of adapter n is page 4 n + k.
PAGES = {number: tuple(4 * number + at for at in range(1 + number % 3)) for number in range(6)}
MEMORY = torch.arange(24.0).repeat_interleave(PAGE_ROWS * 2).view(24, PAGE_ROWS, 2)  # each page holds its own number


@settings(max_examples=50, deadline=None)
@given(strategies.lists(strategies.integers(0, 5), max_size=20))
def test_each_row_gathers_its_own_pages(adapters: list[int]) -> None:
    """The groups hold all rows, in order, and each row gets the pages of its adapter and no others."""
    rows = sorted((PAGES[number] for number in adapters), key=lambda pages: (len(pages), pages))
    at = 0
    for part in group([len(pages) for pages in rows], rows, CPU):
        assert part.rows.start == at
        taken = gather(MEMORY, part, MEMORY.dtype)
        assert taken.shape == (part.rows.stop - at, part.size * PAGE_ROWS, 2)
        for row, matrix in zip(rows[part.rows], taken, strict=True):
            assert matrix[::PAGE_ROWS, 0].tolist() == list(row)
        at = part.rows.stop
    assert at == len(rows)


def test_many_rows_of_an_adapter_share_one_copy() -> None:
    """Fewer stand among the others."""
    rows = [PAGES[0]] * SHARED_ROWS + [PAGES[3]] * (SHARED_ROWS - 1)
    shared, mixed = group([1] * len(rows), rows, CPU)
    assert (shared.pages.tolist(), mixed.pages.tolist()) == ([0], [12] * (SHARED_ROWS - 1))
    assert gather(MEMORY, shared, MEMORY.dtype).stride(0) == 0


def test_rows_without_pages_are_no_trouble() -> None:
    """No rows, no groups."""
    assert group([], [], CPU) == []
