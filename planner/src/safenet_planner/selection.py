"""The cheapest choice of kinds, given what each costs and how much the loss minds it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .kinds import KINDS
from .plans import Plan

Table = Mapping[str, Tensor]
"""Numbers by layer: (C, 5) for each channel and kind index, or (5,) for all channels alike."""


@dataclass(frozen=True)
class Point:
    """One plan of a frontier."""

    cost: float
    """Total cost of the channels, in the unit of the costs given."""
    importance: float
    """Total importance."""
    multiplier: float
    """What one unit of cost more would lower the importance by, at least: the Lagrange
    multiplier at which this plan is optimal."""
    plan: Plan


def cheapest(
    importance: Table,
    cost: Table,
    budget: float,
    quotas: Mapping[str, Mapping[int, int]] | None = None,
) -> Plan:
    """The plan of least total importance whose total cost is at most `budget`.

    Minimises importance + multiplier x cost for the least multiplier that keeps the budget, where
    the channels are independent of each other, then spends what is left greedily. The result
    is optimal up to the importance of less than one channel. `quotas` fix for some
    layers how many channels have each kind; their channels are dealt out at the least importance
    (`assign`), and the budget that they leave is for the others.

    Raises ValueError if even the cheapest kinds cost more than the budget.
    """
    problem = _Problem(importance, cost, quotas or {})
    state = problem.start()
    for move in problem.moves():
        if problem.total(state) + move.price <= budget + problem.slack(budget):
            state.take(move)
    if problem.total(state) > budget + problem.slack(budget):
        raise ValueError(
            f"budget: expected at least {problem.total(state):g}, what the cheapest kinds cost,"
            f" got {budget:g}"
        )
    problem.fill(state, budget)
    return problem.plan(state)


def frontier(
    importance: Table,
    cost: Table,
    points: int = 50,
    quotas: Mapping[str, Mapping[int, int]] | None = None,
) -> list[Point]:
    """Optimal plans from the cheapest to the one of least importance.

    Each is optimal for its own cost (a breakpoint of the Lagrangian). At most `points` of
    them, evenly spread over the costs, the two ends among them.
    """
    if points < 2:
        raise ValueError(f"points: expected at least 2, got {points}")
    problem = _Problem(importance, cost, quotas or {})
    moves = problem.moves()
    state = problem.start()
    low = problem.total(state)
    high = low + sum(move.price for move in moves)
    found = [problem.point(state, moves[0].ratio if moves else 0.0)]
    for i, move in enumerate(moves):
        state.take(move)
        last = i + 1 == len(moves)
        due = low + (high - low) * len(found) / (points - 1)
        # Only a breakpoint is optimal for its cost.
        if last or (problem.total(state) >= due and moves[i + 1].ratio < move.ratio):
            found.append(problem.point(state, 0.0 if last else moves[i + 1].ratio))
    return found


def assign(importance: Tensor, quota: Mapping[int, int]) -> tuple[int, ...]:
    """Kinds for the channels of one layer at the least total importance, with fixed numbers.

    `importance` is (C, 5); `quota` has the number of channels of each kind, C together, kinds
    left out having none. Exact: starts from every channel's best kind and moves channels from kinds
    with too many to kinds with too few, each time along the path of least cost
    (successive shortest paths on the five kinds).
    """
    channels = importance.shape[0]
    unknown = [kind for kind in quota if kind not in KINDS]
    if unknown or any(number < 0 for number in quota.values()):
        raise ValueError(f"quota: expected numbers of the kinds {KINDS}, got {dict(quota)}")
    wanted = [quota.get(kind, 0) for kind in KINDS]
    if sum(wanted) != channels:
        raise ValueError(f"quota: expected {channels} channels together, got {sum(wanted)}")
    costs = importance.double()
    chosen = costs.argmin(1)
    while True:
        have = [int((chosen == k).sum()) for k in range(len(KINDS))]
        sources = [k for k in range(len(KINDS)) if have[k] > wanted[k]]
        if not sources:
            return tuple(KINDS[k] for k in chosen.tolist())
        steps = _steps(costs, chosen)
        targets = [k for k in range(len(KINDS)) if have[k] < wanted[k]]
        path = _path(steps, sources, targets, 1e-12 * float(costs.abs().max()))
        movers = [(steps[a][b][1], b) for a, b in zip(path, path[1:], strict=False)]
        for channel, kind in movers:
            chosen[channel] = kind


def _steps(costs: Tensor, chosen: Tensor) -> list[list[tuple[float, int]]]:
    """For each pair of kinds, the cheapest move of a channel between them: cost, channel."""
    kinds = costs.shape[1]
    table = [[(math.inf, -1)] * kinds for _ in range(kinds)]
    for a in range(kinds):
        members = (chosen == a).nonzero().flatten()
        if not len(members):
            continue
        change = costs[members] - costs[members, a : a + 1]
        best = change.argmin(0)
        for b in range(kinds):
            if b != a:
                table[a][b] = (float(change[best[b], b]), int(members[best[b]]))
    return table


def _path(
    steps: list[list[tuple[float, int]]], sources: list[int], targets: list[int], rounding: float
) -> list[int]:
    """The cheapest path of kinds from a source to a target (Bellman and Ford).

    Costs that differ by less than `rounding` are alike, so that no circle looks worth taking.
    """
    kinds = range(len(steps))
    distance = [0.0 if k in sources else math.inf for k in kinds]
    before = [-1 for _ in kinds]
    for _ in kinds:
        for a in kinds:
            for b in kinds:
                through = distance[a] + steps[a][b][0]
                if b not in sources and through < distance[b] - rounding:
                    distance[b], before[b] = through, a
    end = min(targets, key=lambda k: distance[k])
    path = [end]
    while before[path[-1]] >= 0:
        path.append(before[path[-1]])
    return path[::-1]


@dataclass(frozen=True)
class _Move:
    """Changing a channel to a dearer kind that the loss minds less."""

    channel: int
    before: int  # kind index
    after: int
    price: float  # > 0
    gain: float  # > 0, by how much the importance falls

    @property
    def ratio(self) -> float:
        return self.gain / self.price


class _State:
    """Kind indices of all channels, and totals."""

    def __init__(self, chosen: list[int], cost: float, importance: float) -> None:
        self.chosen = chosen
        self.cost = cost
        self.importance = importance

    def take(self, move: _Move) -> None:
        """Make a move, unless the channel is not where it starts from."""
        if self.chosen[move.channel] == move.before:
            self.chosen[move.channel] = move.after
            self.cost += move.price
            self.importance -= move.gain


class _Problem:
    """All channels, one after the other."""

    def __init__(
        self, importance: Table, cost: Table, quotas: Mapping[str, Mapping[int, int]]
    ) -> None:
        if not importance:
            raise ValueError("importance: expected at least one layer, got none")
        self.sizes: dict[str, int] = {}
        rows, prices = [], []
        kinds = len(KINDS)
        fixed: list[int | None] = []
        for name, table in importance.items():
            if table.dim() != 2 or table.shape[1] != kinds or not len(table):
                raise ValueError(
                    f"importance of {name!r}: expected shape (channels, {kinds}),"
                    f" got {tuple(table.shape)}"
                )
            if name not in cost:
                raise ValueError(f"cost: layer {name!r} is missing")
            price = cost[name]
            if tuple(price.shape) not in ((kinds,), tuple(table.shape)):
                raise ValueError(
                    f"cost of {name!r}: expected shape ({kinds},) or {tuple(table.shape)},"
                    f" got {tuple(price.shape)}"
                )
            both = torch.stack([table.double().cpu(), price.double().cpu().expand_as(table)])
            if not bool(torch.isfinite(both).all()):
                raise ValueError(f"layer {name!r}: expected finite importances and costs")
            rows += both[0].tolist()
            prices += both[1].tolist()
            self.sizes[name] = len(table)
            if name in quotas:
                fixed += [KINDS.index(k) for k in assign(table.cpu(), quotas[name])]
            else:
                fixed += [None] * len(table)
        stray = [name for name in quotas if name not in importance]
        if stray:
            raise ValueError(f"quotas: expected layers of the network, got {stray[0]!r}")
        self.importance: list[list[float]] = rows
        self.cost: list[list[float]] = prices
        self.fixed = fixed

    def start(self) -> _State:
        """Every channel's cheapest kind, of those the one that the loss minds least."""
        chosen = []
        for values, prices, kind in zip(self.importance, self.cost, self.fixed, strict=True):
            best = min(range(len(KINDS)), key=lambda k: (prices[k], values[k]))  # noqa: B023
            chosen.append(best if kind is None else kind)
        cost = math.fsum(prices[k] for prices, k in zip(self.cost, chosen, strict=True))
        importance = math.fsum(v[k] for v, k in zip(self.importance, chosen, strict=True))
        return _State(chosen, cost, importance)

    def moves(self) -> list[_Move]:
        """The steps along each channel's convex hull, the best ratio of gain to price first.

        Within a channel the ratios fall from step to step, so that they come in order.
        """
        found = []
        first = self.start().chosen
        for channel, kind in enumerate(self.fixed):
            at = first[channel]
            while kind is None and (step := self._next(channel, at)) is not None:
                found.append(step)
                at = step.after
        return sorted(found, key=lambda move: -move.ratio)

    def _next(self, channel: int, at: int) -> _Move | None:
        """The step of best ratio from a kind; of equal ones the longest."""
        moves = self._from(channel, at)
        return max(moves, key=lambda move: (move.ratio, move.price), default=None)

    def _from(self, channel: int, at: int) -> list[_Move]:
        values, prices = self.importance[channel], self.cost[channel]
        return [
            _Move(channel, at, k, prices[k] - prices[at], values[at] - values[k])
            for k in range(len(KINDS))
            if prices[k] > prices[at] and values[k] < values[at]
        ]

    def fill(self, state: _State, budget: float) -> None:
        """Spend the rest of the budget: the best move that fits, until none does."""
        limit = budget + self.slack(budget)
        while True:
            fitting = [
                move
                for channel, kind in enumerate(self.fixed)
                if kind is None
                for move in self._from(channel, state.chosen[channel])
                if state.cost + move.price <= limit
            ]
            if not fitting:
                return
            state.take(max(fitting, key=lambda move: move.ratio))

    def total(self, state: _State) -> float:
        return state.cost

    def slack(self, budget: float) -> float:
        """What sums may be off by rounding."""
        return 1e-9 * max(abs(budget), 1e-300)

    def plan(self, state: _State) -> Plan:
        layers, at = {}, 0
        for name, size in self.sizes.items():
            layers[name] = tuple(KINDS[k] for k in state.chosen[at : at + size])
            at += size
        return Plan(layers)

    def point(self, state: _State, multiplier: float) -> Point:
        return Point(state.cost, state.importance, multiplier, self.plan(state))


def total(table: Table, plan: Plan) -> float:
    """Sum over the channels of what a table of costs or importances has for a plan."""
    parts: Iterable[float] = (
        float(table[name].expand(len(kinds), len(KINDS))[channel, KINDS.index(kind)])
        for name, kinds in plan.layers.items()
        for channel, kind in enumerate(kinds)
    )
    return math.fsum(parts)
