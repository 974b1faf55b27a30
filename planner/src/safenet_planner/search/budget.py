"""The plan of least importance within a latency budget.

`selection` solves the choice for costs that add up over the channels. Latency does not quite: the
parties' work overlaps, a linear layer's cost goes with products of live channels, a layer's round
trips are those of its deepest kind, and the first ReLU of all pays a start. So the model of costs
is linearised at a plan, the additive problem solved, each solution held against the real model,
and the linearisation repeated at what was found. Round trips and the start, which are steps,
are decided by trial: kinds are forbidden in one layer, or in all, if that makes the budget go
farther. At least one channel of each layer is no constant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..kinds import KINDS, RELU
from ..plans import Plan
from ..selection import cheapest, frontier, total
from .problem import Problem

POINTS = 192
"""Plans along each frontier."""

REFINEMENTS = 8
"""Bisections between two plans of the frontier."""

WORTH = 2e-3
"""Round trips of a layer that take less than this share of the budget are not saved on."""

Allowed = Mapping[str, frozenset[int]]


def choose(
    problem: Problem,
    importance: Mapping[str, Tensor],
    budget_s: float,
    kinds: Sequence[int] = KINDS,
) -> Plan:
    """The plan of least total importance among those predicted to take at most `budget_s` seconds.

    `importance` is (C, 5) by layer; only `kinds` are used. Raises ValueError if no plan that was
    looked at is quick enough.
    """
    search = _Search(problem, importance, budget_s)
    everything = {name: frozenset(kinds) for name in problem.layers}
    best = search.solve(everything)
    if RELU in kinds and len(kinds) > 1:
        best = search.better(best, {n: k - {RELU} for n, k in everything.items()})
    if best is None:
        raise ValueError(
            f"budget: expected at least {search.least:.6g} s, what the quickest plan is predicted"
            f" to take over {problem.link}, got {budget_s:g} s"
        )
    best = search.save_rounds(best)
    return search.refine(best).plan


@dataclass(frozen=True)
class _Solution:
    allowed: Allowed
    plan: Plan
    importance: float
    costs: Mapping[str, Tensor]
    """By which it was found."""
    span: tuple[float, float] | None
    """Costs of the plan and of the next one of its frontier, which is too slow."""


class _Search:
    def __init__(self, problem: Problem, importance: Mapping[str, Tensor], budget_s: float) -> None:
        self.problem = problem
        self.importance = importance
        self.budget_s = budget_s
        self.least = float("inf")

    def solve(self, allowed: Allowed, at: Plan | None = None, passes: int = 3) -> _Solution | None:
        """The best plan with the allowed kinds, to the precision of a frontier."""
        best: _Solution | None = None
        for _ in range(passes):
            found = self._along(allowed, at)
            if found is None:
                break
            if best is not None and found.importance >= best.importance:
                break
            best, at = found, found.plan
        if best is None and at is None:
            # Costs at the all-ReLU plan may mislead; those at the quickest one are the last hope.
            cheap = min(KINDS, key=lambda k: self.problem.seconds(self._uniform(allowed, k)))
            return self._along(allowed, self._uniform(allowed, cheap))
        return best

    def _uniform(self, allowed: Allowed, kind: int) -> Plan:
        """One kind where it is allowed, the least degree that is elsewhere."""
        channels = self.problem.channels
        chosen = {
            n: kind if kind in k else min((d for d in k if d != RELU), default=RELU)
            for n, k in allowed.items()
        }
        return Plan({n: (chosen[n],) * channels[n] for n in channels})

    def _tables(
        self, allowed: Allowed, costs: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Importances and costs in which forbidden kinds are worse than all others."""
        values, prices = {}, {}
        for name, table in self.importance.items():
            banned = [i for i, kind in enumerate(KINDS) if kind not in allowed[name]]
            value, price = table.double().cpu().clone(), costs[name].clone()
            if banned:
                value[:, banned] = value.amax(1, keepdim=True) + 1
                price[:, banned] = price.amax(1, keepdim=True) + 1
            if allowed[name] != {0}:
                # Layers of nothing but constants let nothing of the image pass, which sums of
                # single channels' importances do not tell: one channel is kept from it.
                kept = int(table[:, KINDS.index(0)].argmax())
                value[kept, KINDS.index(0)] = value[kept].max() + 1
                price[kept, KINDS.index(0)] = price[kept].max() + 1
            values[name], prices[name] = value, price
        return values, prices

    def _along(self, allowed: Allowed, at: Plan | None) -> _Solution | None:
        """The last plan of a frontier that keeps the budget."""
        costs = self.problem.cost.channel_costs(self.problem.link, at=at)
        values, prices = self._tables(allowed, costs)
        points = frontier(values, prices, POINTS)
        first = self.problem.seconds(points[0].plan)
        self.least = min(self.least, first)
        if first > self.budget_s:
            return None
        low, high = 0, len(points)
        while high - low > 1:
            middle = (low + high) // 2
            if self.problem.seconds(points[middle].plan) <= self.budget_s:
                low = middle
            else:
                high = middle
        span = (points[low].cost, points[high].cost) if high < len(points) else None
        point = points[low]
        return _Solution(allowed, point.plan, point.importance, costs, span)

    def better(
        self, best: _Solution | None, allowed: Allowed, at: Plan | None = None, passes: int = 3
    ) -> _Solution | None:
        """`best`, or the plan with the allowed kinds if that is better."""
        found = self.solve(allowed, at, passes)
        if found is None or (best is not None and found.importance >= best.importance):
            return best
        return found

    def save_rounds(self, best: _Solution) -> _Solution:
        """Forbid the deepest kinds of single layers as long as that makes the plan better."""
        rounds = self.problem.cost.round_costs(self.problem.link)
        improved = True
        while improved:
            improved = False
            for name, kinds in best.plan.layers.items():
                depth = {kind: float(rounds[name][i]) for i, kind in enumerate(KINDS)}
                deepest = max(depth[kind] for kind in kinds)
                for level in sorted({depth[k] for k in best.allowed[name]}):
                    if deepest - level <= WORTH * self.budget_s:
                        continue
                    fewer = frozenset(k for k in best.allowed[name] if depth[k] <= level)
                    if fewer == {0}:
                        continue
                    trial = {**best.allowed, name: fewer}
                    found = self.better(best, trial, best.plan, passes=1)
                    if found is not None and found is not best:
                        best, improved = found, True
                        break
        return best

    def refine(self, best: _Solution) -> _Solution:
        """Spend what is left of the budget, by bisection of the additive budget."""
        if best.span is None:
            return best
        low, high = best.span
        values, prices = self._tables(best.allowed, best.costs)
        for _ in range(REFINEMENTS):
            middle = (low + high) / 2
            plan = cheapest(values, prices, middle)
            if self.problem.seconds(plan) <= self.budget_s:
                low = middle
                found = total(values, plan)
                if found < best.importance:
                    best = _Solution(best.allowed, plan, found, best.costs, None)
            else:
                high = middle
        return best
