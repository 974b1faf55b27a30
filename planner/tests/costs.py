"""A model of costs with round numbers."""

from __future__ import annotations

import numpy as np

from safenet_planner import KINDS, RELU
from safenet_planner.channels import Channels
from safenet_planner.cost import LAN, Check, CostModel, LayerCost, LinearCost, Link, Overlap
from safenet_planner.safenet import Settings


def _layer(channels: int, positions: int) -> LayerCost:
    work = {
        kind: tuple(float(positions) if i == k else 0.0 for i in range(4))
        for k, kind in enumerate(KINDS[:4])
    }
    traffic = {
        kind: (0.0, 4.0 * positions, (40.0 - 8 * k) * positions, (9.0 - k) * positions)
        for k, kind in enumerate(KINDS[:4])
    }
    return LayerCost(channels, work, traffic, {RELU: 3.0, 3: 2.0, 2: 2.0, 1: 1.0})


def made_up(link: Link = LAN) -> CostModel:
    """Two layers of 4 and 2 channels with a convolution before, between, and after them."""
    first = Channels({frozenset({("a", c)}): 0.25 for c in range(4)})
    second = Channels({frozenset({("b", c)}): 0.5 for c in range(2)})
    everything = Channels({})
    parts = np.zeros((7, 6))
    parts[0] = [1e-3, 5e-3, 2e-6, 1e-6, 5e-7, 1e-7]
    parts[1] = [2e-3, 7e-3, 3e-6, 9e-7, 6e-7, 2e-7]
    parts[2] = [1e-4, 0, 5e-8, 4e-8, 3e-8, 1e-8]
    parts[3] = [1000, 500, 1, 30, 15, 0]
    return CostModel(
        link=link,
        settings=Settings(),
        layers={"a": _layer(4, 1000), "b": _layer(2, 500)},
        linear={
            "one": LinearCost(everything, first, 4e-3, 9e-3, 1e-4, 8000, 6000, 8000, 4000),
            "two": LinearCost(first, second, 2e-3, 5e-3, 1e-4, 8000, 6000, 7000, 5000),
            "three": LinearCost(second, everything, 1e-3, 2e-3, 1e-5, 800, 600, 800, 600),
        },
        parts=parts,
        product=(0.2, 0.6),
        overlap=Overlap(0.3, 1e-4),
        prepare_rounds=1.0,
        online_rounds=2.0,
        check=Check(1.0, 0.5, 1.25, 0.25),
    )
