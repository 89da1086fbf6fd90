"""The merchants' adapters in a worker: when a route flips, what serves meanwhile, what is held for how long."""

import asyncio
import threading
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.adapters import FALLBACK
from streamer.modelthread import ModelThread
from streamer.pipeline import Served
from streamer.routing import Canary, RouteChange, Routing
from taggen.listing import Listing
from taggen.reference import Reference
from tests.unit.stage import BASE, ONE, SOON_S, THREE, TWO, Stage, version


@pytest.fixture
def model_thread():
    """The thread that the model has to itself."""
    with ModelThread() as thread:
        yield thread


@pytest.fixture
def stage(model_thread):
    """Plenty of slots and memory."""
    stage = Stage(model_thread)
    yield stage
    stage.adapters.close()


async def test_a_merchant_without_a_record_has_the_default_adapter(stage: Stage) -> None:
    """Revision 0 and no flag: nothing is missing."""
    await stage.adapters.preload(SOON_S)
    assert stage.tags_by(None, 0)


async def test_the_start_loads_what_the_log_comes_to(stage: Stage) -> None:
    """Of a version that was replaced before nothing is read; one that is refused leaves the one before it, under the
    revision that it has in every other worker."""
    stage.store.broken = {THREE}
    for reference in (ONE, TWO, THREE):
        stage.follow("assign", reference)
    await stage.adapters.preload(SOON_S)
    assert stage.store.loads == [THREE, TWO]
    assert stage.tags_by(TWO, 2)
    assert (stage.reported("refused"), stage.reported("verified")) == ([3], [2])


async def test_a_route_flips_when_the_version_is_ready(stage: Stage) -> None:
    """Until then the version before serves, unflagged and by its own revision, and nobody waits; the first listing
    tagged by the new one is reported."""
    await stage.adapters.preload(SOON_S)
    stage.follow("assign", ONE)
    assert stage.tags_by(None, 0)
    await stage.until(lambda: stage.tags_by(ONE, 1))
    stage.store.gone = {TWO}
    stage.follow("assign", TWO)
    await stage.until(lambda: stage.reported("retrying") == [2])
    assert stage.tags_by(ONE, 1)
    stage.store.gone.clear()
    await stage.until(lambda: stage.tags_by(TWO, 2))
    await asyncio.sleep(0)
    assert (stage.reported("verified"), stage.reported("in_use")) == ([1, 2], [1, 2])


async def test_a_cpu_tries_a_version_beside_the_batch_in_the_model(stage: Stage, model_thread: ModelThread) -> None:
    """Neither waits for the other; a GPU has one thread, where the trial is the next in turn."""
    await stage.adapters.preload(SOON_S)
    batch_begins, batch_ends = threading.Event(), threading.Event()
    model_thread.submit(lambda: (batch_begins.set(), batch_ends.wait()))
    assert batch_begins.wait(SOON_S)
    try:
        stage.tagger.concurrent = True
        stage.follow("assign", ONE)
        await stage.until(lambda: stage.tags_by(ONE, 1))
        stage.tagger.concurrent = False
        stage.follow("assign", TWO)
        await stage.until(lambda: model_thread._calls.qsize() == 1)
        assert stage.tags_by(ONE, 1)
    finally:
        batch_ends.set()
    await stage.until(lambda: stage.tags_by(TWO, 2))


async def test_a_refused_version_changes_nothing(stage: Stage) -> None:
    """The reason is reported, again for a record that names it again, and nothing is read a second time."""
    await stage.adapters.preload(SOON_S)
    stage.follow("assign", ONE)
    await stage.until(lambda: stage.tags_by(ONE, 1))
    stage.store.broken = {TWO}
    stage.follow("assign", TWO)
    await stage.until(lambda: stage.reported("refused") == [2])
    stage.follow("assign", TWO)
    assert stage.reported("refused") == [2, 3]
    assert stage.reports[-1][4] == "values"
    assert stage.store.loads.count(TWO) == 1
    assert stage.tags_by(ONE, 1)


async def test_a_rollback_and_a_retirement_are_in_force_at_once(stage: Stage) -> None:
    """Also while the version to go back to is not in memory: then listings wait for it, and those that have waited go
    by the default adapter, never by what was rolled back."""
    await stage.adapters.preload(SOON_S)
    for reference in (ONE, TWO):
        revision = stage.follow("assign", reference)
        await stage.until(lambda reference=reference, revision=revision: stage.tags_by(reference, revision))
    stage.store.forget()
    stage.follow("rollback", ONE)
    assert stage.serve() is None
    served = stage.serve(expired=True)
    assert served is not None
    assert (served.model.adapter, served.model.revision, served.flags) == ("default", 3, (FALLBACK,))
    await stage.until(lambda: stage.tags_by(ONE, 3))
    stage.follow("retire")
    assert stage.tags_by(None, 4)


async def test_a_version_that_left_the_memory_is_waited_for(stage: Stage) -> None:
    """Whoever has waited long enough goes by the version before, if that is in memory, flagged, under the revision of
    the route; trouble in the store is not waited for."""
    await stage.adapters.preload(SOON_S)
    for reference in (ONE, TWO):
        revision = stage.follow("assign", reference)
        await stage.until(lambda reference=reference, revision=revision: stage.tags_by(reference, revision))
    stage.store.forget()
    stage.store.load(ONE)
    assert stage.serve() is None
    served = stage.serve(expired=True)
    assert served is not None
    assert (served.model.version, served.model.revision, served.flags) == ("1", 2, (FALLBACK,))
    await stage.until(lambda: stage.tags_by(TWO, 2))
    stage.store.forget()
    stage.store.gone = {TWO}
    assert stage.serve() is None
    await stage.until(lambda: stage.tags_by(None, 2, (FALLBACK,)))


async def test_a_version_on_the_device_needs_no_memory(stage: Stage) -> None:
    """Once it has served, it serves on when its files have left the memory."""
    await stage.adapters.preload(SOON_S)
    stage.follow("assign", ONE)
    await stage.until(lambda: stage.tags_by(ONE, 1))
    stage.store.forget()
    stage.tagger.resident.add(ONE.digest)
    assert stage.tags_by(ONE, 1)
    assert stage.tagger.held == {}
    assert stage.store.loads == [ONE]


async def test_a_record_names_a_known_version_again(stage: Stage) -> None:
    """It is in force at once, be it out of memory: the revision does not go back while it is read again, and the record
    is answered. Files that are not what they were before are trouble with the store, not a refusal."""
    await stage.adapters.preload(SOON_S)
    for reference in (ONE, TWO):
        revision = stage.follow("assign", reference, Canary(1, "ramp"))
        await stage.until(lambda reference=reference, revision=revision: stage.tags_by(reference, revision))
    stage.store.forget()
    stage.store.broken = {TWO}
    stage.follow("assign", TWO)
    assert stage.serve() is None
    await stage.until(lambda: stage.reported("retrying") == [3])
    assert stage.tags_by(None, 3, (FALLBACK,))
    stage.store.broken.clear()
    await stage.until(lambda: stage.tags_by(TWO, 3))
    assert stage.reported("verified") == [1, 2, 3]


async def test_a_version_that_is_not_known_yet_names_no_revision(stage: Stage) -> None:
    """A worker that starts beside a broken store goes by the default adapter and revision 0: the record may still be
    refused, and a merchant's revision never goes back."""
    stage.store.gone = {ONE}
    stage.follow("assign", ONE)
    await stage.adapters.preload(SOON_S)
    assert stage.tags_by(None, 0, (FALLBACK,))
    stage.store.gone.clear()
    await stage.until(lambda: stage.tags_by(ONE, 1))


async def test_a_store_that_does_not_answer(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is trouble after a while, and no reason to begin again: the answer counts when it comes. A worker that ends
    meanwhile is told that a thread is left."""
    monkeypatch.setattr("streamer.loading.SLOW_S", 0.01)
    answer = threading.Event()
    stage.store.gate = lambda: answer.wait(SOON_S) and None  # type: ignore[assignment]
    await stage.adapters.preload(SOON_S)
    stage.follow("assign", ONE)
    await stage.until(lambda: stage.reported("retrying") == [1])
    assert stage.tags_by(None, 0)
    answer.set()
    await stage.until(lambda: stage.tags_by(ONE, 1))
    assert stage.store.loads == [ONE]
    answer.clear()
    stage.follow("assign", TWO)
    await stage.until(lambda: stage.store.loads == [ONE, TWO])
    assert not stage.adapters.close()
    answer.set()


async def test_void_and_foreign_records_do_nothing(stage: Stage) -> None:
    """A revision that is taken, and a record for another base."""
    await stage.adapters.preload(SOON_S)
    stage.follow("assign", ONE)
    await stage.until(lambda: stage.tags_by(ONE, 1))
    stage.adapters.follow(RouteChange("acme", BASE, 1, "assign", TWO, None, 0), 0)
    stage.adapters.follow(RouteChange("acme", "e" * 64, 2, "assign", TWO, None, 0), 0)
    assert stage.store.loads == [ONE]
    assert stage.tags_by(ONE, 1)


async def test_a_canary_serves_its_share(stage: Stage) -> None:
    """The others stay with the version before, under the canary's revision."""
    await stage.adapters.preload(SOON_S)
    stage.follow("assign", ONE)
    stage.follow("assign", TWO, Canary(0.5, "ramp"))
    await stage.until(lambda: any(served.model.version == "2" for served in map(_product(stage), range(20)) if served))
    served = [_product(stage)(number) for number in range(200)]
    versions = [one.model.version for one in served if one]
    assert 50 < versions.count("2") < 150
    assert {one.model.revision for one in served if one} == {2}
    assert {one.flags for one in served if one} == {()}


def _product(stage: Stage) -> Callable[[int], Served | None]:
    return lambda number: stage.serve(product=f"p{number}")


OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["assign", "assign", "rollback"]), st.integers(1, 4)),
    st.tuples(
        st.sampled_from(["away", "back", "retire", "wait", "forget", "serve", "serve", "serve late"]), st.just(0)
    ),
)


@given(st.lists(OPERATIONS, max_size=25), st.sets(st.integers(1, 4), max_size=2), st.integers(0, 6))
@example(  # nobody knows yet that 2 is broken: 1 serves for it, flagged
    [("assign", 1), ("wait", 0), ("away", 0), ("assign", 2), ("wait", 0), ("rollback", 2), ("serve", 0)], {2}, 0
)
def test_whatever_happens_a_merchant_is_served_by_its_log(
    operations: list[tuple[str, int]], broken: set[int], before: int
) -> None:
    """Records before and after the start, a store that comes and goes, versions that leave the memory, broken ones: the
    revision never goes back; what is not flagged is what the log comes to at that revision, without the broken versions
    and those that are not ready; in the end all of the log is in force."""

    async def run() -> None:
        stage.store.broken = {version(number) for number in broken}
        newest = 0
        for place, (name, number) in enumerate([*operations, ("back", 0), ("serve", 0)]):
            if place == min(before, len(operations)):
                await stage.adapters.preload(SOON_S)
            live = place >= min(before, len(operations))
            if name in ("assign", "rollback"):
                log.append((name, version(number)))
                stage.follow(*log[-1])
            elif name == "retire":
                log.append((name, None))
                stage.follow(*log[-1])
            elif name in ("away", "back"):
                stage.store.gone = {version(number) for number in range(1, 5)} if name == "away" else set()
            elif name == "forget":
                stage.store.forget()
            elif name == "wait":
                await asyncio.sleep(0.005)
            elif live and (served := stage.serve(expired=name == "serve late")) is not None:
                assert served.model.revision >= newest
                newest = served.model.revision
                check(served, newest)
        await stage.until(lambda: settled(stage.serve()))
        stage.adapters.close()

    def fold(revision: int, without: set[Reference]) -> Routing:
        routing = Routing(BASE)
        for reference in without:
            routing.withhold("acme", reference)
        for number, (action, reference) in enumerate(log[:revision], 1):
            routing.apply(RouteChange("acme", BASE, number, action, reference, None, 0))  # type: ignore[arg-type]
        return routing

    def check(served: Served, revision: int) -> None:
        withheld = set(stage.adapters.routing._known("acme").withheld)
        if not served.flags:
            route = fold(revision, stage.store.broken | withheld).route("acme", "p")
            assert route.revision == revision
            assert served.model.version == (route.reference.version if route.reference else "1")
            assert (served.model.adapter == "default") == (route.reference is None)
        elif served.model.adapter != "default":
            route = fold(revision, withheld).route("acme", "p")
            assert served.model.version in {reference.version for reference in route.previous}

    def settled(served: Served | None) -> bool:
        route = fold(len(log), stage.store.broken).route("acme", "p")
        return (
            served is not None
            and (served.model.revision, served.flags) == (route.revision, ())
            and served.model.version == (route.reference.version if route.reference else "1")
        )

    log: list[tuple[str, Reference | None]] = []
    with ModelThread() as model_thread, pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamer.loading.RETRY_FIRST_S", 0.001)
        patch.setattr("streamer.loading.RETRY_MOST_S", 0.001)
        stage = Stage(model_thread)
        asyncio.run(run())


async def test_a_batch_holds_its_slots_until_it_is_released(model_thread: ModelThread) -> None:
    """One reference for each adapter, given back once; without room a listing waits for a batch to be done, but a
    version that can never fit is stood in for."""
    stage = Stage(model_thread, slots=1)
    for merchant, reference in (("acme", ONE), ("globex", TWO)):
        stage.adapters.follow(RouteChange(merchant, BASE, 1, "assign", reference, None, 0), 0)
    await stage.adapters.preload(SOON_S)
    first, second = stage.adapters.lease(), stage.adapters.lease()
    assert first.serve(Listing("acme", "p", 1, "Boots"), False)
    assert first.serve(Listing("acme", "q", 1, "Boots"), False)
    assert stage.tagger.held == {ONE.digest: 1}
    for lease in (first, second):
        assert lease.serve(Listing("globex", "p", 1, "Boots"), True) is None
    second.release()
    first.release()
    first.release()
    assert stage.tagger.held == {}
    third = stage.adapters.lease()
    assert third.serve(Listing("globex", "p", 1, "Boots"), False)
    third.release()
    stage.tagger._slots = 0
    fourth = stage.adapters.lease()
    served = fourth.serve(Listing("globex", "p", 1, "Boots"), False)
    assert served is not None
    assert (served.model.adapter, served.flags) == ("default", (FALLBACK,))
    fourth.release()
    assert stage.tagger.held == {}
    stage.adapters.close()
