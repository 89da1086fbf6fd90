"""Which of a product's tag events is the newest: by what it says of itself, never by when it arrived.

What is known is kept in a temporary database on disk (in SQLITE_TMPDIR or TMPDIR): memory stays bounded whatever the
number of products.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from streamer.pipeline import FALLBACK
from streamer.records import TagEvent

CACHE_KIB = 16 * 1024
DIGEST_BYTES = 16  # of a SHA-256: enough to tell any two products apart
DELETED = 2**31  # in the place of a generation, which is at most 2**31 - 1 in the schema

_TABLE = """
CREATE TABLE newest (product BLOB PRIMARY KEY, version INTEGER, generation INTEGER, own INTEGER, revision INTEGER)
WITHOUT ROWID
"""


class Rank(NamedTuple):
    """Of two tag events of a product the one with the higher rank is newer; equal ranks are as good as each other."""

    listing_version: int
    generation: int
    own: bool
    revision: int

    def to_bytes(self) -> bytes:
        """As the header of a record: a JSON array of four integers."""
        return b"[%d,%d,%d,%d]" % self

    @classmethod
    def from_bytes(cls, header: bytes | None) -> "Rank":
        """The rank in a header; raises ValueError for anything else."""
        content = json.loads(header or b"")
        if not (isinstance(content, list) and [type(one) for one in content] == [int] * 4):
            raise ValueError("not four integers")
        return cls(*content)


def rank(event: TagEvent) -> Rank:
    """The rank of a tag event. A deletion stands above all tags of its listing version: no later generation brings the
    product back, only a newer listing does."""
    model = event.model
    return Rank(
        event.listing_version,
        DELETED if event.deleted else 0 if model is None else model.generation,
        FALLBACK not in event.flags,
        0 if model is None else model.revision,
    )


def product_of(key: bytes) -> bytes:
    """What stands for a product here: a digest of its records' key."""
    return hashlib.sha256(key).digest()[:DIGEST_BYTES]


class Newest:
    """The highest rank of each product so far; a context manager."""

    def __init__(self) -> None:
        self._database = database = sqlite3.connect("", isolation_level=None)  # "": a temporary file
        database.execute("PRAGMA journal_mode = OFF")  # nobody goes on with it after a crash
        database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        database.execute(_TABLE)
        database.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM newest").fetchone()[0])

    def choose(self, events: Sequence[tuple[bytes, Rank]]) -> list[int]:
        """Which of these events, each a product and a rank, are newer than all before: of each product at most one, the
        first with the highest rank. Remembers nothing."""
        best: dict[bytes, int] = {}
        for index, (product, one) in enumerate(events):
            rival = events[best[product]][1] if product in best else self._rank(product)
            if rival is None or one > rival:
                best[product] = index
        return sorted(best.values())

    def remember(self, events: Iterable[tuple[bytes, Rank]]) -> None:
        """These have been written, or were found: a lower rank than is known changes nothing."""
        self._database.executemany(
            "INSERT INTO newest VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET version = excluded.version,"
            " generation = excluded.generation, own = excluded.own, revision = excluded.revision"
            " WHERE (excluded.version, excluded.generation, excluded.own, excluded.revision)"
            " > (version, generation, own, revision)",
            ((product, *one) for product, one in events),
        )

    def _rank(self, product: bytes) -> Rank | None:
        query = "SELECT version, generation, own, revision FROM newest WHERE product = ?"
        found = self._database.execute(query, (product,)).fetchone()
        return None if found is None else Rank(*found)
