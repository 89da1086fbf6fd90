"""The base model: a frozen encoder, its tokenizer and a fingerprint that adapters are tied to."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from taggen import embedded, int8
from taggen.errors import BaseModelError
from taggen.windows import PADDING_MULTIPLE, WINDOW_TOKENS, Special

Quantization = Literal["int8", "none"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# What of a config changes no score: where it came from, and how it was loaded.
_CONFIG_NOISE = {
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "id2label",
    "label2id",
}


@dataclass(frozen=True)
class Base:
    """A loaded base model. `fingerprint` and `tokenizer_digest` are SHA-256, hex, taken before quantisation."""

    name: str
    encoder: PreTrainedModel
    tokenizer: Tokenizer
    special: Special
    fingerprint: str
    tokenizer_digest: str

    @property
    def hidden_size(self) -> int:
        """Width of the encoder's last hidden state."""
        return int(self.encoder.config.hidden_size)


def load_base(name: str) -> Base:
    """Load `embedded`, a Hugging Face id or a local folder: float32, on the CPU, not quantised.

    Weights are read from safetensors only and no code of the repository is run. Raises BaseModelError when the model
    cannot be had, is not an encoder that transformers' Auto classes know, or has no fast tokenizer.
    """
    source: str | Path = embedded.checkpoint() if name == embedded.NAME else name
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # It reports every weight that is left out, such as a pooler's; that none is missing is checked here.
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        _check_kind(name, config)
        encoder = _load_encoder(source)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseModelError(f"base model {name!r} cannot be loaded: {reason}") from error
    if not tokenizer.is_fast:
        raise BaseModelError(f"base model {name!r} has no fast tokenizer, so its tokens have no place in the text")
    ids = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    if None in ids:
        raise BaseModelError(f"the tokenizer of base model {name!r} lacks a cls, sep or pad token")
    backend: Tokenizer = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    _freeze(encoder)
    return Base(
        name=embedded.MODEL_NAME if name == embedded.NAME else name,
        encoder=encoder,
        tokenizer=backend,
        special=Special(*ids),
        fingerprint=fingerprint(encoder),
        tokenizer_digest=hashlib.sha256(backend.to_str().encode()).hexdigest(),
    )


def _check_kind(name: str, config: PretrainedConfig) -> None:
    # What reads to both sides is what masked language modelling is made for; causal models are not in that list.
    if (
        type(config) not in MODEL_FOR_MASKED_LM_MAPPING
        or config.is_encoder_decoder
        or getattr(config, "is_decoder", False)
        or not hasattr(config, "hidden_size")
    ):
        raise BaseModelError(f"base model {name!r} is a {config.model_type}, not an encoder")
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and 0 < positions < WINDOW_TOKENS + 2 * PADDING_MULTIPLE:
        raise BaseModelError(f"base model {name!r} reads {positions} tokens, fewer than a window of {WINDOW_TOKENS}")


def _load_encoder(source: str | Path) -> PreTrainedModel:
    options: dict[str, Any] = {
        "dtype": torch.float32,
        "use_safetensors": True,
        "trust_remote_code": False,
        "output_loading_info": True,
    }
    try:
        model, info = AutoModel.from_pretrained(source, add_pooling_layer=False, **options)
    except TypeError:  # a family that never has a pooler
        model, info = AutoModel.from_pretrained(source, **options)
    if info["missing_keys"]:  # transformers fills in random values
        raise ValueError(f"the checkpoint lacks {sorted(info['missing_keys'])[0]}")
    if not isinstance(model, PreTrainedModel):
        raise ValueError("not a model of transformers")
    return model


def fingerprint(encoder: PreTrainedModel) -> str:
    """SHA-256 (hex) of the encoder's architecture and weights, whatever files and shards they came in."""
    digest = hashlib.sha256()
    config = {key: value for key, value in encoder.config.to_dict().items() if key not in _CONFIG_NOISE}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for key, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def linear_layers(encoder: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The encoder's linear layers by name: what is quantised and what LoRA adapts."""
    return [(name, module) for name, module in encoder.named_modules() if isinstance(module, nn.Linear)]


def place(encoder: PreTrainedModel, quantization: Quantization, dtype: torch.dtype, device: torch.device) -> None:
    """Bring a freshly loaded encoder to its compute dtype and device, in place; with int8 its linear layers become
    8-bit ones (`int8.linear`)."""
    if quantization == "int8":
        for name, layer in linear_layers(encoder):
            encoder.set_submodule(name, int8.linear(layer))
    nn.Module.to(encoder, device=device, dtype=dtype)
    _freeze(encoder)


def _freeze(encoder: nn.Module) -> None:
    encoder.eval()
    encoder.requires_grad_(False)


def update_dtype(quantization: Quantization, dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """In what adapters' updates are held, beside layers of this kind.

    Half the memory and a third less time in bfloat16, where a CPU computes in it. The token that an update reads is
    rounded to 8 bits then, as an 8-bit layer rounds it anyway; an adapter that `taggen train` wrote loses nothing.
    """
    if quantization == "int8" and device.type == "cpu" and computes_bfloat16(device):
        return torch.bfloat16
    return dtype


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16, where torch does not emulate it, slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def numerics_class(device: torch.device) -> str:
    """The class within which equal inputs give equal bits: processor capability or GPU type, and torch's version."""
    if device.type == "cuda":
        processor = torch.cuda.get_device_name(device).replace(" ", "-")
    else:
        processor = f"cpu-{torch.backends.cpu.get_cpu_capability()}" + "-BF16" * computes_bfloat16(device)
    return f"{processor}/torch-{torch.__version__}"
