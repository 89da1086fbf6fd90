"""The model in training: PEFT's LoRA around the encoder, and the head; made afresh or from an adapter, saved as one."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import nn

from taggen import adapter
from taggen.adapter import Adapter, Card
from taggen.base import Base, linear_layers
from taggen.corpus import Label
from taggen.errors import AdapterError, TrainingError
from taggen.head import TaggerModel, begin_label, head_width, label_count


def build(
    base: Base,
    tags: Sequence[str],
    labels: Sequence[Label],
    rank: int,
    alpha: float,
    targets: Sequence[str] = (),
    dropout: float = 0.0,
) -> nn.Module:
    """PEFT's model with a fresh update and head, out of torch's random numbers. Takes over `base`.

    `targets` are names of linear layers or their ends, such as `query`; none means all. Raises TrainingError for one
    that no layer has.
    """
    layers = [name for name, _ in linear_layers(base.encoder)]
    ends = sorted({name.rpartition(".")[2] for name in layers})
    for target in targets:
        if not any(name == target or name.endswith("." + target) for name in layers):
            raise TrainingError(f"{base.name} has no linear layer named {target!r}: it has {', '.join(ends)}")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(targets or ends),
        exclude_modules=["head"],
        modules_to_save=["head"],
    )
    if not torch.cuda.is_available():
        # torch's fused attention takes eight times as long there and back, in a CPU's bfloat16
        base.encoder.set_attn_implementation("eager")
    width = head_width(len(tags), len(labels))
    model: nn.Module = get_peft_model(TaggerModel(base.encoder, base.hidden_size, width), config)
    return model.eval()


def head_of(model: nn.Module) -> nn.Linear:
    """The head that is trained."""
    return cast(nn.Linear, model.get_submodule("base_model.model.head.modules_to_save.default"))


def train_dropout(model: nn.Module, on: bool) -> None:
    """Switch LoRA's own dropout. The encoder's stays off: on a CPU it costs more than the matrices."""
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            module.train(on)


def targets(init: Adapter, base: Base) -> tuple[str, ...]:
    """The targets that stand for the layers an adapter adapts."""
    adapted = set(init.updates())
    ends = {name.rpartition(".")[2] for name in adapted}
    whole = {name for name, _ in linear_layers(base.encoder) if name.rpartition(".")[2] in ends}
    return tuple(sorted(ends if whole == adapted else adapted))


def load(model: nn.Module, init: Adapter, tags: Sequence[str], labels: Sequence[Label] = ()) -> None:
    """Put an adapter's update into the model, and the rows of its head for the tags and labels that both have.

    Raises AdapterError when a layer, rank or width is not the model's.
    """
    weight, bias = init.head()
    rows = {"weight": weight, "bias": bias}
    theirs = {tag.name: number for number, tag in enumerate(init.card.tags, 1)}
    pairs = [(0, 0)]
    for number, tag in enumerate(tags, 1):
        if tag in theirs:
            begin, its = begin_label(number), begin_label(theirs[tag])
            pairs += [(begin, its), (begin + 1, its + 1)]
    first, its_first = label_count(len(tags)), label_count(len(init.card.tags))
    its_labels = {(label.name, label.value): at for at, label in enumerate(init.card.labels)}
    pairs += [(first + at, its_first + its_labels[label]) for at, label in enumerate(labels) if label in its_labels]
    here, there = (list(side) for side in zip(*pairs, strict=True))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            try:
                if ".head." in name:
                    parameter[here] = rows[name.rpartition(".")[2]][there].to(parameter)
                else:
                    parameter.copy_(init.tensors[name.replace(".default", "")])
            except (KeyError, RuntimeError):
                raise AdapterError(f"adapter {init.card.name}: {name} is not the model's") from None


def save(model: nn.Module, card: Card, folder: Path, rules: bytes | None = None) -> None:
    """Write the trained adapter into a folder: PEFT's two files, in bfloat16, the card, and `rules`, if any."""
    with tempfile.TemporaryDirectory() as draft:
        model.save_pretrained(draft, save_embedding_layers=False)  # type: ignore[operator]
        folder.mkdir(parents=True, exist_ok=True)
        config = json.loads((Path(draft) / adapter.CONFIG).read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = card.base_model
        # Sets of names come out in the order of their hashes, another in each run.
        config["target_modules"] = sorted(config["target_modules"])
        (folder / adapter.CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        # Half the bytes, for differences far below those of 8-bit layers.
        tensors = load_file(Path(draft) / adapter.TENSORS)
        halved = save_tensors({key: tensor.to(torch.bfloat16) for key, tensor in tensors.items()})
        (folder / adapter.TENSORS).write_bytes(halved)  # save_file() would hide it from everybody but its owner
        (folder / adapter.TENSORS).chmod(0o644)  # safetensors makes files that nobody else may read
    if rules is not None:
        (folder / adapter.RULES).write_bytes(rules)
    card.write(folder)
