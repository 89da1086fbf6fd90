"""An adapter cut out of another one: the same weights, a part of the tags, under names and thresholds of one's own.

It learns nothing. It is a merchant's adapter in a second, for demonstrations and for measurements.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from taggen import adapter as adapters
from taggen.adapter import CONFIG, RULES, TENSORS, Card, TagType
from taggen.errors import AdapterError
from taggen.head import begin_label

_HEAD = ("base_model.model.head.weight", "base_model.model.head.bias")


def cut(source: Path, folder: Path, name: str, version: str, merchant: str, tags: Mapping[str, TagType]) -> Card:
    """Write an adapter for a merchant into a folder; `tags` says what becomes of which of the source's tags, the others
    and the listing-level labels are left out. Returns its card.

    Raises AdapterError when the source cannot be read or has none of these tags.
    """
    adapter = adapters.read(source)
    kept = [place for place, tag in enumerate(adapter.card.tags, 1) if tag.name in tags]
    if not kept:
        raise AdapterError(f"{source}: has none of the tags {', '.join(tags)}", "tag_set")
    rows = torch.tensor([0, *(begin_label(place) + part for place in kept for part in (0, 1))])
    tensors = dict(adapter.tensors)
    for key in _HEAD:
        tensors[key] = tensors[key][rows]
    card = Card(
        name,
        version,
        merchant,
        adapter.card.base_model,
        adapter.card.base_fingerprint,
        tuple(tags[adapter.card.tags[place - 1].name] for place in kept),
        training={"cut_from": f"{adapter.card.name} {adapter.card.version}"},
    )
    card.check()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_bytes((source / CONFIG).read_bytes())
    if (source / RULES).exists():
        (folder / RULES).write_bytes((source / RULES).read_bytes())
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / TENSORS)
    card.write(folder)
    return card
