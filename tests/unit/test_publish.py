"""Reading listings from lines."""

import json
import time

import pytest
from rich.console import Console

from streamer.errors import InputError
from streamer.publish import BadLine, listings, read_listings, samples
from taggen.listing import Listing

GOOD = {"merchant_id": "acme", "product_id": "1", "listing_version": 3, "title": "运动鞋", "event_time": 5}


def line(**changes):
    """A line with a good listing, changed."""
    return json.dumps(GOOD | changes).encode() + b"\n"


def test_listings_in_order():
    """Each line is a listing, blank lines are nothing, unknown fields are ignored."""
    read = list(read_listings([line(), b"\n", line(product_id="2", of_a_later_version=True)], "x"))
    assert read == [Listing("acme", "1", 3, "运动鞋", 5), Listing("acme", "2", 3, "运动鞋", 5)]


def test_event_time_is_now_when_absent():
    """A listing without event_time, or with null, happens at the time of reading."""
    before = time.time_ns() // 1_000_000
    without = dict(GOOD)
    del without["event_time"]
    for read in read_listings([json.dumps(without).encode(), line(event_time=None)], "x"):
        assert isinstance(read, Listing)
        assert before <= read.event_time <= time.time_ns() // 1_000_000


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (b"{]", "not JSON: "),
        (b'{"title": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "not JSON that can be read"),
        (b"7", "record: not an object"),
        (line(title=""), "title: missing"),
        (line(event_time="yesterday"), "event_time: not a time"),
        (line(attributes={"size": 42}), "attributes: not a map of strings"),
    ],
)
def test_bad_line(bad, problem):
    """A line that holds no listing is named by file, line and problem, and the next line is read."""
    first, second, third = read_listings([line(), bad, line(product_id="2")], "feed.jsonl")
    assert isinstance(second, BadLine)
    assert str(second).startswith(f"feed.jsonl:2: {problem}")
    assert isinstance(first, Listing)
    assert isinstance(third, Listing)


def test_file_that_is_not_there(tmp_path):
    """A file that cannot be opened is an input error that names it."""
    with (
        pytest.raises(InputError, match=r"gone\.jsonl: No such file"),
        listings(str(tmp_path / "gone.jsonl"), Console(stderr=True)),
    ):
        pass


def test_samples():
    """The samples are many, in both languages, of several merchants and categories, each product once, and now."""
    found = list(samples())
    assert len(found) >= 60
    assert len({(one.merchant_id, one.product_id) for one in found}) == len(found)
    assert len({one.merchant_id for one in found}) >= 5
    assert len({one.category for one in found}) >= 10
    assert {one.locale.split("-")[0] for one in found} >= {"en", "zh"}
    assert all(one.description for one in found)
    assert any(one.attributes for one in found)
    assert all(abs(time.time() * 1000 - one.event_time) < 60_000 for one in found)
