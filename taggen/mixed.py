"""The mixed model: one frozen encoder, and in one forward pass each row's own adapter."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from taggen.adapter import Adapter, Card
from taggen.base import Base, Quantization, linear_layers, update_dtype
from taggen.errors import AdapterError
from taggen.headpages import HeadPages, Scores, bio_pages, label_pages
from taggen.lora import LoraPages, page_width
from taggen.normalize import Rules
from taggen.pages import PAGE_ROWS, group, page_count
from taggen.slots import Slot, SlotTable

HEAD_PAGES = 4  # of heads for each page of updates: room for a set of some tags and 96 labels
# Of the widest layer's activations in one forward pass on a CPU, for each thread. A pass of more has them come and go
# from beyond the cache: 64 rows of 96 tokens take 1.6 times as long as when a quarter of them goes at a time.
PASS_BYTES = 6 * 2**20
WIDEST = 49  # pages of the widest head that a card may ask for: 512 tags and 512 labels


class Image(NamedTuple):
    """An adapter in the form of its pages, on the CPU."""

    update: Tensor
    head: tuple[Tensor, Tensor]


@dataclass(slots=True)
class Resident:
    """What is known of an adapter in a slot; its image until that has been copied into the slot's pages."""

    card: Card
    rules: Rules
    image: Image | None
    head_shape: tuple[int, int]  # pages of BIO labels, and of listing-level labels


AdapterSlot = Slot[Resident]


class MixedModel(nn.Module):
    """Encoder, updates and heads. Takes over `base`, which has its kind of layers, compute dtype and device.

    `adapter_bytes` is what the memory of the adapters may take. Raises AdapterError when not one fits.
    """

    def __init__(
        self, base: Base, adapter_bytes: int, quantization: Quantization, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.encoder = base.encoder
        self._widest = max(layer.out_features for _, layer in linear_layers(base.encoder))
        self._device = device
        updates = update_dtype(quantization, dtype, device)
        page = page_width(base.encoder) * updates.itemsize
        head_page = HeadPages.page_bytes(base.hidden_size, dtype)
        pages = (adapter_bytes - WIDEST * head_page) // (page + HEAD_PAGES * head_page)
        if pages < 1:
            raise AdapterError(f"adapter_memory: {adapter_bytes} bytes hold no adapter, one page has {page}", "size")
        head_pages = HEAD_PAGES * pages + WIDEST
        self._updates = LoraPages(base.encoder, pages, updates, device)
        self._heads = HeadPages(base.hidden_size, head_pages, dtype, device)
        self.table: SlotTable[Resident] = SlotTable(pages, head_pages)

    def acquire(self, adapter: Adapter) -> AdapterSlot | None:
        """Take a reference to the adapter's slot, a new one ready to be filled; None when there is no room now."""
        slot = self.table.acquire(adapter.digest, *self.size(adapter))
        if slot is not None and slot.content is None:
            try:
                shape = bio_pages(adapter.card), label_pages(adapter.card)
                slot.content = Resident(adapter.card, adapter.rules, self.image(adapter), shape)
            except BaseException:
                self.table.release(slot)
                raise
        return slot

    @staticmethod
    def size(adapter: Adapter) -> tuple[int, int]:
        """Pages that an adapter takes, and those of its head."""
        return page_count(adapter.rank, PAGE_ROWS), bio_pages(adapter.card) + label_pages(adapter.card)

    def image(self, adapter: Adapter) -> Image:
        """The adapter in the form of its pages. Raises AdapterError (shapes) when it does not fit the base."""
        return Image(self._updates.image(adapter), self._heads.image(adapter))

    def fill(self, slot: AdapterSlot) -> None:
        """Copy the adapter into its slot's pages, unless it is there; from any thread, for the pages are the slot's own
        while it is held. Two threads that do it at once copy the same."""
        resident = resident_of(slot)
        image = resident.image
        if image is not None:
            self._updates.fill(slot.pages, image.update)
            self._heads.fill(slot.head_pages, image.head)
            resident.image = None

    def forward(self, input_ids: Tensor, attention_mask: Tensor, slots: Sequence[AdapterSlot]) -> list[Scores]:
        """Score rows, ids and mask [rows, tokens], each through the adapter in its slot, sorted by `order`.

        The rows come back in runs whose heads are of one shape.
        """
        most = self._pass_rows(input_ids.shape[1])
        passes = (slice(at, at + most) for at in range(0, len(slots), most))
        return [part for its in passes for part in self._score(input_ids[its], attention_mask[its], slots[its])]

    def _pass_rows(self, tokens: int) -> int:
        """Rows of so many tokens that go through the encoder at once."""
        if self._device.type == "cuda":
            return sys.maxsize
        return max(1, PASS_BYTES * torch.get_num_threads() // (4 * self._widest * tokens))

    def _score(self, input_ids: Tensor, attention_mask: Tensor, slots: Sequence[AdapterSlot]) -> Iterator[Scores]:
        current = self._updates.current
        current.rows, current.tokens = input_ids.shape
        current.groups = group([len(slot.pages) for slot in slots], [slot.pages for slot in slots], self._device)
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        shapes = [resident_of(slot).head_shape for slot in slots]
        heads = group(shapes, [slot.head_pages for slot in slots], self._device)
        for part in heads:
            yield self._heads.scores(hidden[part.rows], part, shapes[part.rows.start][0])


def order(slot: AdapterSlot) -> tuple[int, tuple[int, int], int]:
    """The key that rows of a pass are sorted by: equally large updates together, then heads, then adapters."""
    return len(slot.pages), resident_of(slot).head_shape, slot.pages[0]


def resident_of(slot: AdapterSlot) -> Resident:
    """What is in the slot. Raises ValueError for one that nobody holds: its pages may be another's by now."""
    if slot.content is None or slot.references < 1:
        raise ValueError(f"the slot of {slot.digest} is used without a reference")
    return slot.content
