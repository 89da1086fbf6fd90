import time

import pytest

from taggen.compliance import CLAIM, PERSONAL_DATA, is_claim, is_personal, withheld
from taggen.normalize import Rules
from tests.unit.test_normalize import MARKED


@pytest.mark.parametrize(
    "value",
    [
        "最佳",
        "最 佳",
        "销量第一",
        "国家级",
        "國家級",
        "根治",
        "高仿",
        "色情",
        "cures cancer",
        "Cures",
        "BEST IN THE WORLD",
        "best-in-the-world",
        "the world's best",
        "#1",
        "No.1 choice",
        "miracle cure",
        "counterfeit",
        "porn",
        "heilt Krebs",
        "guérit",
        "el mejor",
        "防水最好",
    ],
)
def test_claims_are_found(value: str) -> None:
    """Whatever case, script and blanks they are written in."""
    assert is_claim(value)
    assert withheld(value, value, "anywhere") == CLAIM


@pytest.mark.parametrize(
    "value",
    [
        "Bestway",
        "Secures",
        "#10",
        "第一代",
        "治愈系",
        "Essex",
        "unisex",
        "cures in 60 s",
        "heilbronn",
        "best friends",
        "No.15",
        "抗菌",
        "nude",
        "最大承重150kg",
        "",
    ],
)
def test_a_longer_word_is_no_claim(value: str) -> None:
    """Nor is what merely begins like one."""
    assert not is_claim(value)


def test_a_name_is_a_claim_only_as_a_whole() -> None:
    """Brands and models may hold any word; sizes and counts make no claims."""
    rules = Rules()
    assert not is_claim("第一财经", rules.claims("brand"))
    assert not is_claim("Chanel No. 1", rules.claims("Model Name"))
    assert is_claim("国家级", rules.claims("brand"))
    assert not is_claim("#1", rules.claims("size"))
    assert is_claim("第一财经", rules.claims("function"))


@pytest.mark.parametrize(
    "value",
    [
        "jane.doe@example.com",
        "13812345678",
        "138 1234 5678",
        "+86 138-1234-5678",
        "0086 13812345678",
        "(212) 456-7890",
        "212-456-7890",
        "+49 30 901820",
        "01 23 45 67 89",
        "010-62345678",
        "11010519491231002X",
        "11010519491231002x",
        "4111 1111 1111 1111",
        "4111111111111111",
        "3782-822463-10005",
        "6200000000000005",
        "电话13812345678",
    ],
)
def test_personal_data_is_found(value: str) -> None:
    """Addresses, phones, payment cards and resident ids; the numbers are made-up examples with right check digits."""
    assert is_personal(value)
    assert withheld(value, value, "never") == PERSONAL_DATA


@pytest.mark.parametrize(
    "value",
    [
        "110105194912310021",
        "110105194913310025",
        "4111111111111112",
        "4006381333931",
        "2125551234",
        "WH-1000XM5",
        "@home",
        "100 200 300",
        "35-36-37-38-39",
        "30 x 40 x 50 cm",
        "2023-2024",
        "12/24/36/48",
        "1000-2000-3000",
        "884363-032",
        "20000mAh",
        "1234567890123456789012345",
        "1,000,000,000",
    ],
)
def test_other_numbers_are_not(value: str) -> None:
    """Wrong check digits, goods' numbers, sizes and years."""
    assert not is_personal(value)


def test_no_marked_value_is_withheld() -> None:
    """None of all that is marked in the corpus: brands, models, functions and the rest."""
    rules = Rules()
    hits = [(tag, value) for tag, value in MARKED if withheld(value, value, rules.claims(tag))]
    assert hits == []


def test_hostile_values_are_looked_through_in_time() -> None:
    """Digits and letters without end, and a listing's worth of different numbers that could be phones."""
    values = ["1" * 1_000, "1 " * 500, "a" * 1_000, "a@" * 500, "(1) " * 250, "第" * 1_000, "best-in-" * 120]
    values += [f"0{area}-{area * 7919 % 900_000 + 100_000}" for area in range(200, 300)]
    started = time.process_time()
    for value in values:
        withheld(value, value, "anywhere")
    assert time.process_time() - started < 2
