"""The slot table: which adapters are in the device's memory, where, and who is using them.

Memory comes in pages. An adapter takes as many as its size asks for, any that are free; what no batch uses any more
stays until its pages are wanted, least recently used out first. The bookkeeping is like that of paged attention's
(Kwon et al. 2023) and S-LoRA's unified paging (Sheng et al. 2023).
"""

from collections import OrderedDict
from dataclasses import dataclass
from threading import RLock
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Slot(Generic[T]):
    """An adapter's place. Its pages are its own as long as somebody holds a reference; `content` is the owner's."""

    digest: str
    pages: tuple[int, ...]
    head_pages: tuple[int, ...]
    references: int = 0
    content: T | None = None


class SlotTable(Generic[T]):
    """Slots by digest over two kinds of pages, those of updates and those of heads. All methods are thread-safe.

    A reference is taken when a batch is formed and given back when the device has finished it: only then may the pages
    become another adapter's. `hits`, `loads` and `evictions` count what `acquire` did.
    """

    def __init__(self, pages: int, head_pages: int) -> None:
        self.hits = self.loads = self.evictions = 0
        self._sizes = (pages, head_pages)
        self._free = (list(reversed(range(pages))), list(reversed(range(head_pages))))
        self._pinned = (0, 0)
        self._slots: dict[str, Slot[T]] = {}
        self._idle: OrderedDict[str, Slot[T]] = OrderedDict()  # without references, least recently used first
        self._lock = RLock()

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, digest: str) -> bool:
        return digest in self._slots

    def acquire(self, digest: str, pages: int, head_pages: int) -> Slot[T] | None:
        """Take a reference to the adapter's slot; a new one has no content yet.

        None when it is not there and does not fit beside what is in use now; then nothing has been evicted.
        """
        with self._lock:
            slot = self.acquire_resident(digest)
            if slot is not None:
                return slot
            if not self._make_room(pages, head_pages):
                return None
            slot = Slot(digest, self._take(0, pages), self._take(1, head_pages), references=1)
            self._slots[digest] = slot
            self.loads += 1
            return slot

    def acquire_resident(self, digest: str) -> Slot[T] | None:
        """Take a reference to the adapter's slot if it has one."""
        with self._lock:
            slot = self._slots.get(digest)
            if slot is not None:
                self._idle.pop(digest, None)
                slot.references += 1
                self.hits += 1
            return slot

    def release(self, slot: Slot[T]) -> None:
        """Give a reference back. Raises ValueError for one that nobody has."""
        with self._lock:
            if slot.references < 1:
                raise ValueError(f"the slot of {slot.digest} was released more often than acquired")
            slot.references -= 1
            if slot.references == 0:
                self._idle[slot.digest] = slot

    def pin(self, slot: Slot[T]) -> None:
        """Keep the caller's reference for good: what must always be there."""
        with self._lock:
            self._pinned = (self._pinned[0] + len(slot.pages), self._pinned[1] + len(slot.head_pages))

    def fits(self, pages: int, head_pages: int) -> bool:
        """Whether a slot of this size would fit beside the pinned ones alone."""
        return all(
            wanted + pinned <= size
            for wanted, pinned, size in zip((pages, head_pages), self._pinned, self._sizes, strict=True)
        )

    def _make_room(self, pages: int, head_pages: int) -> bool:
        """Evict what it takes, or nothing."""
        free, head_free = (len(free) for free in self._free)
        evicted = []
        for slot in self._idle.values():
            if free >= pages and head_free >= head_pages:
                break
            evicted.append(slot)
            free += len(slot.pages)
            head_free += len(slot.head_pages)
        if free < pages or head_free < head_pages:
            return False
        for slot in evicted:
            del self._idle[slot.digest], self._slots[slot.digest]
            self._free[0].extend(slot.pages)
            self._free[1].extend(slot.head_pages)
            slot.content = None
            self.evictions += 1
        return True

    def _take(self, kind: int, count: int) -> tuple[int, ...]:
        return tuple(self._free[kind].pop() for _ in range(count))
