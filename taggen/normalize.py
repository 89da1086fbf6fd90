"""The form of a value to filter and count by.

What is said with different words, spellings, units or scripts gets one form, by rules that are data:
rules/tags/TAG.json for the tags that we know, and `rules.json` in an adapter's folder for what its merchant adds. A
value without a rule is folded and no more. docs/tags.md has the form of the files.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

from opencc import OpenCC

from taggen.errors import AdapterError
from taggen.quantities import count, quantity

MAX_RULES_BYTES = 2**20  # of an adapter's rules.json
MAX_WORDS = 256  # characters of a value that rules are tried on

Reading = Literal["words", "quantity", "count"]
Claims = Literal["anywhere", "whole", "never"]

_SIMPLIFY = OpenCC("t2s")
_HAN = re.compile("[\u3400-\u9fff\U00020000-\U0003ffff]")
_KANA = re.compile("[\u3040-\u30ff]")  # Japanese: its characters are not Chinese ones written the old way
# NFKC made ™ of TM: without the blank before it, it is the sign.
_SIGNS = re.compile(r"[®©℗]|(?<=[^\W\d_A-Z])(?:TM|SM)\b")
_MARKS = str.maketrans({"’": "'", "‘": "'", "`": "'", "‐": "-", "‑": "-", "–": "-", "—": "-", "−": "-"})
_STORAGE = re.compile(r"(8|16|32|64|128|256|512)G")


def fold(value: str) -> str:
    """Case, blanks, dashes, apostrophes, trademark signs and traditional Chinese, folded. Never empty for a value."""
    text = value
    if not text.isascii():
        text = text.translate(_MARKS)
        if _HAN.search(text) and not _KANA.search(text):
            text = simplify(text)
    return " ".join(_SIGNS.sub(" ", text).casefold().split()) or value.casefold()


def simplify(text: str) -> str:
    """Traditional Chinese to simplified."""
    simple: str = _SIMPLIFY.convert(text)
    return simple if simple == text else str(_SIMPLIFY.convert(simple))  # 薴 becomes 苧, which becomes 苎


def _key(text: str) -> str:
    """A folded text without what people leave out: off-white and off white, men's and mens."""
    return text.replace("'", "").replace("-", " ")


def tag_key(tag: str) -> str:
    """The name of a tag's rule: Model name has that of model_name."""
    return tag.casefold().replace(" ", "_")


class Rule:
    """What is done with the values of one tag.

    `claims` says how taggen/compliance.py looks for them: names may hold any word, so that only a whole name is a
    claim; `#1` is a size.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.claims: Claims = content.get("claims", "anywhere")
        self._read: Reading = content.get("read", "words")
        joiners = content.get("joiners", ())
        self._joiners = re.compile(" ?(?:" + "|".join(map(re.escape, joiners)) + ") ?") if joiners else None
        self._synonyms = dict(_index(content.get("synonyms", {}), content.get("endings", ())))
        self._last_words = dict(_index(content.get("last_word", {}), ()))

    def apply(self, text: str) -> str:
        """The normalised form of a folded value. Its own normalised form is itself."""
        if known := self._synonyms.get(_key(text)):
            return known
        if self._read == "quantity":
            return quantity(text) or text
        if self._read == "count":
            return count(text) or text
        if self._joiners is not None and len(parts := self._joiners.split(text)) > 1:
            known_parts = [self._synonyms.get(_key(part)) for part in parts]
            if all(known_parts):
                return "/".join(filter(None, known_parts))
        start, _, last = text.rpartition(" ")
        if last in self._last_words:
            text = f"{start} {self._last_words[last]}".lstrip()
            return self._synonyms.get(_key(text), text)
        return text


def _index(entries: Mapping[str, Iterable[str]], endings: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Key and form of every wording. A form that is itself a wording of another form stands for that one."""
    forms: dict[str, str] = {}
    for form, wordings in entries.items():
        for wording in wordings:
            folded = fold(wording)
            for ending in ("", *endings) if _HAN.search(folded) else ("",):
                forms.setdefault(_key(folded + ending), fold(form))
    for form in entries:
        forms.setdefault(_key(fold(form)), fold(form))
    for key in forms:
        yield key, _last_form(forms, key)


def _last_form(forms: Mapping[str, str], key: str) -> str:
    passed = []
    while key not in passed:
        passed.append(key)
        form = forms[key]
        key = _key(form)
    if key != passed[-1]:
        raise ValueError(f"{form!r} and {forms[key]!r} stand for each other")
    return form


class Rules:
    """The rules of a tagger: ours, with those of an adapter on top.

    `digest` is a SHA-256 (hex) of our data files; an adapter's own are in its digest.
    """

    digest: str

    def __init__(self, additions: bytes | None = None) -> None:
        """`additions` is the content of rules.json; raises AdapterError when it breaks the form."""
        contents, self.digest = _built_in()
        added = _parse(additions) if additions is not None else {}
        try:
            changed = {tag: Rule(_merge(contents.get(tag, {}), its)) for tag, its in added.items()}
            self._rules = _ours() | changed
        except ValueError as error:
            raise AdapterError(f"rules.json: {error}", "rules") from None

    def normalize(self, tag: str, value: str) -> str:
        """The normalised form of a value of clean text, such as `navy` for 藏青色."""
        rule = self._rules.get(tag_key(tag))
        if rule is None or len(value) > MAX_WORDS:
            return fold(value)
        return rule.apply(fold(_STORAGE.sub(r"\1GB", value) if _STORAGE.fullmatch(value) else value))

    def claims(self, tag: str) -> Claims:
        """How the tag's values are looked through for claims."""
        rule = self._rules.get(tag_key(tag))
        return "anywhere" if rule is None else rule.claims


@cache
def _ours() -> dict[str, Rule]:
    """Our rules by tag: thousands of adapters share those that they do not change."""
    return {tag: Rule(_merge(content, {})) for tag, content in _built_in()[0].items()}


@cache
def _built_in() -> tuple[dict[str, Any], str]:
    """The content of rules/tags by tag, and the digest of all files below rules."""
    contents, digest = {}, hashlib.sha256()
    folder = resources.files("taggen") / "rules"
    for place in (folder, folder / "tags", folder / "withheld"):
        for file in sorted(place.iterdir(), key=lambda file: file.name):
            if file.name.endswith(".json"):
                data = file.read_bytes()
                digest.update(f"{place.name}/{file.name} {len(data)} ".encode() + data)
                if place.name == "tags":
                    contents[file.name.removesuffix(".json")] = json.loads(data)
    return contents, digest.hexdigest()


def _merge(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Theirs on top: a wording that both know means what they say."""
    merged = {**ours, **theirs}
    for part in ("synonyms", "last_word"):
        said = {wording for wordings in theirs.get(part, {}).values() for wording in map(fold, wordings)}
        kept = {
            form: [wording for wording in wordings if fold(wording) not in said]
            for form, wordings in ours.get(part, {}).items()
        }
        merged[part] = {
            form: [*theirs.get(part, {}).get(form, ()), *kept.get(form, ())]
            for form in {**theirs.get(part, {}), **kept}
        }
    for part in ("endings", "joiners"):
        merged[part] = [*ours.get(part, ()), *theirs.get(part, ())]
    return merged


def _parse(data: bytes) -> dict[str, dict[str, Any]]:
    """Read and check rules.json; by key of the tag. What counts as a claim is not for adapters to say."""
    if len(data) > MAX_RULES_BYTES:
        raise AdapterError(f"rules.json: larger than {MAX_RULES_BYTES} bytes", "size")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"rules.json: {error}", "rules") from None
    if not isinstance(content, dict):
        raise AdapterError("rules.json: not an object of tags", "rules")
    for tag, rule in content.items():
        if not isinstance(rule, dict):
            raise AdapterError(f"rules.json: {tag}: not an object", "rules")
        for part, value in rule.items():
            if not _fits(part, value):
                raise AdapterError(f"rules.json: {tag}: {part} is none of ours or has the wrong form", "rules")
    return {tag_key(tag): rule for tag, rule in content.items()}


def _fits(part: str, value: object) -> bool:
    if part == "read":
        return value in get_args(Reading)
    if part in ("endings", "joiners"):
        return _words(value)
    if part in ("synonyms", "last_word"):
        return isinstance(value, dict) and _words(list(value)) and all(map(_words, value.values()))
    return False


def _words(value: object) -> bool:
    """A list of texts that a value can have."""
    if not isinstance(value, list):
        return False
    return all(isinstance(word, str) and 0 < len(word) <= MAX_WORDS and word.strip() for word in value)
