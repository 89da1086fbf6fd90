"""Tokenizers of the three kinds that encoders come with, small and written by hand, so that each run has the same."""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_WORDS = """
nike adidas shoe shoes running jacket shirt cotton leather wool red blue black white green water proof resistant office
outdoor travel men women kids for and with the of in size large small pack colour brand material soft light
运动 防水 耐磨 皮革 男子 女士 休闲 日常 适合 采用 材质
""".split()  # noqa: SIM905  a list of fifty literals is no easier to read
_CHARACTERS = [
    *(chr(point) for point in range(0x21, 0x7F)),
    *sorted({char for word in _WORDS for char in word if not char.isascii()}),
]
PAD, UNKNOWN, START, SEPARATOR = _SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]


def word_piece() -> Tokenizer:
    """As BERT's: words in lower case, pieces of one letter for the rest, <unk> where there is none."""
    letters = [char for char in _CHARACTERS if char.isascii()]
    pieces = dict.fromkeys([*_SPECIAL, *_CHARACTERS, *(f"##{letter}" for letter in letters), *_WORDS])
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _framed(tokenizer)


def unigram() -> Tokenizer:
    """As XLM-R's (SentencePiece): a blank belongs to the word behind it, or stands alone before a rarer one."""
    pieces = dict.fromkeys(["▁", *_CHARACTERS, *(f"▁{word}" for word in _WORDS), *_WORDS])
    vocabulary = [(piece, 0.0) for piece in _SPECIAL] + [(piece, -10.0 + len(piece) / 10) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=1, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _framed(tokenizer)


def byte_level() -> Tokenizer:
    """As RoBERTa's and ModernBERT's: bytes, so that several tokens may stand for one character, and some merges."""
    pieces = dict.fromkeys([*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    merges = []
    for word in ("Ġred", "Ġshoe", "Ġwater", "ike"):
        for end in range(2, len(word) + 1):
            if (word[: end - 1], word[end - 1]) not in merges:
                merges.append((word[: end - 1], word[end - 1]))
            pieces[word[:end]] = None
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _framed(tokenizer)


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a tokenizer as part of a checkpoint."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, cls_token=START, sep_token=SEPARATOR
    )
    fast.save_pretrained(folder)


def _framed(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL])
    ids = [(token, tokenizer.token_to_id(token)) for token in (START, SEPARATOR)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {SEPARATOR}", special_tokens=ids)
    return tokenizer
