"""Unpacking compressed batches, no further than a bound: aiokafka unpacks whatever a batch inflates to.

A kilobyte can become a gigabyte. A batch that would become more than `MOST_BYTES`, or cannot be unpacked, comes out as
one record in the place of its first, with an `NotUnpacked` value: a dead letter that names the offsets. `install` puts
this into aiokafka, which has no place for it; a test holds it to what it replaces.
"""

import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cramjam
from aiokafka import codec
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch

from streamer.errors import DecodeError
from streamer.records import NotUnpacked

MOST_BYTES = 64 * 1024 * 1024
USUAL_RATIO = 8  # what is tried first: text in JSON or Avro rarely packs better

_XERIAL = b"\x82SNAPPY\x00"  # begins a header of 16 bytes; after it each block has its length in front
_XERIAL_HEADER_BYTES = 16


class TooLarge(ValueError):
    """A batch would become larger than `MOST_BYTES`."""

    def __init__(self) -> None:
        super().__init__(f"more than {MOST_BYTES} bytes unpacked")


def unpack(unpack_into: Callable[[Any, Any], int], payload: Any) -> bytes:
    """Unpack by a function of cramjam's that fills a buffer. Raises TooLarge, and cramjam.DecompressionError."""
    size = min(MOST_BYTES, max(64 * 1024, USUAL_RATIO * len(payload)))
    while True:
        room = bytearray(size)
        try:
            return bytes(memoryview(room)[: unpack_into(payload, room)])
        except cramjam.DecompressionError as error:
            if size == MOST_BYTES:
                if "whole buffer" in str(error):
                    raise TooLarge from None
                raise
        size = min(MOST_BYTES, 4 * size)


def unpack_snappy(payload: Any) -> bytes:
    """Unpack snappy, in the blocks of the Java client or bare: each says how long it becomes."""
    view = memoryview(payload)
    blocks = [view] if bytes(view[: len(_XERIAL)]) != _XERIAL else list(_xerial_blocks(view))
    if sum(cramjam.snappy.decompress_raw_len(block) for block in blocks) > MOST_BYTES:
        raise TooLarge
    return b"".join(bytes(cramjam.snappy.decompress_raw(block)) for block in blocks)


def _xerial_blocks(view: memoryview) -> Iterator[memoryview]:
    at = _XERIAL_HEADER_BYTES
    while at < len(view):
        (length,) = struct.unpack_from("!i", view, at)
        yield view[at + 4 : at + 4 + length]
        at += 4 + max(0, length)


class _Placeholder(NamedTuple):
    """A record as aiokafka's batches give them."""

    offset: int
    timestamp: int
    value: NotUnpacked
    timestamp_type: int = 0
    key: None = None
    headers: tuple[()] = ()
    checksum: None = None


class _Batch:
    """A batch of aiokafka's that survives what it holds."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(self._batch)
        except (TooLarge, cramjam.DecompressionError, struct.error) as error:
            return iter((_placeholder(self._batch, error),))

    def __next__(self) -> Any:
        return next(self._batch)


class _Batches:
    """Those of a fetch from one partition."""

    def __init__(self, batches: Any) -> None:
        self.has_next = batches.has_next
        self._batches = batches

    def next_batch(self) -> _Batch:
        """The next one."""
        return _Batch(self._batches.next_batch())


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka is untyped
    """What was fetched from one partition."""

    def __init__(self, tp: Any, records: Any, *others: Any) -> None:
        super().__init__(tp, _Batches(records), *others)


def _placeholder(batch: Any, error: Exception) -> _Placeholder:
    last = batch.next_offset - 1
    first = getattr(batch, "base_offset", last)  # batches of before Kafka 0.11 know their last one only
    reason = "too_large" if isinstance(error, TooLarge) else "undecodable"
    problem = DecodeError(reason, str(error), f"batch of the offsets {first} to {last}")
    return _Placeholder(first, getattr(batch, "max_timestamp", 0), NotUnpacked.because(problem))


def install() -> None:
    """Let all consumers of this process unpack like this."""
    ways = {
        "gzip_decode": lambda payload: unpack(cramjam.gzip.decompress_into, payload),
        "lz4_decode": lambda payload: unpack(cramjam.lz4.decompress_into, payload),
        "zstd_decode": lambda payload: unpack(cramjam.zstd.decompress_into, payload),
        "snappy_decode": unpack_snappy,
    }
    for name, way in ways.items():
        setattr(codec, name, way)
        for batch in (DefaultRecordBatch, LegacyRecordBatch):  # where they are made, compiled or not
            setattr(sys.modules[batch.__module__], name, way)
    fetcher.PartitionRecords = _PartitionRecords
