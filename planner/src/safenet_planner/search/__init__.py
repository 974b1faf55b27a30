"""Searching for plans: the problem, the methods, and how trials are run.

The methods by name are `safenet_planner.search.methods.METHODS`.
"""

from __future__ import annotations

from .problem import Found, Problem, Progress, Settings, Some
from .start import Start
from .trials import Trial

__all__ = ["Found", "Problem", "Progress", "Settings", "Some", "Start", "Trial"]
