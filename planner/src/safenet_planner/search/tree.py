"""Per-layer ratios and degrees by population-based training over a binary tree of the layers.

This is SAFENet's search (Lou, Shen, Jin and Jiang, *SAFENet: A Secure, Accurate and Fast Neural
Network Inference*, ICLR 2021, Algorithm 1): given a network of T layers with its weights, training
data and an accuracy threshold, it builds a binary tree over the layers and returns for each layer
l the share alpha[l] of channels that are approximated and the degree beta[l] of their polynomials,
with the score, the accuracy and the weights. What the paper leaves open is settled here so:

Tree: a node covers a contiguous range of layers. The root has all of them, and the children of
[a, b) are its halves [a, m) and [m, b), m = ceil((a + b) / 2), down to single layers. Nodes are
visited level by level, from the input to the output.

Candidate: the vectors alpha (multiples of 1/8) and beta (3, 2, 1 or 0). The round(alpha C) channels
of a layer that are approximated are those whose importance at degree beta is least
(`calibration.observe`); the others keep their ReLU. Where all channels of a layer would be
constants, the most important one is linear, so that something of the image passes.

Root: the population shares one pair (ratio, degree) among all layers. The members take
turns at the degrees 2, 3, 1, 0, each with the least ratio that keeps the budget, then larger ones.
Where no ratio is enough the member has ratio 1 and is brought to the budget as below.

Other nodes, as in population-based training (Jaderberg et al., *Population Based Training of
Neural Networks*, 2017): *exploit*: each member takes alpha, beta and the weights of one of the
best candidates so far, a quarter of the population; *explore*: the shared perturbation of the
node's range moves its ratios by one or two eighths, and, half of the time, its degrees to another
one. A layer outside of the range is moved only to meet the budget: ratios rise by an eighth, or
degrees fall by one, where the importance gained for each second saved is least, until the plan is
quick enough; then ratios fall as far as the budget allows where most is won.

Trial: fine-tuning with distillation from the parent's weights for `Settings.steps` batches;
channels that stay polynomials of the same degree keep their coefficients, others start at the
fitted ones.

Score: accuracy x (1 + saved), where saved is the share of the all-ReLU network's latency that is
saved, and no more than the budget asks for; candidates below the accuracy threshold, if there is
one, score accuracy - 1, so that all others are before them. The best score of all trials wins.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..kinds import RELU, index
from ..plans import Plan
from .problem import Found, Problem, Progress, Settings
from .start import Start
from .trials import Job, Runner, Store, Trial, unpacked

GRID = 8
"""Ratios are multiples of 1 / GRID."""

DEGREES = (3, 2, 1, 0)
TURNS = (2, 3, 1, 0)
"""The order of degrees in the root's population."""


def nodes(layers: int) -> list[tuple[int, int]]:
    """The tree's ranges [a, b), level by level."""
    found, level = [], [(0, layers)]
    while level:
        found += level
        level = [
            part
            for a, b in level
            if b - a > 1
            for part in ((a, (a + b + 1) // 2), ((a + b + 1) // 2, b))
        ]
    return found


@dataclass(frozen=True)
class Candidate:
    """Ratios, in units of 1 / GRID, and degrees of all layers."""

    alpha: tuple[int, ...]
    beta: tuple[int, ...]

    def details(self) -> dict[str, Any]:
        """As a trial records it."""
        return {"ratios": [a / GRID for a in self.alpha], "degrees": list(self.beta)}


class _Space:
    """Candidates as plans, and moves between them."""

    def __init__(self, problem: Problem, budget_s: float) -> None:
        self.problem = problem
        self.budget_s = budget_s
        self.layers = list(problem.layers)
        self.orders: dict[tuple[int, int], list[int]] = {}
        self.losses: dict[tuple[int, int], list[float]] = {}
        importance: Mapping[str, Tensor] = problem.importance
        for number, name in enumerate(self.layers):
            for degree in DEGREES:
                values = importance[name][:, index(degree)].tolist()
                order = sorted(range(len(values)), key=lambda c: values[c])  # noqa: B023
                self.orders[number, degree] = order
                sums = [0.0]
                for channel in order:
                    sums.append(sums[-1] + values[channel])
                self.losses[number, degree] = sums

    def approximated(self, number: int, ratio: int) -> int:
        """Channels of a layer that a ratio approximates, halves rounded up."""
        channels = self.problem.layers[self.layers[number]].channels
        return (2 * ratio * channels + GRID) // (2 * GRID)

    def plan(self, candidate: Candidate) -> Plan:
        """The kinds that ratios and degrees come to."""
        kinds = {}
        for number, name in enumerate(self.layers):
            row = [RELU] * self.problem.layers[name].channels
            degree = candidate.beta[number]
            count = self.approximated(number, candidate.alpha[number])
            for channel in self.orders[number, degree][:count]:
                row[channel] = degree
            if degree == 0 and count == len(row):
                row[self.orders[number, degree][-1]] = 1
            kinds[name] = tuple(row)
        return Plan(kinds)

    def seconds(self, candidate: Candidate) -> float:
        return self.problem.seconds(self.plan(candidate))

    def loss(self, candidate: Candidate, number: int) -> float:
        """Importance of what a layer's approximation changes."""
        count = self.approximated(number, candidate.alpha[number])
        return self.losses[number, candidate.beta[number]][count]

    def fit(self, candidate: Candidate, fixed: range) -> Candidate | None:
        """Moved to the budget, outside of `fixed` if possible; None if it cannot be met."""
        if math.isinf(self.budget_s):
            return candidate
        free = [n for n in range(len(self.layers)) if n not in fixed]
        for movable in (free, list(range(len(self.layers)))):
            while self.seconds(candidate) > self.budget_s:
                moved = self._step(candidate, movable, 1)
                if moved is None:
                    break
                candidate = moved
        if self.seconds(candidate) > self.budget_s:
            return None
        while (moved := self._step(candidate, free, -1)) is not None:
            candidate = moved
        return candidate

    def _step(self, candidate: Candidate, movable: list[int], by: int) -> Candidate | None:
        """A step to a quicker plan (1) at the least loss a second, or back (-1) at most gain."""
        here = self.seconds(candidate)
        best: tuple[float, Candidate] | None = None
        moves: list[tuple[int, Candidate]] = []
        for number in movable:
            ratio, degree = candidate.alpha[number] + by, candidate.beta[number] - 1
            if 0 <= ratio <= GRID:
                alpha = (*candidate.alpha[:number], ratio, *candidate.alpha[number + 1 :])
                moves.append((number, Candidate(alpha, candidate.beta)))
            if by > 0 and degree >= 0 and candidate.alpha[number]:
                beta = (*candidate.beta[:number], degree, *candidate.beta[number + 1 :])
                moves.append((number, Candidate(candidate.alpha, beta)))
        for number, moved in moves:
            seconds = self.seconds(moved)
            if by > 0 and seconds >= here or by < 0 and seconds > self.budget_s:
                continue
            loss = self.loss(moved, number) - self.loss(candidate, number)
            value = loss / max(abs(here - seconds), 1e-12)
            if best is None or value < best[0]:
                best = (value, moved)
        return None if best is None else best[1]

    def root(self, members: int) -> list[Candidate]:
        """Pairs shared by all layers that keep the budget, different ones."""
        count = len(self.layers)
        least: dict[int, int] = {}
        for degree in TURNS:
            for ratio in range(1, GRID + 1):
                candidate = Candidate((ratio,) * count, (degree,) * count)
                if self.seconds(candidate) <= self.budget_s:
                    least[degree] = ratio
                    break
        found = []
        for more in range(GRID):
            for degree in TURNS:
                if degree in least and least[degree] + more <= GRID:
                    pair = (least[degree] + more, degree)
                    found.append(Candidate((pair[0],) * count, (pair[1],) * count))
                elif degree not in least and not more:
                    reduced = self.fit(Candidate((GRID,) * count, (degree,) * count), range(0))
                    if reduced is not None and reduced not in found:
                        found.append(reduced)
        if not found:
            quickest = min(
                (Candidate((GRID,) * count, (d,) * count) for d in DEGREES), key=self.seconds
            )
            raise ValueError(
                f"budget: expected at least {self.seconds(quickest):.6g} s, what the quickest plan"
                f" is predicted to take over {self.problem.link}, got {self.budget_s:g} s"
            )
        return found[:members]

    def explore(self, parent: Candidate, covered: range, chance: random.Random) -> Candidate | None:
        """The parent with the node's range moved, and the budget met."""
        move = chance.choice((-2, -1, 1, 2))
        degree = chance.choice(DEGREES) if chance.random() < 0.5 else None
        alpha, beta = list(parent.alpha), list(parent.beta)
        for number in covered:
            alpha[number] = min(GRID, max(0, alpha[number] + move))
            beta[number] = beta[number] if degree is None else degree
        return self.fit(Candidate(tuple(alpha), tuple(beta)), covered)


def score(problem: Problem, budget_s: float, trial: Trial, threshold: float | None) -> float:
    """The score that the module describes."""
    if threshold is not None and trial.accuracy < threshold:
        return trial.accuracy - 1
    wanted = max(trial.latency_s, budget_s if math.isfinite(budget_s) else 0.0)
    return trial.accuracy * (1 + max(0.0, 1 - wanted / problem.relu_s))


def search(
    problem: Problem, budget_s: float, settings: Settings, progress: Progress | None = None
) -> Found:
    """Run the search; `Found.details` has ratios, degrees, score and accuracy.

    `Found.start` has the weights of the best trial. Without a budget (infinite) the threshold
    alone limits what is saved, as in the paper.
    """
    if math.isinf(budget_s) and settings.threshold is None:
        raise ValueError("expected a budget or an accuracy threshold, got neither")
    space = _Space(problem, budget_s)
    store = Store(problem.folder("tree", budget_s, settings))
    chance = random.Random(settings.seed)
    tried: dict[str, tuple[Candidate, Trial, float]] = {}
    tree = nodes(len(space.layers))

    def judge(jobs: list[tuple[Candidate, Job]], runner: Runner) -> None:
        for (candidate, _), trial in zip(jobs, runner.run([j for _, j in jobs]), strict=True):
            tried[trial.key] = (
                candidate, trial, score(problem, budget_s, trial, settings.threshold),
            )  # fmt: skip

    def ranked() -> list[str]:
        """Keys of trials that have weights, the best first."""
        usable = [k for k, (_, trial, _) in tried.items() if "diverged" not in trial.details]
        return sorted(usable, key=lambda k: -tried[k][2])

    with Runner(problem, store, settings, progress) as runner:
        for place, (a, b) in enumerate(tree):
            jobs: list[tuple[Candidate, Job]] = []
            if place == 0:
                members = [(c, None) for c in space.root(settings.population)]
            else:
                elite = ranked()[: max(1, settings.population // 4)]
                if not elite:
                    raise FloatingPointError("every trial diverged; try a lower learning rate")
                members = []
                for i in range(settings.population):
                    parent = elite[i % len(elite)]
                    moved = space.explore(tried[parent][0], range(a, b), chance)
                    members.append((moved, parent))
            seen = {candidate for candidate, _, _ in tried.values()}
            for member, (candidate, parent) in enumerate(members):
                if candidate is None or candidate in seen:
                    continue
                seen.add(candidate)
                key = f"{place:03d}-{member:02d}"
                details = {**candidate.details(), "node": [a, b], "parent": parent}
                seed = settings.seed * 1_000_003 + place * 1_009 + member
                job = Job(key, space.plan(candidate), seed, parent, Start(), details)
                jobs.append((candidate, job))
            judge(jobs, runner)
            if progress is not None:
                progress(f"tree: node {place + 1} of {len(tree)}, layers {a} to {b - 1}")
        best = ranked()
        if not best:
            raise FloatingPointError("every trial diverged; try a lower learning rate")
        candidate, trial, reached = tried[best[0]]
        state = store.state(trial.key)
    assert state is not None
    return Found(
        trial.plan,
        trial.latency_s,
        Start(state=unpacked(state), changes={"ramp": 0.0}),
        tuple(t for _, t, _ in tried.values()),
        {**candidate.details(), "score": reached, "accuracy": trial.accuracy},
    )
