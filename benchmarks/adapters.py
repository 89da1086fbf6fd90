"""What an adapter for each merchant costs: a batch of many adapters beside one, none, a merged one, and beside PEFT.

One batch of rows of real titles, all of one padded length, goes through the same frozen weights in each way, in turns:

    mixed       each row its own adapter, as the worker serves them: one forward pass
    one         the same pass, all rows by one adapter
    base        the encoder and a head without any adapter
    merged      one adapter merged into the weights
    peft        PEFT's mixed batch, `adapter_names`, over bitsandbytes' layers as they come; over ours beside it
    switching   PEFT's `set_adapter` and a pass for each merchant, over bitsandbytes' layers

Then a thousand merchants with Zipf traffic (1 / rank) through the tagger, whole, in micro-batches: with the default
memory for adapters, and with room for 128, beside one adapter for all. Adapters have rank 16 in all linear layers; they
are the one that ships, cut to that rank and each scaled a little, so that all find as much. PEFT gets no heads of their
own, which it cannot mix: to its favour.
"""

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, NamedTuple

import torch
import typer
from report import Figure, Neighbours, describe, machine, print_json, show
from shapes import LENGTH, RANK, cuda_shapes, parameters_of, peak, random_adapter
from tagging import sample
from torch import Tensor, nn
from ways import PROGRESS, Bed, clock, in_turns, ratio, scaled, shipped, twin

from taggen import adapter as adapters
from taggen.adapter import Adapter
from taggen.base import DTYPES, Base, Quantization, load_base, update_dtype
from taggen.headpages import HeadPages, bio_pages, label_pages
from taggen.lora import page_width
from taggen.mixed import AdapterSlot, MixedModel
from taggen.pages import page_count
from taggen.tagger import ADAPTER_BYTES, Tagger, default_adapter
from taggen.windows import PADDING_MULTIPLE, Prepared

FEW = 128  # adapters that there is room for in the second run of a thousand merchants
LIMITS = {
    "mixed_over_one": "≤ 1.1",
    "mixed_over_base": "≤ 1.3",
    "mixed_over_merged": "≤ 1.3",
    "peft_over_mixed": "≥ 2, GPU ≥ 10",
    "switching_over_mixed": "≥ 8, GPU ≥ 10",
    "thousand_over_one": "≥ 0.95",
}
Results = dict[str, Any]
Kind = tuple[Quantization, str]  # and the compute dtype


class Scale(NamedTuple):
    """How much is measured."""

    rows: int = 64
    rounds: int = 5
    merchants: int = 1000
    batches: int = 4  # micro-batches of a round of a thousand merchants
    batch: int = 64
    cuda_rows: int = 2048  # of the forward passes whose rate is measured on a GPU


QUICK = Scale(rows=4, rounds=1, merchants=20, batches=1, batch=8)


def batch_of_titles(tagger: Tagger, count: int) -> tuple[Tensor, int]:
    """Ids of rows of titles, [rows, tokens], and how many tokens of each are none of padding."""
    titles = [replace(listing, description=None, attributes={}, category=None) for listing in sample(8 * count)]
    prepared = sorted(tagger.prepare(titles), key=lambda item: -len(item.ids))
    filled = LENGTH - PADDING_MULTIPLE // 2
    kept = [item.ids[: filled - 2] for item in prepared if len(item.ids) >= filled - 2][-count:]
    special = tagger._special
    padding = [special.padding] * (LENGTH - filled)
    rows = [
        [special.start, *ids, special.separator, *padding] for ids in itertools.islice(itertools.cycle(kept), count)
    ]
    return torch.tensor(rows), filled


Batches = list[tuple[Sequence[Prepared], list[int]]]  # listings, and the merchant of each


def zipf(parts: Sequence[Sequence[Prepared]], merchants: int) -> Iterator[Batches]:
    """Rounds of the same listings, of other merchants in each, every round three times: once for each system."""
    random_ = random.Random(0)  # noqa: S311
    shares = [1 / (rank + 1) for rank in range(merchants)]
    while True:
        batches = [(part, random_.choices(range(merchants), shares, k=len(part))) for part in parts]
        yield from (batches, batches, batches)


class Thousand:
    """Merchants with Zipf traffic through one tagger, each micro-batch of listings as the worker does it."""

    def __init__(
        self,
        base: Base,
        adapter_bytes: int,
        served: Sequence[Adapter],
        kind: tuple[Quantization, str],
        device: torch.device,
    ) -> None:
        self._served = served
        self.tagger = Tagger(twin(base), adapters.read(default_adapter()), *kind, device, adapter_bytes=adapter_bytes)
        for adapter in reversed(served):  # the least wanted first: as after long traffic
            self._leave(self._take([adapter], fill=True))
        self.loads, self.rows = self.tagger.table.loads, 0

    def _take(self, wanted: Sequence[Adapter], fill: bool = False) -> list[AdapterSlot]:
        slots = [slot for slot in map(self.tagger.acquire, wanted) if slot is not None]
        assert len(slots) == len(wanted)
        for slot in slots if fill else ():
            self.tagger._model.fill(slot)
        return slots

    def _leave(self, slots: Sequence[AdapterSlot]) -> None:
        for slot in slots:
            self.tagger.release(slot)

    def run(self, batches: Batches) -> None:
        """Tag micro-batches: listings, and the merchant of each."""
        for prepared, merchants in batches:
            slots = self._take([self._served[merchant % len(self._served)] for merchant in merchants])
            self.tagger.tag(prepared, slots)
            self._leave(slots)
            self.rows += len(slots)

    def misses(self) -> float:
        """The share of listings whose adapter had to be loaded."""
        return (self.tagger.table.loads - self.loads) / max(1, self.rows)


def load_times(model: MixedModel, one: Adapter, rounds: int, device: torch.device) -> dict[str, Figure]:
    """Milliseconds: to bring an adapter into the form of its pages, on any thread, and to copy it, on the model's."""
    image, copied = [], []
    for number in range(5 * rounds):
        adapter = scaled(one, 100_000 + number)
        started = clock(device)
        slot = model.acquire(adapter)
        assert slot is not None
        middle = clock(device)
        model.fill(slot)
        copied.append(1000 * (clock(device) - middle))
        image.append(1000 * (middle - started))
        model.table.release(slot)
    return {"image_ms": Figure.of(image), "copy_ms": Figure.of(copied)}


def memory(base: Base, updates: torch.dtype, heads: torch.dtype, ranks: Sequence[int]) -> dict[str, dict[str, float]]:
    """Bytes of an adapter in the device's memory, beside those of its tensors in the same dtypes."""
    found = {}
    for rank in ranks:
        one = random_adapter(base, rank)
        head_pages = bio_pages(one.card) + label_pages(one.card)
        paged = page_count(rank) * page_width(base.encoder) * updates.itemsize
        paged += head_pages * HeadPages.page_bytes(base.hidden_size, heads)
        own = sum(
            tensor.numel() * (updates if "lora_" in key else heads).itemsize for key, tensor in one.tensors.items()
        )
        found[f"rank {rank}"] = {"bytes": paged, "tensors": own, "ratio": paged / own}
    return found


def weights_bytes(encoder: nn.Module) -> int:
    """Bytes of the linear layers: what quantisation is for."""
    return sum(
        parameter.nbytes
        for layer in encoder.modules()
        if isinstance(layer, nn.Linear)
        for parameter in layer.parameters()
    )


def run(scale: Scale, dtype: str, device: torch.device) -> Results:
    """Measure everything."""
    neighbours = Neighbours()
    quantization: Quantization = "int8"
    base, one = load_base("embedded"), shipped(RANK)
    parameters, config = parameters_of(base), base.encoder.config
    kind: Kind = (quantization, dtype)
    updates = update_dtype(quantization, DTYPES[dtype], device)
    page = page_width(base.encoder) * updates.itemsize

    merchants = [scaled(one, number) for number in range(scale.merchants)]
    PROGRESS.print(f"{scale.merchants} merchants", highlight=False)
    thousand = Thousand(base, ADAPTER_BYTES, merchants, kind, device)
    few = Thousand(base, round((FEW + 4) * page * 1.05), merchants, kind, device)
    single = Thousand(base, 2**28, merchants[:1], kind, device)
    prepared = thousand.tagger.prepare(sample(scale.batch * scale.batches))
    traffic = zipf([prepared[at : at + scale.batch] for at in range(0, len(prepared), scale.batch)], scale.merchants)
    served = in_turns(
        {
            "thousand": lambda: thousand.run(next(traffic)),
            "room for few": lambda: few.run(next(traffic)),
            "one for all": lambda: single.run(next(traffic)),
        },
        scale.rounds,
        device,
    )
    missed = {"default": thousand.misses(), "few": few.misses()}
    slots = {"default": len(thousand.tagger.table), "few": len(few.tagger.table)}
    rows, filled = batch_of_titles(single.tagger, scale.rows)

    bed = Bed(base, one, rows, filled, quantization, dtype, device)
    with torch.inference_mode():
        apart = bed.apart()
        assert apart < 0.1, f"PEFT's scores are others than ours: by {apart:.0%} of their size"
        seconds = in_turns(bed.systems(), scale.rounds, device)
        loading = load_times(bed.mixed, one, scale.rounds, device)
    top = peak(DTYPES[dtype], config.hidden_size, config.intermediate_size, scale.rounds, device)
    work = 2 * parameters * rows.numel() / 1e9
    result: Results = {
        "machine": machine(neighbours),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "weights": f"{quantization} {dtype}",
        "rows": scale.rows,
        "rounds": scale.rounds,
        "merchants": scale.merchants,
        "mixed_over_one": ratio(seconds["mixed"], seconds["one"]),
        "mixed_over_base": ratio(seconds["mixed"], seconds["base"]),
        "mixed_over_merged": ratio(seconds["mixed"], seconds["merged"]),
        "peft_over_mixed": ratio(seconds["peft"], seconds["mixed"]),
        "peft_on_our_layers_over_mixed": ratio(seconds["peft, our layers"], seconds["mixed"]),
        "switching_over_mixed": ratio(seconds["switching"], seconds["mixed"]),
        "thousand_over_one": ratio(served["one for all"], served["thousand"]),
        "few_over_one": ratio(served["one for all"], served["room for few"]),
        "slots": slots,
        "misses": missed,
        "unquantised_over_int8": ratio(seconds["unquantised"], seconds["mixed"]),
        "linear_bytes": {"int8": weights_bytes(bed.mixed), "unquantised": weights_bytes(bed._unquantised)},
        "apart_from_peft": apart,
        "seconds": {name: Figure.of(each) for name, each in seconds.items()},
        "listings_s": {name: Figure.of([scale.rows / one for one in each]) for name, each in seconds.items()},
        "loading": loading,
        "adapter_memory": memory(base, updates, DTYPES[dtype], (16, 64)),
        "padding": 1 - filled / LENGTH,
        "peak_gflops": top,
        "share_of_peak": Figure.of([work * filled / LENGTH / one / top.median for one in seconds["mixed"]]),
        "share_of_peak_with_padding": Figure.of([work / one / top.median for one in seconds["mixed"]]),
    }
    if device.type == "cuda":
        del bed
        result["shapes"] = cuda_shapes(scale.cuda_rows, scale.rounds, dtype, device)
    return result


def print_tables(result: Results) -> None:
    """For people."""
    rows, merchants = result["rows"], result["merchants"]
    explained = {
        "mixed_over_one": f"{rows} rows, {rows} adapters: time over that of one adapter",
        "mixed_over_base": "over the base without any adapter",
        "mixed_over_merged": "over one adapter merged into the weights",
        "peft_over_mixed": "PEFT's adapter_names: its time over ours",
        "peft_on_our_layers_over_mixed": "the same over our 8-bit layers",
        "switching_over_mixed": "PEFT's set_adapter for each merchant: its time over ours",
        "thousand_over_one": f"{merchants} merchants, default memory: throughput over that of one adapter",
        "few_over_one": f"the same with room for {FEW} adapters",
        "unquantised_over_int8": "the same batch over plain weights: time over that of 8 bits",
    }
    show(
        f"Adapters, {result['weights']}, {result['device']}, {result['threads']} threads, rounds: {result['rounds']}",
        ["figure", "ratio", "limit", "what"],
        [[name, result[name], LIMITS.get(name, ""), what] for name, what in explained.items()],
        {
            "adapters that there was room for, and listings whose adapter was not there": "; ".join(
                f"{name} {result['slots'][name]}, {result['misses'][name]:.1%}" for name in result["slots"]
            ),
            "ms to prepare an adapter, and to copy it to its pages": "; ".join(
                str(figure) for figure in result["loading"].values()
            ),
            "bytes of an adapter over those of its tensors": "; ".join(
                f"{name}: {sizes['bytes']:,.0f}, {sizes['ratio']:.3f}"
                for name, sizes in result["adapter_memory"].items()
            ),
            "bytes of the linear layers": "; ".join(f"{n}: {size:,}" for n, size in result["linear_bytes"].items()),
            "padding, of all tokens": f"{result['padding']:.1%}",
        },
    )
    show(
        "The batch in each way",
        ["way", "s", "listings/s"],
        [[name, result["seconds"][name], figure] for name, figure in result["listings_s"].items()],
        {
            "matrix peak, GFLOP/s": result["peak_gflops"],
            "share of it, mixed": f"{result['share_of_peak']}, padding included {result['share_of_peak_with_padding']}",
            "machine": describe(result["machine"]),
        },
    )
    if "shapes" in result:
        show(
            f"Large passes on {result['device']}",
            ["model", "listings/s", "of peak, padded"],
            [[name, *figures.values()] for name, figures in result["shapes"].items()],
        )


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each way is measured.")] = Scale().rounds,
    device: Annotated[str, typer.Option(help="cpu or cuda; auto takes CUDA where there is one.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16; auto: bfloat16 on CUDA.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Of torch, on the CPU.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="A few rows, one round: does it run?")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Measure what an adapter for each row of a batch costs, beside none, one, a merged one and PEFT."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    place_ = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    if dtype == "auto":
        dtype = "bfloat16" if place_.type == "cuda" else "float32"
    result = run(QUICK if quick else Scale(rounds=rounds), dtype, place_)
    if as_json:
        print_json(result)
    else:
        print_tables(result)


if __name__ == "__main__":
    typer.run(main)
