"""Selection by what all changes together do to the loss, and what the rest can make up for.

`selection` adds up importances of single channels. But what the constants of a layer do to the
loss of an image mostly has the same sign and adds up, and much of it a trained network makes up for
elsewhere. Both show in the effects on single images that `calibration.observe` keeps: with z a
channel's sums over positions of gradient x (1, u, u^2, u^3, ReLU), replacing its ReLU by a function
with coefficients f changes the loss of an image by z.f to first order, and all channels together
change it by the sum of theirs. So, in the sense of the Fisher information, a plan costs

    J = mean over images of (sum over channels of z.(f + w))^2 + RIDGE x sum of D w^2

where f belongs to a channel's kind, and the corrections w are free: of the coefficients that the
kind has, and for ReLUs of the scale and an offset. D, the mean squares of z, makes a correction
cost a share of what it does by itself. As in Optimal Brain Surgeon (Hassibi and Stork, *Second
order derivatives for network pruning*, NIPS 1992), what is removed is judged after the best
correction of what stays.

J + multiplier x cost is minimised by coordinate descent over the channels: one at a time gets the
best kind with its corrections, a least-squares problem of at most four unknowns. The multiplier
rises slowly from where no channel changes to where the budget is kept, so that each choice starts
from a good one for a budget that is hardly larger.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..calibration import Observation
from ..kinds import KINDS, RELU
from ..plans import Plan
from .problem import Found, Problem, Progress, Settings

RIDGE = 0.01
"""Weight of corrections: at 0 they would be free."""

START = 1e-3
"""The first multiplier, as a share of the loss per second that constants everywhere would bring."""

RISE = 1.08
"""Factor from one multiplier to the next."""

SWEEPS = 4
"""Of all channels for a multiplier, at most."""

BISECTIONS = 8
"""Of the last step of the multiplier."""

FREE: dict[int, tuple[int, ...]] = {RELU: (0, 4), 3: (0, 1, 2, 3), 2: (0, 1, 2), 1: (0, 1), 0: (0,)}
"""Which of the five coefficients a kind corrects."""

CONSTANT = KINDS.index(0)


def search(
    problem: Problem, budget_s: float, settings: Settings, progress: Progress | None = None
) -> Found:
    """The plan of least joint effect on the loss within the budget; nothing is trained."""
    descent = _Descent(problem, settings.seed)
    low = descent.least()
    before = descent.state()
    step = 0
    while (seconds := problem.seconds(descent.plan())) > budget_s:
        before = descent.state()
        if descent.exhausted():
            raise ValueError(
                f"budget: expected at least {seconds:.6g} s, what the quickest plan is predicted"
                f" to take over {problem.link}, got {budget_s:g} s"
            )
        if progress is not None and step % 20 == 0:
            progress(f"joint: {1e3 * seconds:.1f} ms on the way to {1e3 * budget_s:.1f} ms")
        step += 1
        low *= RISE
        descent.settle(low)
    high, best = low, descent.state()
    low /= RISE
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5
        descent.restore(before)
        descent.settle(middle)
        if problem.seconds(descent.plan()) <= budget_s:
            high, best = middle, descent.state()
        else:
            low, before = middle, descent.state()
    descent.restore(best)
    descent.fill(budget_s)
    plan = descent.plan()
    return Found(plan, problem.seconds(plan), details={"loss": descent.loss()})


State = tuple[list[int], Tensor]


class _Descent:
    """Kinds of all channels, one after the other, and their coefficients f + w."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem = problem
        self.sizes = problem.channels
        self.layer = [name for name, size in self.sizes.items() for _ in range(size)]
        seen = [problem.observations[name] for name in self.sizes]
        images = min(len(layer.effects) for layer in seen)
        # (channels, images, 5) for each layer; views of single channels.
        self.z = [z for layer in seen for z in layer.effects[:images].transpose(0, 1)]
        self.moments = torch.stack([(z.T.double() @ z.double()) / images for z in self.z])
        self.given = torch.cat([_functions(layer) for layer in seen])
        self.weight = self.moments.diagonal(dim1=1, dim2=2).clamp(min=1e-30)
        self.solve = torch.zeros(len(self.z), len(KINDS), 5, 5, dtype=torch.float64)
        for i, kind in enumerate(KINDS):
            free = torch.tensor(FREE[kind])
            part = self.moments[:, free][:, :, free]
            part = part + torch.diag_embed(RIDGE * self.weight[:, free])
            self.solve[:, i, free[:, None], free] = torch.linalg.inv(part)
        self.order = torch.Generator().manual_seed(seed)
        self.restore(([KINDS.index(RELU)] * len(self.z), torch.zeros(len(self.z), 5).double()))

    def state(self) -> State:
        """To be given back to `restore`."""
        return list(self.kinds), self.coefficients.clone()

    def restore(self, state: State) -> None:
        """Go back to a state."""
        self.kinds, self.coefficients = list(state[0]), state[1].clone()
        self.live = dict.fromkeys(self.sizes, 0)  # channels that are no constants
        for name, kind in zip(self.layer, self.kinds, strict=True):
            self.live[name] += kind != CONSTANT
        self.effect = sum(
            (z @ f.to(z) for z, f in zip(self.z, self.coefficients, strict=True)),
            torch.zeros(len(self.z[0])),
        )

    def plan(self) -> Plan:
        """The kinds as a plan."""
        kinds = iter(self.kinds)
        return Plan({n: tuple(KINDS[next(kinds)] for _ in range(c)) for n, c in self.sizes.items()})

    def loss(self) -> float:
        """J."""
        given = self.given[torch.arange(len(self.kinds)), torch.tensor(self.kinds)]
        corrections = (self.weight * (self.coefficients - given).square()).sum()
        return float(self.effect.double().square().mean() + RIDGE * corrections)

    def costs(self) -> list[list[float]]:
        """Seconds of each channel by kind, where the plan is what it is now."""
        table = self.problem.cost.channel_costs(self.problem.link, at=self.plan())
        rows = [table[n].double().expand(c, len(KINDS)) for n, c in self.sizes.items()]
        found: list[list[float]] = torch.cat(rows).tolist()
        return found

    def least(self) -> float:
        """A multiplier so small that hardly a channel changes."""
        values = torch.stack([self._values(c)[0] for c in range(len(self.z))])
        costs = torch.tensor(self.costs(), dtype=torch.float64)
        relu = KINDS.index(RELU)
        lost = (values[:, CONSTANT] - values[:, relu]).sum()
        saved = (costs[:, relu] - costs[:, CONSTANT]).sum()
        return START * float(lost / saved)

    def settle(self, multiplier: float) -> None:
        """Sweep until no kind changes, or `SWEEPS` times."""
        costs = torch.tensor(self.costs(), dtype=torch.float64)
        for _ in range(SWEEPS):
            order = torch.randperm(len(self.z), generator=self.order).tolist()
            changed = [self._visit(c, multiplier * costs[c]) for c in order]
            if not any(changed):
                break

    def fill(self, budget_s: float) -> None:
        """Spend what is left of the budget: the dearer kind of best worth that fits, repeatedly."""
        while True:
            costs = self.costs()
            left = budget_s - self.problem.seconds(self.plan())
            moves = []
            for c, kind in enumerate(self.kinds):
                values = self._values(c)[0].tolist()
                for k in range(len(KINDS)):
                    price, gain = costs[c][k] - costs[c][kind], values[kind] - values[k]
                    if 0 < price <= left and gain > 0:
                        moves.append((gain / price, c, k))
            for _, c, k in sorted(moves, reverse=True):
                before = self.state()
                self._give(c, k, *self._values(c)[1:])
                if self.problem.seconds(self.plan()) <= budget_s:
                    break
                self.restore(before)
            else:
                return

    def exhausted(self) -> bool:
        """Whether nothing is left but constants and what keeps layers from being nothing else."""
        return all(number == 1 for number in self.live.values())

    def _values(self, c: int) -> tuple[Tensor, Tensor, Tensor]:
        """J by the kind of a channel, less what all share; corrections; the effect of the others.

        With r the others' effects, f a kind's function, M the channel's moments and q the mean
        of r z, J is q.f doubled + f.M f + the least over w of (f.M + q).w doubled + w.(M + RIDGE
        D) w, which is -(f.M + q).solve (f.M + q).
        """
        z, moments, given = self.z[c], self.moments[c], self.given[c]
        others = self.effect - z @ self.coefficients[c].to(z)
        q = (z.T @ others).double() / len(z)
        pull = given @ moments + q
        corrections = -torch.einsum("kij,kj->ki", self.solve[c], pull)
        values = (given * (pull + q)).sum(1) + (pull * corrections).sum(1)
        return values, corrections, others

    def _visit(self, c: int, prices: Tensor) -> bool:
        """Give a channel the best kind and its corrections; whether the kind is another."""
        values, corrections, others = self._values(c)
        total = values + prices
        before = self.kinds[c]
        best = int(total.argmin())
        if best == CONSTANT != before and self.live[self.layer[c]] == 1:
            total[CONSTANT] = torch.inf
            best = int(total.argmin())
        if total[best] >= total[before]:
            best = before
        self._give(c, best, corrections, others)
        return best != before

    def _give(self, c: int, kind: int, corrections: Tensor, others: Tensor) -> None:
        self.live[self.layer[c]] += (kind != CONSTANT) - (self.kinds[c] != CONSTANT)
        self.kinds[c] = kind
        self.coefficients[c] = self.given[c, kind] + corrections[kind]
        self.effect = others + self.z[c] @ self.coefficients[c].to(self.z[c])


def _functions(seen: Observation) -> Tensor:
    """What each kind changes, in terms of 1, u, u^2, u^3 and ReLU: (C, 5, 5)."""
    radius = ((seen.high - seen.low) / 2)[:, None, None]
    found = torch.cat([seen.fits * radius, -torch.ones_like(seen.fits[:, :, :1])], dim=2)
    found[:, KINDS.index(RELU)] = 0
    return found.double()
