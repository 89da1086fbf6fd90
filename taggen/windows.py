"""Token windows: a listing's fields as rows for the encoder, every token traceable to its field.

All fields stand in one stream, a separator between them, so that each is read beside the others. A stream longer than
a window is read in overlapping windows; what lies beyond the token budget is not read, and the listing is flagged.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Encoding, Tokenizer

from taggen.listing import Listing
from taggen.text import Field, fields

LAYOUT = 2  # goes into the tagger's fingerprint: grows with every change of what the model reads

WINDOW_TOKENS = 256  # with the two special tokens; attention's share of the work stays below a tenth
OVERLAP_TOKENS = 32  # longer than nearly every tag's value, so that one window holds it whole
BUDGET_TOKENS = 4_096  # of one listing
PADDING_MULTIPLE = 8  # the padded length is a function of the row alone, never of its neighbours

NO_FIELD = -1  # the source of separators and labels
BLANK = -2  # the source of a blank that is a token of its own: it has no words, but does not part those around it

TRUNCATED = "text_truncated"


@dataclass(frozen=True, slots=True)
class Special:
    """The ids of the special tokens that frame a window."""

    start: int
    separator: int
    padding: int


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens `first` to `last` (exclusive) of a listing's stream make one row; the answers for `kept_first` to
    `kept_last` are taken from it, those of the overlap's other half from its neighbour."""

    first: int
    last: int
    kept_first: int
    kept_last: int

    @property
    def padded(self) -> int:
        """Tokens of the row with special tokens and padding, of which there is always some.

        transformers drops a mask that masks nothing, and another attention kernel with other bits runs: the scores of
        a row without padding would depend on whether its neighbours have any.
        """
        tokens = self.last - self.first + 2
        return (tokens // PADDING_MULTIPLE + 1) * PADDING_MULTIPLE


@dataclass(frozen=True, slots=True)
class Prepared:
    """A listing ready for the model.

    `ids`, `sources`, `starts` and `ends` run over the stream's tokens: the token's id, the index of its field (or
    NO_FIELD or BLANK, which carry no tags) and its place in the field's clean text.
    """

    listing: Listing
    fields: list[Field]
    ids: list[int]
    sources: list[int]
    starts: list[int]
    ends: list[int]
    windows: list[Window]
    flags: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Padded tokens over all windows: what the listing costs the device."""
        return sum(window.padded for window in self.windows)

    @property
    def filled(self) -> int:
        """Those of the tokens that are not padding."""
        return sum(window.last - window.first + 2 for window in self.windows)


def prepare(listings: Sequence[Listing], tokenizer: Tokenizer, special: Special) -> list[Prepared]:
    """Clean, tokenise and window the listings."""
    read = [fields(listing) for listing in listings]
    texts = [field.text for listing_fields in read for field in listing_fields]
    encodings = iter(tokenizer.encode_batch(texts, add_special_tokens=False))
    prepared = []
    for listing, listing_fields in zip(listings, read, strict=True):
        ids: list[int] = []
        sources: list[int] = []
        starts: list[int] = []
        ends: list[int] = []
        truncated = False
        for index, field in enumerate(listing_fields):
            encoding = next(encodings)
            if ids:
                ids.append(special.separator)
                sources.append(NO_FIELD)
                starts.append(0)
                ends.append(0)
            _append(encoding, index, field, ids, sources, starts, ends)
            truncated |= field.clean.truncated
        if len(ids) > BUDGET_TOKENS:
            truncated = True
            for column in (ids, sources, starts, ends):
                del column[BUDGET_TOKENS:]
        flags = (TRUNCATED,) if truncated else ()
        windows = list(_windows(len(ids)))
        prepared.append(Prepared(listing, listing_fields, ids, sources, starts, ends, windows, flags))
    return prepared


def _append(
    encoding: Encoding,
    index: int,
    field: Field,
    ids: list[int],
    sources: list[int],
    starts: list[int],
    ends: list[int],
) -> None:
    """Append one field's tokens, their offsets moved behind the label and trimmed of the blank before a word."""
    text = field.text
    label = len(field.label)
    ids.extend(encoding.ids)
    for first, end in encoding.offsets:
        # SentencePiece counts the blank before a word into its token.
        start = first + 1 if first < end and text[first] == " " else first
        if end > label and start < end:
            sources.append(index)
            starts.append(max(start - label, 0))
            ends.append(end - label)
        else:
            sources.append(BLANK if end > label else NO_FIELD)
            starts.append(0)
            ends.append(0)


def _windows(tokens: int) -> Iterator[Window]:
    """Cut a stream of so many tokens into overlapping windows."""
    capacity = WINDOW_TOKENS - 2
    first = kept = 0
    while True:
        last = min(first + capacity, tokens)
        kept_last = tokens if last == tokens else last - OVERLAP_TOKENS // 2
        yield Window(first, last, kept, kept_last)
        if last == tokens:
            return
        first, kept = last - OVERLAP_TOKENS, kept_last
