"""The Avro schemas: the contract with everyone who writes to or reads from our topics."""

import json
from functools import cache
from importlib import resources
from typing import Any

LISTING = "product-listing"
TAGS = "product-tags"
DEAD_LETTER = "product-tags-dlq"


@cache
def load(name: str) -> dict[str, Any]:
    """The parsed JSON of `name`.avsc; FileNotFoundError for a name that is not one of ours."""
    text = resources.files(__name__).joinpath(f"{name}.avsc").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
