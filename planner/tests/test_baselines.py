"""What the planner is compared with."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

from safenet_planner import KINDS, METHODS, RELU, Plan, Problem, Recipe, Settings
from safenet_planner import baselines as others
from safenet_planner.search.start import Polynomial

QUICK = Settings(steps=4, population=3, generations=2)


def test_delphi_polynomial(posed: Problem) -> None:
    """Every quadratic is Delphi's, as exported, whatever the range; training leaves it so."""
    plan = Plan.uniform(posed.channels, 2)
    start = others.delphi_start(posed, plan, QUICK)
    model = start.model(posed, plan)
    posed.tune(model, 6, 0.05, 0, start)
    for module in model.activations().values():
        expected = torch.tensor(others.QUADRATIC).double().expand(module.channels, 4)
        assert torch.allclose(module.coefficients(), expected, atol=1e-6)
        assert module.q.requires_grad
        assert module.ceiling is None
        assert bool((module.low <= -6).all() and (module.high >= 6).all())


def test_polynomials_as_planned(posed: Problem) -> None:
    """Normalised coefficients are those of the polynomial in x."""
    wanted = (0.3, -0.2, 0.5, 0.25)
    model = posed.candidate(Plan.uniform(posed.channels, 3))
    for module in model.activations().values():
        Polynomial(wanted, reach=2.0).plan(module)
        expected = torch.tensor(wanted).double().expand(module.channels, 4)
        assert torch.allclose(module.coefficients(), expected, atol=1e-5)


def test_delphi_training(posed: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients' values are clipped, ReLU6 stands where ReLUs are exchanged, no distillation."""
    names = list(posed.layers)
    plan = others._plan(posed, names[:2])
    start = others.delphi_start(posed, plan, QUICK)
    recipe = start.recipe(Recipe(epochs=3))
    assert (recipe.distil, recipe.clip, recipe.epochs) == (0.0, math.inf, 3)
    model = start.model(posed, plan)
    activations = model.activations()
    seen = []

    def train(model: torch.nn.Module, *_: object, **__: object) -> str:
        parameter = model.get_parameter("scores.weight")
        (1e6 * parameter).sum().backward()
        assert parameter.grad is not None
        seen.append(float(parameter.grad.abs().max()))
        seen.append([m.ceiling for m in activations.values()])
        return "history"

    monkeypatch.setattr("safenet_planner.search.start.train", train)
    assert start.train(model, [], [], Recipe()) == "history"
    assert seen == [2.0, [6.0, 6.0, None, None]]
    assert [m.ceiling for m in activations.values()] == [None] * 4
    parameter = model.get_parameter("scores.weight")
    parameter.grad = None
    (1e6 * parameter).sum().backward()
    assert float(parameter.grad.abs().max()) == 1e6
    capped = others.delphi_start(posed, plan, dataclasses.replace(QUICK, relu6=True))
    ceilings = [m.ceiling for m in capped.model(posed, plan).activations().values()]
    assert ceilings == [None, None, 6.0, 6.0]


def test_delphi_search(posed: Problem) -> None:
    """Whole layers, within the budget; the best score wins, with its weights."""
    budget = 0.8 * posed.relu_s
    found = METHODS["delphi"](posed, budget, QUICK, None)
    for kinds in found.plan.layers.values():
        assert set(kinds) in ({RELU}, {2})
    assert len(found.trials) > 3
    scores = []
    for trial in found.trials:
        assert trial.latency_s <= budget
        chosen = [n for n, kinds in trial.plan.layers.items() if kinds[0] == 2]
        assert trial.details["quadratic"] == sorted(chosen)
        counts = {n: x.channels * x.positions for n, x in posed.layers.items()}
        share = sum(counts[n] for n in chosen) / sum(counts.values())
        scores.append(trial.accuracy * (1 + share))
    assert found.details["score"] == pytest.approx(max(scores))
    assert posed.accuracy(found.start.model(posed, found.plan)) == found.details["accuracy"]


@pytest.mark.parametrize("share", [0.65, 0.75, 0.9])
def test_layerwise_is_the_best_of_all_sets(
    share: float, posed: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By trying every set of layers; exchanges, for many layers, come near."""
    budget = share * posed.relu_s
    names = list(posed.layers)
    values = []
    for number in range(len(names) + 1):
        for chosen in itertools.combinations(names, number):
            plan = others._plan(posed, chosen)
            if posed.seconds(plan) <= budget:
                values.append(
                    sum(float(posed.importance[n][:, KINDS.index(2)].sum()) for n in chosen)
                )
    found = METHODS["layerwise"](posed, budget, QUICK, None)
    chosen = found.details["quadratic"]
    reached = sum(float(posed.importance[n][:, KINDS.index(2)].sum()) for n in chosen)
    assert reached == pytest.approx(min(values))
    monkeypatch.setattr(others, "EXACT", 0)
    exchanged = METHODS["layerwise"](posed, budget, QUICK, None)
    assert exchanged.latency_s <= budget
    chosen = exchanged.details["quadratic"]
    reached = sum(float(posed.importance[n][:, KINDS.index(2)].sum()) for n in chosen)
    assert reached <= sorted(values)[min(2, len(values) - 1)] * (1 + 1e-9)


def test_all_quadratic(posed: Problem) -> None:
    """Fitted ones, or squares."""
    found = METHODS["all-quadratic"](posed, math.inf, QUICK, None)
    assert found.plan.share(2) == 1
    fitted = found.start.model(posed, found.plan)
    for name, module in fitted.activations().items():
        expected = posed.observations[name].fits[:, KINDS.index(2)]
        assert torch.allclose(module.q.detach().double(), expected, atol=1e-6)
    settings = dataclasses.replace(QUICK, square="x2")
    found = METHODS["all-quadratic"](posed, math.inf, settings, None)
    for module in found.start.model(posed, found.plan).activations().values():
        expected = torch.tensor(others.SQUARE).double().expand(module.channels, 4)
        assert torch.allclose(module.coefficients(), expected, atol=1e-4)


def test_random(posed: Problem) -> None:
    """As many ReLUs as the budget allows, others by another seed, all kinds somewhere."""
    budget = 0.8 * posed.relu_s
    plans = [
        METHODS["random"](posed, budget, dataclasses.replace(QUICK, seed=seed), None).plan
        for seed in range(6)
    ]
    assert len(set(plans)) == 6
    assert all(0 < plan.share(RELU) < 1 for plan in plans)
    assert {k for p in plans for kinds in p.layers.values() for k in kinds} == set(KINDS)
    slack = [budget - posed.seconds(plan) for plan in plans]
    assert all(0 <= s < 0.1 * posed.relu_s for s in slack)
    quickest = posed.seconds(Plan.uniform(posed.channels, 0))
    plan = METHODS["random"](posed, quickest, QUICK, None).plan
    assert plan.share(0) == 1


def test_linear(posed: Problem) -> None:
    """ReLU and degree 1, each in the channels that importance says."""
    found = METHODS["linear"](posed, 0.8 * posed.relu_s, QUICK, None)
    assert 0 < found.plan.share(1) < 1
    assert found.plan.share(1) + found.plan.share(RELU) == 1
    one = KINDS.index(1)
    for name, kinds in found.plan.layers.items():
        values = posed.importance[name][:, one]
        replaced = torch.tensor([k == 1 for k in kinds])
        if 0 < int(replaced.sum()) < len(kinds):
            assert values[replaced].mean() < values[~replaced].mean()
