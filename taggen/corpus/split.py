"""Holding listings out: what is scored must not be what was trained on."""

import random
from collections.abc import Sequence

from taggen.corpus.labelled import Labelled


def split(labelled: Sequence[Labelled], share: float, seed: int = 0) -> tuple[list[Labelled], list[Labelled]]:
    """Divide listings into the kept and the held-out ones, about `share` of them, each in the order given.

    Listings of one title go to one side. A seed gives the same division each time. Neither side is left empty where
    there are two titles, unless the share is 0.
    """
    titles = list(dict.fromkeys(item.listing.title.casefold() for item in labelled))
    random.Random(seed).shuffle(titles)  # noqa: S311  variation, not secrets
    number = min(max(round(share * len(titles)), 1), len(titles) - 1) if share > 0 else 0
    out = set(titles[:number])
    kept: list[Labelled] = []
    held_out: list[Labelled] = []
    for item in labelled:
        (held_out if item.listing.title.casefold() in out else kept).append(item)
    return kept, held_out
