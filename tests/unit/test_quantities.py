import re
from decimal import Decimal

import pint
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taggen import quantities
from taggen.quantities import count, quantity


@pytest.mark.parametrize(
    ("texts", "form"),
    [
        (["500ml", "500 ml", "0.5 l", "0,5 l", "500 毫升", "50 cl"], "500 ml"),
        (["1000ml", "1,000 ml", "1.0l", "1 litro", "1公升"], "1 l"),
        (["2.5kg", "2500 g", "2,5 kg", "2.5公斤"], "2.5 kg"),
        (["500 mg", "0.5g"], "500 mg"),
        (["8mm", "0.8 cm"], "8 mm"),
        (["1.8m", "180cm", "1.8米"], "180 cm"),
        (["16 oz", "16oz", "16-ounce"], "16 oz"),
        (["2 fl oz", "2 fl. oz"], "2 fl oz"),
        (['27"', "27-inch", "27 in", "27英寸", "27吋", "27 zoll"], "27 in"),
        (["1/2 in", '0.5"'], "0.5 in"),
        (["1-1/2 in", '1 1/2"'], "1.5 in"),
        (["6'6\"", "78 in", "6.5 ft"], "78 in"),
        (["30*40cm", "30 x 40 cm", "30cm x 40cm", "300×400mm", "30x40厘米"], "30x40 cm"),
        (["30 x 20 x 25 cm", "30*20*25cm"], "30x20x25 cm"),
        (["5' x 7'6\"", "60x90 in"], "60x90 in"),
        (["8.5 x 11", "8.5*11"], "8.5x11"),
        (["9-14kg", "9 - 14 kg", "9kg-14kg", "9~14kg"], "9-14 kg"),
        (["128 go", "128gb"], "128 gb"),
        (["eu42", "eu 42"], "eu 42"),
    ],
)
def test_one_quantity_has_one_form(texts: list[str], form: str) -> None:
    """However it is written and in whatever unit of its system."""
    assert {quantity(text) for text in texts} == {form}


@pytest.mark.parametrize(
    "text",
    [
        "xl",
        "42",
        "35-44",
        "6m",
        "6-9m",
        "w32 l34",
        "1:64",
        "205/55 r16",
        "12 x 330 ml",
        "3 lb 13 oz",
        "5 kg 10 kg",
        "14-9 kg",
        "5 斤",
        "1/0 in",
        "",
        "cm",
        "9" * 100,
    ],
)
def test_what_is_not_surely_a_quantity_is_not_read(text: str) -> None:
    """Months or metres, packs of bottles, numbers of unknown meaning."""
    assert quantity(text) is None


@pytest.mark.parametrize(
    ("texts", "form"),
    [
        (
            [
                "pack of 6",
                "6-pack",
                "6 pack",
                "6pk",
                "6件装",
                "6 count",
                "set of six",
                "6er-set",
                "6",
                "6入",
                "lot de 6",
            ],
            "6",
        ),
        (["两件套", "2 pieces", "a pack of two", "2-piece set"], "2"),
        (["dozen", "12 pcs", "twelve pieces"], "12"),
        (["6 pairs", "6双", "6双装"], "6 pair"),
        (["pair", "1 pair", "一对", "1 paire"], "1 pair"),
        (["80 bags", "3 in 1", "25合1", "pack", "red", "9" * 100], None),
    ],
)
def test_one_count_has_one_form(texts: list[str], form: str | None) -> None:
    """Pieces are a bare number, pairs are not pieces, and what is counted by its own name stays."""
    assert {count(text) for text in texts} == {form}


def test_pint_agrees_with_our_units() -> None:
    """Every English unit name in units.json that it knows has the factor that it has for it."""
    registry = pint.UnitRegistry()
    spelled = {"fl oz": "fluid_ounce", "in": "inch", "oz": "ounce", "lb": "pound", "qt": "quart", "gal": "gallon"}
    checked = 0
    for entry in quantities._UNITS["quantities"]:
        if len(units := entry["units"]) == 1:
            continue
        smallest = next(unit for unit, (factor, _) in units.items() if factor == 1)
        for unit, (factor, names) in units.items():
            for name in (unit, *(name for name in names if re.fullmatch("[a-z]{4,}", name))):
                if (name := spelled.get(name, name)) in registry and name != "kilos":  # kiloseconds, it says
                    theirs = registry.Quantity(1, name).to(spelled.get(smallest, smallest))
                    assert theirs.magnitude == pytest.approx(factor), name
                    checked += 1
    assert checked > 30


NUMBERS = st.decimals(min_value=0, max_value=10**7, places=3, allow_nan=False).map(lambda number: f"{number:f}")
UNITS = st.sampled_from(sorted(quantities._KINDS))


@given(
    st.lists(st.tuples(NUMBERS, UNITS | st.just("")), min_size=1, max_size=3), st.sampled_from([" x ", "*", "-", " "])
)
def test_a_form_reads_as_itself(sides: list[tuple[str, str]], joint: str) -> None:
    """Whatever numbers and units are put together."""
    form = quantity(joint.join(number + unit for number, unit in sides))
    if form is not None:
        assert quantity(form) in (form, None)


@given(NUMBERS)
def test_no_amount_is_lost(number: str) -> None:
    """Litres and millilitres are the same after they were read."""
    form = quantity(f"{number}l")
    assert form is not None
    amount, unit = form.split(" ")
    assert Decimal(amount) * {"l": 1, "ml": Decimal("0.001")}[unit] == Decimal(number)
