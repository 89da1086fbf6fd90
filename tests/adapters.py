"""Random adapters of any shape, in the form that PEFT writes and reads."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file

from taggen.adapter import CONFIG, TENSORS, Card, LabelType, TagType
from taggen.base import Base, linear_layers

PREFIX = "base_model.model."


def write_adapter(
    base: Base, folder: Path, rank: int, tags: int, labels: int = 0, targets: Sequence[str] = (), seed: int = 0
) -> Path:
    """Write an adapter with so many tags and labels, for the layers whose names end so, by default for all.

    It changes a layer's output by about a third, whatever its rank.
    """
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    adapted = [
        (name, layer)
        for name, layer in linear_layers(base.encoder)
        if not targets or name.rpartition(".")[2] in targets
    ]
    tensors = {}
    for name, layer in adapted:
        for side, shape in (("A", (rank, layer.in_features)), ("B", (layer.out_features, rank))):
            matrix = torch.randn(shape, generator=generator) / shape[1] ** 0.5
            tensors[f"{PREFIX}encoder.{name}.lora_{side}.weight"] = matrix * (1.0 if side == "A" else 0.15)
    width = 2 * tags + 1 + labels
    tensors[PREFIX + "head.weight"] = torch.randn(width, base.hidden_size, generator=generator) / 2
    tensors[PREFIX + "head.bias"] = torch.randn(width, generator=generator)
    save_file(tensors, folder / TENSORS)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=[name for name, _ in adapted],
        modules_to_save=["head"],
        inference_mode=True,
    )
    content = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    (folder / CONFIG).write_text(json.dumps(content, default=str))
    tag_set = tuple(TagType(f"tag_{number}", "attribute", 0.2) for number in range(tags))
    label_set = tuple(LabelType("label", str(number), "occasion", 0.2) for number in range(labels))
    Card(folder.name, "1", "*", "tiny", base.fingerprint, tag_set, labels=label_set).write(folder)
    return folder
