from threading import Thread

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from taggen.slots import Slot, SlotTable

PAGES, HEAD_PAGES = 8, 6


class Batches(RuleBasedStateMachine):
    """Batches take and give back adapters of many sizes, more of them than there is room for.

    What a batch has written into its pages stands there as long as it holds them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table: SlotTable[str] = SlotTable(PAGES, HEAD_PAGES)
        self.memory: dict[tuple[str, int], str] = {}
        self.held: list[Slot[str]] = []

    batches = Bundle("batches")

    @rule(target=batches, number=strategies.integers(0, 30))
    def form(self, number: int) -> object:
        """A batch with one adapter, whose size is its own."""
        digest, pages, heads = str(number), 1 + number % 4, 1 + number % 3
        in_use = {slot.digest: slot for slot in self.held}
        there = digest in self.table
        slot = self.table.acquire(digest, pages, heads)
        if slot is None:
            assert not there
            used = (sum(len(one.pages) for one in in_use.values()), sum(len(one.head_pages) for one in in_use.values()))
            assert used[0] + pages > PAGES or used[1] + heads > HEAD_PAGES
            return multiple()
        assert (slot.digest, len(slot.pages), len(slot.head_pages)) == (digest, pages, heads)
        assert (slot.content is not None) == there
        if slot.content is None:
            slot.content = digest
            self.memory.update(self._filled(slot))
        self.held.append(slot)
        return slot

    @rule(target=batches, number=strategies.integers(0, 30))
    def form_of_what_is_there(self, number: int) -> object:
        """A batch with an adapter that need not be read, if there is room for it already."""
        there = str(number) in self.table
        slot = self.table.acquire_resident(str(number))
        assert (slot is not None) == there
        if slot is None:
            return multiple()
        self.held.append(slot)
        return slot

    @rule(slot=consumes(batches))
    def finish(self, slot: Slot[str]) -> None:
        """The device has finished."""
        self.table.release(slot)
        self.held.remove(slot)

    @invariant()
    def held_pages_stand(self) -> None:
        """No page of a held slot has been another's since, and no two slots share one."""
        for slot in self.held:
            assert self._filled(slot).items() <= self.memory.items()
            assert slot.content == slot.digest
        different = {id(slot): slot for slot in self.held}.values()
        pages = [page for slot in different for page in self._filled(slot)]
        assert len(set(pages)) == len(pages)

    @staticmethod
    def _filled(slot: Slot[str]) -> dict[tuple[str, int], str]:
        pages = {("update", page): slot.digest for page in slot.pages}
        return pages | {("head", page): slot.digest for page in slot.head_pages}

    def teardown(self) -> None:
        """When all is given back the whole memory can be had, by one: nothing leaked."""
        for slot in self.held:
            self.table.release(slot)
        assert self.table.acquire("all", PAGES, HEAD_PAGES) is not None
        assert len(self.table) == 1


Batches.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_any_order_of_batches = Batches.TestCase


def test_the_least_recently_used_goes_first() -> None:
    """Use is counted from the release; what is held never goes, and nothing goes when that would not be enough."""
    table: SlotTable[str] = SlotTable(3, 3)
    first, second, third = (table.acquire(digest, 1, 1) for digest in "abc")
    assert first
    assert second
    assert third
    table.release(second)
    table.release(first)
    assert table.acquire("d", 3, 1) is None
    assert "b" in table
    assert "a" in table
    assert table.acquire("d", 1, 1)
    assert "b" not in table
    assert "a" in table
    assert (table.loads, table.hits, table.evictions) == (4, 0, 1)


def test_a_pinned_slot_takes_its_room_for_good() -> None:
    """What can never fit beside it is known beforehand."""
    table: SlotTable[str] = SlotTable(4, 4)
    slot = table.acquire("default", 1, 2)
    assert slot
    table.pin(slot)
    assert table.fits(3, 2)
    assert not table.fits(4, 1)
    assert not table.fits(1, 3)


def test_a_slot_is_released_as_often_as_acquired() -> None:
    """Once more is an error, which would free pages that a batch uses."""
    table: SlotTable[str] = SlotTable(1, 1)
    slot = table.acquire("a", 1, 1)
    assert slot is table.acquire("a", 1, 1)
    assert slot
    table.release(slot)
    assert table.acquire("b", 1, 1) is None
    table.release(slot)
    with pytest.raises(ValueError, match="more often"):
        table.release(slot)
    assert table.acquire("b", 1, 1)


def test_threads_do_not_share_pages() -> None:
    """Event loop and model thread use the table at once."""
    table: SlotTable[str] = SlotTable(4, 4)
    wrong: list[Slot[str]] = []

    def work(name: int) -> None:
        for turn in range(500):
            slot = table.acquire(f"{name}-{turn % 3}", 1, 1)
            if slot is None:
                continue
            slot.content = str(name)
            if slot.content != str(name) or not slot.pages:
                wrong.append(slot)
            table.release(slot)

    threads = [Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert table.acquire("all", 4, 4)
