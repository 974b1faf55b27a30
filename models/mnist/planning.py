"""Choosing what each channel's ReLU is replaced by, and the first polynomials."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from network import CLASSES, KINDS, MIN_LEADING, RELU, ChannelActivation, Net, powers

BINS = 512
FLOOR = 0.1
"""Share of the fitting weight spread evenly over the range, so that rare values count."""

MARGIN = 0.1
"""How far the fitted range goes beyond the values seen, as a share of their half width."""

TEMPERATURE = 4.0

Quota = dict[int, int]

QUOTAS: dict[str, Quota] = {
    "act1": {RELU: 3, 3: 1, 2: 2, 1: 1, 0: 1},
    "act2": {RELU: 5, 3: 3, 2: 4, 1: 2, 0: 2},
    "act3": {RELU: 16, 3: 12, 2: 16, 1: 10, 0: 10},
}
"""How many channels of each layer get each kind in the mixed plan."""


@dataclass(frozen=True)
class Seen:
    """What one activation layer receives and how the loss depends on what it gives."""

    x: Tensor  # (N, C, positions)
    grad: Tensor  # (N, C, positions)


def observe(net: Net, images: Tensor, batch: int = 250) -> dict[str, Seen]:
    """Run `images` through `net`, keeping pre-activations and activation gradients.

    The loss is the cross-entropy at a raised temperature against labels drawn from the
    network's own softened prediction: its gradient does not vanish on well-learnt digits.
    """
    net.eval()
    kept: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in net.activations()}
    current: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = []
    for name, layer in net.activations().items():

        def keep(_: object, inputs: tuple[Tensor], y: Tensor, name: str = name) -> None:
            y.retain_grad()
            current[name] = (inputs[0].detach(), y)

        hooks.append(layer.register_forward_hook(keep))
    for part in images.split(batch):
        scores = net(part) / TEMPERATURE
        labels = torch.multinomial(scores.detach().softmax(1), 1).squeeze(1)
        assert scores.shape[1] == CLASSES
        torch.nn.functional.cross_entropy(scores, labels, reduction="sum").backward()
        for name, (x, y) in current.items():
            assert y.grad is not None
            kept[name].append((x, y.grad))
    for hook in hooks:
        hook.remove()
    net.zero_grad()
    return {
        name: Seen(
            torch.cat([x for x, _ in parts]).flatten(2)
            if parts[0][0].dim() > 2
            else torch.cat([x for x, _ in parts])[..., None],
            torch.cat([g for _, g in parts]).flatten(2)
            if parts[0][1].dim() > 2
            else torch.cat([g for _, g in parts])[..., None],
        )
        for name, parts in kept.items()
    }


def solve(columns: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, float]:
    """Weighted least squares: the coefficients and the weighted squared error."""
    root = weight.sqrt()
    solution = torch.linalg.lstsq(columns * root[:, None], (target * root)[:, None]).solution
    error = (weight * (columns @ solution[:, 0] - target).square()).sum()
    return solution[:, 0], float(error)


def fit(x: Tensor, degree: int, low: float, high: float) -> Tensor:
    """Normalised coefficients (4,) of the polynomial nearest ReLU on the values `x`.

    Degree 0 is the mean of ReLU. The higher degrees are fitted on a histogram of `x`, with a
    little weight everywhere on the range from `low` to `high`. A leading coefficient below the
    smallest one allowed (the odd part of ReLU is linear, so symmetric values ask for no cubic
    term) is put on that bound and the rest fitted again, with the better of the two signs.
    """
    middle, half = (low + high) / 2, (high - low) / 2
    if degree == 0:
        return torch.tensor([float(x.clamp(min=0).mean()) / half, 0, 0, 0])
    weight = torch.histc(x, BINS, low, high).double()
    weight = (1 - FLOOR) * weight / weight.sum() + FLOOR / BINS
    u = (torch.arange(BINS, dtype=torch.float64) + 0.5) * 2 / BINS - 1
    target = (middle + half * u).clamp(min=0) / half
    columns = powers(u)
    q = torch.zeros(4, dtype=torch.float64)
    q[: degree + 1], _ = solve(columns[:, : degree + 1], target, weight)
    bound = MIN_LEADING.get(degree, 0.0)
    if abs(float(q[degree])) < bound:
        best = float("inf")
        for lead in (bound, -bound):
            rest = target - lead * columns[:, degree]
            low_part, error = solve(columns[:, :degree], rest, weight)
            if error < best:
                best = error
                q[:degree], q[degree] = low_part, lead
    return q.float()


def assign(cost: Tensor, quota: Quota) -> list[int]:
    """Give every channel a kind within `quota`, at the least total cost found.

    `cost` is (C, kinds) in the order of KINDS. Starts greedily, the coarsest kind first on
    the channels it hurts least, then swaps pairs of channels while that helps.
    """
    channels = cost.shape[0]
    table = {kind: cost[:, i].tolist() for i, kind in enumerate(KINDS)}
    kinds = [RELU] * channels
    free = set(range(channels))
    for kind in reversed(KINDS[1:]):
        for channel in sorted(free, key=lambda c: table[kind][c])[: quota[kind]]:
            kinds[channel] = kind
            free.discard(channel)
    assert len(free) == quota[RELU]
    improved = True
    while improved:
        improved = False
        for a in range(channels):
            for b in range(a):
                now = table[kinds[a]][a] + table[kinds[b]][b]
                swapped = table[kinds[b]][a] + table[kinds[a]][b]
                if swapped < now * (1 - 1e-9):
                    kinds[a], kinds[b] = kinds[b], kinds[a]
                    improved = True
    return kinds


def plan_layer(layer: ChannelActivation, seen: Seen, quota: Quota) -> None:
    """Choose the kinds of one layer's channels and set their first polynomials.

    Replacing ReLU by p in a channel changes the loss of one digit, to first order, by the
    sum over positions of gradient * (p(x) - ReLU(x)). Its mean square over the digits is
    the cost of that choice.
    """
    channels = layer.channels
    low, high = seen.x.amin((0, 2)), seen.x.amax((0, 2))
    margin = MARGIN * (high - low) / 2
    low, high = low - margin, high + margin
    cost = torch.zeros(channels, len(KINDS))
    fits = torch.zeros(channels, len(KINDS), 4)
    for c in range(channels):
        x, grad = seen.x[:, c], seen.grad[:, c]
        relu = x.clamp(min=0)
        half = float(high[c] - low[c]) / 2
        u = (x - (low[c] + high[c]) / 2) / half
        for i, kind in enumerate(KINDS):
            if kind == RELU:
                continue
            q = fit(x, kind, float(low[c]), float(high[c]))
            y = half * (((q[3] * u + q[2]) * u + q[1]) * u + q[0])
            cost[c, i] = (grad * (y - relu)).sum(1).square().mean()
            fits[c, i] = q
    kinds = assign(cost, quota)
    chosen = torch.stack([fits[c, KINDS.index(kind)] for c, kind in enumerate(kinds)])
    layer.plan(torch.tensor(kinds), low, high, chosen)


def plan(net: Net, images: Tensor) -> None:
    """Turn a trained ReLU network into the mixed plan, ready for fine-tuning."""
    seen = observe(net, images)
    for name, layer in net.activations().items():
        plan_layer(layer, seen[name], QUOTAS[name])
