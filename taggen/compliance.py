"""What never becomes a tag: claims that the law forbids and personal data.

Claims are data, rules/withheld/LANGUAGE.json, by the reason why they are blocked. Personal data are e-mail addresses,
phone numbers, numbers of payment cards, and Chinese resident ids, the last two with their check digits.
"""

import json
import re
from datetime import date
from functools import cache, lru_cache
from importlib import resources

import phonenumbers
from phonenumbers import Leniency, PhoneNumberMatcher, PhoneNumberType

from taggen.normalize import Claims, fold

CLAIM = "claim_withheld"
PERSONAL_DATA = "personal_data_withheld"

_MAX_CHARS = 1_000  # of a value that are looked through: no tag is that long for a good reason

_HAN_BLANKS = re.compile(r"(?<=[\u3400-\u9fff]) (?=[\u3400-\u9fff])")  # 最 佳
_HAN = re.compile("[\u3400-\u9fff]")
_LETTER = "[a-z0-9\u00df-\u024f]"  # of a folded word; Chinese stands beside such words without a blank
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}\.\w")
_RESIDENT = re.compile(r"(?<![0-9a-z])[1-9]\d{16}[0-9x](?![0-9a-z])", re.IGNORECASE | re.ASCII)
_RESIDENT_WEIGHTS = tuple(2**power % 11 for power in range(17, 0, -1))
# Visa, Mastercard, American Express, Discover, JCB, UnionPay. Shorter numbers with a check digit are goods' own (GTIN).
_CARD = re.compile(r"(?:4\d{15}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|6(?:011|5\d\d)\d{12}|35\d{14}|62\d{14,17})")
_CARD_PLACE = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){14,18}(?![\w-])", re.ASCII)
_PHONE_PLACE = re.compile(r"(?<![\w.,-])(?:\+|\(|00)?\d[\d ()./-]{5,20}\d(?![\w-])", re.ASCII)
_GROUPED = re.compile(r"[(0].*\d[ ()./-]+\d|\d+[ ()./-]+\d+[ ()./-]+\d")
# Where a number without a country is tried. Only grouped ones are believed, with an area code or in three groups, save
# Chinese mobiles: bare digits and 884363-032 are goods' numbers more often.
_REGIONS = ("US", "CN", "GB", "DE", "FR", "ES", "IT", "BR", "JP", "KR", "TW", "HK")
_BARE_MOBILE = re.compile(r"1[3-9]\d{9}")


def withheld(value: str, word: str, claims: Claims) -> str | None:
    """The flag for a value that must not become a tag, else None.

    `word` is the value with the rest of the words that it begins and ends in, for a tag may hold half of an address.
    `claims` says how the tag's values are looked through for them.
    """
    if is_personal(word[:_MAX_CHARS]):
        return PERSONAL_DATA
    return CLAIM if is_claim(value[:_MAX_CHARS], claims) else None


def is_claim(value: str, claims: Claims = "anywhere") -> bool:
    """Whether the value makes a blocked claim. Words count as whole words, Chinese ones wherever they stand."""
    if claims == "never":
        return False
    blocked, allowed = _claims()
    text = _HAN_BLANKS.sub("", fold(value))
    if claims == "whole":
        return blocked.fullmatch(text) is not None
    return blocked.search(text) is not None and blocked.search(allowed.sub(" ", text)) is not None


def is_personal(text: str) -> bool:
    """Whether the text holds an e-mail address, a phone number, a payment card's or a Chinese resident's number."""
    if "@" in text and _EMAIL.search(text):
        return True
    if sum(map(str.isdigit, text)) < 7:
        return False
    if any(_is_resident(match[0]) for match in _RESIDENT.finditer(text)):
        return True
    if any(_is_card(re.sub("[ -]", "", match[0])) for match in _CARD_PLACE.finditer(text)):
        return True
    return any(_is_phone(match[0]) for match in _PHONE_PLACE.finditer(text))


def _is_resident(number: str) -> bool:
    """GB 11643: a birthday in digits 7 to 14, a check digit modulo 11."""
    try:
        born = date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_RESIDENT_WEIGHTS, number[:17], strict=True))
    return born.year >= 1900 and number[17].upper() == "10X98765432"[total % 11]


def _is_card(digits: str) -> bool:
    """A network's prefix and length, and the check digit of Luhn."""
    if not _CARD.fullmatch(digits):
        return False
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(doubled) + sum(map(int, digits[-1::-2]))) % 10 == 0


@lru_cache(maxsize=4096)
def _is_phone(text: str) -> bool:
    if _BARE_MOBILE.fullmatch(text):
        return True
    if text.startswith("+"):
        return any(PhoneNumberMatcher(text, None))
    if text.startswith("00"):
        return any(PhoneNumberMatcher("+" + text[2:], None))
    if not _GROUPED.match(text):
        return False
    return any(
        match
        for region in _REGIONS
        for match in PhoneNumberMatcher(text, region, leniency=Leniency.STRICT_GROUPING)
        if phonenumbers.number_type(match.number) != PhoneNumberType.UNKNOWN
    )


@cache
def _claims() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Expressions for all blocked claims and for what is allowed although it holds one."""
    blocked: set[str] = set()
    allowed: set[str] = set()
    for file in (resources.files("taggen") / "rules" / "withheld").iterdir():
        for reason, claims in json.loads(file.read_bytes()).items():
            (allowed if reason == "allowed" else blocked).update(map(fold, claims))
    return _expression(blocked), _expression(allowed)


def _expression(claims: set[str]) -> re.Pattern[str]:
    """Any of the claims; those of an alphabet not within longer words, their blanks or hyphens as one likes."""
    words: list[str] = []
    others: list[str] = []
    for claim in sorted(claims, key=lambda claim: (-len(claim), claim)):
        (others if _HAN.search(claim) else words).append(re.escape(claim).replace(r"\ ", "[ -]+"))
    return re.compile("|".join([rf"(?<!{_LETTER})(?:{'|'.join(words)})(?!{_LETTER})", *others]))
