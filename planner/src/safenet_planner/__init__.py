"""SAFENet's planner: which channels of a network keep their ReLU in private inference."""

from __future__ import annotations

from .activation import ChannelActivation, Outside
from .api import Result, plan
from .calibration import Observation, observe
from .cost import BROADBAND, LAN, LINKS, LOOPBACK, WAN, Cost, CostModel, Link
from .export import export
from .fitting import fit
from .kinds import KINDS, RELU
from .plans import Plan
from .probes import measure
from .search import Found, Problem, Settings, Start, Trial
from .search.methods import METHODS
from .selection import Point, assign, cheapest, frontier
from .tracing import ActivationLayer, PlannedModel, instrument
from .training import Recipe, accuracy, train

__version__ = "0.1.0"

__all__ = [
    "BROADBAND",
    "KINDS",
    "LAN",
    "LINKS",
    "LOOPBACK",
    "METHODS",
    "RELU",
    "WAN",
    "ActivationLayer",
    "ChannelActivation",
    "Cost",
    "CostModel",
    "Found",
    "Link",
    "Observation",
    "Outside",
    "Plan",
    "PlannedModel",
    "Point",
    "Problem",
    "Recipe",
    "Result",
    "Settings",
    "Start",
    "Trial",
    "accuracy",
    "assign",
    "cheapest",
    "export",
    "fit",
    "frontier",
    "instrument",
    "measure",
    "observe",
    "plan",
    "train",
]
