"""A mapping: other people's product events, of any shape, as listings.

A file, TOML or JSON, gives a JMESPath expression over the event for each field of the listing:

    merchant_id = "after.shop_id || before.shop_id"
    deleted = "op == 'd'"

JMESPath as the specification has it, and `from_json(text)`, for JSON that stands in a string.
"""

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import jmespath
from jmespath import exceptions, functions

from streamer.errors import DecodeError, SettingsError
from taggen.errors import InvalidListing
from taggen.listing import Listing

MAX_EXPRESSION_BYTES = 1_024  # a dead letter carries the one that failed
REQUIRED = ("merchant_id", "product_id", "listing_version", "title")
# The unit of an epoch time follows from its size: each holds 1973 to 5138. What is smaller (days, say) is none.
_EPOCH_FROM = 10**8
_EPOCH_UNITS = ((10**11, 1_000.0), (10**14, 1.0), (10**17, 1e-3), (10**20, 1e-6))  # below this: milliseconds of one


class Mapped(NamedTuple):
    """What came out of one event: a record for `Listing.from_record`, and the fields that could not be read.

    A problem never quotes the event.
    """

    record: dict[str, Any]
    problems: dict[str, str]


class EventMapping:
    """The expressions of one file, compiled."""

    def __init__(self, expressions: Mapping[str, str]) -> None:
        """Raises ValueError, which names the field at fault."""
        self.expressions = dict(expressions)
        for field in self.expressions.keys() - _CONVERSIONS.keys():
            raise ValueError(f"{field}: no field of a listing; there are {', '.join(_CONVERSIONS)}")
        for field in REQUIRED:
            if field not in self.expressions:
                raise ValueError(f"{field}: has no expression, and a listing needs one")
        self._compiled = [
            (field, _compiled(field, self.expressions[field]), convert)
            for field, convert in _CONVERSIONS.items()
            if field in self.expressions
        ]

    @classmethod
    def load(cls, path: Path) -> "EventMapping":
        """Read a file. Raises SettingsError, one line."""
        try:
            text = path.read_text(encoding="utf-8")
            content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
            if not isinstance(content, dict):
                raise ValueError("not an object")
            return cls(content)
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:  # of JSON, TOML and UTF-8 too
            raise SettingsError(f"{path}: {error}") from None

    def read(self, event: Mapping[str, Any], timestamp: int = -1) -> Mapped:
        """Evaluate every expression. `timestamp` is the Kafka record's, milliseconds since 1970, for an event without
        a time of its own; -1: it has none."""
        record: dict[str, Any] = {}
        problems: dict[str, str] = {}
        for field, expression, convert in self._compiled:
            try:
                value = expression.search(event, options=_OPTIONS)
                record[field] = None if value is None else convert(value)
            except _Unfit as unfit:
                problems[field] = str(unfit)
            except exceptions.JMESPathTypeError as error:  # its own text quotes the value
                problems[field] = f"{error.function_name}() does not take {error.actual_type}"
            except (exceptions.JMESPathError, ValueError, TypeError, KeyError, RecursionError) as error:
                problems[field] = f"cannot be evaluated: {type(error).__name__}"
        if record.get("deleted") is None:
            record["deleted"] = False
        if record.get("event_time") is None and "event_time" not in problems and timestamp >= 0:
            record["event_time"] = timestamp
        return Mapped(record, problems)

    def listing(self, event: Mapping[str, Any], timestamp: int = -1) -> Listing:
        """The listing of an event. Raises DecodeError (unmapped, too_large) with field and expression."""
        record, problems = self.read(event, timestamp)
        for field, problem in problems.items():
            raise self._unmapped(field, problem, record)
        try:
            return Listing.from_record(record)
        except InvalidListing as error:
            raise self._unmapped(error.field, error.problem, record) from error

    def _unmapped(self, field: str, problem: str, record: Mapping[str, Any]) -> DecodeError:
        reason = "too_large" if problem == "too large" else "unmapped"
        return DecodeError(reason, problem, field, record.get("merchant_id"), self.expressions.get(field))


class _Unfit(Exception):
    """A value that its field cannot take."""


class _Functions(functions.Functions):  # type: ignore[misc]  # jmespath is untyped
    @functions.signature({"types": ["string", "null"]})  # type: ignore[untyped-decorator]
    def _func_from_json(self, text: str | None) -> Any:
        return None if text is None else json.loads(text)


_OPTIONS = jmespath.Options(custom_functions=_Functions())


def _compiled(field: str, expression: Any) -> Any:
    if not isinstance(expression, str):
        raise ValueError(f"{field}: an expression is a string")
    if len(expression.encode()) > MAX_EXPRESSION_BYTES:
        raise ValueError(f"{field}: an expression has {MAX_EXPRESSION_BYTES} bytes at most")
    try:
        compiled = jmespath.compile(expression)
    except exceptions.JMESPathError as error:
        raise ValueError(f"{field}: not a JMESPath expression: {str(error).splitlines()[0]}") from None
    for name in _functions_of(compiled.parsed):
        if name not in _Functions.FUNCTION_TABLE:
            raise ValueError(f"{field}: JMESPath has no function {name}()")
    return compiled


def _functions_of(node: Any) -> Iterator[str]:
    if node["type"] == "function_expression":
        yield node["value"]
    for child in node["children"]:
        if isinstance(child, dict):
            yield from _functions_of(child)


def _text(value: Any) -> str:
    """Text as it is, a number as JSON writes it: ids are often numbers."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    raise _Unfit(f"{_kind(value)}, where text is needed")


def _integer(value: Any) -> int:
    """A version: an integer, or a time, which counts as its milliseconds."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        return int(value) if value.isdecimal() and len(value) < 20 else _time(value)
    raise _Unfit(f"{_kind(value)}, where an integer or a time is needed")


def _time(value: Any) -> int:
    """Milliseconds since 1970 of ISO 8601 with a zone, or of seconds, milliseconds, microseconds or nanoseconds."""
    if isinstance(value, str):
        try:
            value = float(value) if "." in value else int(value)
        except ValueError:
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                raise _Unfit("text that is not a time") from None
            if moment.tzinfo is None:
                raise _Unfit("a time without a zone") from None
            return round(moment.timestamp() * 1000)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _Unfit(f"{_kind(value)}, where a time is needed")
    if value >= _EPOCH_FROM:
        for below, milliseconds in _EPOCH_UNITS:
            if value < below:
                return round(value * milliseconds)
    raise _Unfit("a number that is not a time")


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in (0, 1, "false", "true"):  # Debezium's flattened events say it in text
        return value in (1, "true")
    raise _Unfit(f"{_kind(value)}, where true or false is needed")


def _attributes(value: Any) -> dict[str, str]:
    """An object, or a list of objects with name and value; those without a value are left out."""
    pairs: list[tuple[str, str]] = []
    if isinstance(value, Mapping):
        pairs = [(str(name), _plain(part)) for name, part in value.items()]
    elif isinstance(value, list):
        for part in value:
            if not isinstance(part, Mapping) or not part.keys() >= {"name", "value"}:
                raise _Unfit("a list, but not of objects with name and value")
            pairs.append((_text(part["name"]), _plain(part["value"])))
    else:
        raise _Unfit(f"{_kind(value)}, where an object or a list is needed")
    attributes: dict[str, str] = {}
    for name, text in pairs:
        if text:
            attributes[name] = f"{attributes[name]}, {text}" if name in attributes else text
    return attributes


def _plain(value: Any) -> str:
    """An attribute's value as text, empty for none; a list's parts with commas between them."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(filter(None, map(_plain, value)))
    return _text(value)


def _urls(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(part is None or isinstance(part, str) for part in value):
        return [part for part in value if part]
    raise _Unfit(f"{_kind(value)}, where a list of text is needed")


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", bool: "true or false", str: "text", int: "a number", float: "a number"}
    return kinds.get(type(value), "bytes")


# In this order: whose event it is comes first, so that a dead letter can say so.
_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "merchant_id": _text,
    "product_id": _text,
    "listing_version": _integer,
    "title": _text,
    "event_time": _time,
    "event_id": _text,
    "description": _text,
    "category": _text,
    "locale": _text,
    "attributes": _attributes,
    "image_urls": _urls,
    "deleted": _flag,
}
