"""Kinds learned by gradient descent, with a Lagrangian on the measured cost.

Each channel gets a logit for each of the five kinds and computes the mixture

    y = sum over k of p_k f_k(x),   p = softmax(logits / temperature),

a continuous relaxation of the choice (after Liu, Simonyan and Yang, *DARTS: Differentiable
Architecture Search*, ICLR 2019, section 2.2), and the temperature falls while it trains. The
loss is the distance of the scores from the original network's (distillation) plus a penalty on
cost, as Selective Network Linearization learns which ReLUs to keep (Cho, Joshi, Reagen, Garg and
Hegde, *Selective Network Linearization for Efficient Private Inference*, ICML 2022). There the
penalty has a fixed weight and counts ReLUs; here the cost is the expected latency by the measured
model, relative to the budget,

    c = (expected seconds - budget) / budget,

and the weight is the multiplier of the constraint c <= 0, found by dual ascent with the augmented
Lagrangian's quadratic term (Bertsekas, *Constrained Optimization and Lagrange Multiplier Methods*,
1982).

Only the logits train. The f_k of degree 0 to 3 are fitted polynomials on one range, so that their
mixture is one polynomial with mixed coefficients: a layer takes about what a single activation
takes, and keeps nothing for the backward pass but its input.

At the end `budget.choose` takes the kinds that lose the least log-probability within the budget.
"""

from __future__ import annotations

import copy
import io
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..activation import ChannelActivation
from ..calibration import Observation
from ..kinds import KINDS, RELU, index
from ..plans import Plan
from ..training import Recipe
from .budget import choose
from .problem import Found, Problem, Progress, Settings, seeded
from .trials import Trial, write_atomically

LEAD = 2.0
"""By how much the logits of the first choice, by importance, are ahead at the start."""


def _columns(value: Tensor, x: Tensor) -> Tensor:
    """Numbers of channels (C,) as they broadcast against x (N, C, ...)."""
    return value.view(1, -1, *(1,) * (x.dim() - 2))


class _Mixed(torch.autograd.Function):
    """`share x ReLU(x) + radius x w(u)` with u = (x - middle) / radius clipped to [-1, 1].

    Inputs: x (N, C, ...), share (C,), w (C, 4), middle, radius (C,). Gradients for x, share, w;
    that of x is the polynomial's at the end of the range where u is clipped, as in `activation`.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, share: Tensor, w: Tensor, middle: Tensor, radius: Tensor,
        ceiling: float | None,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, share, w, middle, radius)
        ctx.ceiling = math.inf if ceiling is None else ceiling
        u = x.sub(_columns(middle, x)).div_(_columns(radius, x)).clamp_(-1, 1)
        scaled = [_columns(radius * part, x) for part in w.unbind(1)]
        y = u * scaled[3]
        for part in (scaled[2], scaled[1]):
            y.add_(part).mul_(u)
        y.add_(scaled[0])
        return y.addcmul_(x.clamp(0, ctx.ceiling), _columns(share, x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, share, w, middle, radius = ctx.saved_tensors
        rest = [d for d in range(x.dim()) if d != 1]
        u = x.sub(_columns(middle, x)).div_(_columns(radius, x)).clamp_(-1, 1)
        into = None
        if ctx.needs_input_grad[0]:
            into = u * _columns(3 * w[:, 3], x)
            into.add_(_columns(2 * w[:, 2], x)).mul_(u).add_(_columns(w[:, 1], x))
            passed = ((x > 0) & (x < ctx.ceiling)).to(x.dtype)
            into.addcmul_(passed, _columns(share, x)).mul_(g)
        shares = (g * x.clamp(0, ctx.ceiling)).sum(rest)
        product, sums = g.clone(), []
        for power in range(4):
            sums.append(product.sum(rest) * radius)
            if power < 3:
                product.mul_(u)
        return into, shares, torch.stack(sums, 1), None, None, None


class Mixture(nn.Module):
    """An activation layer that is a mixture of all kinds, by `logits` (C, 5).

    `temperature` divides the logits before the softmax.
    """

    middle: Tensor
    radius: Tensor
    fits: Tensor

    def __init__(self, seen: Observation, ceiling: float | None, like: Tensor) -> None:
        super().__init__()
        self.ceiling = ceiling
        self.temperature = 1.0
        self.logits = nn.Parameter(like.new_zeros(len(seen.low), len(KINDS)))
        self.register_buffer("middle", ((seen.low + seen.high) / 2).to(like))
        self.register_buffer("radius", ((seen.high - seen.low) / 2).to(like))
        self.register_buffer("fits", seen.fits.to(like))

    def chances(self) -> Tensor:
        """The probability of each kind: (C, 5)."""
        return (self.logits / self.temperature).softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        """The mixture at `x` of shape (N, C) or (N, C, ...)."""
        chances = self.chances()
        weights = torch.einsum("ck,ckj->cj", chances, self.fits)
        mixed: Tensor = _Mixed.apply(
            x, chances[:, index(RELU)], weights, self.middle, self.radius, self.ceiling
        )
        return mixed


class _Relaxed:
    """The network with mixtures in place of activations."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.model: nn.Module = copy.deepcopy(problem.model).eval()
        modules = {id(m): name for name, m in self.model.activations().items()}  # type: ignore
        self.mixtures: dict[str, Mixture] = {}
        for path, module in list(self.model.named_modules()):
            if isinstance(module, ChannelActivation):
                name = modules[id(module)]
                mixture = Mixture(problem.observations[name], module.ceiling, module.low)
                parent, _, own = path.rpartition(".")
                setattr(self.model.get_submodule(parent), own, mixture)
                self.mixtures[name] = mixture
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        for mixture in self.mixtures.values():
            mixture.logits.requires_grad_()

    def begin(self, plan: Plan) -> None:
        """Logits that prefer a plan."""
        with torch.no_grad():
            for name, mixture in self.mixtures.items():
                chosen = torch.tensor([index(k) for k in plan.layers[name]])
                mixture.logits.copy_(LEAD * F.one_hot(chosen, len(KINDS)))

    def losses(self) -> dict[str, Tensor]:
        """The negative log-probability of each kind, for `choose`."""
        return {
            name: -self.mixtures[name].logits.detach().double().cpu().log_softmax(1)
            for name in self.problem.layers
        }


class _Expected:
    """Expected seconds of the mixtures, by the model of costs linearised at a plan."""

    def __init__(self, relaxed: _Relaxed, plan: Plan) -> None:
        problem = relaxed.problem
        costs = problem.cost.channel_costs(problem.link, at=plan)
        self.mixtures = relaxed.mixtures
        self.costs = {name: costs[name].to(m.logits.detach()) for name, m in self.mixtures.items()}
        here = sum(
            float(costs[name][channel, index(kind)])
            for name, kinds in plan.layers.items()
            for channel, kind in enumerate(kinds)
        )
        self.rest = problem.seconds(plan) - here

    def seconds(self) -> Tensor:
        parts = [(m.chances() * self.costs[name]).sum() for name, m in self.mixtures.items()]
        return torch.stack(parts).sum() + self.rest


def search(
    problem: Problem, budget_s: float, settings: Settings, progress: Progress | None = None
) -> Found:
    """Learn kinds for a budget; each epoch leaves a trial, its accuracy before fine-tuning."""
    if not math.isfinite(budget_s):
        raise ValueError(f"budget: expected a finite number of seconds, got {budget_s}")
    first = choose(problem, problem.importance, budget_s)
    relaxed = _Relaxed(problem)
    relaxed.begin(first)
    logits = [m.logits for m in relaxed.mixtures.values()]
    optimiser = torch.optim.Adam(logits, lr=settings.logit_rate)
    folder = problem.folder("differentiable", budget_s, settings)
    checkpoint = None if folder is None else folder / "logits.pt"
    done, multiplier, trials = 0, 0.0, []
    plan = first
    with seeded(settings.seed, settings.threads):
        if checkpoint is not None and checkpoint.is_file():
            done, multiplier, trials = _restore(checkpoint, relaxed, optimiser)
            plan = trials[-1].plan if trials else first
        steps = len(problem.training) * settings.epochs
        for epoch in range(done, settings.epochs):
            expected = _Expected(relaxed, plan)
            total = 0.0
            for step, (x, _) in enumerate(problem.training):
                _set_temperature(
                    relaxed, settings, (epoch * len(problem.training) + step) / max(1, steps - 1)
                )
                loss = _distance(relaxed.model, problem, x)
                excess = expected.seconds() / budget_s - 1
                weight = multiplier + settings.penalty * float(excess.detach())
                if weight > 0:
                    # The gradient of the augmented Lagrangian.
                    loss = loss + weight * excess
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                total += float(loss.detach())
                multiplier += settings.dual_rate * float(excess.detach())
                multiplier = max(0.0, multiplier)
            if not math.isfinite(total):
                raise FloatingPointError(
                    "differentiable: the loss is not finite; try a lower learning rate of logits"
                )
            plan = choose(problem, relaxed.losses(), budget_s)
            reached = problem.accuracy(problem.candidate(plan))
            details = {"multiplier": multiplier, "expected_s": float(expected.seconds().detach())}
            trial = Trial(f"epoch-{epoch + 1:02d}", plan, problem.seconds(plan), reached, details)
            trials.append(trial)
            if checkpoint is not None:
                _save(checkpoint, relaxed, optimiser, epoch + 1, multiplier, trials)
            if progress is not None:
                progress(
                    f"differentiable: epoch {epoch + 1} of {settings.epochs},"
                    f" {1e3 * details['expected_s']:.1f} ms expected for {1e3 * budget_s:.1f} ms,"
                    f" accuracy {reached:.2%} before fine-tuning"
                )
    return Found(
        plan,
        problem.seconds(plan),
        trials=tuple(trials),
        details={"multiplier": multiplier},
    )


def _set_temperature(relaxed: _Relaxed, settings: Settings, done: float) -> None:
    high, low = settings.temperatures
    for mixture in relaxed.mixtures.values():
        mixture.temperature = high * (low / high) ** min(1.0, done)


def _distance(model: nn.Module, problem: Problem, x: Tensor) -> Tensor:
    """Distillation's distance of the scores from the original network's, at its temperature."""
    t = Recipe.temperature
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        target = (problem.model(x) / t).softmax(1)
    return t**2 * F.kl_div((model(x) / t).log_softmax(1), target, reduction="batchmean")


def _save(
    path: Path,
    relaxed: _Relaxed,
    optimiser: torch.optim.Optimizer,
    epochs: int,
    multiplier: float,
    trials: list[Trial],
) -> None:
    stream = io.BytesIO()
    rows = [{**t.__dict__, "plan": {n: list(k) for n, k in t.plan.layers.items()}} for t in trials]
    torch.save(
        {
            "about": json.dumps({"epochs": epochs, "multiplier": multiplier, "trials": rows}),
            "logits": {name: m.logits.detach() for name, m in relaxed.mixtures.items()},
            "moments": optimiser.state_dict()["state"],
            "random": torch.get_rng_state(),
        },
        stream,
    )
    write_atomically(path, stream.getvalue())


def _restore(
    path: Path, relaxed: _Relaxed, optimiser: torch.optim.Optimizer
) -> tuple[int, float, list[Trial]]:
    # Only tensors are unpickled: pickles can run code.
    state = torch.load(path, map_location="cpu", weights_only=True)
    about = json.loads(state["about"])
    with torch.no_grad():
        for name, mixture in relaxed.mixtures.items():
            mixture.logits.copy_(state["logits"][name])
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state["moments"], "param_groups": groups})
    torch.set_rng_state(state["random"])
    trials = [
        Trial(**{**row, "plan": Plan({n: tuple(k) for n, k in row["plan"].items()})})
        for row in about["trials"]
    ]
    return int(about["epochs"]), float(about["multiplier"]), trials
