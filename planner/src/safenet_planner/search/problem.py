"""What every method of search is given, and what it gives."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..calibration import Observation
from ..cost import CostModel, Link
from ..kinds import RELU
from ..plans import Plan
from ..tracing import ActivationLayer, PlannedModel
from ..training import Batches, Recipe, accuracy
from .start import Start
from .trials import Trial

Progress = Callable[[str], None]
"""Called with one line about what has been done."""


class Some:
    """So many batches of a source, which is begun again as often as needed."""

    def __init__(self, source: Batches, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, got {steps}")
        self.source = source
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        left = self.steps
        while left:
            before = left
            for batch in self.source:
                yield batch
                left -= 1
                if not left:
                    return
            if left == before:
                raise ValueError("expected at least one batch to train on, got none")


@contextmanager
def seeded(seed: int, threads: int | None = None) -> Iterator[None]:
    """Random choices of PyTorch, NumPy and Python from a seed, and as before afterwards.

    With `threads`, PyTorch computes with so many: sums, and with them results, depend on it.
    """
    states = (torch.get_rng_state(), np.random.get_state(), random.getstate())
    before = torch.get_num_threads()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        torch.set_num_threads(before)


def state_digest(state: Mapping[str, Tensor]) -> str:
    """A hash of a network's parameters and buffers."""
    made = hashlib.sha256()
    for name, value in sorted(state.items()):
        made.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return made.hexdigest()


@dataclass(frozen=True)
class Settings:
    """How methods search. What a method does not know it leaves alone."""

    seed: int = 0
    workdir: Path | None = None
    """Where finished trials are kept, so that a search that is started again goes on."""
    parallel: int = 1
    """Trials that run at the same time, by Ray Tune if more than one and Ray is installed."""
    address: str | None = None
    """Of a Ray cluster, where the trials run, as many at the same time as it has processors for, or
    `parallel` if that is more than one. None: on this machine."""
    threads: int = 1
    """Of each trial."""
    steps: int = 200
    """Batches that a trial is fine-tuned for."""
    rate: float = 0.02
    """Highest learning rate of trials."""
    population: int = 4
    """Trials for each node of the tree, and in each generation of `delphi`."""
    generations: int = 4
    """Of `delphi`, the first one included; stages of `gradual`."""
    threshold: float | None = None
    """`tree`: validation accuracy, 0 to 1, below which a trial loses to each one above."""
    epochs: int = 2
    """`differentiable`: times that all training images are seen."""
    logit_rate: float = 0.05
    """`differentiable`: Adam's learning rate of the logits."""
    temperatures: tuple[float, float] = (1.0, 0.2)
    """`differentiable`: of the softmax over kinds, at the start and at the end."""
    dual_rate: float = 0.5
    """`differentiable`: by how much a step changes the multiplier for each budget exceeded."""
    penalty: float = 5.0
    """`differentiable`: weight of the quadratic term of the augmented Lagrangian."""
    square: str = "fitted"
    """`all-quadratic`: "fitted" to each channel, or "x2" for x^2."""
    relu6: bool = False
    """`delphi`: cut off the ReLUs that stay at 6, too. Each costs a second comparison here."""

    def __post_init__(self) -> None:
        for name in ("parallel", "threads", "steps", "population", "generations", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("rate", "logit_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")
        for name in ("dual_rate", "penalty"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if not all(0 < t < math.inf for t in self.temperatures) or len(self.temperatures) != 2:
            raise ValueError(
                f"temperatures: expected two positive numbers, got {self.temperatures}"
            )
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold: expected 0 to 1, got {self.threshold}")
        if self.square not in ("fitted", "x2"):
            raise ValueError(f"square: expected 'fitted' or 'x2', got {self.square!r}")

    def key(self) -> dict[str, Any]:
        """The settings that results depend on, as JSON values."""
        found = asdict(self)
        for name in ("workdir", "parallel", "address"):
            del found[name]
        return found


@dataclass(frozen=True)
class Found:
    """What a method found."""

    plan: Plan
    latency_s: float
    """Predicted seconds of an inference, preparing included."""
    start: Start = field(default_factory=Start)
    """How the plan is to be trained."""
    trials: tuple[Trial, ...] = ()
    """What was tried on the way, for the curve of accuracy against latency."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else the method has to say, as JSON values."""


@dataclass
class Problem:
    """A trained network that is to be planned, what is known of it, and its data.

    Attributes:
        model: the network with ReLU in every channel and its trained weights, which stays as it
            is: methods work on copies. It is also the teacher in distillation.
        observations: of each activation layer (`calibration.observe`).
        cost: what plans of the network cost.
        link: over which latencies are.
        training: batches, of which each iteration should give a new order.
        validation: batches on which accuracies are measured.

    """

    model: PlannedModel
    observations: Mapping[str, Observation]
    cost: CostModel
    link: Link
    training: Batches
    validation: Batches

    def __post_init__(self) -> None:
        # In this layout convolutions are fast; training converts batches to it.
        self.model.eval().to(memory_format=torch.channels_last)
        if self.model.current_plan() != self.relu_plan:
            raise ValueError("model: expected ReLU in every channel")
        for what, known in (("observations", self.observations), ("cost", self.cost.layers)):
            missing = [name for name in self.layers if name not in known]
            if missing:
                raise ValueError(f"{what}: layer {missing[0]!r} is missing")

    @property
    def layers(self) -> dict[str, ActivationLayer]:
        """The activation layers in order of execution."""
        return self.model.layers

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each layer."""
        return {name: layer.channels for name, layer in self.layers.items()}

    @property
    def relu_plan(self) -> Plan:
        """ReLU everywhere."""
        return Plan.uniform(self.channels, RELU)

    @property
    def importance(self) -> dict[str, Tensor]:
        """First-order importances by layer, (C, 5)."""
        return {name: self.observations[name].importance for name in self.layers}

    @cached_property
    def relu_s(self) -> float:
        """Predicted seconds with ReLU everywhere."""
        return self.seconds(self.relu_plan)

    def seconds(self, plan: Plan) -> float:
        """Predicted seconds of an inference over the link, preparing included."""
        return self.cost.predict(plan).latency(self.link)

    def candidate(self, plan: Plan) -> PlannedModel:
        """A copy of the network with a plan and fitted polynomials."""
        return copy.deepcopy(self.model).apply(plan, self.observations)

    def accuracy(self, model: PlannedModel) -> float:
        """Share of the validation images that are classified correctly."""
        return accuracy(model, self.validation)

    def tune(
        self, model: PlannedModel, steps: int, rate: float, seed: int, start: Start | None = None,
        threads: int | None = None,
    ) -> float:  # fmt: skip
        """Fine-tune in place for a few batches with distillation; the accuracy then.

        The same seed and number of threads give the same result. Raises FloatingPointError if the
        loss is not finite.
        """
        recipe = Recipe(epochs=1, rate=rate, ramp=0.0)
        with seeded(seed, threads):
            history = (start or Start()).train(
                model, Some(self.training, steps), self.validation, recipe, teacher=self.model
            )
        return history.accuracy

    @cached_property
    def digest(self) -> str:
        """A hash of everything but the images, of which the observations speak."""
        made = hashlib.sha256(state_digest(self.model.state_dict()).encode())
        for name, seen in self.observations.items():
            made.update(name.encode())
            for value in (seen.low, seen.high, seen.fits, seen.importance):
                made.update(value.numpy().tobytes())
        made.update(json.dumps([self.cost.as_dict(), str(self.link)]).encode())
        return made.hexdigest()

    def folder(self, method: str, budget_s: float, settings: Settings) -> Path | None:
        """Where a search keeps its trials: one for each problem, method, budget and settings."""
        if settings.workdir is None:
            return None
        key = json.dumps([self.digest, budget_s, settings.key()], sort_keys=True)
        name = f"{method}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        return Path(settings.workdir) / name
