import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def quick(name: str) -> Any:
    """What a benchmark prints with --quick --json."""
    command = [sys.executable, BENCHMARKS / name, "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def assert_positive(figures: dict[str, Any]) -> None:
    """Each is a median above zero with its spread."""
    for name, figure in figures.items():
        assert 0 < figure["low"] <= figure["median"] <= figure["high"], name


def test_stream() -> None:
    """The figures that the README quotes: each consumer's cost, where the worker's goes, the ratio to Faust."""
    result = quick("stream.py")
    assert list(result["consumers"]) == ["worker", "faust", "in-out", "in"]
    for figures in result["consumers"].values():
        assert_positive({name: figures[name] for name in ("cpu_us", "events_s")})
    assert result["split_us"].keys() == {"decode", "prepare", "tag", "encode", "produce", "consume"}
    assert_positive({"ratio": result["worker_to_faust"]})


@pytest.mark.slow
def test_tagging() -> None:
    """The figures that the README quotes: rates beside onnxruntime's and the peak, and the cost around the model."""
    result = quick("tagging.py")
    assert list(result["models"]) == ["int8 float32, 1", "onnxruntime float32, 1"]
    for figures in result["models"].values():
        assert_positive(figures)
    steps = result["outside_us"]
    assert_positive({step: steps[step] for step in ("decode", "text", "tokenise", "read", "post-process", "encode")})
    assert 0 <= result["padding"] < 1


@pytest.mark.slow
def test_adapters_stream() -> None:
    """The figures of merchants' adapters in the running worker: swaps, their cost, the start, the control topic."""
    result = quick("adapters_stream.py")
    assert result["swap_ms"]["count"] == result["delay_ms"]["count"] == result["swaps"]
    assert 0 < result["swap_ms"]["median"] <= result["swap_ms"]["p99"] <= result["swap_ms"]["highest"]
    assert 0 <= result["fallback_share"] <= 1
    assert result["capacity"] > 0
    assert result["log_over_plain"] > 0


@pytest.mark.slow
def test_adapters() -> None:
    """The figures of a batch of many adapters: beside one, none, a merged one and PEFT, and of a thousand merchants."""
    result = quick("adapters.py")
    ratios = ("mixed_over_one", "mixed_over_base", "mixed_over_merged", "peft_over_mixed", "switching_over_mixed")
    assert_positive({name: result[name] for name in (*ratios, "thousand_over_one", "few_over_one")})
    assert 1 <= result["adapter_memory"]["rank 16"]["ratio"] <= 1.1
    assert result["apart_from_peft"] < 0.1


@pytest.mark.slow
def test_footprint() -> None:
    """Memory and time of 1,000 listings, 8-bit beside plain weights; no memory was ever above its peak."""
    result = quick("footprint.py")
    assert list(result["kinds"])[:2] == ["int8 float32, cpu", "none float32, cpu"]
    for figures in result["kinds"].values():
        assert_positive({name: figures[name] for name in ("seconds", "cpu_seconds", "loaded_mb", "peak_mb")})
        assert figures["loaded_mb"]["median"] <= figures["peak_mb"]["median"] * 1.01
    assert result["kinds"]["none float32, cpu"]["time_to_plain"] == 1


@pytest.mark.slow
def test_replay() -> None:
    """A replay's rate around the model and with it, beside a bare loop and the tagger alone."""
    result = quick("replay.py")
    rates = result["listings_s"]
    assert {"in-out", "null", "alone", "real"} <= rates.keys()
    assert_positive(rates)
    assert_positive(result["null_to_in_out"] | result["real_to_alone"])


@pytest.mark.slow
def test_numerics() -> None:
    """The same process twice gives the same bits; plain weights give the same tags with other instructions too."""
    compared = quick("numerics.py")["compared"]
    again = compared["int8, once more"]
    assert again["tags"] == again["same_bits"] > 0
    assert compared["none, AVX2"]["with_other_tags"] == 0
    assert compared["none, AVX2"]["most_apart"] < 1e-4
