"""The Avro schemas: the contract with everyone who writes to or reads from our topics.

`NAME.avsc` is the current version of each; `released/VERSION/NAME.avsc` is what a release carried, and never changes.
"""

import json
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

LISTING = "product-listing"
TAGS = "product-tags"
DEAD_LETTER = "product-tags-dlq"
ADAPTER = "merchant-adapter"
ADAPTER_STATUS = "merchant-adapter-status"
NAMES = (LISTING, TAGS, DEAD_LETTER, ADAPTER, ADAPTER_STATUS)


@cache
def load(name: str) -> dict[str, Any]:
    """The parsed JSON of `name`.avsc; FileNotFoundError for a name that is not one of ours."""
    return _read(resources.files(__name__), name)


@cache
def released(name: str) -> dict[str, dict[str, Any]]:
    """The parsed JSON of every released version of `name`, by the release that carried it."""
    folders = sorted(resources.files(__name__).joinpath("released").iterdir(), key=lambda folder: folder.name)
    return {folder.name: _read(folder, name) for folder in folders if folder.joinpath(f"{name}.avsc").is_file()}


def _read(folder: Traversable, name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(folder.joinpath(f"{name}.avsc").read_text(encoding="utf-8"))
    return schema
