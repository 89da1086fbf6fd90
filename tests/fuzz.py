"""`python -m tests.fuzz CASES SEED`: bytes that nobody should send, through the decoder and the text builder.

With atheris installed, it looks for the cases by the code that they reach; without it, a mutator of our own makes them
of valid listings, from a seed. Anything but a listing or a DecodeError ends it.
"""

import json
import random
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

try:
    import atheris
except ImportError:
    atheris = None

with atheris.instrument_imports(include=["streamer", "taggen"]) if atheris else nullcontext():
    from streamer.codec import Codec
    from streamer.errors import DecodeError
    from streamer.records import Record
    from taggen.listing import Listing
    from taggen.text import fields

CODEC = Codec()
MAX_BYTES = 4096

_LISTINGS = (
    Listing("acme", "p1", 1, "Red ﬁne-knit  sweater", event_time=1, description="<p>100&nbsp;% wool &amp; silk</p>"),
    Listing("m", "p", 2**63 - 1, "防水 跑步鞋 ①", event_time=1, attributes={"Größe": "４２", "": "x"}, locale="zh-CN"),
    Listing("acme", "p2", 3, "x", event_time=1, deleted=True, image_urls=("https://example.com/1.jpg",)),
)
_VALID = tuple(CODEC.encode_listing(one) for one in _LISTINGS) + tuple(
    json.dumps(asdict(one), ensure_ascii=False).encode() for one in _LISTINGS
)
_TOKENS = (
    *(b"\x00", b"\xff", b"\xc3\x01", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"),
    *(
        b"null",
        b"NaN",
        b"-1",
        b"1e999",
        b"9" * 400,
        b"[" * 300,
        b'{"":' * 50,
        b'"\\ud800"',
        b"<![CDATA[",
        b"&#x110000;",
    ),
    *("\u202e\u0301\ufdfa\u200d".encode(), b"<![CDATA[", b"&#x110000;", b"&" * 60, b"<" * 60, b"  " * 40),
)


def one_case(value: bytes) -> bool:
    """Whether the bytes are a listing; raises when something is wrong with what was made of them."""
    record = Record("in", 0, 0, 0, None, value, ())
    try:
        listing = CODEC.decode_listing(record)
    except DecodeError:
        return False
    originals = {"title": listing.title, "description": listing.description or ""}
    originals |= {f"attributes.{key}": text for key, text in listing.attributes.items()}
    for field in fields(listing):
        _, start, end = field.clean.locate(0, len(field.clean.text))
        assert 0 <= start < end <= len(originals[field.name])
    assert CODEC.decode_listing(record._replace(value=CODEC.encode_listing(listing))) == listing
    return True


def mutated(seed: int) -> Iterator[bytes]:
    """Valid values, with a few pieces replaced, doubled, left out or put in; without end."""
    chance = random.Random(seed)  # noqa: S311  cases, not secrets
    while True:
        value = bytearray(chance.choice(_VALID))
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(value) + 1)
            end = min(len(value), at + chance.choice((0, 1, 1, 2, 8, 40)))
            piece = chance.choice(
                (b"", chance.randbytes(chance.randint(1, 8)), chance.choice(_TOKENS), value[at:end] * 2)
            )
            value[at:end] = piece
        yield bytes(value[:MAX_BYTES])


def main(cases: int, seed: int) -> None:
    """Run the cases, and say how many there were."""
    if atheris is None:
        began, good = time.monotonic(), 0
        for number, value in enumerate(mutated(seed)):
            if number == cases:
                break
            try:
                good += one_case(value)
            except BaseException:
                print(f"case {number} of seed {seed}: {value!r}", file=sys.stderr)
                raise
        print(f"own mutator: cases {cases}, listings {good}, seed {seed}, {time.monotonic() - began:.0f} s")
        return
    options = [f"-runs={cases}", f"-seed={seed}", f"-max_len={MAX_BYTES}", "-print_final_stats=1"]
    with TemporaryDirectory() as corpus:
        for number, value in enumerate(_VALID):
            Path(corpus, str(number)).write_bytes(value)
        atheris.Setup([sys.argv[0], corpus, *options], lambda value: one_case(value) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
