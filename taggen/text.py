"""Text of a listing, cleaned for the model, with every word traceable to the characters the merchant wrote.

Cleaning strips mark-up, resolves entities, applies NFKC (full-width forms, ligatures), drops invisible characters and
folds white space. It works on segments of the original that do not influence each other, so that cutting a span out of
the original and cleaning it gives the same words again: clean(raw[start:end]).text == value.
"""

import html
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from taggen.listing import Listing

MAX_CLEAN_CHARS = 65_536  # of one listing; some characters become 18 under NFKC, so the input's bound is not enough
MAX_LABEL_CHARS = 128  # of an attribute's key: it is context only
_MIN_FIELD_CHARS = 64  # more than any segment becomes that is not cut

_BLOCK_TAGS = (
    "address|article|aside|blockquote|br|caption|center|dd|div|dl|dt|fieldset|figure|footer|form|h[1-6]|header|hr|"
    "img|input|li|main|nav|ol|option|p|pre|section|select|table|tbody|td|tfoot|th|thead|tr|ul"
)


def _regex_class(points: list[int]) -> str:
    """The inside of a regular expression's [...] for a sorted list of code points."""
    ranges: list[list[int]] = []
    for point in points:
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


def _unstable() -> tuple[str, str, str]:
    """Classes of BMP characters: those that join the one before (combining marks, Hangul vowels and finals), those
    that are invisible, and those that NFKC changes. Beyond the BMP all is left to NFKC itself."""
    joining, invisible, changing = [], [], []
    for point in range(0x20, 0x10000):
        char = chr(point)
        if 0xD800 <= point < 0xE000 or char.isspace():
            continue
        if unicodedata.combining(char) or 0x1160 <= point <= 0x11FF:
            joining.append(point)
        elif unicodedata.category(char) in ("Cc", "Cf"):
            invisible.append(point)
        elif unicodedata.normalize("NFKC", char) != char:
            changing.append(point)
    return _regex_class(joining), _regex_class(invisible), _regex_class(changing)


_JOINING, _INVISIBLE, _CHANGING = _unstable()
_INVISIBLE += r"\x00-\x08\x0e-\x1b"
_SPECIAL = re.compile(
    # Neither holds its own opening, or the search for a missing end would start anew at each of them, for minutes.
    r"(?P<hidden><!--(?:(?!<!--).)*?-->|<(?P<raw>script|style)\b[^<>]*>(?:(?!<(?P=raw)\b).)*?</(?P=raw)\s*>)"
    rf"|(?P<block></?(?:{_BLOCK_TAGS})\b[^<>]*>)"
    r"|(?P<inline></?[a-z][^<>]{0,2000}>)"
    r"|(?P<entity>&(?:#[0-9]{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});)"
    r"|(?P<blanks>\s{2,}|[^\S ])"
    rf"|(?P<joined>[^\s<&][{_JOINING}]{{1,30}})"  # NFKC sorts marks in quadratic time; no writing has more
    rf"|(?P<invisible>[{_INVISIBLE}])"
    rf"|(?P<changing>[{_CHANGING}\U00010000-\U0010ffff])",
    re.IGNORECASE | re.DOTALL,
)


class CleanText:
    """A cleaned field: `text`, and the way back from its offsets to the original's.

    At most `limit` characters are read; `truncated` says that there were more.
    """

    __slots__ = ("_plain", "_raw_ends", "_raw_starts", "_starts", "text", "truncated")

    def __init__(self, raw: str, limit: int = MAX_CLEAN_CHARS) -> None:
        self._starts: list[int] = []  # of each segment, in the clean text
        self._raw_starts: list[int] = []
        self._raw_ends: list[int] = []
        self._plain: list[bool] = []  # one to one with the original, character by character
        parts: list[str] = []
        length = 0
        self.truncated = False
        after_blank = True  # a blank here would be leading or doubled
        for segment_start, end, segment, plain in _segments(raw):
            start, text = segment_start, segment
            if after_blank and text.startswith(" "):
                start, text = start + plain, text[1:]
            if length + len(text) > limit:
                self.truncated = True
                if not plain:  # half a segment could not be cut out of the original
                    break
                text = text[: limit - length]
            if not text:
                continue
            self._starts.append(length)
            self._raw_starts.append(start)
            self._raw_ends.append(end)
            self._plain.append(plain)
            parts.append(text)
            length += len(text)
            after_blank = text.endswith(" ")
            if self.truncated:
                break
        self.text = "".join(parts).rstrip(" ")

    def locate(self, start: int, end: int) -> tuple[str, int, int]:
        """The value and its place in the original for clean offsets `start` < `end`.

        A span that cuts a segment (half a ligature) is widened to the whole of it.
        """
        first = bisect_right(self._starts, start) - 1
        last = bisect_right(self._starts, end - 1) - 1
        if self._plain[first]:
            raw_start = self._raw_starts[first] + start - self._starts[first]
        else:
            raw_start, start = self._raw_starts[first], self._starts[first]
        if self._plain[last]:
            raw_end = self._raw_starts[last] + end - self._starts[last]
        else:
            raw_end = self._raw_ends[last]
            end = self._starts[last + 1] if last + 1 < len(self._starts) else len(self.text)
        return self.text[start:end].strip(" "), raw_start, raw_end


def _segments(raw: str) -> Iterator[tuple[int, int, str, bool]]:
    """Cut the original into (start, end, clean text, plain)."""
    if raw.isascii() and raw.isprintable() and not ("<" in raw or "&" in raw or "  " in raw):
        yield 0, len(raw), raw, True  # as the expression would say, in a twentieth of the time
        return
    at = 0
    for match in _SPECIAL.finditer(raw):
        start, end = match.span()
        if start > at:
            yield at, start, raw[at:start], True
        kind = match.lastgroup if match.lastgroup != "raw" else "hidden"
        if kind in {"blanks", "block"}:
            yield start, end, " ", False
        elif kind == "entity":
            yield start, end, _fold(html.unescape(match[0])), False
        elif kind in {"joined", "changing"}:
            yield start, end, _fold(match[0]), False
        at = end
    if at < len(raw):
        yield at, len(raw), raw[at:], True


def _fold(text: str) -> str:
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text))


def clean(raw: str) -> str:
    """The cleaned text of one field alone."""
    return CleanText(raw).text


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a listing as the model reads it: `label` first ("Colour: "), which carries no tags, then the text.

    `name` is title, description or attributes.KEY.
    """

    name: str
    label: str
    clean: CleanText

    @property
    def text(self) -> str:
        """Label and clean text: what is tokenised."""
        return self.label + self.clean.text


def fields(listing: Listing) -> list[Field]:
    """The fields that are read, in the model's order; empty ones are left out."""
    originals = [("title", "", listing.title)]
    for key, value in listing.attributes.items():
        originals.append((f"attributes.{key}", f"{CleanText(key, MAX_LABEL_CHARS).text}: ", value))
    if listing.description:
        originals.append(("description", "", listing.description))
    found = []
    room = MAX_CLEAN_CHARS
    for name, label, raw in originals:
        cleaned = CleanText(raw, max(room, _MIN_FIELD_CHARS))  # without room left it still is there, and truncated
        if cleaned.text:
            found.append(Field(name, label, cleaned))
            room -= len(label) + len(cleaned.text)
    return found
