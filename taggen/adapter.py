"""An adapter: a folder that PEFT can load, and a card that says what it is.

adapter_config.json         PEFT's LoRA configuration
adapter_model.safetensors   LoRA matrices and the head
tagger.json                 the card: name, version, tag set with thresholds, base fingerprint, training data, scores
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
from taggen.head import label_count
from taggen.normalize import Rules
from taggen.tag import TAG_NAME, Kind

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
CARD = "tagger.json"
RULES = "rules.json"
FORMAT = 1
EVERY_MERCHANT = "*"

MAX_BYTES = 256 * 2**20  # of one file; an adapter of rank 64 on a large encoder has some 60 MB
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
class Card:
    """What an adapter is, whom it is for, and how it came to be."""

    name: str
    version: str
    merchant: str  # a merchant id, or "*" for all
    base_model: str
    base_fingerprint: str
    tags: tuple[TagType, ...]
    training: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

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
            card = cls(tags=tags, **content)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise AdapterError(f"{CARD}: {type(error).__name__}: {error}") from None
        card.check()
        return card

    def check(self) -> None:
        """Raise AdapterError for a card that breaks the format."""
        if self.format != FORMAT:
            raise AdapterError(f"{CARD}: format {self.format!r}, this program reads {FORMAT}")
        texts = (self.name, self.version, self.merchant, self.base_model, self.base_fingerprint)
        if not all(isinstance(text, str) and 0 < len(text) <= 256 for text in texts):
            raise AdapterError(f"{CARD}: name, version, merchant and base must be strings of 1 to 256 characters")
        names = [str(tag.name) for tag in self.tags]
        if not names or len(set(names)) != len(names) or len(names) > 512:
            raise AdapterError(f"{CARD}: the tag set must hold 1 to 512 different tags")
        for tag in self.tags:
            if not isinstance(tag.name, str) or not TAG_NAME.fullmatch(tag.name):
                raise AdapterError(f"{CARD}: tag name {tag.name!r}")
            if tag.kind not in get_args(Kind):
                raise AdapterError(f"{CARD}: tag {tag.name}: kind {tag.kind!r}")
            if not isinstance(tag.threshold, int | float) or not 0 <= tag.threshold <= 1:
                raise AdapterError(f"{CARD}: tag {tag.name}: threshold {tag.threshold!r}")


@dataclass(frozen=True)
class Adapter:
    """An adapter in memory. `digest` is a SHA-256 (hex) over its files."""

    card: Card
    rank: int
    scale: float  # alpha / r
    tensors: Mapping[str, Tensor]
    rules: Rules
    digest: str

    def updates(self) -> dict[str, tuple[Tensor, Tensor]]:
        """LoRA by encoder layer name: A [in, r], and B [r, out] with the scale in it, float32."""
        found = {}
        for key, a in self.tensors.items():
            part = _LORA.fullmatch(key)
            if part is not None and part["side"] == "A":
                b = self.tensors[f"{_PREFIX}encoder.{part['layer']}.lora_B.weight"]
                found[part["layer"]] = (a.float().T.contiguous(), (b.float() * self.scale).T.contiguous())
        return found

    def head(self) -> tuple[Tensor, Tensor]:
        """The head's weight [labels, hidden] and bias [labels], float32."""
        return self.tensors[_PREFIX + "head.weight"].float(), self.tensors[_PREFIX + "head.bias"].float()


def read(folder: Path) -> Adapter:
    """Read and check an adapter folder.

    Raises AdapterError when a file is missing, too large, damaged, not safetensors, holds values that are not finite,
    or asks PEFT for something that is not served here. Whether it fits a base is checked when it is attached.
    """
    names = [CONFIG, TENSORS, CARD, *([RULES] if (folder / RULES).exists() else [])]
    files = {name: _read_file(folder, name) for name in names}
    digest = hashlib.sha256()
    for name, data in files.items():
        digest.update(f"{name} {len(data)} ".encode())
        digest.update(data)
    card = Card.from_json(files[CARD])
    rank, scale = _read_config(files[CONFIG])
    try:
        tensors = load_tensors(files[TENSORS])
    except (SafetensorError, KeyError) as error:  # KeyError: a number format that torch does not know
        raise AdapterError(f"{TENSORS}: {error}") from None
    _check_tensors(tensors, rank, len(card.tags))
    return Adapter(card, rank, scale, tensors, Rules(files.get(RULES)), digest.hexdigest())


def _read_file(folder: Path, name: str) -> bytes:
    path = folder / name
    try:
        if path.stat().st_size > MAX_BYTES:
            raise AdapterError(f"{path}: larger than {MAX_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise AdapterError(f"{path}: {error.strerror}") from None


def _read_config(data: bytes) -> tuple[int, float]:
    try:
        config = json.loads(data)
        rank, alpha = config["r"], config["lora_alpha"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AdapterError(f"{CONFIG}: {error!r}") from None
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{CONFIG}: peft_type {config.get('peft_type')!r}, only LORA is served")
    if config.get("init_lora_weights", True) not in (True, False, "gaussian"):  # others change the base's weights
        raise AdapterError(f"{CONFIG}: init_lora_weights = {config['init_lora_weights']!r} is not served")
    for key in config.keys() - _HARMLESS - {"init_lora_weights"}:
        if config[key] not in _OFF:
            raise AdapterError(f"{CONFIG}: {key} = {config[key]!r} is not served")
    if type(rank) is not int or not 1 <= rank <= 256 or type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise AdapterError(f"{CONFIG}: r = {rank!r}, lora_alpha = {alpha!r}")
    return rank, alpha / rank


def _check_tensors(tensors: Mapping[str, Tensor], rank: int, tags: int) -> None:
    for key, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise AdapterError(f"{TENSORS}: {key} is {tensor.dtype}")
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"{TENSORS}: {key} holds values that are not finite")
        part = _LORA.fullmatch(key)
        if part is not None:
            a, b = (tensors.get(f"{_PREFIX}encoder.{part['layer']}.lora_{side}.weight") for side in "AB")
            if a is None or b is None or a.ndim != 2 or b.ndim != 2 or not a.shape[0] == b.shape[1] == rank:
                raise AdapterError(f"{TENSORS}: {key} has no partner of rank {rank}")
        elif key not in (_PREFIX + "head.weight", _PREFIX + "head.bias"):
            raise AdapterError(f"{TENSORS}: {key} is neither LoRA nor head")
    weight, bias = tensors.get(_PREFIX + "head.weight"), tensors.get(_PREFIX + "head.bias")
    labels = label_count(tags)
    if weight is None or bias is None or weight.ndim != 2 or weight.shape[0] != labels or bias.shape != (labels,):
        raise AdapterError(f"{TENSORS}: the head does not have {labels} labels for {tags} tags")
