"""The tagger: listings in, tags out."""

import hashlib
import json
import logging
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from threading import Lock

import numpy as np
import opencc
import phonenumbers
import torch

from taggen import adapter as adapters
from taggen import chain, head, postprocess, windows
from taggen.adapter import Adapter, Card
from taggen.base import DTYPES, Base, Quantization, load_base, numerics_class, place
from taggen.errors import AdapterError, DeviceError, NonFiniteScores
from taggen.head import Answer, TokenTag
from taggen.listing import Listing
from taggen.mixed import AdapterSlot, MixedModel, Resident, order, resident_of
from taggen.slots import SlotTable
from taggen.tag import Model, Tagging
from taggen.windows import Prepared, Window

# bitsandbytes logs its cast to float16 on every call of every layer.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

# For all adapters; on a CPU it is taken up only as adapters are loaded. Of embedded's size and rank 16 it holds some
# 400 in float32, 800 in bfloat16.
ADAPTER_BYTES = 2 * 2**30

_ALONE = Lock()  # whoever computes in one thread

SMOKE = Listing("smoke", "smoke", 1, "Nike Air Force 1 red leather running shoe, 防水 42")


def default_adapter() -> Path:
    """The folder of the adapter that ships with the package."""
    with resources.as_file(resources.files("taggen") / "default_adapter") as folder:
        return folder


def load(
    base_model: str = "embedded",
    adapter: str | Path | None = None,
    quantization: Quantization = "int8",
    compute_dtype: str = "float32",
    device: str = "auto",
    generation: int = 1,
    adapter_bytes: int = ADAPTER_BYTES,
) -> "Tagger":
    """Load a tagger.

    `adapter` is a folder; None is the default adapter that ships with the package. `device` is auto, cpu or cuda.
    `adapter_bytes` is the memory for all adapters, the default one included.

    Raises BaseModelError, AdapterError or DeviceError with a message for whoever chose the settings.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no driver; torch built without CUDA; no such device
        raise DeviceError(f"device {device} cannot be used: {str(error).splitlines()[0]}") from error
    folder = Path(adapter) if adapter is not None else default_adapter()
    read = adapters.read(folder)
    base = load_base(base_model)
    if read.card.base_fingerprint != base.fingerprint:
        raise AdapterError(
            f"adapter {read.card.name} {read.card.version} was trained on {read.card.base_model}, not on {base_model}: "
            "name an adapter for this base (default_adapter), or train one with `taggen train`"
        )
    try:
        return Tagger(base, read, quantization, compute_dtype, torch.device(device), generation, adapter_bytes)
    except (torch.OutOfMemoryError, torch.AcceleratorError) as error:
        raise DeviceError(f"device {device} failed while the model was loaded: {type(error).__name__}") from error


class Tagger:
    """A quantised encoder that tags each listing by its own adapter. Takes over `base`: its layers are replaced.

    An adapter is served from a slot: `acquire` one for each listing of a batch, `tag`, and `release` each when `tag`
    has come back. `tag` and `read` are model calls and belong to one thread, unless the tagger is `concurrent`; the
    others may be called from any.
    """

    model: Model  # of the default adapter
    card: Card  # of the default adapter
    default: Adapter

    def __init__(
        self,
        base: Base,
        adapter: Adapter,
        quantization: Quantization,
        compute_dtype: str,
        device: torch.device,
        generation: int = 1,
        adapter_bytes: int = ADAPTER_BYTES,
    ) -> None:
        dtype = DTYPES[compute_dtype]
        self._base = base
        self._tokenizer = base.tokenizer
        self._special = base.special
        self._device = device
        self.card = adapter.card
        self.default = adapter
        place(base.encoder, quantization, dtype, device)
        self._model = MixedModel(base, adapter_bytes, quantization, dtype, device).eval()
        self.model = Model(
            base=base.name,
            generation=generation,
            quantization=quantization,
            compute_dtype=compute_dtype,
            adapter=adapter.card.name,
            version=adapter.card.version,
            revision=0,
            fingerprint="",
            numerics_class=numerics_class(device),
        )
        self.model = self.model_of(adapter, 0)
        self.check(adapter)
        default = self.acquire(adapter)
        if default is None:
            raise AdapterError(f"adapter_memory: {adapter_bytes} bytes do not hold {adapter.card.name}", "size")
        self._model.table.pin(default)
        self._default = default
        self.smoke(adapter)

    @property
    def table(self) -> SlotTable[Resident]:
        """The adapters in memory, for figures about them."""
        return self._model.table

    @property
    def concurrent(self) -> bool:
        """Whether several threads may call the model at once: on a CPU each has cores of its own, or its share."""
        return self._device.type == "cpu"

    def acquire(self, adapter: Adapter) -> AdapterSlot | None:
        """A slot for the adapter, with a reference to it: its pages stay its own until `release`.

        None when there is no room beside what is in use now; ask again when a batch has been released. A new slot is
        filled by the next `tag` that uses it.
        """
        return self._model.acquire(adapter)

    def acquire_resident(self, digest: str) -> AdapterSlot | None:
        """The slot of an adapter that is in memory, with a reference to it; None when it is not."""
        slot = self._model.table.acquire_resident(digest)
        if slot is not None and slot.content is None:  # another thread is about to make it
            self.release(slot)
            return None
        return slot

    def release(self, slot: AdapterSlot) -> None:
        """Give the reference back, once for each `acquire`."""
        self._model.table.release(slot)

    def model_of(self, adapter: Adapter, revision: int) -> Model:
        """What an event says served it when this adapter did."""
        parts = self.model.quantization, self.model.compute_dtype
        return replace(
            self.model,
            adapter=adapter.card.name,
            version=adapter.card.version,
            revision=revision,
            fingerprint=_fingerprint(self._base, adapter, *parts),
        )

    def check(self, adapter: Adapter) -> None:
        """Raise AdapterError unless the adapter fits: made for this base (reason base), its layers and shapes (shapes),
        finite in the compute dtype (values), small enough for the memory beside the default adapter (size)."""
        card = adapter.card
        if card.base_fingerprint != self._base.fingerprint:
            raise AdapterError(
                f"adapter {card.name} {card.version} was trained on {card.base_model}, not on {self._base.name}: "
                "name an adapter for this base, or train one with `taggen train`",
                "base",
            )
        if not self._model.table.fits(*self._model.size(adapter)):
            raise AdapterError(f"adapter {card.name}: rank {adapter.rank} is too large for adapter_memory", "size")
        image = self._model.image(adapter)
        if not (torch.isfinite(image.update).all() and torch.isfinite(image.head[0]).all()):
            raise AdapterError(f"adapter {card.name}: not finite in {self.model.compute_dtype}", "values")

    def smoke(self, adapter: Adapter, run: Callable[[Callable[[], object]], object] = lambda call: call()) -> None:
        """Tag a listing of ours by the adapter; `run` calls the model, in a thread where that may be. The adapter is
        copied into its slot before, in the calling thread: pages that nobody has touched yet cost more than the call.

        Raises AdapterError (smoke) for scores that are not finite, DeviceError when there is no room for it now.
        """
        slot = self.acquire(adapter)
        if slot is None:
            raise DeviceError("no room in adapter_memory now")
        try:
            self._model.fill(slot)
            prepared = self.prepare([SMOKE])

            def read() -> None:
                with _one_thread():
                    self.read(prepared, [slot])

            run(read)
        except NonFiniteScores:
            raise AdapterError(f"adapter {adapter.card.name}: scores that are not finite", "smoke") from None
        finally:
            self.release(slot)

    def prepare(self, listings: Sequence[Listing]) -> list[Prepared]:
        """Clean and tokenise; `tokens` of each is what it will cost the device."""
        return windows.prepare(listings, self._tokenizer, self._special)

    def tag(self, prepared: Sequence[Prepared], slots: Sequence[AdapterSlot] | None = None) -> list[Tagging]:
        """Tag the listings of a micro-batch, in order, each by the adapter in its slot, or all by the default adapter.
        A listing's tags depend on it and its adapter alone, never on the others.

        Raises NonFiniteScores (some listing of the batch or its adapter is to blame) or DeviceError (none is).
        """
        slots = slots if slots is not None else [self._default] * len(prepared)
        answers = self.read(prepared, slots)
        return [self.finish(*one) for one in zip(prepared, answers, slots, strict=True)]

    def finish(self, prepared: Prepared, answer: Answer, slot: AdapterSlot | None = None) -> Tagging:
        """A listing's tags out of what the head says of it."""
        resident = resident_of(slot or self._default)
        return postprocess.tagging(prepared, answer, resident.card, resident.rules)

    @torch.inference_mode()
    def read(
        self,
        prepared: Sequence[Prepared],
        slots: Sequence[AdapterSlot] | None = None,
        least: float = head.READ,
    ) -> list[Answer]:
        """What the head says of each listing: spans more probable than `least`, below the tags' thresholds too, and all
        labels. Raises as `tag`."""
        slots = slots if slots is not None else [self._default] * len(prepared)
        streams = [_Stream([0.0] * len(resident_of(slot).card.labels)) for slot in slots]
        # One length, one call: padding a row to its neighbours' length would change its bits.
        by_length: dict[int, list[tuple[int, Window]]] = defaultdict(list)
        for index in sorted(range(len(prepared)), key=lambda index: order(slots[index])):
            for window in prepared[index].windows if prepared[index].ids else ():  # nothing to read, no labels either
                by_length[window.padded].append((index, window))
        try:
            for slot in dict.fromkeys(slots):
                self._model.fill(slot)
            for length, rows in sorted(by_length.items()):
                self._read_rows(prepared, slots, length, rows, streams, least)
        except (torch.OutOfMemoryError, torch.AcceleratorError) as error:
            raise DeviceError(f"{type(error).__name__} on {self._device}") from error
        return [
            Answer(head.spans(sorted(stream.tags), listing.sources, least), stream.labels)
            for listing, stream in zip(prepared, streams, strict=True)
        ]

    def _read_rows(
        self,
        prepared: Sequence[Prepared],
        slots: Sequence[AdapterSlot],
        length: int,
        rows: list[tuple[int, Window]],
        streams: list["_Stream"],
        least: float,
    ) -> None:
        special = self._special
        padded, filled = [], []
        sources = np.full((len(rows), length), windows.NO_FIELD)
        for row, (index, window) in enumerate(rows):
            tokens = [special.start, *prepared[index].ids[window.first : window.last], special.separator]
            filled.append(len(tokens))
            padded.append(tokens + [special.padding] * (length - len(tokens)))
            sources[row, 1 : len(tokens) - 1] = prepared[index].sources[window.first : window.last]
        ids = torch.from_numpy(np.array(padded, dtype=np.int64))  # torch.tensor reads lists five times as slowly
        mask = torch.arange(length) < torch.tensor(filled)[:, None]
        parts = self._model(ids.to(self._device), mask.to(self._device), [slots[index] for index, _ in rows])
        if not all(scores.finite for scores in parts):
            raise NonFiniteScores(f"non-finite scores among {len(rows)} rows of {length} tokens")
        fields = torch.split(torch.from_numpy(sources), [len(scores.tags) for scores in parts])
        readings = [
            head.reading(chain.posteriors(scores.tags.cpu(), its), scores.labels, least)
            for scores, its in zip(parts, fields, strict=True)
        ]
        at = iter(rows)
        for reading in readings:
            for tags, labels in zip(reading.tags, reading.labels.tolist(), strict=True):
                index, window = next(at)
                streams[index].put(window, tags, labels)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Have torch compute in the calling thread alone, one caller at a time, for the number is the process's.

    A single row gains nothing by more, and where the cores are busy with other things, threads that wait for each other
    at each small step take four times as long.
    """
    with _ALONE:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@dataclass(slots=True)
class _Stream:
    """What the head says of a listing's stream, gathered from its windows; of a label, what the surest of them says."""

    labels: list[float]
    tags: list[TokenTag] = field(default_factory=list)

    def put(self, window: Window, tags: Sequence[TokenTag], labels: Sequence[float]) -> None:
        before = window.first - 1  # tokens of the stream before the row's first, the start token
        self.tags += [
            one._replace(token=one.token + before)
            for one in tags
            if window.kept_first <= one.token + before < window.kept_last
        ]
        # the head's pages may have room for more labels than there are
        self.labels = [max(pair) for pair in zip(self.labels, labels, strict=False)]


def _fingerprint(base: Base, adapter: Adapter, quantization: str, compute_dtype: str) -> str:
    """SHA-256 (hex) of everything that decides the tags."""
    parts = {
        "base": base.fingerprint,
        "tokenizer": base.tokenizer_digest,
        "layout": [windows.LAYOUT, windows.WINDOW_TOKENS, windows.OVERLAP_TOKENS, windows.PADDING_MULTIPLE],
        "budget": windows.BUDGET_TOKENS,
        "unicode": unicodedata.unidata_version,  # decides NFKC
        "decoding": chain.DECODING,
        "rules": [postprocess.RULES, adapter.rules.digest, opencc.__version__, phonenumbers.__version__],
        "quantization": quantization,
        "compute_dtype": compute_dtype,
        "adapter": adapter.digest,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
