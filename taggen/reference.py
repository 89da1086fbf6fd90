"""What names one version of an adapter: where it is in a store, and the digest that its content must have."""

import re
from dataclasses import dataclass

from taggen.errors import AdapterError

# Names become folders and keys of an object store: no separator, nothing hidden, no way up.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """One version of an adapter; `digest` is its `Adapter.digest`. Held by a test to schemas/merchant-adapter.avsc.

    Raises AdapterError (reason `name`) for a part that could lead out of a store's root or is no SHA-256: whoever
    writes events decides what is in them.
    """

    name: str
    version: str
    digest: str

    def __post_init__(self) -> None:
        for part, text, pattern in (
            ("name", self.name, _NAME),
            ("version", self.version, _NAME),
            ("digest", self.digest, _DIGEST),
        ):
            if not isinstance(text, str) or not pattern.fullmatch(text):
                raise AdapterError(f"adapter {part} {text!r:.80} does not match {pattern.pattern}", "name")

    def __str__(self) -> str:
        return f"{self.name} {self.version}"
