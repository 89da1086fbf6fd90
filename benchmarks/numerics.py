"""What another processor makes of the same listings: tags that differ, and how far confidences are apart.

`taggen tag` over the held-out listings, with the instructions that this processor has and with AVX2 alone, as older
ones have it, 8-bit and plain weights; and once more with the same instructions, where every bit must be the same.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from report import Neighbours, describe, machine, show

from taggen import corpus

HELD_OUT = Path(corpus.__file__).parent / "held-out.jsonl"
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}

Tags = dict[tuple[str, str], float]  # confidences


def tagged(listings: int, quantization: str, environment: dict[str, str]) -> list[Tags]:
    """The tags of each of the first listings, by a process with this in its environment."""
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines(keepends=True)[:listings]
    command = [sys.executable, "-c", "from taggen.cli import app; app()", "tag", "-", "--quantization", quantization]
    done = subprocess.run(
        command, input="".join(lines), stdout=subprocess.PIPE, text=True, env=os.environ | environment, check=True
    )
    found = [json.loads(line)["tags"] for line in done.stdout.splitlines()]
    return [{(tag["name"], tag["normalized"]): tag["confidence"] for tag in tags} for tags in found]


def apart(ours: list[Tags], theirs: list[Tags]) -> dict[str, float]:
    """Listings that have other tags, tags that only one of both has, the largest difference of the others' confidences,
    and how many of those are the same to the last bit."""
    pairs = list(zip(ours, theirs, strict=True))
    confidences = [(one[tag], other[tag]) for one, other in pairs for tag in one.keys() & other.keys()]
    return {
        "listings": len(pairs),
        "with_other_tags": sum(one.keys() != other.keys() for one, other in pairs),
        "tags": len(confidences),
        "tags_of_one_alone": sum(len(one.keys() ^ other.keys()) for one, other in pairs),
        "most_apart": max((abs(one - other) for one, other in confidences), default=0.0),
        "same_bits": sum(one == other for one, other in confidences),
    }


def run(listings: int) -> dict[str, Any]:
    """All comparisons."""
    neighbours = Neighbours()
    here = {kind: tagged(listings, kind, {}) for kind in ("int8", "none")}
    again = tagged(listings, "int8", {})
    avx2 = {kind: tagged(listings, kind, AVX2) for kind in here}
    return {
        "machine": machine(neighbours),
        "compared": {
            "int8, once more": apart(here["int8"], again),
            "int8, AVX2": apart(here["int8"], avx2["int8"]),
            "none, AVX2": apart(here["none"], avx2["none"]),
            "int8 and none": apart(here["int8"], here["none"]),
        },
    }


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Eight listings: does it run?")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Measure what another processor makes of the same listings."""
    result = run(8 if quick else 10_000)
    if as_json:
        print(json.dumps(result, indent=2))  # not print_json, which rounds
        return
    show(
        "The same listings again",
        ["", "with other tags", "tags of one alone", "most apart", "same bits"],
        [
            [
                name,
                f"{one['with_other_tags']} of {one['listings']}",
                one["tags_of_one_alone"],
                f"{one['most_apart']:.1e}",
                f"{one['same_bits']} of {one['tags']}",
            ]
            for name, one in result["compared"].items()
        ],
        {"machine": describe(result["machine"])},
    )


if __name__ == "__main__":
    typer.run(main)
