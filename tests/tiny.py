"""A tiny base model and an adapter for it: two random BERT layers that run through all the real code in milliseconds.

`python -m tests.tiny FOLDER` writes FOLDER/base and FOLDER/adapter. The same bytes come out each time; the tags are
arbitrary but many, for nearly every listing has some.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from taggen import training
from taggen.adapter import Card, TagType
from taggen.base import load_base

_WORDS = """
nike adidas shoe shoes running jacket shirt cotton leather wool red blue black white green water proof resistant office
outdoor travel men women kids for and with the of in size large small pack colour brand material soft light
运动 防水 耐磨 皮革 男子 女士 休闲 日常 适合 采用 材质
"""
TAG_SET = (
    TagType("brand", "attribute", 0.4),
    TagType("color", "attribute", 0.4),
    TagType("material", "attribute", 0.4),
    TagType("function", "function", 0.4),
    TagType("occasion", "occasion", 0.4),
)
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


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
    tokenizer = make_tiny_tokenizer(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def make_tiny_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Write and return a WordPiece tokenizer of the words above, single letters, and [UNK] for the rest."""
    letters = [chr(point) for point in range(0x21, 0x7F)]
    words = _WORDS.split()
    characters = sorted({char for word in words for char in word if not char.isascii()})
    pieces = dict.fromkeys([*_SPECIAL, *letters, *(f"##{letter}" for letter in letters), *characters, *words])
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    pad, unknown, start, separator = _SPECIAL
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing((separator, 3), (start, 2))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, unk_token=unknown, cls_token=start, sep_token=separator
    )
    fast.save_pretrained(folder)
    return fast


def make_tiny_adapter(base_folder: Path, folder: Path, seed: int = 0, merchant: str = "*") -> Path:
    """Write a random adapter of rank 4 for a base, in the form that training writes; another seed gives other tags."""
    base = load_base(str(base_folder))
    settings = training.Settings(epochs=0, rank=4, alpha=8, seed=seed)
    model = training.train(base, [], TAG_SET, settings)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = 0.1 if "lora_" in name else 0.7
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)
        if parameter.requires_grad and name.endswith("bias"):
            parameter.data[0] = 4.0  # "no tag" for about half of the tokens
    card = Card(f"tiny-{seed}", "1", merchant, "tiny", base.fingerprint, TAG_SET)
    training.save(model, card, folder)
    return folder


if __name__ == "__main__":
    print(make_tiny(Path(sys.argv[1])))
