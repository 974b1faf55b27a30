"""The methods by name."""

from __future__ import annotations

from collections.abc import Callable

from .. import baselines
from . import differentiable, gradual, joint, tree
from .budget import choose
from .problem import Found, Problem, Progress, Settings

Method = Callable[[Problem, float, Settings, Progress | None], Found]
"""Finds a plan for a latency budget in seconds."""


def selection(
    problem: Problem, budget_s: float, settings: Settings, progress: Progress | None = None
) -> Found:
    """The plan of least first-order importance within the budget; nothing is trained."""
    plan = choose(problem, problem.importance, budget_s)
    return Found(plan, problem.seconds(plan))


METHODS: dict[str, Method] = {
    "selection": selection,
    "joint": joint.search,
    "gradual": gradual.search,
    "tree": tree.search,
    "differentiable": differentiable.search,
    **baselines.BASELINES,
}
"""SAFENet's methods and, to compare them with, those of `baselines`."""


def method(name: str) -> Method:
    """The method of a name. Raises ValueError if there is none."""
    if name not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name]
