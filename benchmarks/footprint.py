"""Memory and time of tagging 1,000 listings: 8-bit beside plain weights, on the CPU, and on CUDA where there is one.

Each kind runs in a process of its own, since a process' peak memory never falls: it loads the tagger and tags the
listings that ship with taggen, in the worker's own micro-batches. Memory is what the system had to keep for the process
(resident), and on CUDA what torch asked of the device. The ratios are to the plain weights of the same run.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from report import Figure, Neighbours, describe, machine, print_json, show

KINDS = [("int8", "float32"), ("none", "float32"), ("int8", "bfloat16"), ("none", "bfloat16")]

Kind = tuple[str, str, str]  # quantisation, compute dtype, device


def tag(kind: Kind, base_model: str, adapter: str | None, listings: int, threads: int) -> dict[str, float]:
    """Tag so many listings in this process: seconds, CPU seconds, and memory in MB."""
    import psutil  # noqa: PLC0415  what is imported counts
    import torch  # noqa: PLC0415
    from tagging import micro_batches, sample  # noqa: PLC0415

    from taggen import tagger as taggers  # noqa: PLC0415

    quantization, dtype, device = kind
    torch.set_num_threads(threads)
    tagger = taggers.load(
        base_model,
        adapter,
        quantization="int8" if quantization == "int8" else "none",
        compute_dtype=dtype,
        device=device,
    )
    items = sample(listings)
    tagger.tag(tagger.prepare(items[:8]))  # warm
    loaded = psutil.Process().memory_info().rss
    started, spent = time.perf_counter(), time.process_time()
    for batch in micro_batches(tagger, items):
        tagger.tag(batch)
    seconds, cpu = time.perf_counter() - started, time.process_time() - spent
    on_cuda = device == "cuda"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "seconds": 1_000 * seconds / len(items),
        "cpu_seconds": 1_000 * cpu / len(items),
        "loaded_mb": loaded / 1e6,
        "peak_mb": peak / 1e6,
        "device_mb": torch.cuda.max_memory_allocated() / 1e6 if on_cuda else 0.0,
    }


def measure(kind: Kind, options: list[str], rounds: int) -> dict[str, Figure]:
    """Do it in processes of their own."""
    command = [sys.executable, __file__, *options, "--only", " ".join(kind)]
    runs = [
        json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
        for _ in range(rounds)
    ]
    return {name: Figure.of([run[name] for run in runs]) for name in runs[0]}


def main(
    base_model: Annotated[str, typer.Option(help="embedded, a Hugging Face id or a local folder.")] = "embedded",
    adapter: Annotated[Path | None, typer.Option(help="Adapter folder for it; the one that ships if omitted.")] = None,
    listings: Annotated[int, typer.Option(min=8, help="How many are tagged; figures are for 1,000.")] = 1_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often each kind is measured.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads of the model.")] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="16 listings, float32: does it run?")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
    only: Annotated[str | None, typer.Option(hidden=True, help="Measure this kind in this process.")] = None,
) -> None:
    """Measure memory and time per 1,000 listings."""
    folder = str(adapter) if adapter is not None else None
    if quick:
        listings = 16
    if only is not None:
        quantization, dtype, device = only.split()
        print(json.dumps(tag((quantization, dtype, device), base_model, folder, listings, threads)))
        return
    import torch  # noqa: PLC0415

    neighbours = Neighbours()
    options = ["--base-model", base_model, "--listings", str(listings), "--threads", str(threads)]
    options += ["--adapter", folder] if folder is not None else []
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    kinds = [(*kind, device) for device in devices for kind in (KINDS[:2] if quick else KINDS)]
    figures = {kind: measure(kind, options, rounds) for kind in kinds}
    result: dict[str, Any] = {
        "machine": machine(neighbours),
        "base_model": base_model,
        "listings": listings,
        "threads": threads,
        "kinds": {
            f"{quantization} {dtype}, {device}": {
                **its,
                "time_to_plain": round(its["seconds"].median / figures["none", "float32", device]["seconds"].median, 2),
            }
            for (quantization, dtype, device), its in figures.items()
        },
    }
    if as_json:
        print_json(result)
        return
    show(
        f"1,000 listings on {threads} threads (measured on {listings})",
        ["weights", "s", "CPU s", "MB", "MB peak", "MB CUDA", "× plain"],
        [[name, *its.values()] for name, its in result["kinds"].items()],
        {"MB": "resident when loaded; × plain: time to that of plain float32", "machine": describe(result["machine"])},
    )


if __name__ == "__main__":
    typer.run(main)
