"""Least-squares polynomials near ReLU on what a channel receives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .activation import MAX_SHIFT, MIN_LEADING

FLOOR = 0.1
"""Share of the fitting weight spread evenly over the range, so that rare values count."""

MARGIN = 0.1
"""How far the fitted range goes beyond the values seen, as a share of their half width."""


def fitted_range(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The range to fit on for channels whose smallest and largest values are these.

    Wider by `MARGIN` on each side; a channel that hardly moves gets 1 % of its magnitude, and
    0.001 at least.
    """
    middle, half = (low + high) / 2, (high - low) / 2
    half = torch.maximum((1 + MARGIN) * half, (0.01 * middle.abs()).clamp(min=1e-3))
    return middle - half, middle + half


def fit(
    weights: Tensor, low: Tensor, high: Tensor, degree: int, ceiling: float | None = None
) -> Tensor:
    """Normalised coefficients of the polynomials of one degree nearest to ReLU.

    `weights` (..., BINS) counts the values met in equal bins from `low` to `high`, both of shape
    (...). Gives q of shape (..., 4) in double precision, as in `activation`: among the
    polynomials whose leading coefficients `ChannelActivation.project` leaves alone, the one with
    the least mean squared distance from ReLU (cut off at `ceiling` if there is one), the bins
    weighted by what they hold and a little everywhere. Degree 0 is the mean of ReLU on the values
    met.

    The allowed set has one part for each allowed sign of the leading coefficient, convex with at
    most two active bounds, so the optimum is the best of the allowed solutions with the bounds
    active that each combination names.
    """
    if degree not in range(4):
        raise ValueError(f"degree: expected 0 to 3, got {degree}")
    bins = weights.shape[-1]
    shape = tuple(weights.shape[:-1])
    for name, value in (("low", low), ("high", high)):
        if tuple(value.shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(value.shape)}")
    w = weights.double().reshape(-1, bins)
    low, high = low.double().reshape(-1), high.double().reshape(-1)
    total = w.sum(1)
    if not bool((torch.isfinite(total) & (total > 0) & (w >= 0).all(1) & (low < high)).all()):
        raise ValueError("expected weights >= 0, not all 0, on ranges with low < high")
    w = w / total[:, None]
    middle, radius = (low + high) / 2, (high - low) / 2
    u = (torch.arange(bins, dtype=torch.float64, device=w.device) + 0.5) * (2 / bins) - 1
    x = middle[:, None] + radius[:, None] * u
    target = x.clamp(0, math.inf if ceiling is None else ceiling) / radius[:, None]
    q = w.new_zeros(len(w), 4)
    if degree == 0:
        q[:, 0] = (w * target).sum(1)
        return q.reshape(*shape, 4)
    w = (1 - FLOOR) * w + FLOOR / bins
    powers = torch.stack([u**i for i in range(4)], dim=1)
    gram = torch.einsum("cb,bi,bj->cij", w, powers, powers)
    moments = torch.einsum("cb,bi->ci", w * target, powers)
    best = torch.full_like(total, math.inf)
    for basis, offset in _candidates(degree, w):
        rest = moments - gram @ offset
        z = torch.linalg.solve(basis.T @ gram @ basis, (rest @ basis)[..., None])[..., 0]
        candidate = z @ basis.T + offset
        # The squared distance, up to the constant part that the target alone has.
        error = ((candidate[:, None] @ gram)[:, 0] - 2 * moments).mul(candidate).sum(1)
        better = _allowed(candidate, degree) & (error < best)
        best = torch.where(better, error, best)
        q = torch.where(better[:, None], candidate, q)
    return q.reshape(*shape, 4)


def _candidates(degree: int, like: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Affine spaces `basis @ z + offset` of polynomials, one for each set of active bounds."""
    eye = torch.eye(4, dtype=like.dtype, device=like.device)
    nothing = torch.zeros_like(eye[0])
    spaces = [(eye[:, : degree + 1], nothing)]
    if degree == 1:
        return [*spaces, (eye[:, :1], MIN_LEADING[1] * eye[1])]
    lead, following = eye[degree], eye[degree - 1]
    for sign in (1.0, -1.0) if degree == 2 else (1.0,):
        bound = sign * MIN_LEADING[degree] * lead
        ratio = sign * MAX_SHIFT[degree] * degree
        spaces.append((eye[:, :degree], bound))
        tied = (lead + ratio * following)[:, None]
        spaces.append((torch.cat([eye[:, : degree - 1], tied], dim=1), nothing))
        for side in (1.0, -1.0):
            corner = bound + side * ratio * MIN_LEADING[degree] * following
            spaces.append((eye[:, : degree - 1], corner))
    return spaces


def _allowed(q: Tensor, degree: int) -> Tensor:
    """Which rows keep to the bounds on the leading coefficient and the one before it."""
    lead = q[:, degree].abs() if degree == 2 else q[:, degree]
    enough = lead >= MIN_LEADING[degree] * (1 - 1e-9)
    if degree == 1:
        return enough
    limit = MAX_SHIFT[degree] * degree * lead * (1 + 1e-9)
    return enough & (q[:, degree - 1].abs() <= limit)
