"""The tagger: listings in, tags out."""

import hashlib
import json
import logging
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import opencc
import phonenumbers
import torch
from torch import nn

from taggen import adapter as adapters
from taggen import head, lora, postprocess, windows
from taggen.adapter import Adapter, Card
from taggen.base import DTYPES, Base, Quantization, load_base, numerics_class, place
from taggen.errors import AdapterError, DeviceError, NonFiniteScores
from taggen.head import Answer, TaggerModel
from taggen.listing import Listing
from taggen.tag import Model, Tagging
from taggen.windows import Prepared, Window

# bitsandbytes logs its cast to float16 on every call of every layer.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


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
) -> "Tagger":
    """Load a tagger.

    `adapter` is a folder; None is the default adapter that ships with the package. `device` is auto, cpu or cuda.
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
        return Tagger(base, read, quantization, compute_dtype, torch.device(device), generation)
    except (torch.OutOfMemoryError, torch.AcceleratorError) as error:
        raise DeviceError(f"device {device} failed while the model was loaded: {type(error).__name__}") from error


class Tagger:
    """A quantised encoder with one adapter. Takes over `base`: its layers are replaced in place.

    `prepare` is plain Python and the tokenizer; `tag` is the model call. They may run on two threads.
    """

    model: Model
    card: Card

    def __init__(
        self,
        base: Base,
        adapter: Adapter,
        quantization: Quantization,
        compute_dtype: str,
        device: torch.device,
        generation: int = 1,
    ) -> None:
        dtype = DTYPES[compute_dtype]
        self._tokenizer = base.tokenizer
        self._special = base.special
        self._device = device
        self.card = adapter.card
        self._rules = adapter.rules
        place(base.encoder, quantization, dtype, device)
        lora.attach(base.encoder, adapter, dtype, device)
        self._model = TaggerModel(base.encoder, base.hidden_size, self.card.head_width)
        weight, bias = adapter.head()
        if weight.shape != self._model.head.weight.shape:
            raise AdapterError(
                f"adapter {adapter.card.name}: the head is {weight.shape[1]} wide, not {base.hidden_size}"
            )
        self._model.head.weight = nn.Parameter(weight.to(device, dtype), requires_grad=False)
        self._model.head.bias = nn.Parameter(bias.to(device, dtype), requires_grad=False)
        self._model.eval()
        self.model = Model(
            base=base.name,
            generation=generation,
            quantization=quantization,
            compute_dtype=compute_dtype,
            adapter=adapter.card.name,
            version=adapter.card.version,
            revision=0,
            fingerprint=_fingerprint(base, adapter, quantization, compute_dtype),
            numerics_class=numerics_class(device),
        )

    def prepare(self, listings: Sequence[Listing]) -> list[Prepared]:
        """Clean and tokenise; `tokens` of each is what it will cost the device."""
        return windows.prepare(listings, self._tokenizer, self._special)

    def tag(self, prepared: Sequence[Prepared]) -> list[Tagging]:
        """Tag the listings of a micro-batch, in order; a listing's tags do not depend on the others'.

        Raises NonFiniteScores (some listing of the batch is to blame) or DeviceError (none is).
        """
        return [self.finish(listing, answer) for listing, answer in zip(prepared, self.read(prepared), strict=True)]

    def finish(self, prepared: Prepared, answer: Answer) -> Tagging:
        """A listing's tags out of what the head says of it."""
        return postprocess.tagging(prepared, answer, self.card, self._rules)

    @torch.inference_mode()
    def read(self, prepared: Sequence[Prepared]) -> list[Answer]:
        """What the head says of each listing, below the tags' and labels' thresholds too. Raises as `tag`."""
        # One length, one forward pass: padding a row to its neighbours' length would change its bits.
        by_length: dict[int, list[tuple[int, Window]]] = defaultdict(list)
        for index, listing in enumerate(prepared):
            for window in listing.windows:
                by_length[window.padded].append((index, window))
        streams = [_Stream(len(listing.ids), len(self.card.labels)) for listing in prepared]
        for length, rows in sorted(by_length.items()):
            self._read_rows(prepared, length, rows, streams)
        return [
            Answer(head.spans(stream.tags, stream.begins, stream.confidences, listing.sources), stream.labels)
            for listing, stream in zip(prepared, streams, strict=True)
        ]

    def _read_rows(
        self, prepared: Sequence[Prepared], length: int, rows: list[tuple[int, Window]], streams: list["_Stream"]
    ) -> None:
        special = self._special
        padded, filled = [], []
        for index, window in rows:
            tokens = [special.start, *prepared[index].ids[window.first : window.last], special.separator]
            filled.append(len(tokens))
            padded.append(tokens + [special.padding] * (length - len(tokens)))
        ids = torch.from_numpy(np.array(padded, dtype=np.int64))  # torch.tensor reads lists five times as slowly
        mask = torch.arange(length) < torch.tensor(filled)[:, None]
        try:
            scores = self._model(ids.to(self._device), mask.to(self._device))
            finite = bool(torch.isfinite(scores).all())
            reading = head.read(scores, len(self.card.tags))
        except (torch.OutOfMemoryError, torch.AcceleratorError) as error:
            raise DeviceError(f"{type(error).__name__} on {self._device}") from error
        if not finite:
            raise NonFiniteScores(f"non-finite scores among {len(rows)} rows of {length} tokens")
        columns = (reading.tags, reading.begins, reading.confidences, reading.labels)
        for (index, window), *row in zip(rows, *(column.tolist() for column in columns), strict=True):
            streams[index].put(window, *row)


class _Stream:
    """What the head says of a listing's stream, gathered from its windows; of a label, what the surest of them says."""

    __slots__ = ("begins", "confidences", "labels", "tags")

    def __init__(self, tokens: int, labels: int) -> None:
        self.tags = [head.NO_TAG] * tokens
        self.begins = [False] * tokens
        self.confidences = [0.0] * tokens
        self.labels = [0.0] * labels

    def put(
        self, window: Window, tags: list[int], begins: list[bool], confidences: list[float], labels: list[float]
    ) -> None:
        kept = slice(window.kept_first, window.kept_last)
        row = slice(window.kept_first - window.first + 1, window.kept_last - window.first + 1)  # behind the start token
        self.tags[kept] = tags[row]
        self.begins[kept] = begins[row]
        self.confidences[kept] = confidences[row]
        self.labels = [max(pair) for pair in zip(self.labels, labels, strict=True)]


def _fingerprint(base: Base, adapter: Adapter, quantization: str, compute_dtype: str) -> str:
    """SHA-256 (hex) of everything that decides the tags."""
    parts = {
        "base": base.fingerprint,
        "tokenizer": base.tokenizer_digest,
        "layout": [windows.LAYOUT, windows.WINDOW_TOKENS, windows.OVERLAP_TOKENS, windows.PADDING_MULTIPLE],
        "budget": windows.BUDGET_TOKENS,
        "unicode": unicodedata.unidata_version,  # decides NFKC
        "rules": [postprocess.RULES, adapter.rules.digest, opencc.__version__, phonenumbers.__version__],
        "quantization": quantization,
        "compute_dtype": compute_dtype,
        "adapter": adapter.digest,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
