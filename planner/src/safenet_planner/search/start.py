"""What a plan's training starts from, and what is special about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..activation import ChannelActivation
from ..kinds import RELU
from ..plans import Plan
from ..tracing import PlannedModel
from ..training import Batches, History, Recipe, train

if TYPE_CHECKING:
    from .problem import Problem


@dataclass(frozen=True)
class Polynomial:
    """A polynomial c0 + c1 x + c2 x^2 + c3 x^3 that takes the place of every fitted one."""

    coefficients: tuple[float, float, float, float]
    reach: float
    """Fitted ranges are widened to hold [-reach, reach]."""

    def plan(self, module: ChannelActivation) -> None:
        """Give all polynomial channels of a layer these coefficients, above their degree 0.

        With m and r the middle and half width of the range, q_j = r^(j-1) times the j-th Taylor
        coefficient at m.
        """
        low = module.low.double().clamp(max=-self.reach)
        high = module.high.double().clamp(min=self.reach)
        m, r = (low + high) / 2, (high - low) / 2
        c0, c1, c2, c3 = self.coefficients
        taylor = [
            ((c3 * m + c2) * m + c1) * m + c0,
            (3 * c3 * m + 2 * c2) * m + c1,
            3 * c3 * m + c2,
            torch.full_like(m, c3),
        ]
        q = torch.stack([t * r ** (j - 1) for j, t in enumerate(taylor)], 1)
        curved = module.kinds > 0
        module.plan(
            module.kinds.clone(),
            torch.where(curved, low.to(module.low.dtype), module.low),
            torch.where(curved, high.to(module.high.dtype), module.high),
            torch.where(curved[:, None], q.to(module.q.dtype), module.q.detach()),
        )


@dataclass(frozen=True)
class Start:
    """What the training of a plan starts from, and in what it differs from the usual one.

    The defaults are the usual start: the original network's weights, polynomials fitted to each
    channel's values, and the recipe that the caller has.
    """

    state: Mapping[str, Tensor] | None = None
    """State of a `PlannedModel` with this plan, from which training goes on."""
    polynomial: Polynomial | None = None
    """In place of the fitted polynomials."""
    frozen: bool = False
    """Whether polynomials' coefficients stay as they are."""
    ceilings: Mapping[str, float] = field(default_factory=dict)
    """What the ReLUs of layers are cut off at, by name, for good."""
    exchange: float | None = None
    """What the ReLUs are cut off at that polynomials gradually take the place of."""
    clip_value: float | None = None
    """Largest magnitude of each component of the gradient."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the caller's `Recipe` that have other values."""

    def recipe(self, recipe: Recipe) -> Recipe:
        """The caller's recipe with this start's changes."""
        return replace(recipe, **self.changes)

    def model(self, problem: Problem, plan: Plan) -> PlannedModel:
        """The network with a plan, as its training starts."""
        model = problem.candidate(plan)
        if self.state is not None:
            model.load_state_dict(dict(self.state))
            if model.current_plan() != plan:
                raise ValueError("state: expected that of a network with the same plan")
        else:
            self.adapt(model)
        self._limit(model)
        return model

    def adapt(self, model: PlannedModel) -> None:
        """Replace the polynomials of a planned network by this start's."""
        self._limit(model)
        if self.polynomial is not None:
            for module in model.activations().values():
                if bool((module.kinds > 0).any()):
                    self.polynomial.plan(module)

    def _limit(self, model: PlannedModel) -> None:
        activations = model.activations()
        for name, ceiling in self.ceilings.items():
            activations[name].ceiling = ceiling

    def train(
        self,
        model: PlannedModel,
        training: Batches,
        validation: Iterable[tuple[Tensor, Tensor]],
        recipe: Recipe,
        **options: Any,
    ) -> History:
        """`training.train` with everything that is special; `recipe` is the caller's."""
        with self._special(model):
            return train(model, training, validation, self.recipe(recipe), **options)

    @contextmanager
    def _special(self, model: PlannedModel) -> Iterator[None]:
        modules = list(model.activations().values())
        before = [(m, m.ceiling, m.q.requires_grad) for m in modules]
        hooks = []
        for module in modules:
            if self.frozen:
                module.q.requires_grad_(False)
            if self.exchange is not None and not bool((module.kinds == RELU).any()):
                module.ceiling = self.exchange
        if self.clip_value is not None:
            limit = self.clip_value
            for parameter in model.parameters():
                if parameter.requires_grad:
                    hooks.append(parameter.register_hook(lambda g: g.clamp(-limit, limit)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for module, ceiling, wanted in before:
                module.ceiling = ceiling
                module.q.requires_grad_(wanted)
