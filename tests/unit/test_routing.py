"""The routing: what the log of control records comes to."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from streamer.routing import KEPT, Canary, Route, RouteChange, Routing
from taggen.reference import Reference

BASE = "f" * 64


def version(number: int) -> Reference:
    """A version of one adapter."""
    return Reference("shoes", str(number), f"{number:064x}")


ONE, TWO, THREE = version(1), version(2), version(3)

changes = st.builds(
    RouteChange,
    merchant_id=st.sampled_from(["acme", "nordic"]),
    base_fingerprint=st.sampled_from([BASE, BASE, BASE, "e" * 64]),
    revision=st.integers(1, 8),
    action=st.sampled_from(["assign", "assign", "rollback", "retire"]),
    adapter=st.integers(0, 4).map(version),
    canary=st.none() | st.builds(Canary, share=st.floats(0, 1), id=st.sampled_from(["a", "b"])),
    issued_at=st.just(0),
)
logs = st.lists(changes, max_size=30)
products = [f"p-{number}" for number in range(20)]


def change(revision: int, action: str, adapter: Reference | None = None, canary: Canary | None = None) -> RouteChange:
    """A record for acme."""
    return RouteChange("acme", BASE, revision, action, adapter, canary, 0)  # type: ignore[arg-type]


def routed(log: Sequence[RouteChange]) -> Routing:
    """The routing that a worker comes to that reads a log."""
    routing = Routing(BASE)
    for record in log:
        routing.apply(record)
    return routing


def routes(routing: Routing) -> list[Route]:
    """Where the routing sends the products of both merchants, live and in a replay."""
    return [
        routing.route(merchant, product, replay)
        for merchant in ("acme", "nordic")
        for product in products
        for replay in (False, True)
    ]


def acme(*log: RouteChange) -> Route:
    """What a log comes to for a product of acme's."""
    return routed(log).route("acme", "p-1")


def test_an_unknown_merchant_is_served_by_the_default_adapter() -> None:
    """Revision 0, nothing to fall back to."""
    assert Routing(BASE).route("acme", "p-1") == Route(None, 0, ())


def test_the_newest_version_serves_and_those_before_it_may() -> None:
    """Newest first; one that is assigned again is listed once."""
    assert acme(change(1, "assign", ONE), change(2, "assign", TWO)) == Route(TWO, 2, (ONE,))
    assert acme(change(1, "assign", ONE), change(2, "assign", TWO), change(3, "assign", ONE)) == Route(ONE, 3, (TWO,))


def test_a_rollback_withdraws_all_that_came_after() -> None:
    """To an earlier version, to one that is not known any more, to the default adapter."""
    log = [change(1, "assign", ONE), change(2, "assign", TWO), change(3, "assign", THREE)]
    assert acme(*log, change(4, "rollback", TWO)) == Route(TWO, 4, (ONE,))
    assert acme(*log, change(4, "rollback", ONE)) == Route(ONE, 4, ())
    assert acme(*log, change(4, "rollback", version(9))) == Route(version(9), 4, ())
    assert acme(*log, change(4, "rollback")) == Route(None, 4, ())
    assert acme(*log, change(4, "rollback", TWO), change(5, "assign", version(4))) == Route(version(4), 5, (TWO, ONE))


def test_a_retired_merchant_is_served_by_the_default_adapter() -> None:
    """And what it had is no fallback of what it gets next."""
    log = [change(1, "assign", ONE), change(2, "retire")]
    assert acme(*log) == Route(None, 2, ())
    assert acme(*log, change(3, "assign", TWO)) == Route(TWO, 3, ())


def test_a_withdrawn_version_serves_again_when_it_is_assigned_again() -> None:
    """The newest word on a version counts."""
    log = [change(1, "assign", ONE), change(2, "assign", TWO), change(3, "rollback", ONE), change(4, "assign", TWO)]
    assert acme(*log) == Route(TWO, 4, (ONE,))


def test_a_canary_leaves_the_other_products_with_what_served_before() -> None:
    """And all of them in a replay; its fallback is what served before; one that replaces it forgets it."""
    canary = Canary(0.5, "try")
    routing = routed([change(1, "assign", ONE), change(2, "assign", TWO, canary)])
    taken = {product for product in products if routing.route("acme", product).reference == TWO}
    assert 0 < len(taken) < len(products)
    for product in products:
        live = Route(TWO, 2, (ONE,)) if product in taken else Route(ONE, 2, ())
        assert routing.route("acme", product) == live
        assert routing.route("acme", product, replay=True) == Route(ONE, 2, ())
    routing.apply(change(3, "assign", THREE, canary))
    assert {routing.route("acme", product) for product in taken} == {Route(THREE, 3, (ONE,))}
    routing.apply(change(4, "rollback", ONE))
    assert {routing.route("acme", product) for product in products} == {Route(ONE, 4, ())}


def test_a_first_version_can_be_a_canary() -> None:
    """The default adapter serves the rest."""
    routing = routed([change(1, "assign", ONE, Canary(0.5, "try"))])
    assert {routing.route("acme", product) for product in products} == {Route(ONE, 1, ()), Route(None, 1, ())}


@given(product=st.text(max_size=20), share=st.floats(0, 1), more=st.floats(0, 1), name=st.text(max_size=5))
def test_a_ramp_only_adds_products(product: str, share: float, more: float, name: str) -> None:
    """Whatever a smaller share of the same canary takes, a larger one takes; nothing takes none, one takes all."""
    small, large = sorted([share, more])
    assert Canary(small, name).takes("acme", product) <= Canary(large, name).takes("acme", product)
    assert not Canary(0, name).takes("acme", product)
    assert Canary(1, name).takes("acme", product)


def test_a_canary_takes_its_share_and_another_id_other_products() -> None:
    """A quarter of 4,000 products, within what chance allows; two canaries are independent of each other."""
    many = [f"p-{number}" for number in range(4_000)]
    first, second = ({p for p in many if Canary(0.25, name).takes("acme", p)} for name in ("a", "b"))
    assert 900 < len(first) < 1_100
    assert 200 < len(first & second) < 300


def test_a_canary_takes_the_same_products_in_every_release() -> None:
    """The hash is part of the contract: workers of two releases share a topic."""
    assert [p for p in products if Canary(0.2, "try").takes("acme", p)] == ["p-7", "p-10", "p-18", "p-19"]


@given(log=logs, starts=st.lists(st.integers(0, 30), max_size=3))
def test_every_worker_comes_to_the_same_routing(log: list[RouteChange], starts: list[int]) -> None:
    """Whenever it reads what: parts of the log that it reads twice change nothing."""
    routing = routed(log)
    again = Routing(BASE)
    for index, record in enumerate(log):
        again.apply(record)
        for start in starts:
            for repeated in log[min(start, index) : index + 1]:
                again.apply(repeated)
    assert routes(again) == routes(routing)
    assert list(again.merchants()) == list(routing.merchants())


@given(log=logs)
def test_void_records_change_nothing(log: list[RouteChange]) -> None:
    """Those whose revision is taken or whose base is another; a merchant's revision never goes back."""
    routing = Routing(BASE)
    for record in log:
        before = routes(routing)
        newest = routing.revision(record.merchant_id)
        if routing.apply(record):
            assert record.base_fingerprint == BASE
            assert routing.revision(record.merchant_id) == record.revision > newest
        else:
            assert record.base_fingerprint != BASE or record.revision <= newest
            assert routes(routing) == before


@given(log=logs)
def test_merchants_do_not_touch_each_other(log: list[RouteChange]) -> None:
    """What another merchant's records say changes no route of this one."""
    alone = routed([record for record in log if record.merchant_id == "acme"])
    assert [routed(log).route("acme", p) for p in products] == [alone.route("acme", p) for p in products]


@given(log=logs)
def test_a_withdrawn_version_is_never_served(log: list[RouteChange]) -> None:
    """After each record: no version serves, or is a fallback, whose newest word is that it is withdrawn."""
    routing = Routing(BASE)
    withdrawn: set[Reference] = set()
    assigned: dict[Reference, int] = {}  # the last time
    for index, record in enumerate(log):
        if record.merchant_id != "acme" or not routing.apply(record):
            continue
        if record.action == "assign":
            assigned[record.adapter] = index
            withdrawn.discard(record.adapter)
        elif record.action == "retire" or record.adapter is None or record.adapter in withdrawn:
            withdrawn |= assigned.keys()
        else:
            withdrawn |= {one for one, when in assigned.items() if when > assigned.get(record.adapter, -1)}
        if record.action == "rollback":
            withdrawn.discard(record.adapter)
        for product in products:
            route = routing.route("acme", product)
            assert not withdrawn & {route.reference, *route.previous}
            assert route.reference not in route.previous
            assert len(set(route.previous)) == len(route.previous)


def test_a_long_history_is_cut() -> None:
    """A merchant with a thousand versions costs no more memory than one with a few."""
    route = acme(*(change(number, "assign", version(number)) for number in range(1, 1_001)))
    assert route == Route(version(1_000), 1_000, tuple(version(1_000 - back) for back in range(1, KEPT + 1)))


def test_a_withheld_version_leaves_what_was_before() -> None:
    """Under the revision that it had; a record that assigns it later changes nothing, its revision is taken all the
    same; released, it is as if it never was."""
    log = [change(1, "assign", ONE), change(2, "assign", TWO)]
    routing = routed(log)
    routing.withhold("acme", TWO)
    assert routing.route("acme", "p-1") == Route(ONE, 1, ())
    assert routing.apply(change(3, "assign", TWO, Canary(1, "a")))
    assert routing.route("acme", "p-1") == Route(ONE, 1, ())
    assert not routing.apply(change(3, "assign", THREE))
    assert routing.apply(change(4, "assign", THREE))
    assert routing.route("acme", "p-1") == Route(THREE, 4, (ONE,))
    routing.release("acme", TWO)
    assert routing.route("acme", "p-1") == Route(THREE, 4, (ONE,))
    routing.withhold("acme", THREE)
    assert routing.route("acme", "p-1") == Route(TWO, 3, (ONE,))


def test_a_rollback_to_a_withheld_version_still_withdraws() -> None:
    """As one to a version that is not known: what was rolled back serves no more, the default adapter does."""
    routing = routed([change(1, "assign", ONE), change(2, "assign", TWO), change(3, "assign", THREE)])
    routing.withhold("acme", TWO)
    routing.apply(change(4, "rollback", TWO))
    assert routing.route("acme", "p-1") == Route(None, 4, ())


@given(logs, st.lists(st.tuples(st.sampled_from(["acme", "nordic"]), st.integers(0, 4).map(version)), max_size=4))
def test_what_is_withheld_when_does_not_matter(log: list[RouteChange], refused: list[tuple[str, Reference]]) -> None:
    """A worker that refuses a version before, between or after the records, and one that withheld it in vain, come to
    the same routing."""
    before, after = Routing(BASE), routed(log[-KEPT:])
    for merchant, reference in refused:
        before.withhold(merchant, reference)
        after.withhold(merchant, reference)
    for record in log[-KEPT:]:
        before.apply(record)
    assert routes(before) == routes(after)
    for merchant, reference in refused:
        before.release(merchant, reference)
    assert routes(before) == routes(routed(log[-KEPT:]))
