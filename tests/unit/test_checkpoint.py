from pathlib import Path

import pytest
import torch

from taggen.checkpoint import Checkpoint, State
from taggen.errors import TrainingError

RUN = {"seed": 0, "epochs": 3, "targets": ()}
STATE = State({"weights.a": torch.arange(4.0), "adamw.0.step": torch.tensor(3.0)}, {"epochs": [{"loss": 0.1 + 0.2}]})


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    """Tensors and counters, bit for bit; the newest takes the older ones' place, and nothing else is left."""
    checkpoint = Checkpoint(tmp_path / "out", RUN)
    assert checkpoint.load() is None
    checkpoint.save(State({}, {"epochs": []}))
    checkpoint.save(STATE)
    loaded = Checkpoint(tmp_path / "out", RUN).load()
    assert loaded is not None
    assert loaded.counters == STATE.counters
    assert loaded.tensors.keys() == STATE.tensors.keys()
    assert all(torch.equal(tensor, STATE.tensors[key]) for key, tensor in loaded.tensors.items())
    assert [path.name for path in checkpoint.folder.iterdir()] == ["state.safetensors"]
    checkpoint.remove()
    assert not checkpoint.folder.exists()


def test_a_state_half_written_is_not_seen(tmp_path: Path) -> None:
    """What a run that was killed left of its newest state does not hide the one before."""
    checkpoint = Checkpoint(tmp_path, RUN)
    checkpoint.save(STATE)
    (checkpoint.folder / "state.safetensors.new").write_bytes(b"half")
    loaded = checkpoint.load()
    assert loaded is not None
    assert loaded.counters == STATE.counters


@pytest.mark.parametrize("change", [{"seed": 1}, {"targets": ("query",)}, {"data": "f00"}])
def test_another_runs_state_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    """In one line that says what differs, and what to do."""
    Checkpoint(tmp_path, RUN).save(STATE)
    with pytest.raises(
        TrainingError, match=rf"is another run's \({next(iter(change))}: .* there, .* here\).*--out"
    ) as error:
        Checkpoint(tmp_path, RUN | change).load()
    assert "\n" not in str(error.value)


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    """With what to do about it."""
    checkpoint = Checkpoint(tmp_path, RUN)
    checkpoint.save(STATE)
    path = checkpoint.folder / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(TrainingError, match=r"state.safetensors is damaged, delete it"):
        checkpoint.load()
