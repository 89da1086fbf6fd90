import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taggen import corpus
from taggen.errors import AdapterError
from taggen.normalize import MAX_RULES_BYTES, Rules, fold
from taggen.text import clean

RULES = Rules()
TAGS = [*corpus.TAGS, "Model Name", "unknown"]
MARKED = sorted(
    {
        (span.tag, clean(item.text(span.field)[span.start : span.end]))
        for item in [*corpus.held_out(), *(item for path in corpus.train_files() for item in corpus.read(path))]
        for span in item.spans
    }
)


def added(**tags: object) -> Rules:
    """Our rules with those of a rules.json on top."""
    return Rules(json.dumps(tags).encode())


@pytest.mark.parametrize(
    ("tag", "values", "form"),
    [
        ("color", ["Navy", "navy blue", "藏青", "藏青色", "Azul marino"], "navy"),
        ("color", ["Off-White", "off white", "米白色", "米白", "Ivory"], "off-white"),
        ("color", ["Black & White", "黑/白", "black/white", "黑白", "Schwarz/Weiß"], "black/white"),
        ("color", ["Gray", "grey", "灰色", "GRIS"], "gray"),
        ("color", ["Nickel/Copper"], "nickel/copper"),
        ("color", ["雾霾蓝"], "雾霾蓝"),
        ("color", ["霧粉"], "雾粉"),
        ("audience", ["Men's", "MEN’S", "mens", "Men", "男士", "男子", "男款", "homme", "Herren", "メンズ"], "men"),
        ("audience", ["Women", "女士", "femme", "Damen"], "women"),
        ("audience", ["兒童", "儿童", "Kids'", "children"], "kids"),
        ("audience", ["0-3歲"], "0-3岁"),
        ("size", ["500ML", "500 ml", "0.5 L"], "500 ml"),
        ("size", ["256G", "256GB"], "256 gb"),
        ("size", ["500G", "0.5kg"], "500 g"),
        ("size", ["XXL", "2XL", "XX-Large"], "2xl"),
        ("size", ["One Size", "均码", "free size"], "one size"),
        ("quantity", ["Pack of 6", "6-Pack", "6件装"], "6"),
        ("season", ["秋冬", "Autumn/Winter", "fall & winter"], "autumn/winter"),
        ("product_type", ["Running Shoes", "running shoe"], "running shoe"),
        ("product_type", ["运动鞋", "運動鞋"], "运动鞋"),
        ("brand", ["Nike®", "NIKE", "NikeTM"], "nike"),
        ("brand", ["ATM"], "atm"),
        ("function", ["防水"], "防水"),
        ("function", ["Waterproof"], "waterproof"),
        ("material", ["100%  Cotton"], "100% cotton"),
        ("unknown", ["Navy Blue"], "navy blue"),
    ],
)
def test_one_value_has_one_form(tag: str, values: list[str], form: str) -> None:
    """By the rules of its tag; a value without a rule is folded and no more."""
    assert {value: RULES.normalize(tag, value) for value in values} == dict.fromkeys(values, form)


@given(st.sampled_from(TAGS), st.text(max_size=400) | st.from_regex(r"[0-9]{1,4}[x.,/ -]?[0-9]{0,3} ?[a-zA-Z\"']{0,3}"))
def test_normalising_is_idempotent(tag: str, value: str) -> None:
    """It takes every text, and a form is its own form."""
    form = RULES.normalize(tag, value)
    assert RULES.normalize(tag, form) == form
    assert len(form) <= 4 * len(value) + 16
    assert bool(form) == bool(value.casefold())


def test_every_marked_value_has_a_stable_form() -> None:
    """All that is marked in the corpus, in some ten languages."""
    assert len(MARKED) > 5_000
    assert [
        (tag, value) for tag, value in MARKED if RULES.normalize(tag, form := RULES.normalize(tag, value)) != form
    ] == []


def test_a_value_takes_microseconds() -> None:
    """Less than a hundred on average over the corpus; the aim is below twenty on an idle machine."""
    started = time.process_time()
    for tag, value in MARKED:
        RULES.normalize(tag, value)
    assert (time.process_time() - started) / len(MARKED) < 100e-6


def test_hostile_values_take_no_longer() -> None:
    """Long ones are folded alone; numbers without end are not tried in every way."""
    values = [
        "1" * 256,
        "1 x " * 64,
        "1/1 " * 64,
        "1,000" * 50,
        "/".join("ab" * 64),
        "薴" * 256,
        "a" * 65_536,
        "1-" * 120,
    ]
    started = time.process_time()
    for value in values:
        for tag in TAGS:
            RULES.normalize(tag, value)
    assert time.process_time() - started < 0.5


def test_an_adapter_adds_rules() -> None:
    """Theirs come first where both know a wording; ours stay for the rest."""
    rules = added(
        Color={"synonyms": {"Deep Sea": ["深海蓝"], "ink": ["navy"]}},
        volume={"read": "quantity"},
        product_type={"last_word": {"鞋": ["鞋子"]}, "synonyms": {"trainers": ["运动鞋"]}},
    )
    assert rules.normalize("color", "深海蓝色") == "deep sea"
    assert rules.normalize("color", "Navy") == rules.normalize("color", "藏青") == "ink"
    assert rules.normalize("color", "黑色") == "black"
    assert rules.normalize("Volume", "0.5 L") == "500 ml"
    assert rules.normalize("product_type", "运动鞋") == "trainers"
    assert RULES.normalize("color", "深海蓝") == "深海蓝"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "rules.json: "),
        (b"[" * 100_000, "rules.json: "),
        (b"[]", "not an object of tags"),
        (b'{"color": []}', "color: not an object"),
        (b'{"color": {"synonyms": {"navy": "blue"}}}', "color: synonyms"),
        (b'{"color": {"synonyms": {"navy": [1]}}}', "color: synonyms"),
        (b'{"color": {"synonyms": {" ": ["a"]}}}', "color: synonyms"),
        (b'{"color": {"read": "regex"}}', "color: read"),
        (b'{"color": {"read": ["count"]}}', "color: read"),
        (b'{"color": {"claims": "never"}}', "color: claims"),
        (b'{"color": {"endings": [""]}}', "color: endings"),
        (b'{"color": {"synonyms": {"a": ["b"], "b": ["a"]}}}', "stand for each other"),
        (b" " * (MAX_RULES_BYTES + 1), "larger than"),
    ],
)
def test_additions_are_checked(content: bytes, message: str) -> None:
    """What is not of the form, too large or circular is refused with the place; so is any say in what is a claim."""
    with pytest.raises(AdapterError, match=message):
        Rules(content)


def test_the_digest_is_that_of_the_data() -> None:
    """It is the same for every tagger of one version; what an adapter adds is in the adapter's own."""
    assert Rules().digest == added(color={}).digest
    assert len(RULES.digest) == 64


def test_folding_keeps_japanese() -> None:
    """Traditional characters become simplified ones, save beside kana."""
    assert fold("運動鞋") == "运动鞋"
    assert fold("運動シューズ") == "運動シューズ"
