"""Training an adapter: LoRA through PEFT and a sequence-labelling head, on labelled listings."""

import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from taggen import adapter, windows
from taggen.adapter import Card, TagType
from taggen.augment import Augmenter
from taggen.base import Base, linear_layers
from taggen.corpus import Labelled
from taggen.head import NO_TAG, TaggerModel, begin_label, label_count
from taggen.windows import Prepared

_IGNORED = -100  # cross-entropy's own mark


@dataclass(frozen=True, slots=True)
class Settings:
    """How an adapter is trained."""

    epochs: int = 14
    batch_listings: int = 16
    learning_rate: float = 1e-3
    warm_up: float = 0.06  # share of the steps
    weight_decay: float = 0.01
    rank: int = 32
    alpha: int = 64
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """Progress of a training run: `loss` is the mean of the last steps."""

    step: int
    steps: int
    loss: float


def train(
    base: Base,
    labelled: Sequence[Labelled],
    tags: Sequence[TagType],
    settings: Settings,
    progress: Callable[[Step], None] = lambda step: None,
) -> nn.Module:
    """Train LoRA and head on the listings; returns the PEFT model. Takes over `base`.

    bfloat16 autocast where the processor or GPU computes in it; the trained weights stay float32 until they are saved.
    """
    torch.manual_seed(settings.seed)
    random_ = random.Random(settings.seed)  # noqa: S311  variation, not secrets
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _model(base, len(tags), settings).to(device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, settings.learning_rate, weight_decay=settings.weight_decay)
    per_epoch = -(-len(labelled) // settings.batch_listings)
    steps = per_epoch * settings.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, settings.warm_up))
    augmenter = Augmenter(labelled)
    numbers = {tag.name: number for number, tag in enumerate(tags, 1)}
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=_computes_bfloat16(device))
    model.eval()  # no dropout: on a CPU it costs more than the matrices, and variation of the listings regularises
    step, recent = 0, 0.0
    for _ in range(settings.epochs):
        for batch in _batches(labelled, base, augmenter, settings.batch_listings, random_):
            ids, mask, labels = (tensor.to(device) for tensor in collate(batch, numbers, base))
            with autocast:
                scores = model(input_ids=ids, attention_mask=mask)
            loss = nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=_IGNORED)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            recent = loss.item() if step == 1 else 0.98 * recent + 0.02 * loss.item()
            progress(Step(step, steps, recent))
    return model.eval()


def save(model: nn.Module, card: Card, folder: Path) -> None:
    """Write the trained adapter into a new folder: PEFT's two files, in bfloat16, and the card."""
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
    card.write(folder)


def _model(base: Base, tags: int, settings: Settings) -> nn.Module:
    targets = sorted({name.rpartition(".")[2] for name, _ in linear_layers(base.encoder)})
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=targets,
        exclude_modules=["head"],
        modules_to_save=["head"],
    )
    model: nn.Module = get_peft_model(TaggerModel(base.encoder, base.hidden_size, label_count(tags)), config)
    return model


def _rate(step: int, steps: int, warm_up: float) -> float:
    rising = max(1, round(steps * warm_up))
    return (step + 1) / rising if step < rising else (steps - step) / (steps - rising + 1)


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())  # without it torch emulates, slower than float32


def _batches(
    labelled: Sequence[Labelled], base: Base, augmenter: Augmenter, size: int, random_: random.Random
) -> Iterator[list[tuple[Labelled, Prepared]]]:
    """One epoch of varied listings, similar lengths together, batches in random order."""
    varied = [augmenter.vary(item, random_) for item in labelled]
    prepared = windows.prepare([item.listing for item in varied], base.tokenizer, base.special)
    rows = sorted(zip(varied, prepared, strict=True), key=lambda row: (row[1].tokens, random_.random()))
    batches = [rows[at : at + size] for at in range(0, len(rows), size)]
    random_.shuffle(batches)
    yield from batches


def collate(
    batch: Sequence[tuple[Labelled, Prepared]], numbers: dict[str, int], base: Base
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and labels, each [rows, tokens], for the windows of some listings."""
    rows = [
        (prepared, token_labels(item, prepared, numbers), window)
        for item, prepared in batch
        for window in prepared.windows
    ]
    length = max(window.padded for _, _, window in rows)
    ids = torch.full((len(rows), length), base.special.padding, dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.bool)
    targets = torch.full((len(rows), length), _IGNORED, dtype=torch.long)
    for row, (prepared, labels, window) in enumerate(rows):
        part = slice(window.first, window.last)
        tokens = [base.special.start, *prepared.ids[part], base.special.separator]
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = True
        targets[row, 1 : len(tokens) - 1] = torch.tensor(labels[part])
    return ids, mask, targets


def token_labels(item: Labelled, prepared: Prepared, numbers: dict[str, int]) -> list[int]:
    """The label of each token of the stream: a token belongs to the span that holds at least half of it."""
    default = _IGNORED if item.partial else NO_TAG
    labels = [_IGNORED if source < 0 else default for source in prepared.sources]
    by_field: dict[str, list[tuple[int, int, int]]] = {}
    for span in item.spans:
        by_field.setdefault(span.field, []).append((span.start, span.end, numbers[span.tag]))
    last: tuple[int, int, int, int] | None = None
    for at, source in enumerate(prepared.sources):
        if source < 0:
            continue
        field = prepared.fields[source]
        _, start, end = field.clean.locate(prepared.starts[at], prepared.ends[at])
        for span_start, span_end, tag in by_field.get(field.name, ()):
            if 2 * (min(end, span_end) - max(start, span_start)) >= end - start:
                here = (source, span_start, span_end, tag)
                labels[at] = begin_label(tag) + (here == last)
                last = here
                break
    return labels
