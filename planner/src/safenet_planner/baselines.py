"""Other ways to plan, to compare with: each as its authors do it, on the same costs and data.

All are methods as in `search.methods`; those of whole layers replace as few as the budget allows.
"""

from __future__ import annotations

import itertools
import math
import random as chances
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from .kinds import RELU, index
from .plans import Plan
from .search.budget import choose
from .search.problem import Found, Problem, Progress, Settings
from .search.start import Polynomial, Start
from .search.trials import Job, Runner, Store, Trial, unpacked

if TYPE_CHECKING:
    from .search.methods import Method

QUADRATIC = (0.1992, 0.5002, 0.1997, 0.0)
"""Delphi's polynomial: 0.1992 + 0.5002 x + 0.1997 x^2."""

SQUARE = (0.0, 0.0, 1.0, 0.0)
"""CryptoNets' polynomial: x^2."""

EXACT = 10
"""Up to so many layers the best set of layers is found by trying all."""

Layers = frozenset[str]


def _plan(problem: Problem, quadratic: Iterable[str]) -> Plan:
    """Degree 2 in all channels of some layers, ReLU in the others."""
    chosen = set(quadratic)
    return Plan(
        {name: (2 if name in chosen else RELU,) * n for name, n in problem.channels.items()}
    )


def _possible(problem: Problem, budget_s: float) -> None:
    """Raise ValueError unless quadratics in all layers keep the budget."""
    least = problem.seconds(_plan(problem, problem.layers))
    if least > budget_s:
        raise ValueError(
            f"budget: expected at least {least:.6g} s, what quadratics in all layers are predicted"
            f" to take over {problem.link}, got {budget_s:g} s"
        )


def delphi_start(problem: Problem, plan: Plan, settings: Settings) -> Start:
    """How Delphi trains.

    After Mishra, Lehmkuhl, Srinivasan, Zheng and Popa, *Delphi: A Cryptographic Inference Service
    for Neural Networks*, USENIX Security 2020, section 5. The fixed quadratic gradually takes the
    place of a ReLU cut off at 6, during the first half of the training; gradients' values are
    clipped at 2; labels alone are learned from. The ReLUs that stay are cut off only with
    `Settings.relu6`, as cutting off costs a comparison here.
    """
    kept = [name for name, kinds in plan.layers.items() if RELU in kinds]
    return Start(
        polynomial=Polynomial(QUADRATIC, reach=6.0),
        frozen=True,
        ceilings=dict.fromkeys(kept, 6.0) if settings.relu6 else {},
        exchange=6.0,
        clip_value=2.0,
        changes={"clip": math.inf, "distil": 0.0, "ranges": 0.0, "ramp": 0.5},
    )


def delphi(
    problem: Problem, budget_s: float, settings: Settings, progress: Progress | None = None
) -> Found:
    """Delphi's planner: whole layers become quadratic, chosen by population-based training.

    The score is accuracy x (1 + approximated ReLUs / all ReLUs). A population of sets of layers, at
    first random ones, each just large enough for the budget, is trained; in each of
    the following generations every member copies the set and the weights of one of the best
    quarter, swaps, adds or removes a layer at random, and meets the budget again.
    """
    _possible(problem, budget_s)
    if math.isinf(budget_s):
        raise ValueError("budget: expected a finite number of seconds")
    chance = chances.Random(settings.seed)
    store = Store(problem.folder("delphi", budget_s, settings))
    tried: dict[Layers, tuple[Trial, float]] = {}
    with Runner(problem, store, settings, progress) as runner:
        for generation in range(settings.generations):
            jobs: dict[Layers, Job] = {}
            elite = _ranked(tried)[: max(1, settings.population // 4)]
            for member in range(settings.population):
                parent = elite[member % len(elite)] if elite else None
                chosen = _moved(problem, budget_s, parent, chance)
                if chosen in tried or chosen in jobs:
                    continue
                plan = _plan(problem, chosen)
                jobs[chosen] = Job(
                    f"{generation:02d}-{member:02d}",
                    plan,
                    settings.seed * 1_000_003 + generation * 1_009 + member,
                    None if parent is None else tried[parent][0].key,
                    delphi_start(problem, plan, settings),
                    {"quadratic": sorted(chosen)},
                )
            for chosen, trial in zip(jobs, runner.run(list(jobs.values())), strict=True):
                tried[chosen] = (trial, trial.accuracy * (1 + _approximated(problem, chosen)))
    best = _ranked(tried)
    if not best:
        raise FloatingPointError("every trial diverged; try a lower learning rate")
    trial, reached = tried[best[0]]
    state = store.state(trial.key)
    assert state is not None
    start = delphi_start(problem, trial.plan, settings)
    start = replace(start, state=unpacked(state), changes={**start.changes, "ramp": 0.0})
    details = {"score": reached, "accuracy": trial.accuracy, **trial.details}
    return Found(trial.plan, trial.latency_s, start, tuple(t for t, _ in tried.values()), details)


def _ranked(tried: dict[Layers, tuple[Trial, float]]) -> list[Layers]:
    """The sets whose training did not diverge, the best score first."""
    usable = [chosen for chosen, (t, _) in tried.items() if "diverged" not in t.details]
    return sorted(usable, key=lambda chosen: -tried[chosen][1])


def _approximated(problem: Problem, chosen: Layers) -> float:
    """Share of the network's ReLUs that are in these layers."""
    counts = {name: x.channels * x.positions for name, x in problem.layers.items()}
    return sum(counts[name] for name in chosen) / sum(counts.values())


def _moved(
    problem: Problem, budget_s: float, parent: Layers | None, chance: chances.Random
) -> Layers:
    """A random set that keeps the budget, or a parent with a layer swapped, added or removed."""
    names = list(problem.layers)
    chosen = set(parent or ())
    fixed: set[str] = set()
    if parent is not None:
        outside = [name for name in names if name not in chosen]
        move = chance.choice(("swap", "add", "remove"))
        if move != "add" and chosen:
            gone = chance.choice(sorted(chosen))
            chosen.discard(gone)
            fixed.add(gone)
        if move != "remove" and outside:
            chosen.add(chance.choice(outside))
    rest = [name for name in names if name not in chosen and name not in fixed]
    chance.shuffle(rest)
    for name in [*rest, *sorted(fixed)]:
        if problem.seconds(_plan(problem, chosen)) <= budget_s:
            break
        chosen.add(name)
    return frozenset(chosen)


def layerwise(
    problem: Problem, budget_s: float, settings: Settings, progress: Progress | None = None
) -> Found:
    """Whole layers become quadratic, but fitted, chosen by importance, and trained as ours are.

    What is between this and `delphi` is due to fits, importance and training; what is
    between it and `selection` to choosing channels and degrees.
    """
    _possible(problem, budget_s)
    square = index(2)
    loss = {name: float(t[:, square].sum()) for name, t in problem.importance.items()}

    def value(chosen: Iterable[str]) -> float:
        return sum(loss[name] for name in chosen)

    names = list(problem.layers)
    best = frozenset(names)
    if len(names) <= EXACT:
        sets = itertools.chain.from_iterable(
            itertools.combinations(names, n) for n in range(len(names) + 1)
        )
        for chosen in sorted(sets, key=value):
            if problem.seconds(_plan(problem, chosen)) <= budget_s:
                best = frozenset(chosen)
                break
    else:
        improved = True
        while improved:
            # Keep one more layer, or keep one in another's place.
            moves = [best - {name} for name in best]
            moves += [best - {a} | {b} for a in best for b in names if b not in best]
            fitting = [
                s
                for s in sorted(moves, key=value)
                if value(s) < value(best) and problem.seconds(_plan(problem, s)) <= budget_s
            ]
            improved = bool(fitting)
            best = fitting[0] if fitting else best
    plan = _plan(problem, best)
    return Found(plan, problem.seconds(plan), details={"quadratic": sorted(best)})


def all_quadratic(
    problem: Problem, budget_s: float, settings: Settings, progress: Progress | None = None
) -> Found:
    """A quadratic in every channel, as CryptoNets has (Gilad-Bachrach et al., ICML 2016).

    By `Settings.square` it is fitted to each channel, or their x^2; either is trained further.
    x^2 gradually takes the ReLU's place.
    """
    _possible(problem, budget_s)
    plan = _plan(problem, problem.layers)
    start = Start()
    if settings.square == "x2":
        start = Start(polynomial=Polynomial(SQUARE, reach=1.0), changes={"ramp": 0.5})
    return Found(plan, problem.seconds(plan), start)


def random(
    problem: Problem, budget_s: float, settings: Settings, progress: Progress | None = None
) -> Found:
    """Channels and degrees at random, fitted and trained as ours are.

    In random order channels become polynomials of a random degree, as few as the budget allows. If
    even all of them are too slow, degrees fall by one in random order.
    """
    chance = chances.Random(settings.seed)
    order = [(name, c) for name, n in problem.channels.items() for c in range(n)]
    chance.shuffle(order)
    degrees = [chance.choice((3, 2, 1, 0)) for _ in order]
    moves = list(zip(order, degrees, strict=True))
    for _ in range(3):
        lower = [(place, max(0, d - 1)) for place, d in zip(order, degrees, strict=True)]
        degrees = [d for _, d in lower]
        chance.shuffle(lower)
        moves += lower

    def after(count: int) -> Plan:
        rows = {name: [RELU] * n for name, n in problem.channels.items()}
        for (name, channel), kind in moves[:count]:
            rows[name][channel] = kind
        return Plan({name: tuple(row) for name, row in rows.items()})

    if problem.seconds(after(len(moves))) > budget_s:
        raise ValueError(
            f"budget: expected at least {problem.seconds(after(len(moves))):.6g} s, what the"
            f" quickest plan is predicted to take over {problem.link}, got {budget_s:g} s"
        )
    low, high = -1, len(moves)
    while high - low > 1:
        middle = (low + high) // 2
        if problem.seconds(after(middle)) <= budget_s:
            high = middle
        else:
            low = middle
    plan = after(high)
    return Found(plan, problem.seconds(plan))


def linear(
    problem: Problem, budget_s: float, settings: Settings, progress: Progress | None = None
) -> Found:
    """Channels keep their ReLU or become linear, chosen by importance."""
    plan = choose(problem, problem.importance, budget_s, (RELU, 1))
    return Found(plan, problem.seconds(plan))


BASELINES: dict[str, Method] = {
    "delphi": delphi,
    "layerwise": layerwise,
    "all-quadratic": all_quadratic,
    "random": random,
    "linear": linear,
}
