"""Models of any shape with random weights, for speed alone, and what the hardware could do at most."""

from typing import Any

import torch
from report import Figure
from tagging import PEAK_ROWS
from tokenizers import Tokenizer, models
from transformers import BertConfig, BertModel
from ways import clock, in_turns, scaled

from taggen.adapter import Adapter, Card, TagType
from taggen.base import DTYPES, Base, Quantization, linear_layers, place
from taggen.mixed import MixedModel, order
from taggen.normalize import Rules
from taggen.tagger import ADAPTER_BYTES
from taggen.windows import PADDING_MULTIPLE, Special

RANK = 16
LENGTH = 32  # padded tokens of a row: a title's 27 on average, and the two that frame it


def random_adapter(base: Base, rank: int, tags: int = 11) -> Adapter:
    """An adapter of random numbers."""
    tensors = {}
    for name, layer in linear_layers(base.encoder):
        for side, shape in (("A", (rank, layer.in_features)), ("B", (layer.out_features, rank))):
            tensors[f"base_model.model.encoder.{name}.lora_{side}.weight"] = torch.randn(shape) / 100
    tensors["base_model.model.head.weight"] = torch.randn(2 * tags + 1, base.hidden_size)
    tensors["base_model.model.head.bias"] = torch.zeros(2 * tags + 1)
    tag_set = tuple(TagType(f"tag_{number}", "attribute") for number in range(tags))
    return Adapter(
        Card("random", "1", "*", base.name, base.fingerprint, tag_set), rank, 1.0, tensors, Rules(), "random"
    )


def random_base(config: BertConfig) -> Base:
    """A base of this shape with random weights: good for speed alone."""
    encoder = BertModel(config, add_pooling_layer=False)
    encoder.requires_grad_(False)
    encoder.eval()
    return Base(
        "random",
        encoder,
        Tokenizer(models.BPE()),
        Special(0, 1, 2),
        "",
        "",
    )


def parameters_of(base: Base) -> int:
    """Parameters that a token is multiplied by."""
    return sum(parameter.numel() for name, parameter in base.encoder.named_parameters() if "embeddings" not in name)


def peak(dtype: torch.dtype, hidden: int, wide: int, rounds: int, device: torch.device) -> Figure:
    """GFLOP/s of torch's matrix product, the best of the model's shapes."""
    count, repeat = (PEAK_ROWS, 8) if device.type == "cpu" else (32 * PEAK_ROWS, 32)
    found = []
    for inner, outer in ((hidden, hidden), (hidden, wide), (wide, hidden)):
        a, b = torch.randn(count, inner).to(device, dtype), torch.randn(inner, outer).to(device, dtype)
        rates = []
        for _ in range(rounds + 1):
            started = clock(device)
            for _ in range(repeat):
                a @ b
            rates.append(repeat * 2 * count * inner * outer / (clock(device) - started) / 1e9)
        found.append(Figure.of(rates[1:]))
    return max(found)


def cuda_shapes(rows: int, rounds: int, dtype: str, device: torch.device) -> dict[str, dict[str, Figure]]:
    """Rate and share of the matrix peak in passes of so many rows, 64 adapters in each."""
    shapes = {
        "multilingual-e5-small": BertConfig(
            vocab_size=1000, hidden_size=384, num_hidden_layers=12, num_attention_heads=12, intermediate_size=1536
        ),
        "BERT-large": BertConfig(
            vocab_size=1000, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
        ),
    }
    found = {}
    kinds: list[Quantization] = ["int8", "none"]
    for name, config in shapes.items():
        top = peak(DTYPES[dtype], config.hidden_size, config.intermediate_size, rounds, device)
        for quantization in kinds:
            base = random_base(config)
            work = 2 * parameters_of(base) * rows * LENGTH / 1e9
            one = random_adapter(base, RANK)
            place(base.encoder, quantization, DTYPES[dtype], device)
            model = MixedModel(base, ADAPTER_BYTES, quantization, DTYPES[dtype], device).eval()
            slots = [slot for slot in (model.acquire(scaled(one, number)) for number in range(64)) if slot is not None]
            for slot in slots:
                model.fill(slot)
            ids = torch.randint(4, 1000, (rows, LENGTH), device=device)
            mask = (torch.arange(LENGTH, device=device) < LENGTH - PADDING_MULTIPLE // 2).expand_as(ids).contiguous()
            of_rows = sorted((slots[row % len(slots)] for row in range(rows)), key=order)

            def call(model: MixedModel = model, batch: Any = (ids, mask, of_rows)) -> None:
                with torch.inference_mode():
                    model(*batch)

            (seconds,) = in_turns({f"{name} {quantization}": call}, rounds, device).values()
            found[f"{name} {quantization}"] = {
                "listings_s": Figure.of([rows / one for one in seconds]),
                "share_of_peak_with_padding": Figure.of([work / one / top.median for one in seconds]),
            }
    return found
