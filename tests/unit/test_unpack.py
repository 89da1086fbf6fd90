"""Unpacking within a bound, beside what aiokafka unpacks by itself."""

from typing import Any

import cramjam
import pytest
from aiokafka import TopicPartition, codec
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from streamer import unpack
from streamer.records import NotUnpacked

unpack.install()

WAYS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}  # as a batch's attributes have them
PARTITION = TopicPartition("product-created", 3)


def packed(way: str, content: bytes) -> bytes:
    """As a producer packs it."""
    return bytes(getattr(codec, f"{way}_encode")(content))


def unpacked(way: str, content: bytes) -> bytes:
    """As a consumer of this process does."""
    return bytes(getattr(codec, f"{way}_decode")(content))


def batch(way: str, first: int, values: list[bytes]) -> bytes:
    """A batch as it comes from the broker, its offsets from `first` on."""
    builder = DefaultRecordBatchBuilder(2, WAYS[way], False, -1, -1, -1, 1 << 30)
    for number, value in enumerate(values):
        assert builder.append(number, 1_000 + number, b"key", value, [("header", b"h")]) is not None
    content = bytearray(builder.build())
    content[:8] = first.to_bytes(8, "big")  # the checksum begins behind it
    return bytes(content)


def fetched(*batches: bytes, position: int = 0) -> Any:
    """What a consumer at this position makes of them."""
    records = MemoryRecords(b"".join(batches))
    return fetcher.PartitionRecords(PARTITION, records, [], position, None, None, True, READ_COMMITTED)


@pytest.mark.parametrize("way", WAYS)
@given(content=st.one_of(st.binary(max_size=2_000), st.integers(0, 300_000).map(bytes)))
def test_what_was_packed_comes_out(way: str, content: bytes) -> None:
    """Whatever its size, and however well it packs."""
    assert unpacked(way, packed(way, content)) == content


def test_bare_snappy_comes_out() -> None:
    """Without the Java client's blocks."""
    content = b"boots " * 50_000
    assert codec.snappy_decode(codec.snappy_encode(content, xerial_compatible=False)) == content


@pytest.mark.parametrize("way", WAYS)
def test_no_further_than_the_bound(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has exactly so many bytes comes out, one more is too many."""
    monkeypatch.setattr(unpack, "MOST_BYTES", 1_000_000)
    assert len(unpacked(way, packed(way, bytes(1_000_000)))) == 1_000_000
    with pytest.raises(unpack.TooLarge, match="more than 1000000 bytes"):
        unpacked(way, packed(way, bytes(1_000_001)))


@pytest.mark.parametrize("way", WAYS)
def test_what_is_broken_is_not_called_large(way: str) -> None:
    """Cut off, or nothing of the kind."""
    for broken in (packed(way, bytes(5_000))[:-9], b"no such thing as that"):
        with pytest.raises(cramjam.DecompressionError):
            unpacked(way, broken)


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_too_large_comes_out_as_one_record(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of its first, named; those before and behind it come as they are, with nothing of them lost."""
    monkeypatch.setattr(unpack, "MOST_BYTES", 1_000_000)
    good, bomb = batch(way, 10, [b"a", b"b"]), batch(way, 12, [b"c", bytes(2_000_000), b"d"])
    records = fetched(good, bomb, batch(way, 15, [b"e"]))
    before_first, before, place, behind = records
    assert [one.value for one in (before_first, before, behind)] == [b"a", b"b", b"e"]
    assert [one.offset for one in (before_first, before, place, behind)] == [10, 11, 12, 15]
    assert (before.key, before.headers, before.timestamp) == (b"key", (("header", b"h"),), 1_001)
    assert isinstance(place.value, NotUnpacked)
    assert (place.key, place.headers, place.timestamp) == (None, (), 1_002)
    assert place.value.error.reason == "too_large"
    assert place.value.error.field == "batch of the offsets 12 to 14"
    assert str(place.value.error) == "too_large: batch of the offsets 12 to 14: more than 1000000 bytes unpacked"
    assert records.next_fetch_offset == 16


def test_a_batch_that_was_given_up_is_not_given_up_again() -> None:
    """A consumer that goes on behind its first offset passes over the rest."""
    content = bytearray(batch("zstd", 5, [bytes(100)] * 3))
    records = fetched(bytes(content), position=6)
    assert [one.offset for one in records] == [6, 7]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpack, "MOST_BYTES", 100)
        records = fetched(bytes(content), position=6)
        assert list(records) == []
    assert records.next_fetch_offset == 8
