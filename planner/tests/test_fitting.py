"""Least-squares fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from safenet_planner import fit
from safenet_planner.activation import MAX_SHIFT, MIN_LEADING, ChannelActivation
from safenet_planner.fitting import FLOOR, fitted_range

BINS = 64


def histograms(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random weights and ranges of all sorts: around zero, on one side of it, far from it."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(count, BINS, generator=generator) ** 4
    weights[:, :20] *= torch.rand(count, 1, generator=generator)
    low = 4 * torch.randn(count, generator=generator)
    high = low + 0.1 + 5 * torch.rand(count, generator=generator)
    return weights, low, high


def error(
    q: np.ndarray, weights: torch.Tensor, low: float, high: float, ceiling: float | None
) -> float:
    """The weighted mean square distance from ReLU, in half widths of the range."""
    u = (np.arange(BINS) + 0.5) * 2 / BINS - 1
    radius = (high - low) / 2
    target = np.clip((low + high) / 2 + radius * u, 0, ceiling) / radius
    w = weights.double().numpy()
    w = (1 - FLOOR) * w / w.sum() + FLOOR / BINS
    return float((w * (np.polynomial.polynomial.polyval(u, q) - target) ** 2).sum())


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("ceiling", [None, 1.0])
def test_optimal(degree: int, ceiling: float | None) -> None:
    """No allowed polynomial nearby, and none with an active bound, is nearer to ReLU."""
    weights, low, high = histograms(24)
    q = fit(weights, low, high, degree, ceiling)
    assert not q[:, degree + 1 :].any()
    made = ChannelActivation(24).double()
    made.plan(torch.full((24,), degree), low, high, q)
    assert torch.allclose(made.q.detach(), q, atol=1e-9)
    rng = np.random.default_rng(0)
    bound, shift = MIN_LEADING[degree], MAX_SHIFT.get(degree, np.inf)
    free = 0
    for channel in range(24):
        args = (weights[channel], float(low[channel]), float(high[channel]), ceiling)
        own = q[channel].numpy()
        least = error(own, *args)
        free += abs(own[degree]) > bound * 1.001
        starts = [own, own * np.where(np.arange(4) == degree, -1, 1)]
        for start in starts * 100:
            other = start + rng.normal(size=4) * 10 ** rng.uniform(-5, 0)
            other[degree + 1 :] = 0
            sign = -1 if degree == 2 and other[degree] < 0 else 1
            other[degree] = sign * max(sign * other[degree], bound)
            if degree > 1:
                limit = shift * degree * abs(other[degree])
                other[degree - 1] = np.clip(other[degree - 1], -limit, limit)
            assert error(other, *args) >= least - 1e-12
    # Both sorts were met: those that the bounds concern and the others. (The cubic term nearest
    # to ReLU itself is mostly negative or small.)
    assert free > 1 or (degree == 3 and ceiling is None)
    assert degree == 1 or free < 24


def test_symmetric() -> None:
    """On [-1, 1] with equal weights the best square is 3/32 + u/2 + 15/32 u^2."""
    ends = torch.ones(1)
    q = fit(torch.ones(1, 4096), -ends, ends, 2)[0]
    assert q.tolist() == pytest.approx([3 / 32, 1 / 2, 15 / 32, 0], abs=1e-5)
    assert fit(torch.ones(1, 4096), -ends, ends, 1)[0].tolist() == pytest.approx(
        [1 / 4, 1 / 2, 0, 0], abs=1e-5
    )


def test_constant() -> None:
    """Degree 0 is the mean of ReLU on the values."""
    weights = torch.tensor([[3.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    q = fit(weights, torch.tensor([-2.0, 1.0]), torch.tensor([2.0, 5.0]), 0)
    # Bins' middles: -1.5, -0.5, 0.5, 1.5 and 1.5, 2.5, 3.5, 4.5; half width 2.
    assert (2 * q[:, 0]).tolist() == pytest.approx([1.5 / 4, 4.0])
    assert not q[:, 1:].any()
    capped = fit(weights, torch.tensor([-2.0, 1.0]), torch.tensor([2.0, 5.0]), 0, 1.0)
    assert (2 * capped[:, 0]).tolist() == pytest.approx([1 / 4, 1.0])


def test_ranges() -> None:
    """Ranges are wider than the values met, and never empty."""
    low, high = fitted_range(torch.tensor([-1.0, 5.0, 0.0]), torch.tensor([3.0, 5.0, 0.0]))
    assert low.tolist() == pytest.approx([-1.2, 4.95, -0.001])
    assert high.tolist() == pytest.approx([3.2, 5.05, 0.001])


def test_refuses() -> None:
    """Wrong arguments are refused."""
    one = torch.ones(1)
    with pytest.raises(ValueError, match="degree: expected 0 to 3, got 4"):
        fit(torch.ones(1, 8), -one, one, 4)
    with pytest.raises(ValueError, match="low < high"):
        fit(torch.ones(1, 8), one, one, 2)
    with pytest.raises(ValueError, match="not all 0"):
        fit(torch.zeros(1, 8), -one, one, 2)
    with pytest.raises(ValueError, match=r"low: expected shape \(2,\)"):
        fit(torch.ones(2, 8), -one, one, 2)
