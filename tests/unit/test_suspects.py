"""Suspects: who is tried how after a death, and that only what was alone in hand at two of them is condemned."""

from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from streamer.scan import Span
from streamer.suspects import DEATHS, Care, Found, Mark, Partition, Suspects

BOUND = 20


class Message(NamedTuple):
    topic: str
    partition: int
    offset: int


class Event(NamedTuple):
    message: Message


def rows(*places: tuple[int, int]) -> list[Event]:
    """Rows by partition and offset."""
    return [Event(Message("in", partition, offset)) for partition, offset in places]


def grouped(suspects: Suspects, *places: tuple[int, int]) -> list[tuple[Care, list[tuple[int, int]]]]:
    """The groups of these rows, without empty ones."""
    groups = suspects.groups(rows(*places))
    return [(care, [one.message[1:] for one in some]) for care, some in groups if some]


def after(marks: dict[int, Mark | None]) -> Suspects:
    """The suspects of a worker that has just taken partitions, each up to offset 25."""
    suspects = Suspects()
    partitions = [("in", number) for number in marks]
    suspects.take(
        partitions, {("in", one): Found(mark, Span(0, 25)) for one, mark in marks.items() if mark is not None}
    )
    return suspects


def test_a_partition_that_was_let_go_is_not_suspect() -> None:
    """Its rows go as they come, and letting it go unmarks it."""
    suspects = after({0: None})
    assert suspects.groups(rows((0, 5), (0, 6))) == [(Care.NONE, rows((0, 5), (0, 6)))]
    assert suspects.let_go() == {("in", 0): None}
    assert suspects.partitions == frozenset()


def test_what_can_have_been_in_hand_is_tried_together() -> None:
    """The suspects of all partitions, beside rows that are none; the rows behind them go as they come."""
    suspects = after({0: Mark(), 1: Mark(), 2: None})
    assert grouped(suspects, (0, 5), (2, 9), (1, 0), (0, 6)) == [
        (Care.NONE, [(2, 9)]),
        (Care.TOGETHER, [(0, 5), (1, 0), (0, 6)]),
    ]
    assert grouped(suspects, (0, 24), (1, 25), (0, 25), (0, 26)) == [
        (Care.NONE, [(1, 25)]),
        (Care.TOGETHER, [(0, 24)]),
        (Care.NONE, [(0, 25), (0, 26)]),
    ]
    assert suspects.let_go() == {("in", 0): None, ("in", 1): None, ("in", 2): None}


def test_the_last_suspect_ends_it() -> None:
    """When all are tried the partition can be unmarked, be there rows behind them or not; nor is one marked for
    nothing when all that the owner before had read is committed."""
    suspects = after({0: Mark()})
    suspects.groups(rows((0, 24)))
    suspects.begin(rows((0, 24)))
    suspects.end()
    assert suspects.let_go() == {("in", 0): None}
    suspects.take([("in", 0)], {("in", 0): Found(Mark(), Span(25, 25))})
    assert suspects.let_go() == {("in", 0): None}


def test_rows_that_were_tried_together_at_a_death_are_tried_alone() -> None:
    """Each by itself, then those behind them together; the rows of another partition do not wait for the end of it."""
    suspects = after({0: Mark(5, 8, in_hand=True), 1: None})
    assert grouped(suspects, (0, 5), (1, 0), (0, 7), (0, 8), (1, 1), (0, 9)) == [
        (Care.NONE, [(1, 0), (1, 1)]),
        (Care.ALONE, [(0, 5)]),
        (Care.ALONE, [(0, 7)]),
        (Care.TOGETHER, [(0, 8), (0, 9)]),
    ]


def test_marks() -> None:
    """What is in hand is marked before; after it, what was known stays known until it is behind."""
    suspects = after({0: Mark(5, 8, in_hand=True), 1: Mark()})
    known = Mark(5, 8)
    assert suspects.begin(rows((0, 5))) == {("in", 0): Mark(5, 6, alone=True, in_hand=True)}
    assert suspects.end() == {("in", 0): known}
    assert suspects.begin(rows((0, 6), (1, 3), (0, 9))) == {
        ("in", 0): Mark(6, 10, in_hand=True),
        ("in", 1): Mark(3, 4, in_hand=True),  # not alone: another partition's are in hand too
    }
    assert suspects.end() == {("in", 0): Mark(), ("in", 1): Mark()}


def test_alone_at_two_deaths() -> None:
    """Then it is condemned, and nothing else is."""
    mark = Mark(5, 6, alone=True, in_hand=True)
    suspects = after({0: mark})
    assert grouped(suspects, (0, 5), (0, 6)) == [(Care.ALONE, [(0, 5)]), (Care.TOGETHER, [(0, 6)])]
    [mark] = suspects.begin(rows((0, 5))).values()
    suspects = after({0: mark})
    assert grouped(suspects, (0, 5), (0, 6)) == [(Care.CONDEMNED, [(0, 5)]), (Care.TOGETHER, [(0, 6)])]


def test_a_death_with_nothing_in_hand_is_nobodys() -> None:
    """A worker that is killed before it tries the row again counts for nothing."""
    mark: Mark | None = Mark(5, 6, alone=True, deaths=0, in_hand=True)
    for _ in range(5):
        [mark] = after({0: mark})._known.values()
    assert mark == Mark(5, 6, alone=True, deaths=1)


def test_an_end_that_is_nobodys_fault() -> None:
    """Rows in hand at it are not blamed, and suspects stay suspects: the partition is not unmarked."""
    suspects = after({0: Mark(5, 6, alone=True, in_hand=True), 1: Mark(), 2: None})
    suspects.groups(rows((0, 5)))
    suspects.begin(rows((0, 5)))
    assert suspects.let_go() == {("in", 0): Mark(5, 6, alone=True, deaths=1), ("in", 2): None}
    assert suspects.end() == {}  # a trial that ends later has nothing to say
    assert suspects.begin(rows((0, 5))) == {}


class Group:
    """Workers of a group, one after the other, over partitions whose rows all stand there; what is written stays."""

    def __init__(self, sizes: list[int], deadly: set[tuple[int, int]]) -> None:
        self.sizes = sizes
        self.deadly = deadly
        self.committed = [0] * len(sizes)
        self.marks: dict[Partition, Mark] = {}
        self.condemned: list[tuple[int, int]] = []
        self.tried: list[tuple[int, int]] = []
        self.deaths = 0

    def write(self, marks: Any) -> None:
        for partition, mark in marks.items():
            self.marks.pop(partition, None)
            if mark is not None:
                self.marks[partition] = mark

    def live(self, random: Any, kill: float) -> bool:
        """One worker's life; `kill`: how probably it is killed from outside at each step. True: all is done."""
        suspects = Suspects()
        found = {}
        for (topic, one), mark in self.marks.items():
            start = self.committed[one]
            found[topic, one] = Found(mark, Span(start, min(self.sizes[one], max(mark.end, start + BOUND))))
        self.write(suspects.take([("in", one) for one in range(len(self.sizes))], found))
        read = list(self.committed)
        while any(at < size for at, size in zip(read, self.sizes, strict=True)):
            places = []
            while len(places) < random.randint(1, 8):
                left = [one for one, size in enumerate(self.sizes) if read[one] < size]
                if not left:
                    break
                one = random.choice(left)
                places.append((one, read[one]))
                read[one] += 1
            for care, some in suspects.groups(rows(*places)):
                group = [one.message[1:] for one in some]
                if care is not Care.NONE:
                    self.write(suspects.begin(some))
                if random.random() < kill:
                    return False
                if care is Care.CONDEMNED:
                    self.condemned += group
                elif self.deadly & set(group):
                    self.deaths += 1
                    return False
                self.tried += group
                if care is not Care.NONE or random.random() < 0.5:
                    for partition, offset in group:
                        self.committed[partition] = offset + 1
                if care is not Care.NONE:
                    self.write(suspects.end())
        self.write(suspects.let_go())
        return True


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=3),
    st.sets(st.tuples(st.integers(0, 2), st.integers(0, 39)), max_size=3),
    st.randoms(use_true_random=False),
)
def test_exactly_the_deadly_rows_are_condemned(sizes: list[int], deadly: set[tuple[int, int]], random: Any) -> None:
    """Wherever they stand and whatever is committed when: everything is tried, nobody else is blamed, four deaths for
    each are enough, and no mark is left."""
    deadly = {
        (partition, offset) for partition, offset in deadly if partition < len(sizes) and offset < sizes[partition]
    }
    group = Group(sizes, deadly)
    for _ in range(100):
        if group.live(random, kill=0):
            break
    else:
        raise AssertionError("no worker stays up")
    assert set(group.condemned) == deadly
    assert group.deaths <= 4 * len(deadly)
    assert {(one, at) for one, size in enumerate(sizes) for at in range(size)} - deadly <= set(group.tried)
    assert group.marks == {}


@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_one_or_two_kills_from_outside_condemn_nobody(sizes: list[int], random: Any) -> None:
    """A first makes suspects, a second can meet one of them alone; a row that is met so at `DEATHS` of them is what
    can be mistaken, so nobody is before the third."""
    group = Group(sizes, set())
    for _ in range(DEATHS):
        group.live(random, kill=0.3)
    group.live(random, kill=0)
    assert group.condemned == []
