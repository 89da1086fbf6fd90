"""An adapter: a folder that PEFT can load, and a card that says what it is.

adapter_config.json         PEFT's LoRA configuration
adapter_model.safetensors   LoRA matrices and the head
tagger.json                 the card: name, version, tags and labels with thresholds, base, training data, scores
rules.json                  the merchant's additions to our rules for normalised values (docs/tags.md); may be missing
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from taggen.errors import AdapterError
from taggen.head import head_width
from taggen.normalize import Rules
from taggen.tag import TAG_NAME, Kind, is_label_value

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
CARD = "tagger.json"
RULES = "rules.json"
FORMAT = 3  # grows when adapters must be trained anew: 1 and 2 were trained for other ways to read their scores
EVERY_MERCHANT = "*"

FILES = (CONFIG, TENSORS, CARD, RULES)  # in the order of the digest

MAX_BYTES = 256 * 2**20  # of the tensors; an adapter of rank 64 on a large encoder has some 60 MB
MAX_TEXT_BYTES = 4 * 2**20  # of each other file
_PREFIX = "base_model.model."
_LORA = re.compile(re.escape(_PREFIX) + r"encoder\.(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")
# PEFT's settings that change nothing in how the tensors are used, or are read below; anything else that is switched on
# (DoRA, rank patterns, what a later PEFT invents) would be served wrongly, so it is refused.
_HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}
_OFF: tuple[object, ...] = (None, False, "none", {}, [])


@dataclass(frozen=True, slots=True)
class TagType:
    """One tag of a tag set: spans of it are kept from `threshold` on."""

    name: str
    kind: Kind
    threshold: float = 0.5


@dataclass(frozen=True, slots=True)
class LabelType:
    """A listing-level label: tag `name` with this `value`, read from the listing as a whole, from `threshold` on."""

    name: str
    value: str
    kind: Kind
    threshold: float = 0.5


@dataclass(frozen=True, slots=True)
class Card:
    """What an adapter is, whom it is for, and how it came to be."""

    name: str
    version: str
    merchant: str  # a merchant id, or "*" for all
    base_model: str
    base_fingerprint: str
    tags: tuple[TagType, ...]
    labels: tuple[LabelType, ...] = field(default=(), kw_only=True)
    training: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def head_width(self) -> int:
        """Outputs of the head that tags and labels call for."""
        return head_width(len(self.tags), len(self.labels))

    def write(self, folder: Path) -> None:
        """Write tagger.json into the folder."""
        text = json.dumps(asdict(self), ensure_ascii=False, indent=2)
        (folder / CARD).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, text: bytes) -> "Card":
        """Parse and check tagger.json; raises AdapterError."""
        try:
            content = json.loads(text)
            tags = tuple(TagType(**tag) for tag in content.pop("tags"))
            labels = tuple(LabelType(**label) for label in content.pop("labels", ()))
            card = cls(tags=tags, labels=labels, **content)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise AdapterError(f"{CARD}: {type(error).__name__}: {error}") from None
        card.check()
        return card

    def check(self) -> None:
        """Raise AdapterError for a card that breaks the format."""
        if self.format != FORMAT:
            raise AdapterError(f"{CARD}: format {self.format!r}, this program reads {FORMAT}: train it anew")
        texts = (self.name, self.version, self.merchant, self.base_model, self.base_fingerprint)
        if not all(isinstance(text, str) and 0 < len(text) <= 256 for text in texts):
            raise AdapterError(f"{CARD}: name, version, merchant and base must be strings of 1 to 256 characters")
        names = [str(tag.name) for tag in self.tags]
        if not (names or self.labels) or len(set(names)) != len(names) or len(names) > 512:
            raise AdapterError(f"{CARD}: the tag set must hold 1 to 512 different tags, or labels", "tag_set")
        types: tuple[TagType | LabelType, ...] = (*self.tags, *self.labels)
        for tag in types:
            if not isinstance(tag.name, str) or not TAG_NAME.fullmatch(tag.name):
                raise AdapterError(f"{CARD}: tag name {tag.name!r}", "tag_set")
            if tag.kind not in get_args(Kind):
                raise AdapterError(f"{CARD}: tag {tag.name}: kind {tag.kind!r}", "tag_set")
            if not isinstance(tag.threshold, int | float) or not 0 <= tag.threshold <= 1:
                raise AdapterError(f"{CARD}: tag {tag.name}: threshold {tag.threshold!r}", "tag_set")
        self._check_labels()

    def _check_labels(self) -> None:
        for label in self.labels:
            if not is_label_value(label.value):
                raise AdapterError(f"{CARD}: label {label.name}: value {label.value!r}", "tag_set")
        if len({(label.name, label.value) for label in self.labels}) != len(self.labels) or len(self.labels) > 512:
            raise AdapterError(f"{CARD}: there must be at most 512 labels, all different", "tag_set")
        kinds = {tag.name: tag.kind for tag in self.tags}
        for label in self.labels:
            if kinds.setdefault(label.name, label.kind) != label.kind:
                raise AdapterError(f"{CARD}: label {label.name}: of two kinds", "tag_set")


@dataclass(frozen=True)
class Adapter:
    """An adapter in memory. `digest` is a SHA-256 (hex) over its files."""

    card: Card
    rank: int
    scale: float  # alpha / r
    tensors: Mapping[str, Tensor]
    rules: Rules
    digest: str

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors in memory."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def matrices(self) -> dict[str, tuple[Tensor, Tensor]]:
        """LoRA by encoder layer name: A [r, in] and B [out, r] as they are stored, the scale in neither."""
        found = {}
        for key, a in self.tensors.items():
            part = _LORA.fullmatch(key)
            if part is not None and part["side"] == "A":
                found[part["layer"]] = a, self.tensors[f"{_PREFIX}encoder.{part['layer']}.lora_B.weight"]
        return found

    def updates(self) -> dict[str, tuple[Tensor, Tensor]]:
        """LoRA by encoder layer name: A [r, in], and B [out, r] with the scale in it, float32."""
        return {layer: (a.float(), b.float() * self.scale) for layer, (a, b) in self.matrices().items()}

    def head(self) -> tuple[Tensor, Tensor]:
        """The head's weight [2K+1+M, hidden] and bias [2K+1+M], float32 (taggen.head)."""
        return self.tensors[_PREFIX + "head.weight"].float(), self.tensors[_PREFIX + "head.bias"].float()


def read(folder: Path) -> Adapter:
    """Read and check an adapter folder. Raises AdapterError, for a file that is missing or too large and as `parse`."""
    return parse(read_files(folder))


def read_files(folder: Path) -> dict[str, bytes]:
    """The files of an adapter by name. Raises AdapterError when one is missing or too large."""
    return {name: _read_file(folder, name) for name in FILES if name != RULES or (folder / RULES).exists()}


def digest(files: Mapping[str, bytes]) -> str:
    """SHA-256 (hex) over an adapter's files: names, lengths and bytes."""
    sha256 = hashlib.sha256()
    for name in FILES:
        if name in files:
            sha256.update(f"{name} {len(files[name])} ".encode())
            sha256.update(files[name])
    return sha256.hexdigest()


def parse(files: Mapping[str, bytes]) -> Adapter:
    """Make an adapter of its files.

    Raises AdapterError when one is damaged or not safetensors, holds values that are not finite, or asks PEFT for
    something that is not served here. Whether it fits a base is checked when it is attached.
    """
    card = Card.from_json(files[CARD])
    rank, scale = _read_config(files[CONFIG])
    try:
        tensors = load_tensors(files[TENSORS])
    except (SafetensorError, KeyError) as error:  # KeyError: a number format that torch does not know
        raise AdapterError(f"{TENSORS}: {error}") from None
    _check_tensors(tensors, rank, card)
    return Adapter(card, rank, scale, tensors, Rules(files.get(RULES)), digest(files))


def check_size(path: str, name: str, size: int) -> None:
    """Raise AdapterError for a file larger than an adapter's file of this name can be, before anybody reads it."""
    limit = MAX_BYTES if name == TENSORS else MAX_TEXT_BYTES
    if size > limit:
        raise AdapterError(f"{path}: larger than {limit} bytes", "size")


def _read_file(folder: Path, name: str) -> bytes:
    path = folder / name
    try:
        check_size(str(path), name, path.stat().st_size)
        return path.read_bytes()
    except OSError as error:
        raise AdapterError(f"{path}: {error.strerror}", "missing") from None


def _read_config(data: bytes) -> tuple[int, float]:
    try:
        config = json.loads(data)
        rank, alpha = config["r"], config["lora_alpha"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AdapterError(f"{CONFIG}: {error!r}", "config") from None
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{CONFIG}: peft_type {config.get('peft_type')!r}, only LORA is served", "config")
    if config.get("init_lora_weights", True) not in (True, False, "gaussian"):  # others change the base's weights
        raise AdapterError(f"{CONFIG}: init_lora_weights = {config['init_lora_weights']!r} is not served", "config")
    for key in config.keys() - _HARMLESS - {"init_lora_weights"}:
        if config[key] not in _OFF:
            raise AdapterError(f"{CONFIG}: {key} = {config[key]!r} is not served", "config")
    if type(rank) is not int or not 1 <= rank <= 256 or type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise AdapterError(f"{CONFIG}: r = {rank!r}, lora_alpha = {alpha!r}", "config")
    return rank, alpha / rank


def _check_tensors(tensors: Mapping[str, Tensor], rank: int, card: Card) -> None:
    for key, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise AdapterError(f"{TENSORS}: {key} is {tensor.dtype}", "values")
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"{TENSORS}: {key} holds values that are not finite", "values")
        part = _LORA.fullmatch(key)
        if part is not None:
            a, b = (tensors.get(f"{_PREFIX}encoder.{part['layer']}.lora_{side}.weight") for side in "AB")
            if a is None or b is None or a.ndim != 2 or b.ndim != 2 or not a.shape[0] == b.shape[1] == rank:
                raise AdapterError(f"{TENSORS}: {key} has no partner of rank {rank}", "shapes")
        elif key not in (_PREFIX + "head.weight", _PREFIX + "head.bias"):
            raise AdapterError(f"{TENSORS}: {key} is neither LoRA nor head", "shapes")
    weight, bias = tensors.get(_PREFIX + "head.weight"), tensors.get(_PREFIX + "head.bias")
    width = card.head_width
    if weight is None or bias is None or weight.ndim != 2 or weight.shape[0] != width or bias.shape != (width,):
        raise AdapterError(
            f"{TENSORS}: the head does not have {width} rows for {len(card.tags)} tags and {len(card.labels)} labels",
            "shapes",
        )
