"""Small stand-ins for the model: what the pipeline asks of a tagger, without one."""

from collections.abc import Sequence
from dataclasses import dataclass

from streamer.records import Record
from taggen.errors import DeviceError, NonFiniteScores
from taggen.listing import Listing
from taggen.tag import Evidence, Model, Tag, Tagging

MODEL = Model("fake", 1, "none", "float32", "fake", "1", 0, "ab" * 32, "cpu")


@dataclass(frozen=True)
class FakePrepared:
    """A listing whose cost is its title's length, rounded up to 8."""

    listing: Listing

    @property
    def tokens(self) -> int:
        return -(-self.filled // 8) * 8

    @property
    def filled(self) -> int:
        return len(self.listing.title)


class FakeTagger:
    """Tags a listing with its title; titles such as "raise" say what goes wrong with a batch that holds them."""

    model = MODEL

    def __init__(self) -> None:
        self.calls: list[int] = []  # listings per model call
        self.slots: list[list[str] | None] = []  # of each of them

    def prepare(self, listings: Sequence[Listing]) -> list[FakePrepared]:
        if any(listing.title == "raise in prepare" for listing in listings):
            raise ValueError("in prepare")
        return [FakePrepared(listing) for listing in listings]

    def tag(self, prepared: Sequence[FakePrepared], slots: Sequence[str] | None = None) -> list[Tagging]:
        self.calls.append(len(prepared))
        self.slots.append(None if slots is None else list(slots))
        titles = [one.listing.title for one in prepared]
        if "device" in titles:
            raise DeviceError("lost")
        if "nan" in titles:
            raise NonFiniteScores("nan")
        if "raise" in titles:
            raise ValueError("in the model")
        return [self._tagging(title) for title in titles]

    def _tagging(self, title: str) -> Tagging:
        copies = 40_000 if title == "many tags" else 1
        tag = Tag("product", title, title.lower(), 0.5, "attribute", (Evidence("title", 0, len(title)),))
        return Tagging((tag,) * copies, ("text_truncated",) if title == "long" else ())


def record(value: bytes | None, offset: int = 0, **other: object) -> Record:
    """A record of product-created, partition 0."""
    fields = {"topic": "product-created", "partition": 0, "timestamp": 1_000, "key": b"k", "headers": ()} | other
    return Record(offset=offset, value=value, **fields)  # type: ignore[arg-type]
