"""Activation layers of which every channel has a kind of its own.

A polynomial channel with fitted range [low, high] computes `radius * q(u)`, where
`u = (x - middle) / radius`, `middle = (low + high) / 2` and `radius = (high - low) / 2`. The
coefficients of q have thus the same size whatever the channel's range is.

ReLU and polynomials are one formula here: with per-channel numbers `s, b, l, h` and weights
`w0..w3`,

    t = min(max(s x + b, l), h)        y = ((w3 t + w2) t + w1) t + w0

gives a ReLU for `s = 1, b = 0, l = 0, h = inf, w = (0, 1, 0, 0)`, exactly, and a polynomial on
its range for `s = 1 / radius, b = -middle / radius, l = -1, h = 1, w = radius * q`. The passes
over the data go through blocks that stay in the processor's cache, and nothing but x is kept for
the backward pass.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .kinds import KINDS, RELU

MIN_LEADING = {1: 0.05, 2: 0.15, 3: 0.10}
"""Smallest magnitude of the leading coefficient of q, by degree."""

MAX_SHIFT = {2: 2.0, 3: 1.5}
"""Farthest vertex (degree 2) or inflection point (degree 3) of q from u = 0."""

EDGE = 0.9
"""Magnitude of u from which `ChannelActivation.excess` grows."""

BLOCK = 131_072
"""Values in a block, for each thread: its buffers fit in a cache, and calls are few."""

ROW = 2_048
"""Values in a row of a block at least, where channels are innermost: coefficients of fewer
channels are repeated, as long inner loops are faster."""


@dataclass(frozen=True)
class _Constants:
    """Numbers of the formula that training does not change."""

    table: Tensor
    """Rows of C numbers: s, b, l, h, the share of ReLU added to the formula, the ReLU's ceiling (or
    infinite), 1 for polynomials but -inf for ReLUs, whose derivative is 0 below 0, and 2 s for
    channels that have an excess, 0 for others."""
    free: Tensor
    """Channels whose values may be anywhere: (C,) bool."""
    slopes: Tensor
    """i s for i = 1, 2, 3: (3, C)."""
    factor: Tensor
    offset: Tensor
    """The weights w0 to w3 are factor x q + offset: (C, 4)."""
    degree: int
    """The highest of all channels; 1 where all are ReLU."""
    rectified: bool
    """Whether any channel is a ReLU."""
    capped: bool
    """Whether ReLUs have a ceiling."""
    blended: bool
    """Whether a share of ReLU is added."""
    penalised: bool
    """Whether the excess is wanted."""


class _Part:
    """Rows of a layout in which every channel's numbers can be broadcast.

    Channels are innermost, repeated to make long rows, or outermost: (images, C, positions).
    """

    def __init__(self, tensors: list[Tensor], channels: int, repeats: int | None) -> None:
        self.tensors = tensors
        self.channels = channels
        self.repeats = repeats

    def rows(self, table: Tensor) -> tuple[Tensor, ...]:
        """Each row of a table (rows, C) as it broadcasts against a block."""
        if self.repeats is None:
            return table.unsqueeze(2).unbind(0)
        return table.repeat(1, self.repeats).unbind(0)

    def blocks(self) -> Iterator[tuple[Tensor, ...]]:
        """Views of corresponding blocks of the tensors."""
        first = self.tensors[0]
        rows, width = first.shape[0], first[0].numel()
        step = rows
        if first.device.type == "cpu":
            step = max(1, BLOCK * torch.get_num_threads() // max(1, width))
        return zip(*(t.split(step) for t in self.tensors), strict=True)

    def total(self, sums: Tensor) -> Tensor:
        """Sums of shape (C,) of a block-shaped accumulator."""
        if self.repeats is None:
            return sums.sum((0, 2))
        return sums.sum(0).view(self.repeats, self.channels).sum(0)

    def affine(self, x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Tensor:
        """`scale * x + shift`; for outer channels in two steps, which have fast loops."""
        if self.repeats is None:
            return torch.mul(x, scale, out=out).add_(shift)
        return torch.addcmul(shift, x, scale, out=out)

    def clamp(self, x: Tensor, low: Tensor, high: Tensor, out: Tensor) -> Tensor:
        """`min(max(x, low), high)`."""
        if self.repeats is None:
            return torch.minimum(torch.maximum(x, low, out=out), high, out=out)
        return torch.clamp(x, low, high, out=out)


class _Scratch(threading.local):
    """Memory for blocks, kept from call to call: fresh memory costs more than the work in it."""

    def __init__(self) -> None:
        self.kept: dict[torch.dtype, Tensor] = {}

    def get(self, size: int, dtype: torch.dtype) -> Tensor:
        """At least `size` values."""
        found = self.kept.get(dtype)
        if found is None or found.numel() < size:
            with torch.inference_mode(False):
                found = self.kept[dtype] = torch.empty(size, dtype=dtype)
        return found


_scratch = _Scratch()


def _buffers(like: Tensor, count: int) -> list[Tensor]:
    """Uninitialised tensors shaped like a block, which the next call overwrites."""
    if like.device.type != "cpu" or like.numel() > 2 * BLOCK * torch.get_num_threads():
        return [torch.empty_like(like) for _ in range(count)]
    flat = _scratch.get(count * like.numel(), like.dtype)[: count * like.numel()]
    return list(flat.view(count, *like.shape).unbind(0))


def _layout(x: Tensor) -> torch.memory_format:
    """The layout in which `x` is worked on: its own if possible."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _parts(tensors: list[Tensor], layout: torch.memory_format) -> list[_Part]:
    """Views of dense tensors of one shape (N, C, ...) and layout."""
    x = tensors[0]
    n, c = x.shape[:2]
    if layout == torch.channels_last:
        tensors = [t.permute(0, 2, 3, 1).view(-1, c) for t in tensors]
    elif x.numel() == n * c:
        tensors = [t.view(n, c) for t in tensors]
    else:
        return [_Part([t.view(n, c, -1) for t in tensors], c, None)]
    rows = tensors[0].shape[0]
    most = min(max(1, ROW // c), rows)
    # If possible without a remainder.
    repeats = next((r for r in range(most, most // 2, -1) if rows % r == 0), most)
    whole = rows // repeats * repeats
    parts = [_Part([t[:whole].view(-1, repeats * c) for t in tensors], c, repeats)]
    if whole < rows:
        parts.append(_Part([t[whole:] for t in tensors], c, 1))
    return parts


def _where_positive(g: Tensor, x: Tensor, out: Tensor) -> None:
    """`g` where `x > 0`, else 0: the derivative of ReLU, for which PyTorch has a fast loop."""
    torch.ops.aten.threshold_backward.grad_input(g, x, 0.0, grad_input=out)


def _shrink(u: Tensor, out: Tensor) -> Tensor:
    """By how much values are beyond -EDGE or EDGE: negative, 0 or positive."""
    return torch._C._nn.softshrink(u, EDGE, out=out)


class _Formula(torch.autograd.Function):
    """The formula above, and the excess.

    Inputs: x (N, C, ...), weights (C, 4). Outputs: y like x, the excess as a scalar.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, k: _Constants) -> tuple[Tensor, Tensor]:
        layout = _layout(x)
        x = x.contiguous(memory_format=layout)
        y = torch.empty_like(x, memory_format=layout)
        excess = x.new_zeros(())
        for part in _parts([x, y], layout) if x.numel() else []:
            scale, shift, low, high, exact, top, _, _ = part.rows(k.table)
            w = part.rows(weights.t())
            floor = torch.zeros_like(scale)
            buffers: list[Tensor] = []
            for xs, ys in part.blocks():
                if not buffers:
                    kept = buffers = _buffers(xs, 3)
                    kept[2].zero_()
                if len(xs) < len(buffers[0]):
                    buffers = [buffer[: len(xs)] for buffer in buffers]
                t, d, squares = buffers
                part.affine(xs, scale, shift, out=t)
                if k.penalised:
                    squares.addcmul_(_shrink(t, out=d), d)
                part.clamp(t, low, high, out=t)
                part.affine(t, w[k.degree], w[k.degree - 1], out=ys)
                for i in reversed(range(k.degree - 1)):
                    torch.addcmul(w[i], ys, t, out=ys)
                if k.blended:
                    part.clamp(xs, floor, top, out=d)
                    ys.addcmul_(d, exact)
            if k.penalised:
                excess += part.total(kept[2]).masked_fill(k.free, 0).sum()
        if len(x):
            excess /= len(x)
        ctx.save_for_backward(x, weights)
        ctx.k = k
        ctx.set_materialize_grads(False)
        return y, excess

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, g: Tensor | None, pull: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradients for x and the weights.

        Beyond the ends of a polynomial's range the derivative is the one at the end, as if
        the tangent continued there. The excess adds its own.
        """
        x, weights = ctx.saved_tensors
        k: _Constants = ctx.k
        layout = _layout(x)
        pulled = k.penalised and pull is not None
        if g is None:
            if not pulled:
                return None, None, None
            g = torch.zeros_like(x)
        g = g.contiguous(memory_format=layout)
        into = torch.empty_like(x, memory_format=layout)
        degree = k.degree
        sums = weights.new_zeros(4, len(weights))
        for part in _parts([x, g, into], layout) if x.numel() else []:
            scale, shift, low, high, exact, top, always, force = part.rows(k.table)
            slopes = part.rows(weights.t()[1 : degree + 1] * k.slopes[:degree])
            force = force * (pull / len(x)) if pulled else force
            cap = torch.where(always > 0, math.inf, top) if k.capped else top
            buffers: list[Tensor] = []
            for xs, gs, out in part.blocks():
                if not buffers:
                    kept = buffers = _buffers(xs, 3 + degree)
                    for buffer in kept[2:]:
                        buffer.zero_()
                if len(xs) < len(buffers[0]):
                    buffers = [buffer[: len(xs)] for buffer in buffers]
                t, d, *acc = buffers
                part.affine(xs, scale, shift, out=t)
                if pulled:
                    _shrink(t, out=d)
                part.clamp(t, low, high, out=t)
                if degree == 1:
                    torch.mul(gs, slopes[0], out=out)
                else:
                    part.affine(t, slopes[-1], slopes[-2], out=out)
                    for i in reversed(range(degree - 2)):
                        torch.addcmul(slopes[i], out, t, out=out)
                    out.mul_(gs)
                if pulled:
                    out.addcmul_(d, force)
                if k.rectified:
                    torch.maximum(xs, always, out=d)
                    _where_positive(out, d, out=out)
                if k.capped:
                    out.masked_fill_(xs >= cap, 0)
                if k.blended:
                    _where_positive(gs, xs, out=d)
                    if k.capped:
                        d.masked_fill_(xs >= top, 0)
                    out.addcmul_(d, exact)
                acc[0].add_(gs)
                acc[1].addcmul_(gs, t)
                for i in range(2, degree + 1):
                    torch.mul(gs if i == 2 else d, t, out=d)
                    acc[i].addcmul_(d, t)
            for i in range(degree + 1):
                sums[i] += part.total(kept[2 + i])
        return into, sums.t(), None


@dataclass
class Outside:
    """Values met beyond the fitted range by the channels of degree 1 to 3 of a layer."""

    count: int = 0
    """Values outside."""
    total: int = 0
    """Values met."""
    farthest: float = 0.0
    """Largest magnitude of u met, so 1 at the ends of the range and 1.2 a fifth of the half
    width beyond."""

    @property
    def share(self) -> float:
        """The share of values outside, 0 to 1."""
        return self.count / self.total if self.total else 0.0


class ChannelActivation(nn.Module):
    """ReLU or a polynomial of degree 0 to 3, chosen for each channel.

    Takes and gives tensors of shape (N, C) or (N, C, ...). Starts with ReLU everywhere; `plan`
    sets something else.

    In training mode the polynomials of degree 1 and more get their input clipped to the fitted
    range: outside, a polynomial of degree 2 or 3 departs from ReLU so fast that one stray value
    ruins the step. The derivative there is the polynomial's at the end of the range, not 0
    (straight-through: the value is clipped, the gradient is not), and `excess` has a gradient that
    pulls the values back. In evaluation mode nothing is clipped, as in the private network.

    Attributes:
        kinds: (C,) int64, values of `KINDS`.
        low, high: (C,), the fitted range.
        q: (C, 4), the normalised coefficients (see the module's description), trained.
        ceiling: what the ReLUs are cut off at, if anything (6 for ReLU6).
        blend: share of the polynomial in the output of polynomial channels, the rest being
            ReLU; from 0 to 1. For exchanging the ReLUs gradually.
        excess: after a pass in training mode, the sum over channels of degree 1 to 3 and
            positions of `max(0, |u| - EDGE)^2`, mean over the images; differentiable.
        counting: whether passes in evaluation mode add to `outside`.
        outside: how many values were beyond the fitted ranges, and how far.

    """

    kinds: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, channels: int, ceiling: float | None = None) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels: expected at least 1, got {channels}")
        if ceiling is not None and not 0 < ceiling < math.inf:
            raise ValueError(f"ceiling: expected a positive number or None, got {ceiling}")
        self.channels = channels
        self.ceiling = ceiling
        self.register_buffer("kinds", torch.full((channels,), RELU, dtype=torch.int64))
        self.register_buffer("low", torch.full((channels,), -1.0))
        self.register_buffer("high", torch.ones(channels))
        self.q = nn.Parameter(torch.zeros(channels, 4))
        self.blend = 1.0
        self.excess: Tensor | None = None
        self.counting = False
        self.outside = Outside()
        self._kept: tuple[list[Any], tuple[Tensor, ...], list[int], _Constants] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # The excess belongs to a graph of computation, which can be neither copied nor saved.
        return {**self.__dict__, "excess": None, "_kept": None}

    def extra_repr(self) -> str:
        """Channels of each kind."""
        kinds = self.kinds.tolist()
        counts = ", ".join(f"{kinds.count(k)} of kind {k}" for k in KINDS if k in kinds)
        return counts + (f", ceiling {self.ceiling}" if self.ceiling is not None else "")

    @torch.no_grad()
    def plan(self, kinds: Tensor, low: Tensor, high: Tensor, q: Tensor) -> None:
        """Set each channel's kind, fitted range and normalised coefficients.

        Shapes: `kinds`, `low`, `high` (C,), `q` (C, 4). Coefficients above the degree are ignored,
        and what a ReLU channel has for range and coefficients does not matter.
        """
        c = self.channels
        for name, value, shape in (
            ("kinds", kinds, (c,)),
            ("low", low, (c,)),
            ("high", high, (c,)),
            ("q", q, (c, 4)),
        ):
            if tuple(value.shape) != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {tuple(value.shape)}")
        wrong = [kind for kind in kinds.tolist() if kind not in KINDS]
        if wrong:
            raise ValueError(f"kinds: expected values of {KINDS}, got {wrong[0]}")
        curved = kinds.to(low.device) > 0
        fine = torch.isfinite(low) & torch.isfinite(high) & (low < high)
        bad = (curved & ~fine).nonzero().flatten().tolist()
        if bad:
            raise ValueError(
                f"channel {bad[0]}: expected a finite range with low < high,"
                f" got {float(low[bad[0]])} to {float(high[bad[0]])}"
            )
        if not torch.isfinite(q[kinds.to(q.device) != RELU]).all():
            raise ValueError("q: expected finite coefficients, got infinite ones or NaN")
        self.kinds.copy_(kinds)
        self.low.copy_(low)
        self.high.copy_(high)
        self.q.copy_(q)
        self.project()

    @property
    def planned(self) -> bool:
        """Whether any channel is a polynomial."""
        return bool((self.kinds != RELU).any())

    def _mask(self) -> Tensor:
        """Which coefficients each channel has: (C, 4) bool."""
        return torch.arange(4, device=self.kinds.device)[None] <= self.kinds[:, None]

    @torch.no_grad()
    def project(self) -> None:
        """Keep leading coefficients away from zero.

        Degree 2 is computed privately as a shifted square and degree 3 as a depressed cubic. A
        leading coefficient that is small next to the following one would move the vertex or
        the inflection point far outside the range, and cancellation between huge terms would
        then amplify every rounding error. That of degree 3 is kept positive, too: only such
        cubics can feed sums and maxima. (ReLU is x/2 and an even part, so the best cubic term is
        small in any case.) Degree 1 has a least slope, as a sum's terms are all computed on one
        scale, and a flat line would need one that is out of reach. To be called after each step
        of an optimiser.
        """
        q = self.q
        for degree in (1, 2, 3):
            rows = self.kinds == degree
            lead = q[:, degree]
            if degree != 2:
                lead = lead.clamp(min=MIN_LEADING[degree])
            else:
                sign = torch.where(lead < 0, -1.0, 1.0).to(q.dtype)
                lead = sign * lead.abs().clamp(min=MIN_LEADING[degree])
            q[:, degree] = torch.where(rows, lead, q[:, degree])
            if degree == 1:
                continue
            limit = MAX_SHIFT[degree] * degree * lead.abs()
            following = torch.minimum(torch.maximum(q[:, degree - 1], -limit), limit)
            q[:, degree - 1] = torch.where(rows, following, q[:, degree - 1])
        q.copy_(torch.where(self._mask(), q, torch.zeros_like(q)))

    def coefficients(self) -> Tensor:
        """The coefficients c0 to c3 of each channel's polynomial in x: (C, 4), double precision.

        Rows of ReLU channels are 0.
        """
        q = torch.where(self._mask(), self.q.detach(), torch.zeros_like(self.q)).double()
        low, high = self.low.double(), self.high.double()
        m, r = (low + high) / 2, (high - low) / 2
        q0, q1, q2, q3 = q.unbind(1)
        # r * q((x - m) / r), expanded in powers of x.
        a2, a3 = q2 / r, q3 / r**2
        c0 = r * q0 - q1 * m + a2 * m**2 - a3 * m**3
        c1 = q1 - 2 * a2 * m + 3 * a3 * m**2
        c2 = a2 - 3 * a3 * m
        return torch.stack([c0, c1, c2, a3], dim=1)

    def _constants(self) -> tuple[list[int], _Constants]:
        """The kinds and the constants of the formula, kept until anything changes."""
        source = (self.kinds, self.low, self.high)
        state = [(id(t), t._version) for t in source]
        state += [self.training, self.blend, self.ceiling, self.q.dtype]
        state += [torch.is_inference_mode_enabled()]
        if self._kept is None or self._kept[0] != state:
            with torch.no_grad():
                # The tensors are kept too, so that nothing else gets their identity.
                self._kept = (state, source, self.kinds.tolist(), self._derive())
        return self._kept[2], self._kept[3]

    def _derive(self) -> _Constants:
        relu, curved = self.kinds == RELU, self.kinds > 0
        kinds = self.kinds.tolist()
        low, high = self.low.to(self.q.dtype), self.high.to(self.q.dtype)
        one, zero = torch.ones_like(low), torch.zeros_like(low)
        infinite = torch.full_like(one, math.inf)
        middle, radius = (low + high) / 2, (high - low) / 2
        # The range of a constant or a ReLU may be anything.
        scale = torch.where(curved, 1 / radius, one)
        shift = torch.where(curved, -middle / radius, zero)
        top = infinite if self.ceiling is None else one * self.ceiling
        end = one if self.training else infinite
        table = [
            scale,
            shift,
            torch.where(relu, zero, -end),
            torch.where(relu, top, end),
            torch.where(relu, zero, (1 - self.blend) * one),
            top,
            torch.where(relu, -infinite, one),
            torch.where(curved, 2 * scale, zero),
        ]
        factor = (radius * self.blend)[:, None].expand(-1, 4)
        offset = torch.zeros_like(factor)
        offset[:, 1] = relu.to(offset.dtype)
        return _Constants(
            table=torch.stack(table),
            free=~curved,
            slopes=torch.stack([scale, 2 * scale, 3 * scale]),
            factor=torch.where(self._mask(), factor, torch.zeros_like(factor)),
            offset=offset,
            degree=max(1, *kinds),
            rectified=RELU in kinds,
            capped=self.ceiling is not None,
            blended=self.blend != 1,
            penalised=self.training and max(kinds) > 0,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply each channel's activation to `x` of shape (N, C) or (N, C, ...)."""
        if x.dim() < 2 or x.shape[1] != self.channels:
            raise ValueError(
                f"expected values of shape (N, {self.channels}, ...), got {tuple(x.shape)}"
            )
        kinds, constants = self._constants()
        if max(kinds) == RELU:
            self.excess = x.new_zeros(()) if self.training else None
            return F.relu(x) if self.ceiling is None else F.hardtanh(x, 0.0, self.ceiling)
        if not self.training and self.counting:
            self._count(x.detach())
        dtype = x.dtype
        x = x.to(self.q.dtype)
        weights = torch.addcmul(constants.offset, self.q, constants.factor)
        y, excess = _Formula.apply(x, weights, constants)
        self.excess = excess if self.training else None
        return y.to(dtype)

    @torch.no_grad()
    def _count(self, x: Tensor) -> None:
        """Add a batch to `outside`."""
        curved = (self.kinds > 0).nonzero().flatten()
        if not len(curved) or not len(x):
            return
        x = x.index_select(1, curved)
        shape = (1, -1) + (1,) * (x.dim() - 2)
        low, high = self.low[curved].view(shape), self.high[curved].view(shape)
        u = ((x - (low + high) / 2) / ((high - low) / 2)).abs_()
        self.outside.count += int((u > 1).sum())
        self.outside.total += u.numel()
        self.outside.farthest = max(self.outside.farthest, float(u.max()))
