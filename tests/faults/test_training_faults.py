"""A training process that dies."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from typer.testing import CliRunner

from taggen import corpus
from taggen.checkpoint import FOLDER, STATE
from taggen.cli import app
from tests.tiny import Tiny

EPOCHS = 8
DEADLINE_S = 120


def arguments(tiny: Tiny, data: Path, out: Path) -> list[str]:
    """Of `taggen`, for a training with all that has chances in it."""
    return [
        *("train", str(data), "--out", str(out), "--base-model", str(tiny.base), "--threads", "1", "--rank", "4"),
        *("--epochs", str(EPOCHS), "--patience", str(EPOCHS), "--batch-size", "8", "--learning-rate", "1e-2"),
        *("--dropout", "0.1"),
    ]


def start(*arguments: str) -> "subprocess.Popen[bytes]":
    """`taggen`, in a process of its own."""
    command = [sys.executable, "-c", "from taggen.cli import app; app()", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def files(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_kill_9_changes_no_bit_of_the_adapter(tiny: Tiny, tmp_path: Path) -> None:
    """Killed after its first epochs and started again, training ends with the files of a run that went through."""
    data = tmp_path / "data.jsonl"
    listings = corpus.train_files()[0].read_text(encoding="utf-8").splitlines()[:32]
    data.write_text("\n".join(listings), encoding="utf-8")
    killed, through = tmp_path / "killed", tmp_path / "through"
    with start(*arguments(tiny, data, killed)) as process:
        until = time.monotonic() + DEADLINE_S
        while not (killed / FOLDER / STATE).exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert files(killed) == {}
    with start(*arguments(tiny, data, killed)) as process:
        errors = process.communicate(timeout=DEADLINE_S)[1].decode()
    assert process.returncode == 0, errors
    assert "epoch 1:" not in errors
    assert f"epoch {EPOCHS}:" in errors
    assert not (killed / FOLDER).exists()
    threads = torch.get_num_threads()
    assert CliRunner().invoke(app, arguments(tiny, data, through)).exit_code == 0
    torch.set_num_threads(threads)
    assert files(killed).keys() == {"adapter_config.json", "adapter_model.safetensors", "tagger.json"}
    assert files(killed) == files(through)
