"""One batch of rows through the same frozen layers in several ways: ours, none, merged, PEFT's."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from bitsandbytes.nn import Linear8bitLt
from peft import LoraConfig, get_peft_model
from report import Figure
from rich.console import Console
from torch import Tensor, nn

from taggen import adapter as adapters
from taggen.adapter import Adapter
from taggen.base import DTYPES, Base, Quantization, linear_layers, place, update_dtype
from taggen.head import TaggerModel
from taggen.headpages import HeadPages
from taggen.lora import page_width
from taggen.mixed import HEAD_PAGES, WIDEST, AdapterSlot, MixedModel, order
from taggen.pages import page_count
from taggen.tagger import default_adapter

PROGRESS = Console(stderr=True)


def clock(device: torch.device) -> float:
    """Seconds, when the device has done what it was given. With one thread on a CPU they are that thread's own, which
    others on the machine change less."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.thread_time()
    return time.perf_counter()


def in_turns(systems: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each system in each round, one after the other; a round before that counts for nothing."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for number in range(rounds + 1):
        for name, call in systems.items():
            PROGRESS.print(f"round {number} of {rounds}: {name}", highlight=False)
            started = clock(device)
            call()
            seconds[name].append(clock(device) - started)
    return {name: each[1:] for name, each in seconds.items()}


def ratio(over: Sequence[float], under: Sequence[float]) -> Figure:
    """Of two systems, round by round."""
    return Figure.of([one / other for one, other in zip(over, under, strict=True)])


def scaled(one: Adapter, number: int) -> Adapter:
    """Another adapter, hardly different."""
    return replace(one, scale=one.scale * (1 + number / 10_000), digest=f"{one.digest}-{number}")


def shipped(rank: int) -> Adapter:
    """The adapter that ships, cut to a rank."""
    whole = adapters.read(default_adapter())
    tensors = {
        key: tensor[:rank].clone() if "lora_A" in key else tensor[:, :rank].clone() if "lora_B" in key else tensor
        for key, tensor in whole.tensors.items()
    }
    return replace(whole, tensors=tensors, rank=rank, digest=f"shipped-{rank}")


def twin(base: Base) -> Base:
    """The base again, its embeddings shared."""
    embeddings = base.encoder.get_input_embeddings()
    return replace(base, encoder=copy.deepcopy(base.encoder, {id(embeddings): embeddings}))


class Bed:
    """The same batch in all the ways, over copies of one base."""

    def __init__(
        self,
        base: Base,
        one: Adapter,
        rows: Tensor,
        filled: int,
        quantization: Quantization,
        dtype: str,
        device: torch.device,
    ) -> None:
        self._device, self._dtype, self._quantization = device, DTYPES[dtype], quantization
        self._ids = rows.to(device)
        self._mask = (torch.arange(rows.shape[1]) < filled).expand(rows.shape).contiguous().to(device)
        self._adapters = [scaled(one, number) for number in range(len(rows))]
        self.mixed, self._slots = self._mixed_model(twin(base), quantization)
        self._unquantised, self._their_slots = self._mixed_model(twin(base), "none")
        self._base = self._plain_model(twin(base), one)
        merged = twin(base)
        for name, (a, b) in one.updates().items():
            layer = merged.encoder.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            layer.weight += b @ a
        self._merged = self._plain_model(merged, one)
        self._peft = self._peft_model(twin(base))
        self._stock = self._peft_model(twin(base))
        for layer in self._stock.modules():
            if isinstance(layer, Linear8bitLt):
                layer.__class__ = Linear8bitLt  # whose forward ours replaces, and nothing else

    def _mixed_model(self, base: Base, quantization: Quantization) -> tuple[MixedModel, list[AdapterSlot]]:
        place(base.encoder, quantization, self._dtype, self._device)
        pages = len(self._adapters) * page_count(self._adapters[0].rank) + 8
        head_page = HeadPages.page_bytes(base.hidden_size, self._dtype)
        updates = update_dtype(quantization, self._dtype, self._device)
        page = page_width(base.encoder) * updates.itemsize + HEAD_PAGES * head_page
        model = MixedModel(base, pages * page + WIDEST * head_page, quantization, self._dtype, self._device).eval()
        slots = [slot for slot in map(model.acquire, self._adapters) if slot is not None]
        for slot in slots:
            model.fill(slot)
        assert len(slots) == len(self._adapters)
        assert sorted(slots, key=order) == slots
        return model, slots

    def _plain_model(self, base: Base, one: Adapter) -> TaggerModel:
        place(base.encoder, self._quantization, self._dtype, self._device)
        model = TaggerModel(base.encoder, base.hidden_size, one.card.head_width)
        model.head.weight.data, model.head.bias.data = one.head()
        model.head.to(self._device, self._dtype)
        return model.eval()

    def _peft_model(self, base: Base) -> Any:
        place(base.encoder, self._quantization, self._dtype, self._device)
        names = [name for name, _ in linear_layers(base.encoder)]
        config = LoraConfig(r=self._adapters[0].rank, target_modules=names, init_lora_weights=False)
        model: Any = get_peft_model(base.encoder, config, "0", low_cpu_mem_usage=True)
        for number in range(1, len(self._adapters)):
            PROGRESS.print(f"PEFT: adapter {number + 1} of {len(self._adapters)}", highlight=False)
            model.add_adapter(str(number), config, low_cpu_mem_usage=True)
        layers = {name.removeprefix("base_model.model."): layer for name, layer in model.named_modules()}
        for number, one in enumerate(self._adapters):
            for name, (a, b) in one.updates().items():
                for side, matrix in ((layers[name].lora_A, a), (layers[name].lora_B, b)):
                    weight = matrix.to(self._device, self._dtype)
                    side[str(number)].weight = nn.Parameter(weight, requires_grad=False)
                layers[name].scaling[str(number)] = 1.0
        return model.eval()

    def systems(self) -> dict[str, Callable[[], Any]]:
        """The ways by name."""
        return {
            "mixed": self.run_mixed,
            "one": lambda: self.mixed(self._ids, self._mask, self._slots[:1] * len(self._slots)),
            "base": lambda: self._base(self._ids, self._mask),
            "merged": lambda: self._merged(self._ids, self._mask),
            "peft": lambda: self.run_peft(self._stock),
            "peft, our layers": lambda: self.run_peft(self._peft),
            "switching": self.run_switching,
            "unquantised": lambda: self._unquantised(self._ids, self._mask, self._their_slots),
        }

    def run_mixed(self) -> Any:
        """Each row its own adapter."""
        return self.mixed(self._ids, self._mask, self._slots)

    def run_peft(self, model: Any) -> Tensor:
        """PEFT's mixed batch."""
        names = [str(number) for number in range(len(self._ids))]
        return self._scores(model(input_ids=self._ids, attention_mask=self._mask, adapter_names=names))

    def run_switching(self) -> None:
        """PEFT, a merchant at a time."""
        for number in range(len(self._ids)):
            self._stock.set_adapter(str(number))
            row = slice(number, number + 1)
            self._scores(self._stock(input_ids=self._ids[row], attention_mask=self._mask[row]))

    def _scores(self, output: Any) -> Tensor:
        scores: Tensor = self._base.head(output.last_hidden_state)
        return scores.float()

    def apart(self) -> float:
        """How far our scores are from PEFT's, of their own size: both must come to the same before they are timed."""
        ours = torch.cat([part.tags for part in self.run_mixed()])
        theirs = self.run_peft(self._peft)[..., : 2 * len(self._adapters[0].card.tags) + 1]
        return float((ours[..., : theirs.shape[-1]] - theirs).abs().mean() / theirs.abs().mean())
