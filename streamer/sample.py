"""A sample of somebody's events, and what a mapping makes of each."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.markup import escape
from rich.table import Table

from streamer.codec import CONFLUENT, Codec
from streamer.errors import DecodeError, InputError
from streamer.mapping import EventMapping

SHOWN_CHARS = 60  # of a value, in the table


class Checked(NamedTuple):
    """What came out of one event: a listing's record, unless `problem` says why it is none; `problems` by field."""

    record: Mapping[str, Any]
    problems: Mapping[str, str]
    problem: str | None

    @property
    def empty(self) -> list[str]:
        """The fields that have an expression and got no value."""
        return [field for field, value in self.record.items() if value in (None, "", [], {})]


def events(path: Path, codec: Codec) -> Iterator[dict[str, Any]]:
    """The events of a file: a JSON object, or one a line, or one Confluent frame, just as Kafka has it.

    Raises InputError, which names file and line, and RegistryError.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if content[:1] == CONFLUENT or _is_one_object(content):
        yield _event(content, codec, str(path))
        return
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            yield _event(line, codec, f"{path}:{number}")


def check(mapping: EventMapping, event: Mapping[str, Any]) -> Checked:
    """Map one event. A time it need not have: in Kafka its record's stands in."""
    record, problems = mapping.read(event)
    try:
        mapping.listing(event, timestamp=0)
    except DecodeError as error:
        return Checked(record, problems, str(error))
    return Checked(record, problems, None)


def table(mapping: EventMapping, number: int, checked: Checked) -> Table:
    """One event's fields for a terminal."""
    rows = Table(title=f"event {number}", title_justify="left", box=None, pad_edge=False)
    for heading in ("field", "value", "expression"):
        rows.add_column(heading, overflow="fold")
    for field, expression in mapping.expressions.items():
        rows.add_row(field, _shown(field, checked), escape(expression))
    return rows


def _shown(field: str, checked: Checked) -> str:
    if field in checked.problems:
        return f"[red]{escape(checked.problems[field])}[/]"
    if field in checked.empty:
        return "[yellow]empty[/]"
    value = checked.record[field]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return escape(text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…")


def _is_one_object(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def _event(value: bytes, codec: Codec, where: str) -> dict[str, Any]:
    try:
        return codec.decode_event(value)
    except DecodeError as error:
        raise InputError(f"{where}: {error}") from None
