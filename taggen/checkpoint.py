"""Checkpoints: a training run that was killed goes on where its last epoch ended.

OUT/checkpoint/state.safetensors holds the tensors and, as JSON in the file's metadata, what the run is and its
counters. A new state takes the old one's place by renaming, so there is always a whole one. The folder goes when the
adapter is finished.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from taggen.errors import TrainingError

FOLDER = "checkpoint"
STATE = "state.safetensors"


@dataclass(frozen=True, slots=True)
class State:
    """Where a run stands between two epochs. `counters` is plain JSON."""

    tensors: Mapping[str, Tensor]
    counters: Mapping[str, Any]


class Checkpoint:
    """The checkpoint of one run, below the folder that its adapter will be in.

    `run` is plain JSON and says all that decides the weights: the state of another run is refused.
    """

    def __init__(self, out: Path, run: Mapping[str, Any]) -> None:
        self.folder = out / FOLDER
        self._run = json.loads(json.dumps(run))

    def load(self) -> State | None:
        """The last state, None if there is none yet. Raises TrainingError if it is another run's, or damaged."""
        path = self.folder / STATE
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                run, counters = (json.loads(file.metadata()[key]) for key in ("run", "counters"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a mapping
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise TrainingError(f"{path} is damaged, delete it to begin anew: {error}") from None
        if run != self._run:
            raise TrainingError(
                f"{self.folder} is another run's ({_difference(run, self._run)}): repeat that run's command, choose "
                "another --out, or delete the folder to begin anew"
            )
        return State(tensors, counters)

    def save(self, state: State) -> None:
        """Put the state in place of the one before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f"{STATE}.new"
        texts = {"run": json.dumps(self._run, ensure_ascii=False), "counters": json.dumps(state.counters)}
        save_file(dict(state.tensors), draft, texts)
        draft.replace(self.folder / STATE)

    def remove(self) -> None:
        """Remove the checkpoint: its adapter is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    key = next(key for key in sorted(theirs.keys() | ours.keys()) if theirs.get(key) != ours.get(key))
    there, here = (str(run.get(key)) for run in (theirs, ours))
    return f"{key}: {there:.40} there, {here:.40} here"
