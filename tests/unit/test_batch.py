"""Micro-batches: the intake's bounds and clock, cutting by tokens."""

import asyncio
import time
from collections import deque
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.batch import Former, Intake


class Row(NamedTuple):
    tokens: int
    product: str | None = None
    number: int = 0


def going(row: Row, expired: bool) -> Row:
    """Serve every row."""
    return row


async def test_gather_waits_from_the_first_item_on() -> None:
    """A batch that does not fill goes out after the wait, counted from its first item, with what is there."""
    intake: Intake[int] = Intake(8)
    gathering = asyncio.create_task(intake.gather(4, 0.1))
    await asyncio.sleep(0)
    started = time.monotonic()
    await intake.add(1)
    await intake.add(2)
    items, waited = await gathering
    assert items == [1, 2]
    assert 0.09 < time.monotonic() - started < 1
    assert 0.09 < waited < 1


async def test_gather_does_not_wait_for_more_than_it_wants() -> None:
    """A full batch goes out at once, the rest stays for the next, in order."""
    intake: Intake[int] = Intake(8)
    gathering = asyncio.create_task(intake.gather(3, 60))
    for item in range(5):
        await intake.add(item)
    assert (await asyncio.wait_for(gathering, 1))[0] == [0, 1, 2]
    assert (await intake.gather(3, 0))[0] == [3, 4]


async def test_gather_does_not_wait_again_for_what_has_waited() -> None:
    """Items left over from a busy time count their wait from when they came."""
    intake: Intake[int] = Intake(8)
    await intake.add(1)
    await asyncio.sleep(0.05)
    items, waited = await asyncio.wait_for(intake.gather(4, 0.04), 0.03)
    assert items == [1]
    assert waited > 0.04


async def test_intake_is_bounded() -> None:
    """Adding waits while it is full; a batch larger than the intake is not waited for."""
    intake: Intake[int] = Intake(2)
    await intake.add(1)
    await intake.add(2)
    third = asyncio.create_task(intake.add(3))
    await asyncio.sleep(0)
    assert not third.done()
    assert (await asyncio.wait_for(intake.gather(8, 60), 1))[0] == [1, 2]
    await asyncio.wait_for(third, 1)
    assert (await intake.gather(8, 0))[0] == [3]


async def test_what_waits_aside_counts_against_the_bound() -> None:
    """Adding waits as long as gathered items stand aside, and goes on when they leave."""
    intake: Intake[int] = Intake(2)
    await intake.add(1)
    assert (await intake.gather(8, 0))[0] == [1]
    intake.aside(1)
    await intake.add(2)
    third = asyncio.create_task(intake.add(3))
    await asyncio.sleep(0)
    assert not third.done()
    intake.aside(0)
    await asyncio.wait_for(third, 1)


async def test_gather_can_be_woken() -> None:
    """It returns with what there is, be it nothing; a wake between two calls is not lost, and wakes once."""
    intake: Intake[int] = Intake(8)
    gathering = asyncio.create_task(intake.gather(4, 60))
    await asyncio.sleep(0)
    intake.wake()
    assert (await asyncio.wait_for(gathering, 1))[0] == []
    intake.wake()
    await intake.add(1)
    assert (await asyncio.wait_for(intake.gather(4, 60), 1))[0] == [1]
    again = asyncio.create_task(intake.gather(4, 60))
    await asyncio.sleep(0)
    assert not again.done()
    again.cancel()


def test_batches_keep_order_and_limits() -> None:
    """Rows of one length up to the limits, the oldest row's first; what is larger stands alone."""
    former: Former[Row] = Former(4, 8, 60)
    rows = deque(Row(tokens, None, number) for number, tokens in enumerate((4, 4, 0, 4, 20, 0, 3, 1, 1, 0, 1)))
    batches = []
    while rows:
        batches.append([row.number for row in former.form(rows, going)])
    assert batches == [[0, 1, 2, 5], [3, 9], [4], [6], [7, 8, 10]]
    assert former.form(rows, going) == []


def test_a_product_keeps_its_order_over_lengths() -> None:
    """What would go with the batch waits behind an earlier row of its product that is of another length."""
    former: Former[Row] = Former(8, 100, 60)
    rows = deque([Row(2, "a", 0), Row(3, "b", 1), Row(2, "b", 2), Row(2, "c", 3), Row(3, None, 4), Row(2, "b", 5)])
    batches = []
    while rows:
        batches.append([row.number for row in former.form(rows, going)])
    assert batches == [[0, 3], [1, 4], [2, 5]]
    assert not former


def test_a_row_that_waits_holds_up_its_product_only() -> None:
    """Later rows of its product wait behind it, in order, all others overtake it; it goes first when it can."""
    former: Former[Row] = Former(8, 100, 60)
    rows = deque([Row(1, "a", 0), Row(1, "b", 1), Row(1, "a", 2), Row(1, None, 3)])
    ready = {"b"}

    def serve(row: Row, expired: bool) -> Row | None:
        assert not expired
        return row if row.product is None or row.product in ready else None

    assert [row.number for row in former.form(rows, serve)] == [1, 3]
    assert (len(former), rows) == (2, deque())
    ready.add("a")
    rows.append(Row(1, "a", 4))
    assert [row.number for row in former.form(rows, serve)] == [0, 2, 4]
    assert (len(former), former.due()) == (0, None)


def test_a_row_expires() -> None:
    """After its wait it is served as expired; until then `due` says when that will be."""
    former: Former[Row] = Former(8, 100, 0.03)
    seen: list[bool] = []

    def serve(row: Row, expired: bool) -> Row | None:
        seen.append(expired)
        return row if expired else None

    assert former.form(deque([Row(1, "a")]), serve) == []
    due = former.due()
    assert due is not None
    time.sleep(max(0, due - time.monotonic()))
    assert len(former.form(deque(), serve)) == 1
    assert seen == [False, True]


def test_a_row_that_expires_while_nobody_looks_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time may be over when `due` is asked; one that has expired and waits for something else is not due again, nor
    are rows behind another."""
    now = 100.0
    monkeypatch.setattr("streamer.batch.time.monotonic", lambda: now)
    former: Former[Row] = Former(8, 100, 1.0)
    assert former.form(deque([Row(1, "a"), Row(1, "a"), Row(1, "b")]), lambda row, expired: None) == []
    now = 102.0
    assert former.due() == 101.0
    assert former.form(deque(), lambda row, expired: None) == []
    assert (len(former), former.due()) == (3, None)
    assert former.form(deque(), going) == [Row(1, "a"), Row(1, "a"), Row(1, "b")]


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["a", "b", "c", None]))),
    st.lists(st.sets(st.sampled_from(["a", "b", "c"]))),
)
def test_no_product_is_reordered_and_no_row_lost(rows: list[tuple[int, str | None]], ready: list[set[str]]) -> None:
    """Whatever becomes ready when: each row comes out once, those of a product in order, no batch over its limits."""
    former: Former[Row] = Former(3, 16, 60)
    left = deque(Row(tokens, product, number) for number, (tokens, product) in enumerate(rows))
    out: list[Row] = []
    for products in [*ready, {"a", "b", "c"}]:
        while True:
            batch = former.form(
                left, lambda row, _, products=products: row if row.product in {None, *products} else None
            )
            assert len(batch) <= 3
            assert len(batch) < 2 or sum(row.tokens for row in batch) <= 16
            assert len({row.tokens for row in batch if row.tokens}) <= 1
            out += batch
            if not batch:
                assert not left
                break
    assert sorted(row.number for row in out) == list(range(len(rows)))
    for product in "abc":
        numbers = [row.number for row in out if row.product == product]
        assert all(before < after for before, after in pairwise(numbers))
