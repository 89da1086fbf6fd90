"""Avro's binary form of one of our schemas: written with the current version, read from any version that is known.

fastavro decodes; what it lets through when the bytes are hostile is caught here.
"""

from collections.abc import Iterator, Mapping
from io import BytesIO
from itertools import islice
from typing import Any, NamedTuple

import fastavro
from fastavro.schema import fingerprint as avro_fingerprint
from fastavro.schema import to_parsing_canonical_form

import schemas
from streamer.errors import DecodeError

SINGLE_OBJECT = b"\xc3\x01"  # begins Avro's single-object encoding; the writer schema's fingerprint follows
FINGERPRINT_BYTES = 8

MAX_PARTS = 4_000  # of a writer schema with its named types written out: ours have 40, wide tables' changes 2,000


class Writer(NamedTuple):
    """The schema that some bytes were written with, ready for use; `current` when it is the current one."""

    schema: Any
    current: bool


class Format:
    """One of our schemas, by its name in `schemas`."""

    def __init__(self, name: str) -> None:
        self._schema = fastavro.parse_schema(_plain(schemas.load(name)))
        self.fingerprint = fingerprint(schemas.load(name))
        self._known = {fingerprint(schema): self.writer(schema) for schema in schemas.released(name).values()}
        self._known[self.fingerprint] = Writer(self._schema, current=True)

    def known(self, fingerprint: bytes) -> Writer | None:
        """The current or released version with this fingerprint, None when there is none."""
        return self._known.get(fingerprint)

    def writer(self, schema: Any) -> Writer:
        """Make anyone's schema (JSON, parsed) ready to read with. Raises ValueError, as `parsed` does."""
        ready = parsed(schema)
        return Writer(ready, current=fingerprint(ready) == self.fingerprint)

    def wrote(self, writer: Writer) -> bool:
        """Whether a writer's schema is a version of this one, by its name."""
        return isinstance(writer.schema, dict) and writer.schema.get("name") == self._schema["name"]

    def write(self, prefix: bytes, record: dict[str, Any]) -> bytes:
        """The prefix and the record's binary form."""
        stream = BytesIO()
        stream.write(prefix)
        fastavro.schemaless_writer(stream, self._schema, record)
        return stream.getvalue()

    def read(self, value: bytes, start: int, writer: Writer) -> dict[str, Any]:
        """The record that begins at `start` and ends with the value, in the terms of the current schema.

        Raises DecodeError for anything else.
        """
        # Without a reader schema first: what fastavro skips it does not check, so it would not notice a value cut off
        # inside a field that only the writer knows.
        record = read_record(value, start, writer.schema)
        return record if writer.current else read_record(value, start, writer.schema, self._schema)


def parsed(schema: Any) -> Any:
    """Anyone's schema (JSON, parsed), ready to read with.

    Raises ValueError for one that is not valid, or with which few bytes stand for endless data.
    """
    named: dict[str, Any] = {}
    try:
        ready = fastavro.parse_schema(_plain(schema), named)
        parts = sum(1 for _ in islice(_parts(ready, named), MAX_PARTS + 1))
    except Exception as error:  # fastavro's have no common root
        raise ValueError(f"not a usable Avro schema: {type(error).__name__}") from error
    if parts > MAX_PARTS:
        raise ValueError("not a usable Avro schema: recursive or too large")
    return ready


def read_record(value: bytes, start: int, writer: Any, reader: Any = None) -> dict[str, Any]:
    """The record that begins at `start` and ends with the value, in the terms of `reader`, or of its writer.

    Both are schemas of `parsed`. Raises DecodeError for anything else.
    """
    stream = BytesIO(value)
    stream.seek(start)
    try:
        record = fastavro.schemaless_reader(stream, writer, reader)
    except MemoryError:
        raise
    except Exception as error:  # EOFError, IndexError, UnicodeDecodeError, ReadError, SchemaResolutionError, ...
        raise DecodeError("undecodable", f"Avro: {type(error).__name__}") from error
    if stream.tell() != len(value):
        raise DecodeError("undecodable", f"Avro: {len(value) - stream.tell()} bytes after the record")
    if not isinstance(record, dict):
        raise DecodeError("undecodable", "Avro: not a record")
    return record


def fingerprint(schema: Any) -> bytes:
    """CRC-64-AVRO of a schema's parsing canonical form, in the byte order of the single-object encoding."""
    digest = avro_fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO")
    return bytes.fromhex(digest)


def _plain(schema: Any) -> Any:
    """The schema without logical types: times stay integers, and no value can be out of a datetime's range."""
    if isinstance(schema, dict):
        return {key: _plain(value) for key, value in schema.items() if key != "logicalType"}
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    return schema


def _parts(schema: Any, named: Mapping[str, Any]) -> Iterator[str]:
    """The type of every part of a schema, named types written out: endless for a recursive one, which lets fastavro
    recurse as deep as the bytes say, down to a crash of the process.

    Raises ValueError for an array of items without bytes: its declared length alone decides how long it is read.
    """
    if isinstance(schema, list):
        yield "union"
        for branch in schema:
            yield from _parts(branch, named)
    elif isinstance(schema, str):
        if schema in named:
            yield from _parts(named[schema], named)
        else:
            yield schema
    else:
        kind = schema["type"]
        yield "null" if kind == "fixed" and schema["size"] == 0 else kind
        if kind == "array":
            if all(part in ("null", "record") for part in _parts(schema["items"], named)):
                raise ValueError("array of nothing")
            yield from _parts(schema["items"], named)
        elif kind == "map":
            yield from _parts(schema["values"], named)
        for field in schema.get("fields", ()):
            yield from _parts(field["type"], named)
