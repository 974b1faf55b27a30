"""The network and its per-channel activations, in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RELU = -1
"""The kind of a channel that keeps the exact ReLU; 0 to 3 are polynomial degrees."""

KINDS = (RELU, 3, 2, 1, 0)
CLASSES = 10

MIN_LEADING = {2: 0.15, 3: 0.10}
"""Smallest magnitude of the leading coefficient, by degree, in normalised units."""

MAX_SHIFT = {2: 2.0, 3: 1.5}
"""Farthest vertex (degree 2) or inflection point (degree 3) from the middle of the range,
in half widths of the range."""


def powers(u: Tensor) -> Tensor:
    """The monomials 1, u, u^2, u^3 along a new last axis."""
    return torch.stack([torch.ones_like(u), u, u * u, u * u * u], dim=-1)


class ChannelActivation(nn.Module):
    """ReLU or a polynomial of degree 0 to 3, chosen for each channel.

    A polynomial channel with fitted range [middle - half, middle + half] computes
    half * q(u) with u = (x - middle) / half, so the trained coefficients of q have the same
    size whatever the channel's range is. `coefficients()` gives them back in x.
    """

    kinds: Tensor
    middle: Tensor
    radius: Tensor
    mask: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("kinds", torch.full((channels,), RELU, dtype=torch.int64))
        self.register_buffer("middle", torch.zeros(channels))
        self.register_buffer("radius", torch.ones(channels))
        self.register_buffer("mask", torch.zeros(channels, 4))
        self.q = nn.Parameter(torch.zeros(channels, 4))
        self.overflow: Tensor | None = None
        """How far the last batch came near or beyond the ends of the fitted ranges, per digit."""
        self.idle: Tensor | None = None
        """By how much channels were idle (inactive or almost constant) on the last batch."""

    def plan(self, kinds: Tensor, low: Tensor, high: Tensor, q: Tensor) -> None:
        """Set each channel's kind, fitted range and normalised coefficients."""
        self.kinds.copy_(kinds)
        self.middle.copy_((low + high) / 2)
        self.radius.copy_((high - low) / 2)
        self.mask.copy_((torch.arange(4)[None] <= kinds[:, None]).float())
        with torch.no_grad():
            self.q.copy_(q * self.mask)
        self.project()

    @property
    def planned(self) -> bool:
        """Whether any channel is a polynomial."""
        return bool((self.kinds != RELU).any())

    @torch.no_grad()
    def project(self) -> None:
        """Keep the leading coefficients of degrees 2 and 3 away from zero.

        Degree 2 is computed privately as a shifted square and degree 3 as a depressed
        cubic. A leading coefficient that is small next to the following one would move the
        vertex or the inflection point far outside the range, and cancellation between huge
        terms would then amplify every rounding error.
        """
        q = self.q
        for degree in (2, 3):
            rows = self.kinds == degree
            lead = q[rows, degree]
            sign = torch.where(lead < 0, -1.0, 1.0)
            lead = sign * lead.abs().clamp(min=MIN_LEADING[degree])
            limit = MAX_SHIFT[degree] * degree * lead.abs()
            q[rows, degree] = lead
            q[rows, degree - 1] = torch.minimum(torch.maximum(q[rows, degree - 1], -limit), limit)
        q.mul_(self.mask)

    def coefficients(self) -> Tensor:
        """The coefficients c0 to c3 of each channel in x, in double precision: (C, 4)."""
        q = (self.q.detach() * self.mask).double()
        m, h = self.middle.double(), self.radius.double()
        q0, q1, q2, q3 = q.unbind(1)
        # half * q((x - m) / h), expanded in powers of x.
        a1, a2, a3 = q1, q2 / h, q3 / h**2
        c0 = h * q0 - a1 * m + a2 * m**2 - a3 * m**3
        c1 = a1 - 2 * a2 * m + 3 * a3 * m**2
        c2 = a2 - 3 * a3 * m
        return torch.stack([c0, c1, c2, a3], dim=1)

    def excess_slope(self, limit: float) -> Tensor:
        """Mean square of what the polynomials' slope exceeds `limit` by, on their range."""
        u = torch.linspace(-1, 1, 21)
        _, q1, q2, q3 = (self.q * self.mask).unbind(1)
        slope = q1[:, None] + 2 * q2[:, None] * u + 3 * q3[:, None] * u * u
        return (F.relu(slope.abs() - limit) ** 2).mean(1).sum()

    def forward(self, x: Tensor) -> Tensor:
        """Apply each channel's activation to `x` of shape (N, C) or (N, C, H, W)."""
        if self.training:
            rest = [d for d in range(x.dim()) if d != 1]
            idle = F.relu(0.5 - x.amax(rest)) + F.relu(0.4 - x.std(rest))
            self.idle = (idle * (self.kinds != 0)).sum()
        if not self.planned:
            return F.relu(x)
        shape = (-1,) + (1,) * (x.dim() - 2)
        u = (x - self.middle.view(shape)) / self.radius.view(shape)
        q0, q1, q2, q3 = ((self.q * self.mask) * self.radius[:, None]).unbind(1)
        y = (q3.view(shape) * u + q2.view(shape)) * u + q1.view(shape)
        y = y * u + q0.view(shape)
        if self.training:
            curved = (self.kinds > 0).float().view(shape)
            over = F.relu(u.abs() - 0.85) * curved
            self.overflow = (over + 5 * over.square()).sum() / len(x)
        return torch.where((self.kinds == RELU).view(shape), F.relu(x), y)


class Net(nn.Module):
    """Two convolutions and two dense layers for 1 x 28 x 28 digits in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 5, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.act1 = ChannelActivation(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.act2 = ChannelActivation(16)
        self.fc1 = nn.Linear(16 * 7 * 7, 64)
        self.act3 = ChannelActivation(64)
        self.fc2 = nn.Linear(64, CLASSES)

    def activations(self) -> dict[str, ChannelActivation]:
        """The three activation layers by name."""
        return {"act1": self.act1, "act2": self.act2, "act3": self.act3}

    def forward(self, x: Tensor) -> Tensor:
        """The ten scores of each digit."""
        x = F.avg_pool2d(self.act1(self.bn1(self.conv1(x))), 2)
        x = F.avg_pool2d(self.act2(self.bn2(self.conv2(x))), 2)
        x = self.act3(self.fc1(torch.flatten(x, 1)))
        return self.fc2(x)

    def freeze_norms(self) -> None:
        """Stop the batch normalisations from following the batches."""
        self.bn1.eval()
        self.bn2.eval()

    def folded_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Each layer's weights with the normalisation multiplied in: (out, in)."""
        for name, conv, norm in (
            ("conv1", self.conv1, self.bn1),
            ("conv2", self.conv2, self.bn2),
        ):
            assert norm.running_var is not None
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            yield name, conv.weight.flatten(1) * scale[:, None]
        yield "fc1", self.fc1.weight
        yield "fc2", self.fc2.weight

    def l1_penalty(self) -> Tensor:
        """Sum over the layers of the mean square of what l1 norms of rows exceed 3 by."""
        norms = [F.relu(w.abs().sum(1) - 3).square().mean() for _, w in self.folded_weights()]
        return torch.stack(norms).sum()
