"""The ledger of a verification: inputs and outcomes in a temporary database, findings by query.

SQLite sorts and joins on disk (in SQLITE_TMPDIR or TMPDIR) within a fixed cache, so memory stays bounded whatever is
entered.
"""

import hashlib
import sqlite3
from array import array
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Self

from streamer.codec import Codec
from streamer.errors import DecodeError
from streamer.pipeline import STALE, event_id, source_event_id
from streamer.records import Coordinates, Record, TagEvent, tag_key
from streamer.retry import origin
from streamer.scan import Span

CACHE_KIB = 64 * 1024
DIGEST_BYTES = 16  # of a SHA-256: enough to tell any two things in a topic apart

_TABLES = """
CREATE TABLE inputs (
    part INTEGER, at INTEGER, required INTEGER, source_event_id TEXT, listing TEXT, product BLOB, value BLOB,
    PRIMARY KEY (part, at)
) WITHOUT ROWID;
CREATE TABLE retries (required INTEGER, source_part INTEGER, source_at INTEGER, attempt INTEGER);
CREATE TABLE tagged (
    part INTEGER, at INTEGER, source_part INTEGER, source_at INTEGER, event_id TEXT, product BLOB, model INTEGER,
    class INTEGER, content BLOB, confidences BLOB
);
CREATE TABLE letters (
    part INTEGER, at INTEGER, source_part INTEGER, source_at INTEGER, value BLOB, attempts INTEGER
);
CREATE TABLE unreadable (part INTEGER, at INTEGER, reason TEXT);
"""
_INDICES = """
CREATE INDEX tagged_source ON tagged (source_part, source_at);
CREATE INDEX tagged_id ON tagged (event_id);
CREATE INDEX letters_source ON letters (source_part, source_at);
"""

# Each gives the place of the source record, that of the outcome, and the problem.
_FINDINGS = (
    (
        "lost",
        """
        SELECT part, at, NULL, NULL, 'acknowledged, and neither a tag event nor a dead letter' FROM inputs
        WHERE required
          AND NOT EXISTS (SELECT 1 FROM tagged WHERE source_part = inputs.part AND source_at = inputs.at)
          AND NOT EXISTS (SELECT 1 FROM letters WHERE source_part = inputs.part AND source_at = inputs.at)
        """,
    ),
    (
        "lost",
        """
        SELECT source_part, source_at, NULL, NULL, 'redriven, acknowledged, and neither tagged nor refused again'
        FROM retries WHERE required
          AND NOT EXISTS (
            SELECT 1 FROM tagged
            WHERE source_part = retries.source_part AND source_at = retries.source_at)
          AND NOT EXISTS (
            SELECT 1 FROM letters
            WHERE source_part = retries.source_part AND source_at = retries.source_at AND attempts >= attempt)
        """,
    ),
    (
        "invented",
        """
        SELECT source_part, source_at, tagged.part, tagged.at, CASE
            WHEN inputs.part IS NULL THEN 'tags of a record that is not there'
            WHEN inputs.listing IS NULL THEN 'tags of a record that holds no listing'
            WHEN inputs.product <> tagged.product THEN 'tags of another product than its record'
            ELSE 'an event id that does not follow from its record and model'
        END
        FROM tagged LEFT JOIN inputs ON inputs.part = source_part AND inputs.at = source_at
        WHERE within(source_part, source_at) AND (
            inputs.part IS NULL OR inputs.listing IS NULL OR inputs.product <> tagged.product
            OR event_id <> expected_id(inputs.source_event_id, inputs.listing, model))
        """,
    ),
    (
        "invented",
        """
        SELECT source_part, source_at, letters.part, letters.at, CASE
            WHEN inputs.part IS NULL THEN 'a dead letter of a record that is not there'
            ELSE 'a dead letter of other bytes than its record holds'
        END
        FROM letters LEFT JOIN inputs ON inputs.part = source_part AND inputs.at = source_at
        WHERE within(source_part, source_at) AND (inputs.part IS NULL OR inputs.value IS NOT letters.value)
        """,
    ),
    (
        "contradicted",
        """
        SELECT source_part, source_at, part, at, 'the same event id as another tag event, with other content'
        FROM tagged GROUP BY event_id HAVING count(DISTINCT content) > 1
        """,
    ),
    (
        "contradicted",
        """
        SELECT source_part, source_at, part, at,
            'the same event id and numerics class as another tag event, with other confidences'
        FROM tagged GROUP BY event_id, class HAVING count(DISTINCT content) = 1 AND count(DISTINCT confidences) > 1
        """,
    ),
    # The tags of an input with a dead letter may come late: it was redriven.
    (
        "reordered",
        """
        SELECT source_part, source_at, part, first, 'first written after that of a later record of its product'
        FROM (
            SELECT *, min(first) OVER (
                PARTITION BY product, source_part, part ORDER BY source_at DESC
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS later
            FROM (
                SELECT product, source_part, source_at, part, min(at) AS first FROM tagged
                WHERE NOT EXISTS (
                    SELECT 1 FROM letters
                    WHERE letters.source_part = tagged.source_part AND letters.source_at = tagged.source_at)
                GROUP BY product, source_part, source_at, part))
        WHERE later < first
        """,
    ),
    ("unreadable", "SELECT NULL, NULL, part, at, reason FROM unreadable"),
)
_COUNTS = {
    "inputs": "SELECT count(*) FROM inputs",
    "required": "SELECT count(*) FROM inputs WHERE required",
    "redriven": "SELECT count(*) FROM retries",
    "tag_events": "SELECT count(*) FROM tagged",
    "dead_letters": "SELECT count(*) FROM letters",
    "repeats": """
        SELECT (SELECT count(*) FROM tagged) + (SELECT count(*) FROM letters)
            - (SELECT count(*) FROM (SELECT 1 FROM tagged GROUP BY source_part, source_at, event_id))
            - (SELECT count(*) FROM (SELECT 1 FROM letters GROUP BY source_part, source_at, attempts))
        """,
}
KINDS = tuple(dict.fromkeys(kind for kind, _ in _FINDINGS))


class Finding(NamedTuple):
    """Something that must not be: about which source record, in which outcome."""

    kind: str
    source: Coordinates | None
    outcome: Coordinates | None
    problem: str

    def __str__(self) -> str:
        places = [
            f"{name} {one.topic}/{one.partition}/{one.offset}"
            for name, one in (("record", self.source), ("outcome", self.outcome))
            if one is not None
        ]
        return f"{self.kind}: {', '.join(places)}: {self.problem}"


class Difference(NamedTuple):
    """Repeats of one event id from several numerics classes: how many ids, and how far a confidence was apart."""

    ids: int
    most: float


class Ledger:
    """Takes records in and tells what is wrong with them; a context manager.

    Enter all inputs of the `spans` that the outcomes are held against: an outcome of a source record before or behind
    its partition's span is nobody's concern, one of a partition without a span is invented.
    """

    def __init__(self, codec: Codec, spans: Mapping[tuple[str, int], Span]) -> None:
        self._codec = codec
        self._spans = spans
        self._parts: list[tuple[str, int]] = []  # a partition's number is its index here
        self._numbers: dict[tuple[str, int], int] = {}
        self._texts: list[str] = []  # fingerprints and numerics classes, likewise
        self._text_numbers: dict[str, int] = {}
        self._database = database = sqlite3.connect("", isolation_level=None)  # "": a temporary file
        database.execute("PRAGMA journal_mode = OFF")  # nobody goes on with it after a crash
        database.execute("PRAGMA temp_store = FILE")
        database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        database.executescript(_TABLES)
        database.create_function("within", 2, self._within, deterministic=True)
        database.create_function("expected_id", 3, self._expected_id, deterministic=True)
        database.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def enter_input(self, record: Record, required: bool) -> None:
        """A source record; `required`: it must have an outcome by now. Raises RegistryError."""
        try:
            listing = self._codec.decode_listing(record)
        except DecodeError:
            described: tuple[str | None, str | None, bytes | None] = (None, None, None)
        else:
            product = _digest(tag_key(listing.merchant_id, listing.product_id))
            described = (source_event_id(record, listing), listing.digest(), product)
        row = (
            self._part(record.topic, record.partition),
            record.offset,
            required,
            *described,
            None if record.value is None else _digest(record.value),
        )
        self._database.execute("INSERT INTO inputs VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def enter_retry(self, record: Record, required: bool) -> None:
        """A record of the retry topic: it must have an outcome of its own, told by its attempt."""
        came_from = origin(record)
        if came_from is None:
            self.enter_input(record, required)
            return
        row = (
            required,
            self._part(came_from.source.topic, came_from.source.partition),
            came_from.source.offset,
            came_from.attempt,
        )
        self._database.execute("INSERT INTO retries VALUES (?, ?, ?, ?)", row)

    def enter_tags(self, record: Record) -> None:
        """A record of the topic of tag events."""
        try:
            event = self._codec.decode_tags(record.value or b"")
        except DecodeError as error:
            self._cannot_read(record, error)
            return
        model = event.model
        row = (
            self._part(record.topic, record.partition),
            record.offset,
            self._part(event.source.topic, event.source.partition),
            event.source.offset,
            event.event_id,
            _digest(tag_key(event.merchant_id, event.product_id)),
            self._text("" if model is None else model.fingerprint),
            self._text("" if model is None else model.numerics_class),
            _content(event),
            array("f", [tag.confidence for tag in event.tags]).tobytes(),
        )
        self._database.execute("INSERT INTO tagged VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def enter_letter(self, record: Record) -> None:
        """A record of the topic of dead letters."""
        try:
            letter = self._codec.decode_dead_letter(record.value or b"")
        except DecodeError as error:
            self._cannot_read(record, error)
            return
        row = (
            self._part(record.topic, record.partition),
            record.offset,
            self._part(letter.topic, letter.partition),
            letter.offset,
            None if letter.value_sha256 is None else bytes.fromhex(letter.value_sha256)[:DIGEST_BYTES],
            letter.attempts,
        )
        self._database.execute("INSERT INTO letters VALUES (?, ?, ?, ?, ?, ?)", row)

    def close(self) -> None:
        """Everything has been entered."""
        self._database.execute("COMMIT")
        self._database.executescript(_INDICES)

    def findings(self) -> Iterator[Finding]:
        """Everything that must not be, kind by kind."""
        for kind, query in _FINDINGS:
            for source_part, source_at, part, at, problem in self._database.execute(query):
                yield Finding(kind, self._place(source_part, source_at), self._place(part, at), problem)

    def counts(self) -> dict[str, int]:
        """What has been entered, and how many outcomes are repeats of an id or a letter."""
        return {name: self._database.execute(query).fetchone()[0] for name, query in _COUNTS.items()}

    def difference(self) -> Difference:
        """What several numerics classes made of the same ids; within a class any difference is a finding."""
        ids, most = 0, 0.0
        query = (
            "SELECT event_id, confidences FROM tagged WHERE event_id IN"
            " (SELECT event_id FROM tagged GROUP BY event_id HAVING count(DISTINCT class) > 1) ORDER BY event_id"
        )
        current, first = None, array("f")
        for identity, blob in self._database.execute(query):
            confidences = array("f", blob)
            if identity != current:
                current, first, ids = identity, confidences, ids + 1
            elif len(confidences) == len(first):
                most = max([most, *(abs(one - other) for one, other in zip(first, confidences, strict=True))])
        return Difference(ids, most)

    def _cannot_read(self, record: Record, error: DecodeError) -> None:
        row = (self._part(record.topic, record.partition), record.offset, error.reason)
        self._database.execute("INSERT INTO unreadable VALUES (?, ?, ?)", row)

    def _part(self, topic: str, partition: int) -> int:
        number = self._numbers.setdefault((topic, partition), len(self._parts))
        if number == len(self._parts):
            self._parts.append((topic, partition))
        return number

    def _text(self, text: str) -> int:
        number = self._text_numbers.setdefault(text, len(self._texts))
        if number == len(self._texts):
            self._texts.append(text)
        return number

    def _place(self, part: int | None, at: int | None) -> Coordinates | None:
        return None if part is None or at is None else Coordinates(*self._parts[part], at)

    def _within(self, part: int, at: int) -> bool:
        span = self._spans.get(self._parts[part])
        return span is None or span.start <= at < span.end

    def _expected_id(self, source: str, listing: str, model: int) -> str:
        return event_id(source, listing, self._texts[model])


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:DIGEST_BYTES]


def _content(event: TagEvent) -> bytes:
    """Digest of what repeats of an id share: not the confidences, which depend on the numerics class, nor what one
    worker's memory and routes decide."""
    tags = [(tag.name, tag.value, tag.normalized, tag.kind, tag.evidence) for tag in event.tags]
    flags = sorted(set(event.flags) - {STALE})
    return _digest(repr((event.source_event_id, event.listing_version, event.deleted, tags, flags)).encode())
