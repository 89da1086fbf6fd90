"""`taggen tag`."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Annotated, BinaryIO

import typer

from taggen.cli.console import one_line_errors
from taggen.cli.options import AdapterOption, BaseOption, Dtype, DtypeOption, QuantizationOption, Quantized, Threads
from taggen.errors import CorpusError, InvalidListing
from taggen.listing import Listing


def tag(
    file: Annotated[
        typer.FileBinaryRead, typer.Argument(metavar="FILE", help="JSON lines of listings, - for standard input.")
    ],
    adapter: AdapterOption = None,
    base_model: BaseOption = "embedded",
    quantization: Quantized = QuantizationOption.int8,
    compute_dtype: Dtype = DtypeOption.float32,
    labelled: Annotated[
        bool, typer.Option("--labelled", help="Write labelled listings, for `taggen train` to learn from.")
    ] = False,
    threads: Threads = 2,
) -> None:
    """Tag listings: one JSON object a line in, one JSON object a line out, in order.

    A listing needs `title`; `product_id`, `description`, `attributes` and the other fields of the Avro schema are read
    where present. A bad line ends the run with its number.
    """
    import torch  # noqa: PLC0415  seconds to import; --help need not wait for it

    from taggen import corpus  # noqa: PLC0415
    from taggen import tagger as taggers  # noqa: PLC0415

    torch.set_num_threads(threads)
    with one_line_errors():
        tagger = taggers.load(base_model, adapter, quantization.value, compute_dtype.value)
        model = asdict(tagger.model)
        known = [(label.name, label.value) for label in tagger.card.labels]
        listings = _listings(file)
        while batch := list(islice(listings, 64)):
            for listing, tagging in zip(batch, tagger.tag(tagger.prepare(batch)), strict=True):
                if labelled:
                    line = corpus.row(corpus.as_said(listing, tagging, known))
                else:
                    line = {"product_id": listing.product_id, **asdict(tagging), "model": model}
                sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
            sys.stdout.flush()


def _listings(lines: BinaryIO) -> Iterator[Listing]:
    name = getattr(lines, "name", "<stdin>")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise CorpusError(f"{where}: not a JSON object")
            missing = {"merchant_id": "-", "product_id": str(number), "listing_version": 0, "event_time": 0}
            yield Listing.from_record(missing | record)
        except (ValueError, RecursionError, InvalidListing) as error:
            raise CorpusError(f"{where}: {error}") from None
