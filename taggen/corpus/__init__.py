"""Labelled listings: the ones written for this project, and readers for the forms that labelled data comes in.

README.md beside this file is the annotation guide.
"""

import hashlib
from importlib import resources
from pathlib import Path

from taggen.corpus.forms import read, read_any, read_mapping
from taggen.corpus.labelled import Finding, Label, Labelled, Report, Span, as_said
from taggen.corpus.offsets import row
from taggen.corpus.split import split
from taggen.corpus.tag_set import LABELS, OA_MINE, TAGS, label_set, tag_set

__all__ = [
    "LABELS",
    "OA_MINE",
    "TAGS",
    "Finding",
    "Label",
    "Labelled",
    "Report",
    "Span",
    "as_said",
    "digest",
    "held_out",
    "label_set",
    "read",
    "read_any",
    "read_mapping",
    "row",
    "split",
    "tag_set",
    "train_files",
]


def train_files() -> list[Path]:
    """The training files that ship with the package."""
    with resources.as_file(resources.files(__name__)) as folder:
        return sorted(folder.glob("train-*.jsonl"))


def held_out() -> list[Labelled]:
    """The listings that are never trained on: they score the default adapter and make the demo."""
    with resources.as_file(resources.files(__name__) / "held-out.jsonl") as path:
        return read(path)


def digest(files: list[Path]) -> str:
    """SHA-256 (hex) over the files' bytes."""
    together = hashlib.sha256()
    for path in files:
        together.update(path.read_bytes())
    return together.hexdigest()
