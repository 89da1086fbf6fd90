import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from taggen.cli import app
from tests.tiny import Tiny

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "training.md").read_text(encoding="utf-8")
PATH = GUIDE[GUIDE.index("## In five commands") : GUIDE.index("## What data can look like")]


def test_the_guides_commands_lead_from_the_table_to_an_adapter(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order, with a tiny base and its adapter for the default ones: each finds what the one before left."""
    (tmp_path / "merchant.csv").write_bytes((DOCS / "examples" / "merchant.csv").read_bytes())
    new = re.findall(r"^    (\{.*\})$", PATH, re.MULTILINE)
    (tmp_path / "new.jsonl").write_text("\n".join(new), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    commands = re.findall(r"^    taggen (.*)$", PATH, re.MULTILINE)
    printed = {}
    for line in commands:
        command, *options = (str(tiny.adapter) if word == "default" else word for word in shlex.split(line))
        options += ["--base-model", str(tiny.base), "--threads", "1"] if command != "split" else []
        options += ["--epochs", "1"] if command == "train" else []
        result = CliRunner().invoke(app, [command, *options])
        assert result.exit_code in ((0, 1) if command == "evaluate" else (0,)), result.stderr  # --gate
        printed[command] = result.stdout
    torch.set_num_threads(threads)
    assert list(printed) == ["split", "train", "evaluate", "tag"]
    assert (tmp_path / "scores.png").stat().st_size > 10_000
    assert len(printed["tag"].splitlines()) == len(new) == 2
    table = printed["split"].strip().splitlines()
    assert "\n".join(f"    {line.strip()}" for line in table) in PATH
