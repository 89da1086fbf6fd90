"""Tag names and their kinds: the default adapter's tag set, and how other data's names relate to it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

from taggen.corpus.labelled import Label, Labelled
from taggen.tag import Kind

_Name = TypeVar("_Name", str, Label)

# The tag set of the default adapter, in the order that tags come out.
TAGS: Mapping[str, Kind] = {
    "brand": "attribute",
    "model_name": "attribute",
    "product_type": "attribute",
    "color": "attribute",
    "material": "attribute",
    "size": "attribute",
    "quantity": "attribute",
    "audience": "attribute",
    "function": "function",
    "occasion": "occasion",
    "style": "attribute",
    "pattern": "attribute",
    "season": "attribute",
    "flavor": "attribute",
}

# The listing-level labels of the package's own listings, and their values: closed lists, explained in README.md.
LABELS: Mapping[str, tuple[str, ...]] = {
    "category": (
        "clothing",
        "shoes",
        "bags",
        "accessories",
        "jewellery",
        "watches",
        "electronics",
        "appliances",
        "kitchen",
        "furniture",
        "home_textiles",
        "household",
        "beauty",
        "personal_care",
        "food",
        "drinks",
        "toys",
        "sports_outdoor",
        "baby",
        "pets",
        "automotive",
        "tools",
        "stationery",
    ),
    "audience_group": ("women", "men", "children", "babies", "dogs", "cats"),
    "occasion_group": (
        "everyday",
        "work",
        "school",
        "sport",
        "outdoor",
        "travel",
        "celebration",
        "gift",
        "home",
    ),
}

# Attributes of OA-Mine (Zhang et al. 2022, Apache-2.0) that mean one of these tags wherever they stand.
OA_MINE = {
    "Brand": "brand",
    "Model name": "model_name",
    "Shoe type": "product_type",
    "Color": "color",
    "Material": "material",
    "Size": "size",
    "Volume": "size",
    "Pack size": "quantity",
    "Gender": "audience",
    "Age range": "audience",
    "Flavor": "flavor",
    "Scent": "flavor",
    "Sport": "occasion",
    "Waterproof": "function",
}

# Names, in lower case, that other people's data give to what is no plain attribute.
_KINDS: Mapping[str, Kind] = {
    "function": "function",
    "feature": "function",
    "功能": "function",
    "occasion": "occasion",
    "occasion_group": "occasion",
    "场合": "occasion",
    "适用场景": "occasion",
}


def tag_set(labelled: Iterable[Labelled]) -> dict[str, Kind]:
    """The tag set that the listings call for: TAGS if they use no other names, else their own, most frequent first.

    None for listings that have labels and no marks.
    """
    counts: Counter[str] = Counter()
    labels = False
    for item in labelled:
        counts.update(span.tag for span in item.spans)
        labels |= bool(item.labels)
    if counts.keys() <= TAGS.keys():
        return dict(TAGS) if counts or not labels else {}
    return {name: kind(name) for name in _by_frequency(counts)}


def label_set(labelled: Iterable[Labelled]) -> dict[Label, Kind]:
    """The listing-level labels that occur, in the order of LABELS; others' behind, the most frequent first."""
    counts = Counter((name, value) for item in labelled for name, values in item.labels.items() for value in values)
    ours = [(name, value) for name, values in LABELS.items() for value in values]
    names = list(dict.fromkeys(name for name, _ in (*ours, *_by_frequency(counts))))
    ordered = sorted(dict.fromkeys((*ours, *_by_frequency(counts))), key=lambda label: names.index(label[0]))
    return {label: kind(label[0]) for label in ordered if label in counts}


def kind(name: str) -> Kind:
    """The kind of a tag or label of this name."""
    return TAGS.get(name) or _KINDS.get(name.casefold(), "attribute")


def _by_frequency(counts: Counter[_Name]) -> list[_Name]:
    return sorted(counts, key=lambda name: (-counts[name], name))
