"""SAFENet's planner: which channels of a network keep their ReLU in private inference."""

from __future__ import annotations

from .activation import ChannelActivation, Outside
from .calibration import Observation, observe
from .export import export
from .fitting import fit
from .kinds import KINDS, RELU
from .plans import Plan
from .selection import Point, assign, cheapest, frontier
from .tracing import ActivationLayer, PlannedModel, instrument

__version__ = "0.1.0"

__all__ = [
    "KINDS",
    "RELU",
    "ActivationLayer",
    "ChannelActivation",
    "Observation",
    "Outside",
    "Plan",
    "PlannedModel",
    "Point",
    "assign",
    "cheapest",
    "export",
    "fit",
    "frontier",
    "instrument",
    "observe",
]
