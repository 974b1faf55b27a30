"""Training and fine-tuning: one resumable loop for networks with and without a plan."""

from __future__ import annotations

import json
import math
import pickle
import time
from collections.abc import Callable, Iterable, Sized
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safenet_planner.activation import ChannelActivation


class Batches(Sized, Iterable[tuple[Tensor, Tensor]], Protocol):
    """Batches of (inputs, labels), as a `torch.utils.data.DataLoader` gives them.

    Every iteration over it is one epoch. Labels are class numbers, (N,) of int64.
    """


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Stochastic gradient descent with Nesterov momentum; the learning rate rises linearly over the
    first `warm` of the steps and falls to 0 along a cosine.
    """

    epochs: int = 8
    rate: float = 0.05
    """Highest learning rate."""
    warm: float = 0.1
    """Share of the steps in which the learning rate rises."""
    momentum: float = 0.9
    decay: float = 5e-4
    """Weight decay of everything with more than one dimension but polynomials' coefficients."""
    clip: float = 5.0
    """Largest norm of the whole gradient."""
    temperature: float = 3.0
    """Of the scores in distillation (Hinton, Vinyals and Dean, 2015, section 2)."""
    distil: float = 0.7
    """Weight of the distillation loss where there is a teacher; labels have the rest."""
    ranges: float = 1.0
    """Weight of what activations report as `excess`: inputs near or outside the fitted ranges."""
    ramp: float = 0.25
    """Share of the steps in which polynomials gradually take the place of ReLUs."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"expected at least 1 epoch, got {self.epochs}")
        for name in ("warm", "distil", "ramp"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"expected {name} from 0 to 1, got {value}")
        if not self.rate > 0:
            raise ValueError(f"expected a positive learning rate, got {self.rate}")

    def factor(self, done: float) -> float:
        """The learning rate, as a share of the highest, when `done` of all steps are behind."""
        if done < self.warm:
            return 0.04 + 0.96 * done / self.warm
        return 0.5 * (1 + math.cos(math.pi * (done - self.warm) / max(1 - self.warm, 1e-9)))


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training came to."""

    number: int
    """From 1."""
    of: int
    loss: float
    """Mean over the epoch's images, penalties included."""
    accuracy: float
    """Share of the validation images that are classified correctly, 0 to 1."""
    seconds: float


@dataclass
class History:
    """The epochs so far."""

    epochs: list[Epoch] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        """Of the last epoch."""
        return self.epochs[-1].accuracy


Progress = Callable[[Epoch], None]


def activations(model: nn.Module) -> list[ChannelActivation]:
    """The planned activation layers of `model`, none in an ordinary network."""
    return [m for m in model.modules() if isinstance(m, ChannelActivation)]


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Share of images whose highest score is at their label, 0 to 1; leaves `model` evaluating."""
    model.eval()
    right = total = 0
    for x, y in batches:
        right += int((model(_channels_last(x)).argmax(1) == y).sum())
        total += len(y)
    if total == 0:
        raise ValueError("expected at least one image to measure accuracy on, got none")
    return right / total


def train(
    model: nn.Module,
    training: Batches,
    validation: Iterable[tuple[Tensor, Tensor]],
    recipe: Recipe,
    *,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> History:
    """Train `model` in place and leave it evaluating, as the last epoch left it.

    The loss of a batch is `distil` x T^2 KL(teacher's softened scores || model's) +
    (1 - `distil`) x cross-entropy + `ranges` x the activations' `excess`. Validation images only
    watch: no epoch is chosen by them.

    With a `checkpoint` the state after each epoch is written there, and a run with the same
    recipe goes on from it. Raises ValueError if the file is of another recipe or network, and
    FloatingPointError if the loss is not finite.
    """
    model.to(memory_format=torch.channels_last)
    layers = activations(model)
    optimiser = torch.optim.SGD(
        _groups(model, layers, recipe), lr=recipe.rate, momentum=recipe.momentum, nesterov=True
    )
    history = History()
    if checkpoint is not None and checkpoint.is_file():
        _restore(checkpoint, recipe, model, optimiser, history)
    if teacher is not None:
        teacher.eval()
    steps = len(training)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for number in range(len(history.epochs), recipe.epochs):
        started = time.monotonic()
        model.train()
        total, images = 0.0, 0
        for step, (x, y) in enumerate(training):
            done = (number * steps + step) / (recipe.epochs * steps)
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * recipe.factor(done)
            for layer in layers:
                layer.blend = min(1.0, done / recipe.ramp) if recipe.ramp > 0 else 1.0
            loss = _loss(model, teacher, layers, recipe, _channels_last(x), y)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
            optimiser.step()
            for layer in layers:
                layer.project()
            total += loss.item() * len(y)
            images += len(y)
        if not math.isfinite(total):
            raise FloatingPointError(
                f"epoch {number + 1}: the loss is {total / images}; try a lower learning rate"
            )
        for layer in layers:
            layer.blend = 1.0
        epoch = Epoch(
            number + 1,
            recipe.epochs,
            total / images,
            accuracy(model, validation),
            time.monotonic() - started,
        )
        history.epochs.append(epoch)
        if checkpoint is not None:
            _save(checkpoint, recipe, model, optimiser, history)
        if progress is not None:
            progress(epoch)
    model.eval()
    return history


def _channels_last(x: Tensor) -> Tensor:
    """Images in the layout in which convolutions are fast; anything else as it is."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _groups(
    model: nn.Module, layers: list[ChannelActivation], recipe: Recipe
) -> list[dict[str, Any]]:
    """Parameters with weight decay and without."""
    coefficients = {id(layer.q) for layer in layers}
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.dim() > 1 and id(p) not in coefficients]
    names = {id(p) for p in decayed}
    others = [p for p in parameters if id(p) not in names]
    return [
        {"params": decayed, "weight_decay": recipe.decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _loss(
    model: nn.Module,
    teacher: nn.Module | None,
    layers: list[ChannelActivation],
    recipe: Recipe,
    x: Tensor,
    y: Tensor,
) -> Tensor:
    """The loss that `train` describes."""
    scores = model(x)
    loss = F.cross_entropy(scores, y)
    if teacher is not None:
        t = recipe.temperature
        with torch.no_grad():
            target = (teacher(x) / t).softmax(1)
        soft = F.kl_div((scores / t).log_softmax(1), target, reduction="batchmean")
        loss = recipe.distil * t**2 * soft + (1 - recipe.distil) * loss
    for layer in layers:
        if layer.excess is not None:
            loss = loss + recipe.ranges * layer.excess
    return loss


def _save(
    path: Path, recipe: Recipe, model: nn.Module, optimiser: torch.optim.Optimizer, done: History
) -> None:
    """Replace the checkpoint in one step, so that an interruption leaves a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    about = {"recipe": asdict(recipe), "epochs": [asdict(epoch) for epoch in done.epochs]}
    torch.save(
        {
            "about": json.dumps(about),
            "model": model.state_dict(),
            "momentum": optimiser.state_dict()["state"],
            "random": torch.get_rng_state(),
        },
        part,
    )
    part.replace(path)


def _restore(
    path: Path, recipe: Recipe, model: nn.Module, optimiser: torch.optim.Optimizer, done: History
) -> None:
    """Go on from a checkpoint, which must be of the same recipe and network."""
    about, state = read_checkpoint(path)
    if about["recipe"] != asdict(recipe):
        raise ValueError(
            f"{path}: is of the recipe {about['recipe']}, not of {asdict(recipe)}; delete it to"
            " begin anew"
        )
    try:
        model.load_state_dict(state["model"])
        # The groups' numbers are the recipe's.
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": state["momentum"], "param_groups": groups})
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: is of another network: {error}") from error
    torch.set_rng_state(state["random"])
    done.epochs[:] = [Epoch(**epoch) for epoch in about["epochs"]]


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe and epochs of a checkpoint that `train` wrote, and its tensors.

    Raises ValueError for any other file. Only tensors are unpickled: pickles can run code.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        about = json.loads(state["about"])
        if not {"recipe", "epochs"} <= set(about) or not {"model", "momentum"} <= set(state):
            raise KeyError("recipe, epochs, model or momentum")
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as e:
        raise ValueError(f"{path}: expected a checkpoint of training: {e!r}") from e
    return about, state
