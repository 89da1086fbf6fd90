"""Training an adapter on labelled listings: the loop, which stops early, and goes on after it was killed."""

import hashlib
import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from taggen import batches, prior, trainable
from taggen.adapter import Adapter, LabelType, TagType
from taggen.augment import Augmenter
from taggen.base import Base, computes_bfloat16
from taggen.batches import Batch
from taggen.checkpoint import Checkpoint, State
from taggen.corpus import Labelled
from taggen.development import Development
from taggen.errors import AdapterError
from taggen.loss import loss

_CLIP = 1.0  # norm of all gradients together
_HEAD = 10  # times the learning rate: the head begins at nothing, and until it says something LoRA learns nothing
FEWEST = 30  # listings of a development part; what fewer say of an epoch is mostly luck, and the last one is kept


@dataclass(frozen=True, slots=True)
class Settings:
    """How an adapter is trained. `targets` are (ends of) names of the encoder's linear layers, none for all of them;
    `dropout` is LoRA's alone; training stops when `patience` epochs did not better F1 on the development part, if that
    has `FEWEST` listings."""

    epochs: int = 14
    patience: int = 5
    batch_listings: int = 16
    learning_rate: float = 1e-3
    warm_up: float = 0.06  # share of the steps
    weight_decay: float = 0.01
    rank: int = 32
    alpha: float = 64
    targets: tuple[str, ...] = ()
    dropout: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """Progress of a run: `loss` is the mean over the epoch so far."""

    step: int
    steps: int
    loss: float


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch that is over (the first is 1): mean loss, and F1 on the development part if there is one."""

    epoch: int
    loss: float
    f1: float | None


@dataclass(frozen=True, slots=True)
class Trained:
    """The PEFT model, the epochs run, and the one that its weights are of (0: untrained)."""

    model: nn.Module
    epochs: tuple[Epoch, ...]
    kept: int


def continued(settings: Settings, init: Adapter, base: Base) -> Settings:
    """The settings with rank, alpha and layers of an adapter to go on from. Raises AdapterError for another base's."""
    if init.card.base_fingerprint != base.fingerprint:
        raise AdapterError(f"adapter {init.card.name} was trained on {init.card.base_model}, not on {base.name}")
    alpha = init.scale * init.rank
    return replace(
        settings,
        rank=init.rank,
        alpha=int(alpha) if alpha.is_integer() else alpha,
        targets=trainable.targets(init, base),
    )


def describe(
    base: Base,
    labelled: Sequence[Labelled],
    tags: Sequence[TagType],
    settings: Settings,
    dev: Sequence[Labelled] = (),
    init: Adapter | None = None,
    labels: Sequence[LabelType] = (),
) -> dict[str, Any]:
    """All that decides the weights, as plain JSON: it tells one run's checkpoint from another's."""
    return {
        **asdict(settings),
        "tags": [tag.name for tag in tags],
        "labels": [[label.name, label.value] for label in labels],
        "base": base.fingerprint,
        "init": init.digest if init is not None else None,
        "data": _digest(labelled),
        "dev": _digest(dev),
    }


def train(
    base: Base,
    labelled: Sequence[Labelled],
    tags: Sequence[TagType],
    settings: Settings,
    progress: Callable[[Step | Epoch], None] = lambda report: None,
    dev: Sequence[Labelled] = (),
    init: Adapter | None = None,
    checkpoint: Checkpoint | None = None,
    labels: Sequence[LabelType] = (),
) -> Trained:
    """Train LoRA and head on the listings, for these tags and listing-level labels; takes over `base`.

    With `FEWEST` `dev` listings or more the weights of the epoch with the best F1 on them are kept, else the last ones.
    `init` is an adapter to go on from, which the settings must fit (`continued`). With a `checkpoint` the run goes on
    from its state, and saves one after each epoch. bfloat16 autocast where the processor or GPU computes in it; the
    trained weights stay float32. Raises TrainingError and AdapterError.
    """
    torch.manual_seed(settings.seed)
    names = [tag.name for tag in tags]
    pairs = [(label.name, label.value) for label in labels]
    model = trainable.build(base, names, pairs, settings.rank, settings.alpha, settings.targets, settings.dropout)
    if init is not None:
        trainable.load(model, init, names, pairs)
    else:
        trainable.head_of(model).bias.data.copy_(prior.bias(labelled, base, names, pairs))
    run = _Run(model, settings, -(-len(labelled) // settings.batch_listings), chooses=len(dev) >= FEWEST)
    if checkpoint is not None and (state := checkpoint.load()) is not None:
        run.restore(state)
    augmenter = Augmenter(labelled)
    numbers = {name: number for number, name in enumerate(names, 1)}
    development = Development(dev, base, tags, labels)
    while not run.over:
        # Its chances follow from seed and epoch alone: a run that goes on has those of one that ran through.
        random_ = random.Random(f"{settings.seed}/{len(run.epochs)}")  # noqa: S311  variation, not secrets
        torch.manual_seed(random_.getrandbits(63))
        losses: list[float] = []
        for batch in batches.epoch(labelled, base, augmenter, settings.batch_listings, random_):
            losses.append(run.learn(batches.collate(batch, numbers, pairs, base.special)))
            progress(Step(run.step, run.steps, sum(losses) / len(losses)))
        with run.autocast:
            f1 = development.score(model).f1 if dev else None
        run.finish(Epoch(len(run.epochs) + 1, sum(losses) / len(losses), f1))
        if checkpoint is not None:
            checkpoint.save(run.state())
        progress(run.epochs[-1])
    return run.trained()


class _Run:
    """A model, its optimizer, and how far they are."""

    def __init__(self, model: nn.Module, settings: Settings, steps_per_epoch: int, *, chooses: bool) -> None:
        """`chooses`: among the epochs, by their F1."""
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=computes_bfloat16(self._device))
        _make_repeatable(self._device)
        self._model = model.to(self._device)
        self._settings = settings
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        head = [weight for name, weight in self._weights.items() if ".head." in name]
        update = [weight for name, weight in self._weights.items() if ".head." not in name]
        groups = [{"params": update, "times": 1}, {"params": head, "times": _HEAD}]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        self._steps_per_epoch = steps_per_epoch
        self.steps = steps_per_epoch * settings.epochs
        self.step = 0
        self.epochs: list[Epoch] = []
        self._chooses = chooses
        self._best: dict[str, Tensor] = {}  # weights of the best epoch, if it chooses

    @property
    def over(self) -> bool:
        """Whether all epochs are done, or the last ones did not help. Until F1 is above 0 nothing can be said."""
        best = self._best_epoch()
        stale = len(self.epochs) - best.epoch if best is not None and best.f1 else 0
        return len(self.epochs) >= self._settings.epochs or stale >= self._settings.patience

    def learn(self, batch: Batch) -> float:
        """One step of AdamW; returns the loss."""
        trainable.train_dropout(self._model, True)
        batch = Batch(*(tensor.to(self._device) for tensor in batch))
        with self.autocast:
            scores = self._model(input_ids=batch.ids, attention_mask=batch.mask)
        its_loss = loss(scores, batch)
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * self._rate() * group["times"]
        self._optimizer.zero_grad()
        its_loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._weights.values(), _CLIP)
        self._optimizer.step()
        trainable.train_dropout(self._model, False)
        self.step += 1
        return its_loss.item()

    def finish(self, epoch: Epoch) -> None:
        """Take an epoch in, and its weights if they are the best."""
        self.epochs.append(epoch)
        if self._best_epoch() is epoch:
            self._best = {name: weight.detach().clone() for name, weight in self._weights.items()}

    def state(self) -> State:
        """What `restore` needs, beside what the settings say."""
        moments = self._optimizer.state_dict()["state"]
        tensors = {
            **{f"weights.{name}": weight.detach() for name, weight in self._weights.items()},
            **{f"best.{name}": weight for name, weight in self._best.items()},
            **{f"adamw.{at}.{key}": tensor for at, its in moments.items() for key, tensor in its.items()},
        }
        return State(tensors, {"epochs": [asdict(epoch) for epoch in self.epochs]})

    def restore(self, state: State) -> None:
        """Go on from there."""
        optimizer = self._optimizer.state_dict()
        for key, tensor in state.tensors.items():
            kind, _, name = key.partition(".")
            if kind == "weights":
                self._weights[name].data.copy_(tensor)
            elif kind == "best":
                self._best[name] = tensor
            else:
                at, _, moment = name.partition(".")
                optimizer["state"].setdefault(int(at), {})[moment] = tensor
        self._optimizer.load_state_dict(optimizer)
        self.epochs = [Epoch(**epoch) for epoch in state.counters["epochs"]]
        self.step = len(self.epochs) * self._steps_per_epoch

    def trained(self) -> Trained:
        """The model with its best weights."""
        for name, weight in self._best.items():
            self._weights[name].data.copy_(weight)
        best = self._best_epoch()
        return Trained(self._model, tuple(self.epochs), best.epoch if best is not None else len(self.epochs))

    def _best_epoch(self) -> Epoch | None:
        """The first epoch of the highest F1, None where it does not choose."""
        return max(self.epochs, key=lambda epoch: epoch.f1 or 0.0, default=None) if self._chooses else None

    def _rate(self) -> float:
        """Share of the learning rate for the next step: rising, then falling in a line."""
        rising = max(1, round(self.steps * self._settings.warm_up))
        if self.step < rising:
            return (self.step + 1) / rising
        return (self.steps - self.step) / (self.steps - rising + 1)


def _make_repeatable(device: torch.device) -> None:
    """Let a GPU add in the same order each time, where it can; a CPU does."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def _digest(labelled: Sequence[Labelled]) -> str:
    """SHA-256 (hex) of labelled listings."""
    digest = hashlib.sha256()
    for item in labelled:
        digest.update(json.dumps(asdict(item), ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
