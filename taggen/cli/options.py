"""Options that several commands have."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class QuantizationOption(StrEnum):
    """Bits of the base's linear layers."""

    int8 = "int8"
    none = "none"


class DtypeOption(StrEnum):
    """What is computed in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


BaseOption = Annotated[str, typer.Option("--base-model", help="embedded, a Hugging Face id or a local folder.")]
AdapterOption = Annotated[Path | None, typer.Option("--adapter", help="Adapter folder; the one that ships if omitted.")]
Quantized = Annotated[QuantizationOption, typer.Option("--quantization", help="int8, or none for the plain weights.")]
Dtype = Annotated[DtypeOption, typer.Option("--compute-dtype", help="float32, bfloat16 or float16.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Processor threads of the model.")]
