"""The flagship tests: rows of many adapters in one forward pass. Those of a GPU have the marker `gpu`."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies
from peft import PeftModel
from torch import Tensor

from taggen import adapter as adapters
from taggen import tagger
from taggen.adapter import Adapter
from taggen.base import DTYPES, load_base, place, update_dtype
from taggen.head import Answer, TaggerModel, label_count
from taggen.listing import Listing
from taggen.mixed import HEAD_PAGES, WIDEST, order
from taggen.tagger import Tagger
from tests.adapters import write_adapter
from tests.tiny import Tiny
from tests.unit.test_tagger import PIECES, WAYS

CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
)
DEVICES = ["cpu", CUDA]
BOUNDS = dict(zip(WAYS, (0.02, 0.1, 1e-4, 0.1), strict=True))  # of confidences

# Rank, tags, labels, layers: all rank classes' edges, the widest rank, heads of one page and of more, some layers only.
SHAPES: list[tuple[int, int, int, tuple[str, ...]]] = [
    (4, 5, 2, ()),
    (16, 1, 0, ()),
    (16, 15, 40, ()),
    (17, 16, 0, ()),
    (24, 40, 3, ("query", "value")),
    (64, 3, 32, ()),
    (256, 7, 0, ()),
    (8, 0, 5, ("dense",)),
    (16, 15, 0, ("key",)),
]


@dataclass(frozen=True)
class Merchants:
    """Adapters of all shapes for the tiny base, where they lie, and listings to read."""

    base: Path
    folders: list[Path]
    adapters: list[Adapter]
    listings: list[Listing]

    def tagger(self, quantization: Any = "int8", dtype: str = "float32", device: str = "cpu", **more: Any) -> Tagger:
        """A tagger whose default adapter is the first."""
        return tagger.load(str(self.base), self.folders[0], quantization, dtype, device, **more)


@pytest.fixture(scope="module")
def merchants(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Merchants:
    """Each adapter has its own random numbers."""
    root, base = tmp_path_factory.mktemp("merchants"), load_base(str(tiny.base))
    folders = [
        write_adapter(base, root / f"merchant-{number}", *shape, seed=number) for number, shape in enumerate(SHAPES)
    ]
    listings = [Listing("m", str(at), 1, " ".join(PIECES[at : at + 1 + 2 * at])) for at in range(6)]
    listings.append(Listing("m", "long", 1, " ".join(PIECES * 8)))  # of two windows
    return Merchants(tiny.base, folders, [adapters.read(folder) for folder in folders], listings)


def through_peft(base: Path | str, folder: Path, quantization: Any, device: str, ids: Tensor, mask: Tensor) -> Tensor:
    """Scores of one adapter by PEFT, float32, on the same kind of layers."""
    loaded, card = load_base(str(base)), adapters.read(folder).card
    place(loaded.encoder, quantization, torch.float32, torch.device(device))
    model = TaggerModel(loaded.encoder, loaded.hidden_size, card.head_width).to(device)
    scores: Tensor = PeftModel.from_pretrained(model, folder).eval()(input_ids=ids, attention_mask=mask)
    return scores.cpu()


def together(served: Tagger, chosen: Sequence[Adapter], ids: Tensor, mask: Tensor) -> list[Tensor]:
    """Scores of the rows, each through its adapter, in one forward pass: [tokens, tags' and labels' outputs] a row."""
    slots = [slot for slot in map(served.acquire, chosen) if slot is not None]
    assert len(slots) == len(chosen)
    rows = sorted(range(len(slots)), key=lambda row: order(slots[row]))
    for slot in slots:
        served._model.fill(slot)
    parts = served._model(ids[rows], mask[rows], [slots[row] for row in rows])
    assert all(part.finite for part in parts)
    found: dict[int, Tensor] = {}
    scored = [(tags, labels) for part in parts for tags, labels in zip(part.tags, part.labels, strict=True)]
    for row, (tags, labels) in zip(rows, scored, strict=True):
        card = chosen[row].card
        bio = tags[:, : label_count(len(card.tags))]
        wide = labels[: len(card.labels)].expand(len(bio), -1)  # of the start token
        found[row] = torch.cat((bio, wide), -1).cpu()
        assert (tags[:, bio.shape[1] :] == -torch.inf).all()
        assert (labels[len(card.labels) :] == -torch.inf).all()
    for slot in slots:
        served.release(slot)
    return [found[row] for row in range(len(chosen))]


def compare(
    base: Path | str, folders: Sequence[Path], served: Tagger, quantization: Any, device: str, tolerance: float
) -> None:
    """Rows of random tokens over all the adapters, in one pass and each alone through PEFT."""
    ids = torch.randint(4, 100, (len(folders), 24), generator=torch.Generator().manual_seed(0)).to(device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 20:] = False
    with torch.inference_mode():
        mixed = together(served, [adapters.read(folder) for folder in folders], ids, mask)
        for row, folder in enumerate(folders):
            one = slice(row, row + 1)
            alone = through_peft(base, folder, quantization, device, ids[one], mask[one])[0]
            bio = label_count(len(adapters.read(folder).card.tags))
            alone[:, bio:] = alone[:1, bio:]
            torch.testing.assert_close(mixed[row][:20], alone[:20], rtol=0, atol=tolerance)


# Scores go up to about 10. An 8-bit layer rounds its input to steps of 1/127 of the token's largest number: where a
# number lies between two steps, a difference in its last digits becomes a whole step, so int8 is held looser.
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("quantization", "tolerance"), [("none", 1e-4), ("int8", 0.25)])
def test_a_mixed_batch_equals_each_row_through_peft(
    quantization: Any, tolerance: float, device: str, merchants: Merchants
) -> None:
    """Different ranks, tag sets, labels and layers; the same base below."""
    served = merchants.tagger(quantization, device=device)
    compare(merchants.base, merchants.folders, served, quantization, device, tolerance)


@pytest.mark.parametrize("device", DEVICES)
def test_so_does_one_of_the_real_model(device: str, tmp_path: Path) -> None:
    """The embedded base, not quantised, and the adapter that ships."""
    base, shipped = load_base("embedded"), tagger.default_adapter()
    other = write_adapter(base, tmp_path / "other", 40, 20, 3)
    served = tagger.load(quantization="none", device=device)
    compare("embedded", [shipped, other], served, "none", device, 2e-3)


class Alone:
    """What each listing comes to by each adapter, in a batch of its own, in memory with room for all."""

    def __init__(self, merchants: Merchants, quantization: Any, dtype: str, device: str = "cpu") -> None:
        self._merchants = merchants
        self._tagger = merchants.tagger(quantization, dtype, device)
        self._answers: dict[tuple[int, int], Answer] = {}

    def __call__(self, listing: int, adapter: int) -> Answer:
        """The answer, read once."""
        if (listing, adapter) not in self._answers:
            slot = self._tagger.acquire(self._merchants.adapters[adapter])
            assert slot is not None
            prepared = self._tagger.prepare([self._merchants.listings[listing]])
            (self._answers[listing, adapter],) = self._tagger.read(prepared, [slot])
            self._tagger.release(slot)
        return self._answers[listing, adapter]


@contextmanager
def threads(count: int) -> Any:
    """Let torch use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("quantization", "dtype"), WAYS)
def test_a_row_has_the_same_bits_in_any_company(quantization: Any, dtype: str, merchants: Merchants) -> None:
    """Alone and in any batch, beside any neighbours, in any pages, with one thread or two. The memory holds so little
    that pages change hands all the time, and what was in them before must not show."""
    alone = Alone(merchants, quantization, dtype)
    head_page = 32 * (32 * DTYPES[dtype].itemsize + 4)
    page = 16 * 2 * 448 * update_dtype(quantization, DTYPES[dtype], torch.device("cpu")).itemsize
    memory = 20 * (page + HEAD_PAGES * head_page) + WIDEST * head_page  # 20 pages
    little = merchants.tagger(quantization, dtype, adapter_bytes=memory)
    pairs = strategies.tuples(
        strategies.integers(0, len(merchants.listings) - 1), strategies.integers(0, len(merchants.adapters) - 1)
    )

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategies.lists(pairs, min_size=1, max_size=10), strategies.sampled_from([1, 2]))
    def any_batch(batch: list[tuple[int, int]], count: int) -> None:
        widest = little.acquire(merchants.adapters[6])
        assert widest is not None
        little.release(widest)  # whatever was there is gone
        slots = {}
        for _, adapter in batch:
            if adapter not in slots and (slot := little.acquire(merchants.adapters[adapter])) is not None:
                slots[adapter] = slot
        served = [pair for pair in batch if pair[1] in slots]
        with threads(count):
            prepared = little.prepare([merchants.listings[listing] for listing, _ in served])
            answers = little.read(prepared, [slots[adapter] for _, adapter in served])
        for slot in slots.values():
            little.release(slot)
        assert answers == [alone(*pair) for pair in served]

    any_batch()
    assert little.table.evictions > 10


def test_so_it_is_with_many_rows_of_an_adapter(merchants: Merchants) -> None:
    """Rows of one adapter that stand together share one copy of it, and still have the bits that they have alone."""
    alone = Alone(merchants, "none", "float32")
    served = merchants.tagger("none")
    for rows in ([1] * 9, [1] * 5 + [2, 3], [0, 0, 0, 0, 6, 6, 6, 6, 2, 2]):
        slots = [slot for slot in (served.acquire(merchants.adapters[at]) for at in rows) if slot is not None]
        prepared = served.prepare([merchants.listings[at % 3] for at in range(len(rows))])
        answers = served.read(prepared, slots)
        assert answers == [alone(at % 3, adapter) for at, adapter in enumerate(rows)]


@pytest.mark.parametrize("quantization", ["int8", "none"])
def test_so_it_is_while_another_thread_calls_the_model(quantization: Any, merchants: Merchants) -> None:
    """On a CPU a new version is tried beside the batch in the model, and neither sees the other's rows."""
    alone = Alone(merchants, quantization, "float32")
    served = merchants.tagger(quantization)
    assert served.concurrent
    mine, other = [0, 1, 2, 1], [3]
    prepared = served.prepare(merchants.listings[:4])
    expected = [alone(listing, adapter) for listing, adapter in enumerate(mine)]
    slots = {at: served.acquire(merchants.adapters[at]) for at in (*mine, *other)}
    batch = [slot for at in mine if (slot := slots[at])]
    trial = [slot for at in other if (slot := slots[at])]
    both = threading.Barrier(2)

    def read(some: Any, by: Any, count: int) -> list[list[Answer]]:
        both.wait(10)
        return [served.read(some, by) for _ in range(count)]

    with ThreadPoolExecutor(1) as beside:
        trials = beside.submit(read, prepared[2:3], trial, 80)
        batches = read(prepared, batch, 40)
    assert batches == [expected] * 40
    assert trials.result() == [[alone(2, 3)]] * 80


@pytest.mark.parametrize("quantization", ["int8", "none"])
def test_the_real_model_has_the_same_bits_too(quantization: Any, tmp_path: Path) -> None:
    """Its layers are of the size at which libraries choose among kernels."""
    base = load_base("embedded")
    shapes = ((16, 11), (64, 20), (16, 3), (100, 9))
    folders = [write_adapter(base, tmp_path / str(at), *shape, seed=at) for at, shape in enumerate(shapes)]
    chosen = [adapters.read(folder) for folder in folders]
    served = tagger.load(quantization=quantization, device="cpu", adapter_bytes=2**28)
    prepared = served.prepare([Listing("m", str(at), 1, " ".join(PIECES[: 1 + at])) for at in range(8)])
    slots = [slot for slot in (served.acquire(chosen[at % 4]) for at in range(8)) if slot is not None]
    alone = [served.read([one], [slot])[0] for one, slot in zip(prepared, slots, strict=True)]
    for count in (1, 2):
        with threads(count):
            assert served.read(prepared, slots) == alone
    assert sum(len(answer.spans) for answer in alone) > 20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("quantization", "dtype", "bound"), [(*way, BOUNDS[way]) for way in WAYS])
def test_on_a_gpu_company_changes_last_digits_only(
    quantization: Any, dtype: str, bound: float, merchants: Merchants
) -> None:
    """cuBLAS chooses its kernels by the number of rows, and kernels add up in different orders: a confidence may differ
    in its last digits, and an 8-bit layer may make a step of 1/127 of that (as above). The integer products and the
    gather are exact."""
    alone = Alone(merchants, quantization, dtype, "cuda")
    served = merchants.tagger(quantization, dtype, "cuda")
    rows = [(at % len(merchants.listings), at % len(merchants.adapters)) for at in range(60)]
    slots = [slot for slot in (served.acquire(merchants.adapters[at]) for _, at in rows) if slot is not None]
    answers = served.read(served.prepare([merchants.listings[at] for at, _ in rows]), slots)
    same = 0
    for answer, pair in zip(answers, rows, strict=True):
        expected = alone(*pair)
        same += answer == expected
        assert answer.labels == pytest.approx(expected.labels, abs=bound)
        theirs = {(span.tag, span.first, span.last): span.confidence for span in expected.spans}
        ours = {(span.tag, span.first, span.last): span.confidence for span in answer.spans}
        for span in theirs.keys() & ours.keys():
            assert ours[span] == pytest.approx(theirs[span], abs=bound)
        assert len(theirs.keys() ^ ours.keys()) <= 0.1 * len(theirs)
    print(f"{quantization} {dtype}: {same} of {len(rows)} rows have the same bits alone")
