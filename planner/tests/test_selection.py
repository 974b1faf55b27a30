"""Choosing kinds under a budget."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from safenet_planner import KINDS, RELU, Plan, assign, cheapest, frontier
from safenet_planner.selection import total


def tables(channels: dict[str, int], seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Importances that rise from ReLU to constants, mostly, and costs that fall."""
    generator = torch.Generator().manual_seed(seed)
    importance, cost = {}, {}
    for name, c in channels.items():
        steps = torch.rand(c, 5, generator=generator) ** 3
        steps[:, 0] = 0
        importance[name] = steps.cumsum(1)
        # Now and then a higher degree is no better, as with real fits.
        importance[name][0, 1] += 2 * float(torch.rand(1, generator=generator))
        cost[name] = torch.tensor([10.0, 6.0, 2.0, 0.5, -0.3]) * (1 + c % 3)
    return importance, cost


@pytest.mark.parametrize("seed", range(8))
def test_near_the_optimum(seed: int) -> None:
    """Within the budget, and no worse than the best plan by more than a channel's part."""
    importance, cost = tables({"a": 3, "b": 2}, seed)
    names = [("a", 3), ("b", 2)]
    plans = []
    for kinds in itertools.product(KINDS, repeat=5):
        plan = Plan({"a": kinds[:3], "b": kinds[3:]})
        plans.append((total(cost, plan), total(importance, plan)))
    largest = max(float(importance[name].max()) for name, _ in names)
    for budget in (0.0, 5.0, 20.0, 40.0, 70.0):
        plan = cheapest(importance, cost, budget)
        assert total(cost, plan) <= budget + 1e-6
        best = min(v for c, v in plans if c <= budget)
        assert best - 1e-6 <= total(importance, plan) <= best + largest
    enough = cheapest(importance, cost, 1e6)
    assert enough == Plan.uniform(dict(names), RELU)


@pytest.mark.parametrize("seed", range(4))
def test_frontier(seed: int) -> None:
    """Every plan is the best of all at its cost, and its multiplier's Lagrangian optimum."""
    importance, cost = tables({"a": 2, "b": 3}, seed)
    plans = []
    for kinds in itertools.product(KINDS, repeat=5):
        plan = Plan({"a": kinds[:2], "b": kinds[2:]})
        plans.append((total(cost, plan), total(importance, plan)))
    points = frontier(importance, cost, 1000)
    assert len(points) > 5
    for point in points:
        assert point.cost == pytest.approx(total(cost, point.plan))
        assert point.importance == pytest.approx(total(importance, point.plan), abs=1e-6)
        assert point.importance <= min(v for c, v in plans if c <= point.cost + 1e-6) + 1e-6
        least = min(v + point.multiplier * c for c, v in plans)
        assert point.importance + point.multiplier * point.cost <= least + 1e-5
        # With exactly its cost as budget, it is what `cheapest` gives.
        assert total(importance, cheapest(importance, cost, point.cost)) <= point.importance + 1e-6
    assert points[0].cost == pytest.approx(min(c for c, _ in plans))
    assert points[-1].importance == pytest.approx(0, abs=1e-6)
    assert [p.cost for p in points] == sorted(p.cost for p in points)
    few = frontier(importance, cost, 4)
    assert len(few) <= 5
    assert few[0].plan == points[0].plan and few[-1].plan == points[-1].plan


@pytest.mark.parametrize("seed", range(12))
def test_assignment(seed: int) -> None:
    """Exactly the best of all ways to deal out kinds in given numbers."""
    generator = torch.Generator().manual_seed(seed)
    importance = torch.rand(6, 5, generator=generator)
    if seed % 3 == 0:
        importance = (4 * importance).round()  # many equal ones
    numbers = torch.bincount(torch.randint(5, (6,), generator=generator), minlength=5).tolist()
    quota = {kind: number for kind, number in zip(KINDS, numbers, strict=True) if number}
    got = assign(importance, quota)
    assert {kind: got.count(kind) for kind in set(got)} == quota
    rows = torch.arange(6)

    def price(kinds: tuple[int, ...]) -> float:
        return float(importance[rows, torch.tensor([KINDS.index(k) for k in kinds])].sum())

    multiset = [kind for kind, number in quota.items() for _ in range(number)]
    best = min(price(kinds) for kinds in set(itertools.permutations(multiset)))
    assert price(got) == pytest.approx(best)


def test_quotas() -> None:
    """Layers with quotas keep them, and what they cost counts."""
    importance, cost = tables({"a": 6, "b": 4}, 0)
    quota = {RELU: 1, 3: 2, 1: 3}
    plan = cheapest(importance, cost, 80.0, {"a": quota})
    assert plan.layers["a"] == assign(importance["a"], quota)
    assert total(cost, plan) <= 80.0
    used = total(cost, Plan({"a": plan.layers["a"]}))
    alone = cheapest({"b": importance["b"]}, cost, 80.0 - used)
    assert plan.layers["b"] == alone.layers["b"]
    assert all(
        p.plan.layers["a"] == plan.layers["a"] for p in frontier(importance, cost, 5, {"a": quota})
    )


def test_many_channels() -> None:
    """A large network takes moments, and nearly all of the budget is spent."""
    importance, cost = tables({f"layer{i}": 128 for i in range(30)}, 1)
    budget = 0.3 * sum(float(cost[name][0]) * 128 for name in cost)
    plan = cheapest(importance, cost, budget)
    assert 0.999 * budget <= total(cost, plan) <= budget * (1 + 1e-9)


def test_refuses() -> None:
    """Budgets that nothing fits, and wrong tables."""
    importance, cost = tables({"a": 3}, 0)
    with pytest.raises(ValueError, match="budget: expected at least -0.3"):
        cheapest({"a": importance["a"][:1]}, {"a": cost["a"]}, -1.0)
    with pytest.raises(ValueError, match="cost: layer 'a' is missing"):
        cheapest(importance, {}, 10.0)
    with pytest.raises(ValueError, match=r"cost of 'a': expected shape \(5,\) or \(3, 5\)"):
        cheapest(importance, {"a": torch.ones(4)}, 10.0)
    with pytest.raises(ValueError, match=r"importance of 'a': expected shape"):
        cheapest({"a": torch.ones(3, 4)}, cost, 10.0)
    with pytest.raises(ValueError, match="finite"):
        cheapest({"a": importance["a"] * torch.nan}, cost, 10.0)
    with pytest.raises(ValueError, match="at least one layer"):
        cheapest({}, cost, 10.0)
    with pytest.raises(ValueError, match="quotas: expected layers of the network, got 'x'"):
        cheapest(importance, cost, 10.0, {"x": {RELU: 3}})
    with pytest.raises(ValueError, match="expected 3 channels together, got 2"):
        assign(importance["a"], {RELU: 2})
    with pytest.raises(ValueError, match="numbers of the kinds"):
        assign(importance["a"], {5: 3})
    with pytest.raises(ValueError, match="points"):
        frontier(importance, cost, 1)
