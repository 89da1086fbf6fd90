"""How fast the tagger is on this CPU: beside onnxruntime, beside the matrix peak, and what a listing costs around it.

The model runs over the sample listings in the worker's own micro-batches, 8-bit and not, in float32 and bfloat16.
onnxruntime gets the same padded rows and the same weights, not quantised and the adapter merged into them. The peak is
what torch's matrix product reaches on the model's own shapes in the same run; a model's share of it counts the
arithmetic that the tokens need (2 x non-embedding parameters x tokens) without that of adapter, attention and padding.
"""

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # CPU time by step, on one thread

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from report import Figure, Neighbours, describe, machine, print_json, show
from torch import Tensor, nn

from streamer.codec import Codec
from streamer.pipeline import Pipeline, Tagged
from streamer.records import Record
from streamer.settings import Settings
from taggen import adapter as adapters
from taggen import corpus, head, postprocess, windows
from taggen.base import DTYPES, Quantization, load_base
from taggen.head import TaggerModel
from taggen.listing import Listing
from taggen.mixed import MixedModel
from taggen.tagger import Tagger, default_adapter
from taggen.windows import Prepared

logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of packages that nothing here needs

AIM = 0.5  # of the matrix peak
SAME = 1e-3  # how far onnxruntime's scores may be from torch's; they go up to about 10
PEAK_ROWS = 2_048  # tokens of a matrix product: more than a micro-batch has of one length
SETTINGS = Settings()  # the micro-batches of a worker

Batch = tuple[Tensor, Tensor]  # ids and mask, [rows, tokens] each
Kind = tuple[Quantization, str]  # and the compute dtype
Results = dict[str, Any]


def sample(count: int) -> list[Listing]:
    """The listings that ship with taggen, evenly spread over all of them."""
    written = [item.listing for path in corpus.train_files() for item in corpus.read(path)]
    written += [item.listing for item in corpus.held_out()]
    return written[:: max(1, len(written) // count)][:count]


def micro_batches(tagger: Tagger, listings: Sequence[Listing]) -> list[list[Prepared]]:
    """As the worker cuts them when there is enough to do."""
    batches: list[list[Prepared]] = [[]]
    room = SETTINGS.batch_tokens
    for item in tagger.prepare(listings):
        if batches[-1] and (len(batches[-1]) == SETTINGS.batch_listings or item.tokens > room):
            batches.append([])
            room = SETTINGS.batch_tokens
        batches[-1].append(item)
        room -= item.tokens
    return batches


@contextmanager
def timed(owner: Any, name: str, clock: Callable[[], float]) -> Iterator[list[float]]:
    """Time all calls of a function or method while the context lasts: the seconds of each."""
    original = getattr(owner, name)
    seconds: list[float] = []

    def wrapper(*arguments: Any, **options: Any) -> Any:
        start = clock()
        result = original(*arguments, **options)
        seconds.append(clock() - start)
        return result

    setattr(owner, name, wrapper)
    try:
        yield seconds
    finally:
        setattr(owner, name, original)


def peak(dtype: torch.dtype, hidden: int, wide: int, rounds: int) -> Figure:
    """GFLOP/s of torch's matrix product, the best of the model's shapes."""
    found = []
    for inner, outer in ((hidden, hidden), (hidden, wide), (wide, hidden)):
        a, b = torch.randn(PEAK_ROWS, inner).to(dtype), torch.randn(inner, outer).to(dtype)
        repeat = 8
        rates = []
        for _ in range(rounds + 1):
            start = time.perf_counter()
            for _ in range(repeat):
                a @ b
            rates.append(repeat * 2 * PEAK_ROWS * inner * outer / (time.perf_counter() - start) / 1e9)
        found.append(Figure.of(rates[1:]))
    return max(found)


def capture(tagger: Tagger, batches: Sequence[Sequence[Prepared]]) -> list[Batch]:
    """The padded rows that the tagger gives to its model."""
    taken: list[Batch] = []
    hook = tagger._model.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[:2]))
    for batch in batches:
        tagger.tag(batch)
    hook.remove()
    return taken


def run_tagger(tagger: Tagger, batches: Sequence[Sequence[Prepared]], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds over all batches for each round: whole, and of the model alone."""
    whole, model = [], []
    tagger.tag(batches[0][:8])  # warm
    for _ in range(rounds):
        with timed(MixedModel, "forward", time.perf_counter) as calls:
            start = time.perf_counter()
            for batch in batches:
                tagger.tag(batch)
            whole.append(time.perf_counter() - start)
        model.append(sum(calls))
    return whole, model


class Onnx:
    """The same model in onnxruntime: float32, the adapter merged into the weights."""

    def __init__(self, folder: Path, adapter: Path) -> None:
        self._path = folder / "tagger.onnx"
        read = adapters.read(adapter)
        base = load_base("embedded")
        for name, (a, b) in read.updates().items():
            layer = base.encoder.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            layer.weight += b @ a
        model = TaggerModel(base.encoder, base.hidden_size, read.card.head_width).eval()
        model.head.weight.data, model.head.bias.data = read.head()
        ids = torch.randint(4, 1000, (3, 24))
        self._rows = ids, torch.arange(24) < torch.tensor([[20], [23], [24]])
        rows, tokens = torch.export.Dim("rows"), torch.export.Dim("tokens", max=windows.WINDOW_TOKENS)
        with torch.inference_mode(), warnings.catch_warnings(action="ignore"):
            self._scores = model(*self._rows)
            torch.onnx.export(
                model,
                self._rows,
                self._path,
                input_names=["ids", "mask"],
                output_names=["scores"],
                dynamic_shapes=({0: rows, 1: tokens}, {0: rows, 1: tokens}),
                dynamo=True,
                optimize=False,  # onnxruntime does it, as fast and in less time
                verbose=False,
            )

    def session(self, threads: int) -> Callable[[Batch], Any]:
        """The model call on so many threads."""
        import onnxruntime  # type: ignore[import-untyped]  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])

        def call(batch: Batch) -> Any:
            return session.run(["scores"], {"ids": batch[0].numpy(), "mask": batch[1].numpy()})[0]

        torch.testing.assert_close(torch.from_numpy(call(self._rows)), self._scores, rtol=0, atol=SAME)
        return call


def run_onnx(call: Callable[[Batch], Any], rows: Sequence[Batch], rounds: int) -> list[float]:
    """Seconds over all batches for each round."""
    call(rows[0])
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for batch in rows:
            call(batch)
        seconds.append(time.perf_counter() - start)
    return seconds


def steps(tagger: Tagger, listings: Sequence[Listing]) -> dict[str, float]:
    """CPU microseconds a listing by step, on one thread; "model" for comparison."""
    clock = time.thread_time
    codec = Codec()
    records = [Record("t", 0, at, 0, None, codec.encode_listing(item)) for at, item in enumerate(listings)]
    pipeline = Pipeline(SETTINGS, codec, tagger)
    spent: dict[str, float] = {}
    started = clock()
    for record in records:
        codec.decode_listing(record)
    spent["decode"] = clock() - started

    started = clock()
    with timed(windows, "fields", clock) as text:
        batches = micro_batches(tagger, listings)
    prepare = clock() - started
    spent["text"] = sum(text)
    texts = [[field.text for item in batch for field in item.fields] for batch in batches]
    started = clock()
    for part in texts:
        tagger._tokenizer.encode_batch(part, add_special_tokens=False)
    spent["tokenise"] = clock() - started
    spent["windows"] = prepare - spent["text"] - spent["tokenise"]

    with ExitStack() as stack:
        model = stack.enter_context(timed(MixedModel, "forward", clock))
        read = stack.enter_context(timed(head, "reading", clock))
        spans = stack.enter_context(timed(head, "spans", clock))
        tags = stack.enter_context(timed(postprocess, "tagging", clock))
        started = clock()
        taggings = [tagging for batch in batches for tagging in tagger.tag(batch)]
        whole = clock() - started
    spent["model"] = sum(model)
    spent["read"] = sum(read)
    spent["post-process"] = sum(spans) + sum(tags)
    spent["rows"] = whole - spent["model"] - spent["read"] - spent["post-process"]

    tagged = zip(records, listings, taggings, strict=True)
    outcomes = [Tagged(record, listing, False, tagging, tagger.model) for record, listing, tagging in tagged]
    started = clock()
    pipeline.encode(outcomes)
    spent["encode"] = clock() - started
    return {step: seconds / len(listings) * 1e6 for step, seconds in spent.items()}


class Run(NamedTuple):
    """A model on so many threads: seconds over all listings for each round, whole and of the model alone."""

    threads: int
    dtype: str
    whole: list[float]
    model: list[float]


def run(
    adapter: Path, count: int, rounds: int, kinds: Sequence[tuple[Quantization, str]], threads: Sequence[int]
) -> Results:
    """Measure everything."""
    neighbours = Neighbours()
    listings = sample(count)
    runs: dict[str, Run] = {}
    peaks: dict[tuple[str, int], Figure] = {}
    rows: list[Batch] = []
    for quantization, dtype in kinds:
        base = load_base("embedded")
        config = base.encoder.config
        named = base.encoder.named_parameters()
        parameters = sum(parameter.numel() for name, parameter in named if "embeddings" not in name)
        tagger = Tagger(base, adapters.read(adapter), quantization, dtype, torch.device("cpu"))
        batches = micro_batches(tagger, listings)
        if not rows:
            rows = capture(tagger, batches)
            torch.set_num_threads(1)
            outside = [steps(tagger, listings) for _ in range(max(2, rounds))]
        for number in threads:
            torch.set_num_threads(number)
            if (dtype, number) not in peaks:
                peaks[dtype, number] = peak(DTYPES[dtype], config.hidden_size, config.intermediate_size, rounds)
            runs[f"{quantization} {dtype}, {number}"] = Run(number, dtype, *run_tagger(tagger, batches, rounds))
    with tempfile.TemporaryDirectory() as folder:
        onnx = Onnx(Path(folder), adapter)
        for number in threads:
            seconds = run_onnx(onnx.session(number), rows, rounds)
            runs[f"onnxruntime float32, {number}"] = Run(number, "float32", seconds, seconds)
    filled = sum(item.filled for batch in batches for item in batch)
    padded = sum(item.tokens for batch in batches for item in batch)
    work = 2 * parameters * filled / 1e9  # GFLOP

    def summary(one: Run) -> dict[str, Figure]:
        top = peaks[one.dtype, one.threads].median
        peer = runs[f"onnxruntime float32, {one.threads}"].model
        return {
            "listings_s": Figure.of([len(listings) / seconds for seconds in one.whole]),
            "gflops": Figure.of([work / seconds for seconds in one.model]),
            "to_onnxruntime": Figure.of([theirs / ours for theirs, ours in zip(peer, one.model, strict=True)]),
            "share_of_peak": Figure.of([work / seconds / top for seconds in one.model]),
            "share_of_peak_with_padding": Figure.of([work * padded / filled / seconds / top for seconds in one.model]),
        }

    return {
        "machine": machine(neighbours),
        "adapter": tagger.model.adapter,
        "listings": len(listings),
        "rounds": rounds,
        "parameters": parameters,
        "tokens_per_listing": filled / len(listings),
        "padding": 1 - filled / padded,
        "peak_gflops": {f"{dtype}, {number}": figure for (dtype, number), figure in peaks.items()},
        "models": {name: summary(one) for name, one in runs.items()},
        "outside_us": {step: Figure.of([one[step] for one in outside]) for step in outside[0]},
        "aim": AIM,
    }


EXPLAINED = {
    "decode": "Avro to a checked listing",
    "text": "mark-up, entities, NFKC, blanks",
    "tokenise": "the tokenizer, in Rust",
    "windows": "offsets, fields, windows",
    "rows": "tensors of ids and masks, the chain",
    "model": "encoder, adapter, head: not outside",
    "read": "scores to the best tag of each token",
    "post-process": "spans to tags",
    "encode": "tag event to Avro, with id and key",
}


def print_tables(result: Results) -> None:
    """For people."""
    show(
        f"{result['listings']} listings of {result['tokens_per_listing']:.0f} tokens, rounds: {result['rounds']}",
        ["weights, threads", "listings/s", "GFLOP/s", "× onnx", "of peak", "padded"],
        [[name, *one.values()] for name, one in result["models"].items()],
        {
            "matrix peak, GFLOP/s": "; ".join(f"{name}: {figure}" for name, figure in result["peak_gflops"].items()),
            "share of peak aimed at": f"{AIM:.0%}",
            "padding, of all tokens": f"{result['padding']:.1%}",
        },
    )
    outside = result["outside_us"]
    show(
        "CPU time of a listing outside the model, one thread",
        ["step", "µs", "what"],
        [[step, figure, EXPLAINED[step]] for step, figure in outside.items()],
        {
            "outside the model, µs": f"{sum(one.median for step, one in outside.items() if step != 'model'):.0f}",
            "machine": describe(result["machine"]),
        },
    )


def main(
    adapter: Annotated[Path | None, typer.Option(help="Folder of an adapter for the embedded base.")] = None,
    listings: Annotated[int, typer.Option(min=8, help="How many of the sample listings.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="How often each model is measured.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="16 listings, one round, float32: does it run?")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Measure the tagger on this CPU beside onnxruntime and the matrix peak, and what a listing costs around it."""
    folder = adapter or default_adapter()
    if quick:
        result = run(folder, 16, 1, [("int8", "float32")], [1])
    else:
        kinds: list[Kind] = [
            ("int8", "float32"),
            ("none", "float32"),
            ("int8", "bfloat16"),
            ("none", "bfloat16"),
        ]
        result = run(folder, listings, rounds, kinds, [1, 2])
    if as_json:
        print_json(result)
    else:
        print_tables(result)


if __name__ == "__main__":
    typer.run(main)
