"""What is newest: the same whatever the order in which events come, however often, and wherever it is interrupted."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.newest import DELETED, Newest, Rank, product_of, rank
from streamer.pipeline import FALLBACK
from streamer.records import Coordinates, TagEvent, tag_key
from tests.unit.fakes import MODEL


def event(product: str = "p", version: int = 1, **fields: Any) -> TagEvent:
    """A tag event, or a deletion."""
    generation, revision = fields.pop("generation", 1), fields.pop("revision", 0)
    deleted, fallback = fields.pop("deleted", False), fields.pop("fallback", False)
    model = None if deleted else replace(MODEL, generation=generation, revision=revision)
    flags = (FALLBACK,) if fallback and not deleted else ()
    names = f"{product} {version} {model} {flags}"  # content follows from the rank
    where = Coordinates("product-created", 0, 0)
    return TagEvent(names, names, where, "acme", product, version, deleted, (), model, 0, flags)


EVENTS = st.builds(
    event,
    product=st.sampled_from("pqr"),
    version=st.integers(1, 4),
    generation=st.integers(1, 3),
    revision=st.integers(0, 3),  # a rollback is a higher revision with an adapter of before
    fallback=st.booleans(),
    deleted=st.sampled_from([False, False, False, True]),
)


def by_decision_4(one: TagEvent) -> tuple[Any, ...]:
    """The order as it is promised, written down again; a deletion is above all tags of its version."""
    if one.model is None:
        return one.listing_version, 1, 0, FALLBACK not in one.flags, 0
    return one.listing_version, 0, one.model.generation, FALLBACK not in one.flags, one.model.revision


def product(one: TagEvent) -> bytes:
    """What stands for its product."""
    return product_of(tag_key(one.merchant_id, one.product_id))


class Topic:
    """The topic of newest tags, and the owner of its one partition, as far as they decide what is in it."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes, TagEvent]] = []
        self.committed = 0  # offset of the log
        self._newest = Newest()

    def take(self, log: list[TagEvent], count: int, *, abort: bool = False) -> None:
        """One transaction: records and offset, or none of it."""
        taken = log[self.committed : self.committed + count]
        ranked = [(product(one), rank(one)) for one in taken]
        chosen = self._newest.choose(ranked)
        if abort:
            return
        self._newest.remember(ranked[index] for index in chosen)
        self.records += [(ranked[index][0], taken[index]) for index in chosen]
        self.committed += len(taken)

    def restart(self) -> None:
        """Somebody else takes the partition over: all there is to know is what was written."""
        self._newest.__exit__()
        self._newest = Newest()
        self._newest.remember((key, Rank.from_bytes(rank(one).to_bytes())) for key, one in self.records)

    def compact(self) -> None:
        """The broker keeps the last record of each key."""
        self.records = [
            (key, one)
            for index, (key, one) in enumerate(self.records)
            if all(key != later for later, _ in self.records[index + 1 :])
        ]

    def content(self) -> dict[bytes, TagEvent]:
        """What a reader has in the end."""
        return dict(self.records)


@given(st.data())
def test_the_order_of_arrival_decides_nothing(data: st.DataObject) -> None:
    """Interleavings, repeats, rollbacks, deletions, aborted transactions, restarts and compaction: the content is each
    product's highest by decision 4, nothing older is ever written, and no deletion is undone by its own version."""
    events = data.draw(st.lists(EVENTS, min_size=1, max_size=12))
    repeats = data.draw(st.lists(st.sampled_from(events), max_size=6))
    log = data.draw(st.permutations(events + repeats))
    topic = Topic()
    steps = st.sampled_from(["take", "take", "abort", "restart", "compact"])
    while topic.committed < len(log):
        step = data.draw(steps)
        if step in ("take", "abort"):
            topic.take(log, data.draw(st.integers(1, 5)), abort=step == "abort")
        else:
            getattr(topic, step)()
    expected = {}
    for one in events:
        best = expected.setdefault(product(one), one)
        if by_decision_4(one) > by_decision_4(best):
            expected[product(one)] = one
    assert topic.content() == expected
    for wanted in expected:
        written = [by_decision_4(one) for key, one in topic.records if key == wanted]
        assert written == sorted(set(written))


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        (event(version=2), event(version=1, generation=3, revision=3)),
        (event(generation=2, fallback=True), event(generation=1, revision=3)),
        (event(revision=1), event(revision=2, fallback=True)),
        (event(revision=2), event(revision=1)),
        (event(deleted=True), event(generation=2**31 - 1, revision=9)),
        (event(version=2), event(version=1, deleted=True)),
    ],
)
def test_what_decides(newer: TagEvent, older: TagEvent) -> None:
    """Version, then generation, then own before fallback, then revision; a deletion over the tags of its version."""
    assert rank(newer) > rank(older)


def test_a_tie_writes_nothing() -> None:
    """Neither against what is known nor within one batch, where the first is taken."""
    with Newest() as newest:
        one, low = (b"p", Rank(1, 1, True, 0)), (b"p", Rank(1, 0, True, 0))
        assert newest.choose([low, one, one, low]) == [1]
        newest.remember([one])
        newest.remember([low])
        assert newest.choose([one, low]) == []
        assert len(newest) == 1


def test_products_of_two_merchants_are_two() -> None:
    """The product id is unique within its merchant only, wherever the two are cut."""
    ids = [event()._replace(merchant_id=merchant, product_id=product) for merchant, product in ("ab", "ba")]
    assert len({product(one) for one in ids}) == 2


@pytest.mark.parametrize("header", [None, b"", b"1", b"[1,1,1]", b"[1,1,true,0]", b"[1,1,1,0.5]", b"\xff"])
def test_a_rank_is_read_strictly(header: bytes | None) -> None:
    """What is not four integers is no rank."""
    assert Rank.from_bytes(b"[7,%d,1,3]" % DELETED) == Rank(7, DELETED, True, 3)
    with pytest.raises(ValueError):  # noqa: PT011  json's, Unicode's or ours
        Rank.from_bytes(header)
