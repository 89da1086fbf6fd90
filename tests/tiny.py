"""A tiny base model and an adapter for it: two random BERT layers that run through all the real code in milliseconds.

`python -m tests.tiny FOLDER` writes FOLDER/base and FOLDER/adapter. The same bytes come out each time; the tags are
arbitrary but many, for nearly every listing has some.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from taggen import trainable
from taggen.adapter import Card, LabelType, TagType
from taggen.base import load_base
from tests import tokenizers

TAG_SET = (
    TagType("brand", "attribute", 0.4),
    TagType("color", "attribute", 0.4),
    TagType("material", "attribute", 0.4),
    TagType("function", "function", 0.4),
    TagType("occasion", "occasion", 0.4),
)

LABELS = (LabelType("use", "garden", "occasion"), LabelType("use", "travel", "occasion"))


@dataclass(frozen=True)
class Tiny:
    """Where the two are, as the settings want them."""

    base: Path
    adapter: Path


def make_tiny(folder: Path) -> Tiny:
    """Write both below a folder."""
    base = make_tiny_base(folder / "base")
    return Tiny(base, make_tiny_adapter(base, folder / "adapter"))


def make_tiny_base(folder: Path, seed: int = 0) -> Path:
    """Write a random two-layer BERT, 32 wide, with its tokenizer; another seed gives another base."""
    tokenizer = tokenizers.word_piece()
    tokenizers.save(tokenizer, folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        pad_token_id=tokenizer.token_to_id(tokenizers.PAD),
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def make_tiny_adapter(base_folder: Path, folder: Path, seed: int = 0, merchant: str = "*") -> Path:
    """Write a random adapter of rank 4 for a base, in the form that training writes; another seed gives other tags."""
    base = load_base(str(base_folder))
    labels = [(label.name, label.value) for label in LABELS]
    model = trainable.build(base, [tag.name for tag in TAG_SET], labels, rank=4, alpha=8)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = 0.1 if "lora_" in name else 0.7
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)
        if parameter.requires_grad and name.endswith("bias"):
            parameter.data[0] = 7.0  # a tag for about every second token
    card = Card(f"tiny-{seed}", "1", merchant, "tiny", base.fingerprint, TAG_SET, labels=LABELS)
    trainable.save(model, card, folder)
    return folder


if __name__ == "__main__":
    print(make_tiny(Path(sys.argv[1])))
