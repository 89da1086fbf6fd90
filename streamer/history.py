"""What a replay knows of the time before it: the versions and flags of records, and each product's tags.

Kept in a database on disk (a temporary one in SQLITE_TMPDIR or TMPDIR): memory stays bounded whatever the topics hold.
"""

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

from streamer.newest import rank
from streamer.records import Coordinates, TagEvent, tag_key
from taggen.listing import Listing
from taggen.tag import Tag

CACHE_KIB = 64 * 1024

_TABLES = """
CREATE TABLE newest (product BLOB PRIMARY KEY, version, event_time, topic, part, at) WITHOUT ROWID;
CREATE TABLE flagged (topic, part, at, flagged, PRIMARY KEY (topic, part, at)) WITHOUT ROWID;
CREATE TABLE before (product BLOB PRIMARY KEY, version, generation, own, revision, tags TEXT) WITHOUT ROWID;
"""


class Before(NamedTuple):
    """A product's newest tag event before the replay: the listing version that it is of, and (name, value) pairs."""

    listing_version: int
    tags: frozenset[tuple[str, str]]


class History:
    """Takes in what was; answers what is meant, and what has changed. A context manager."""

    def __init__(self, file: Path | None = None) -> None:
        """In a new file that `open` reads once this is closed; None: a temporary one."""
        self._database = database = sqlite3.connect(file or "", isolation_level=None)
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        database.executescript(_TABLES)
        database.execute("BEGIN")

    @classmethod
    def open(cls, file: Path) -> Self:
        """One that is complete, to ask."""
        history = cls.__new__(cls)
        history._database = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, isolation_level=None)
        return history

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing more is seen or asked."""
        if self._database.in_transaction:
            self._database.execute("COMMIT")
        self._database.close()

    def see_listing(self, listing: Listing, where: Coordinates) -> None:
        """A listing of the range: the newest version of its product so far, or not. Of equal versions the later event
        counts, then the later place, so that the order of reading decides nothing."""
        row = (tag_key(listing.merchant_id, listing.product_id), listing.listing_version, listing.event_time, *where)
        self._database.execute(
            "INSERT INTO newest VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET version = excluded.version,"
            " event_time = excluded.event_time, topic = excluded.topic, part = excluded.part, at = excluded.at"
            " WHERE (excluded.version, excluded.event_time, excluded.topic, excluded.part, excluded.at)"
            " > (version, event_time, topic, part, at)",
            row,
        )

    def is_newest(self, listing: Listing, where: Coordinates) -> bool:
        """Whether the listing at this place is the newest of its product among those seen."""
        product = tag_key(listing.merchant_id, listing.product_id)
        query = "SELECT topic, part, at FROM newest WHERE product = ?"
        return bool(self._database.execute(query, (product,)).fetchone() == tuple(where))

    def see_flag(self, event: TagEvent, flag: str) -> None:
        """A tag event: its record went out with this flag, or without it."""
        self._database.execute(
            "INSERT INTO flagged VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET flagged = min(flagged, excluded.flagged)",
            (*event.source, flag in event.flags),
        )

    def is_flagged(self, where: Coordinates) -> bool:
        """Whether all tag events of the record at this place had the flag, and there was one."""
        query = "SELECT flagged FROM flagged WHERE topic = ? AND part = ? AND at = ?"
        return bool(self._database.execute(query, tuple(where)).fetchone() == (1,))

    def see_tags(self, event: TagEvent) -> None:
        """A tag event from before the replay: the newest of its product by decision 4, or not."""
        row = (
            tag_key(event.merchant_id, event.product_id),
            *rank(event),
            json.dumps(sorted(pairs(event.tags))),
        )
        self._database.execute(
            "INSERT INTO before VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET version = excluded.version,"
            " generation = excluded.generation, own = excluded.own, revision = excluded.revision, tags = excluded.tags"
            " WHERE (excluded.version, excluded.generation, excluded.own, excluded.revision)"
            " >= (version, generation, own, revision)",
            row,
        )

    def before(self, merchant_id: str, product_id: str) -> Before | None:
        """The product's newest tag event, None for none."""
        query = "SELECT version, tags FROM before WHERE product = ?"
        found = self._database.execute(query, (tag_key(merchant_id, product_id),)).fetchone()
        return (
            None
            if found is None
            else Before(found[0], frozenset((name, value) for name, value in json.loads(found[1])))
        )


def pairs(tags: Iterable[Tag]) -> frozenset[tuple[str, str]]:
    """What two taggings are compared by."""
    return frozenset((tag.name, tag.normalized) for tag in tags)
