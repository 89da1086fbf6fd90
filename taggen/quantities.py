"""Quantities and counts: one spelling for `500ML`, `0.5 L` and `500 毫升`, and for `pack of 6`, `6-pack` and `6件装`.

Units and number words are data: rules/units.json and rules/counts.json. Both functions read a value that `fold` of
taggen/normalize.py has been over, and their results read as themselves.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from typing import Any

_SMALLEST = Decimal("0.0001")  # of a kind's smallest unit; what is finer is rounded away


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of quantity. `shown` are its units in the results, smallest first, with their factors."""

    shown: tuple[tuple[str, Decimal], ...]
    factors: Mapping[str, Decimal]  # by every name of every unit
    dimensions: bool


def _data(name: str) -> Any:
    return json.loads((resources.files("taggen") / "rules" / name).read_bytes())


def _kinds(entries: Sequence[Mapping[str, Any]]) -> dict[str, _Kind]:
    """Every unit name with its kind."""
    kinds: dict[str, _Kind] = {}
    for entry in entries:
        units = {unit: Decimal(factor) for unit, (factor, _) in entry["units"].items()}
        factors = {name: units[unit] for unit, (_, names) in entry["units"].items() for name in names}
        shown = tuple((unit, units[unit]) for unit in entry["shown"])
        kinds |= dict.fromkeys(factors, _Kind(shown, factors, entry.get("dimensions", False)))
    return kinds


def _any(words: Sequence[str]) -> str:
    return "(?:" + "|".join(map(re.escape, sorted(words, key=len, reverse=True))) + ")"


_UNITS = _data("units.json")
_KINDS = _kinds(_UNITS["quantities"])
_MONTHS = frozenset(_UNITS["months"])
_NUMBER = r"(?:\d{1,3}[ -])?\d{1,4}/[1-9]\d{0,3}|\d{1,12}(?:[.,]\d{1,10})?|\d{1,3}(?:,\d{3}){2,3}"
_UNIT = _any(list(_KINDS))
_SIDE = rf"(?:(?:{_NUMBER})[ -]?{_UNIT}?|(?:{_NUMBER}) ?{_UNIT} ?(?:{_NUMBER}) ?{_UNIT})"
_PART = re.compile(rf"({_NUMBER})[ -]?({_UNIT})?")
_BY = re.compile("[x×*]")
_QUANTITY = re.compile(rf"{_SIDE}(?: ?[x×*] ?{_SIDE}){{0,2}}")
_RANGE = re.compile(rf"(\d{{1,6}}(?:[.,]\d{{1,4}})?) ?({_UNIT})? ?[-~] ?(\d{{1,6}}(?:[.,]\d{{1,4}})?) ?({_UNIT})")
_PLAIN = re.compile(r"(\d{1,12}(?:\.\d{1,10})?)[ -]?(\D{1,16})")  # nine of ten are: the others' expressions are slow
_SYSTEM = re.compile(rf"({_any(_UNITS['systems'])}) ?(\d{{1,3}}(?:\.\d)?)")

_COUNTS = _data("counts.json")
_NUMBERS = {word: number for number, words in _COUNTS["numbers"].items() for word in words}
_COUNT = rf"\d{{1,6}}|{_any(list(_NUMBERS))}"
_PIECES = re.compile(
    rf"(?:a )?{_any(_COUNTS['of'])} ({_COUNT})(?: ?{_any(_COUNTS['pieces'])})?|({_COUNT})[ -]?{_any(_COUNTS['pieces'])}"
)
_PAIRS = re.compile(rf"({_COUNT})?[ -]?{_any(_COUNTS['pairs'])}")


def quantity(text: str) -> str | None:
    """`500 ml`, `1.5 l`, `30x40 cm`, `9-14 kg`, `eu 42`; None for what is not read as a quantity."""
    if not any(map(str.isdigit, text)) or len(text) > 64:
        return None
    if (plain := _PLAIN.fullmatch(text)) and (kind := _KINDS.get(plain[2])):
        ambiguous = plain[2] == "m" and text[:-1] in _MONTHS  # 6m is a baby's size, if not six metres
        return None if ambiguous else _show([Decimal(plain[1]) * kind.factors[plain[2]]], kind, "")
    if system := _SYSTEM.fullmatch(text):
        return f"{system[1]} {system[2]}"
    if (span := _RANGE.fullmatch(text)) and span[2] in (None, span[4]):
        return _range(span[1], span[3], span[4])
    return _sides(text) if _QUANTITY.fullmatch(text) else None


def _range(first: str, last: str, unit: str) -> str | None:
    kind = _KINDS[unit]
    low, high = (_number(number) * kind.factors[unit] for number in (first, last))
    if low >= high or unit == "m":  # 6-9m are months, if not metres
        return None
    return _show([low, high], kind, "-")


def _sides(text: str) -> str | None:
    """One to three lengths with an x between them, or one amount of another kind."""
    sides = [_PART.findall(side) for side in _BY.split(text)]
    units = [unit for side in sides for _, unit in side if unit]
    if not units:
        return "x".join(_plain(_number(number)) for ((number, _),) in sides) if len(sides) > 1 else None
    kind = _KINDS[units[-1]]
    if any(unit not in kind.factors for unit in units) or (len(sides) > 1 and not kind.dimensions):
        return None
    if any(len(side) == 2 and kind.factors[side[0][1]] <= kind.factors[side[1][1]] for side in sides):
        return None  # 6'6" is one length; 5 kg 10 kg are two weights
    # A side without a unit has the last one's: 30 x 40 cm. Inside a side, each number has its own.
    lengths = [
        sum((_number(number) * kind.factors[unit or units[-1]] for number, unit in side), Decimal(0)) for side in sides
    ]
    return _show(lengths, kind, "x")


def count(text: str) -> str | None:
    """`6` pieces, `2 pair`; None for what is not read as a count."""
    if len(text) > 64:
        return None
    if pieces := _PIECES.fullmatch(text):
        number = pieces[1] or pieces[2]
        return _NUMBERS.get(number) or str(int(number))
    if pairs := _PAIRS.fullmatch(text):
        number = pairs[1] or "1"
        return f"{_NUMBERS.get(number) or int(number)} pair"
    return _NUMBERS.get(text) or (str(int(text)) if text.isascii() and text.isdigit() else None)


def _number(text: str) -> Decimal:
    """1/2, 1 1/2 and 1-1/2; 1,5 is one and a half, 1,500 a thousand more."""
    whole, _, fraction = text.replace("-", " ").rpartition(" ")
    if "/" in fraction:
        above, below = map(Decimal, fraction.split("/"))
        return (Decimal(whole) if whole else Decimal(0)) + above / below
    if re.fullmatch(r"[1-9]\d{0,2}(?:,\d{3})+", text):
        return Decimal(text.replace(",", ""))
    return Decimal(text.replace(",", "."))


def _show(amounts: list[Decimal], kind: _Kind, joint: str) -> str:
    """Amounts of the smallest unit, in the largest shown one that the largest amount has at least one of."""
    exact = [amount.quantize(_SMALLEST) for amount in amounts]
    name, size = next((shown for shown in reversed(kind.shown) if max(exact) >= shown[1]), kind.shown[0])
    return joint.join(_plain(amount / size) for amount in exact) + f" {name}"


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
