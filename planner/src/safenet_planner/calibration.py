"""What activation layers receive, and how much the loss minds another kind in each channel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .activation import ChannelActivation
from .fitting import fit, fitted_range
from .kinds import KINDS, RELU
from .tracing import PlannedModel

BINS = 256
"""Bins of a channel's histogram."""

EFFECTS = 2**28
"""Bytes of the effects on single images that are kept, of all layers together, about."""

SAMPLES = 16_384
"""Values of a channel in a batch that its histogram counts at most, at even distances."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass
class Observation:
    """What is known of one activation layer of C channels. Double precision, on the CPU.

    Attributes:
        low, high: (C,), the range to fit on: values met, and a margin (`fitting.fitted_range`).
        histogram: (C, BINS), counts of values in equal bins from `low` to `high`.
        fits: (C, 5, 4), by kind index: normalised coefficients of the least-squares polynomials
            (`fitting.fit`); zeros for ReLU.
        importance: (C, 5), by kind index: the loss of one image changes to first order by the sum
            over positions of gradient x (f - f0) if the channel, which computes f0, gets the
            function f of that kind (ReLU, or its fit); this is the mean square over images.
            Zero for the kind that the channel has.
        effects: (N, C, 5), single precision: for each of N images, the sums over positions of
            gradient x u^j for j = 0 to 3, u being the value normalised to [-1, 1] on the range,
            and of gradient x ReLU. `importance` is made of their second moments.

    """

    low: Tensor
    high: Tensor
    histogram: Tensor
    fits: Tensor
    importance: Tensor
    effects: Tensor


def observe(
    model: PlannedModel,
    loader: Iterable[Tensor | Sequence[Tensor]],
    images: int,
    progress: Progress | None = None,
    *,
    temperature: float = 4.0,
    seed: int = 0,
) -> dict[str, Observation]:
    """Run `images` images through `model`, twice, and describe each activation layer.

    `loader` gives batches of images, or sequences that begin with one; it is iterated twice. The
    first sweep finds ranges, the second histograms and importances, of all kinds at once:
    with u as in `activation`, every polynomial's effect on an image is linear in the sums over
    positions of gradient x u^j, j = 0..3, and of gradient x ReLU, so their second
    moments over the images, a 5 x 5 matrix for each channel, give all mean squares.

    The loss is the cross-entropy, at a raised temperature, of the scores (batch, classes)
    against labels drawn from the network's own prediction, so that the mean square of the
    gradient is a diagonal of the Fisher information, which does not vanish where the network
    is right (after L. Theis et al., *Faster gaze prediction with dense networks and Fisher
    pruning*, 2018, section 2.1, who prune channels by it).

    The model, its gradients and its modes are left as they were. It may have a plan already:
    changes are then from what its channels compute now.
    """
    if images < 1:
        raise ValueError(f"images: expected at least 1, got {images}")
    activations = model.activations()
    seen = {name: _Layer(module) for name, module in activations.items()}
    with _undisturbed(model):
        device = next(iter(activations.values())).low.device
        with torch.no_grad(), _tapped(activations, lambda name, x, y: seen[name].widen(x)):
            for batch, done in _batches(loader, images, device):
                model(batch)
                if progress is not None:
                    progress("ranges", done, images)
        for layer in seen.values():
            layer.settle()
        generator = torch.Generator().manual_seed(seed)
        total = 0
        kept = EFFECTS // (20 * sum(module.channels for module in activations.values()))
        for layer in seen.values():
            layer.kept = max(1, kept)
        for batch, done in _batches(loader, images, device):
            _differentiate(model, activations, seen, batch, temperature, generator)
            total = done
            if progress is not None:
                progress("importance", done, images)
    return {name: layer.finish(total) for name, layer in seen.items()}


def _batches(
    loader: Iterable[Tensor | Sequence[Tensor]], images: int, device: torch.device
) -> Iterator[tuple[Tensor, int]]:
    """Batches of the first `images` images, and how many that makes so far."""
    done = 0
    for item in loader:
        batch = item if isinstance(item, Tensor) else item[0]
        if not isinstance(batch, Tensor) or batch.dim() < 2:
            raise ValueError(f"loader: expected batches of images, got {type(batch).__name__}")
        batch = batch[: images - done].to(device)
        done += len(batch)
        if len(batch):
            yield batch, done
        if done >= images:
            return
    if not done:
        raise ValueError("loader: expected at least one image, got none")


@contextmanager
def _undisturbed(model: PlannedModel) -> Iterator[None]:
    """Evaluation mode and no gradients for parameters, and back to what was."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    counting = [(m, m.counting) for m in model.activations().values()]
    model.eval()
    for parameter, _ in wanted:
        parameter.requires_grad_(False)
    for module, _ in counting:
        module.counting = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)
        for module, flag in counting:
            module.counting = flag


@contextmanager
def _tapped(
    activations: dict[str, ChannelActivation], tap: Callable[[str, Tensor, Tensor], object]
) -> Iterator[None]:
    """Have `tap` called with each layer's name, input and output."""
    hooks = []
    for name, module in activations.items():

        def hook(_: object, x: tuple[Tensor], y: Tensor, name: str = name) -> object:
            return tap(name, x[0], y)

        hooks.append(module.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _differentiate(
    model: PlannedModel,
    activations: dict[str, ChannelActivation],
    seen: dict[str, _Layer],
    batch: Tensor,
    temperature: float,
    generator: torch.Generator,
) -> None:
    """Add a batch to every layer's histogram and moments."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def keep(name: str, x: Tensor, y: Tensor) -> Tensor:
        inputs[name], outputs[name] = x.detach(), y
        # What follows may overwrite the output; it gets a copy.
        return y.clone()

    with torch.enable_grad(), _tapped(activations, keep):
        scores = model(batch.detach().requires_grad_())
        if scores.dim() != 2 or scores.shape[1] < 2:
            raise ValueError(
                "expected scores of shape (batch, classes) with at least 2 classes,"
                f" got {tuple(scores.shape)}"
            )
        scores = scores / temperature
        chances = scores.detach().softmax(1).cpu()
        if not bool(torch.isfinite(chances).all()):
            raise ValueError("expected finite scores, got infinite ones or NaN")
        labels = torch.multinomial(chances, 1, generator=generator).squeeze(1)
        loss = F.cross_entropy(scores, labels.to(scores.device), reduction="sum")
        gradients = torch.autograd.grad(loss, list(outputs.values()), allow_unused=True)
    for name, gradient in zip(outputs, gradients, strict=True):
        seen[name].add(inputs[name], gradient)


class _Layer:
    """Sums over the images for one layer."""

    def __init__(self, module: ChannelActivation) -> None:
        self.module = module
        self.ceiling = module.ceiling
        device = module.low.device
        c = module.channels
        self.low = torch.full((c,), math.inf, device=device)
        self.high = torch.full((c,), -math.inf, device=device)
        self.counts = torch.zeros(c * BINS, dtype=torch.float64, device=device)
        self.moments = torch.zeros(c, 5, 5, dtype=torch.float64, device=device)
        self.kept = 0
        self.effects: list[Tensor] = []

    def widen(self, x: Tensor) -> None:
        rest = [d for d in range(x.dim()) if d != 1]
        self.low = torch.minimum(self.low, x.amin(rest).float())
        self.high = torch.maximum(self.high, x.amax(rest).float())

    def settle(self) -> None:
        if not bool((torch.isfinite(self.low) & torch.isfinite(self.high)).all()):
            raise ValueError("expected finite values at the activations, got infinite ones or NaN")
        low, high = fitted_range(self.low.double(), self.high.double())
        # As the module will keep them.
        self.low, self.high = low.float(), high.float()

    def add(self, x: Tensor, gradient: Tensor | None) -> None:
        n, c = x.shape[:2]
        x = x.reshape(n, c, -1).float()
        middle = ((self.low + self.high) / 2)[:, None]
        radius = ((self.high - self.low) / 2)[:, None]
        u = ((x - middle) / radius).clamp_(-1, 1)
        values = u.transpose(0, 1).reshape(c, -1)
        values = values[:, :: math.ceil(values.shape[1] / SAMPLES)]
        bins = ((values + 1) * (BINS / 2)).long().clamp_(max=BINS - 1)
        bins += torch.arange(c, device=x.device)[:, None] * BINS
        self.counts += torch.bincount(bins.flatten(), minlength=c * BINS)
        if gradient is None:  # no score depends on the layer
            gradient = torch.zeros_like(x)
        g = gradient.reshape(n, c, -1).float()
        top = math.inf if self.ceiling is None else self.ceiling
        relu = (g * x.clamp(0, top)).sum(2)
        sums = [g.sum(2)]
        for _ in range(3):
            g = g * u
            sums.append(g.sum(2))
        stacked = torch.stack([*sums, relu], dim=2)
        if self.kept > 0:
            self.effects.append(stacked[: self.kept].cpu())
            self.kept -= len(self.effects[-1])
        stacked = stacked.double()
        self.moments += torch.einsum("nci,ncj->cij", stacked, stacked)

    def finish(self, images: int) -> Observation:
        low, high = self.low.double().cpu(), self.high.double().cpu()
        histogram = self.counts.view(-1, BINS).cpu()
        moments = self.moments.cpu() / images
        fits = torch.zeros(len(low), len(KINDS), 4, dtype=torch.float64)
        importance = torch.zeros(len(low), len(KINDS), dtype=torch.float64)
        radius = ((high - low) / 2)[:, None]
        now = self._now(low, high)
        for i, kind in enumerate(KINDS):
            function = torch.zeros_like(now)
            if kind == RELU:
                function[:, 4] = 1
            else:
                fits[:, i] = fit(histogram, low, high, kind, self.ceiling)
                function[:, :4] = fits[:, i] * radius
            change = function - now
            squares = torch.einsum("ci,cij,cj->c", change, moments, change).clamp(min=0)
            has = self.module.kinds.cpu() == kind
            importance[:, i] = torch.where(has, torch.zeros_like(squares), squares)
        return Observation(low, high, histogram, fits, importance, torch.cat(self.effects))

    def _now(self, low: Tensor, high: Tensor) -> Tensor:
        """What the channels compute, in terms of 1, u, u^2, u^3 and ReLU: (C, 5)."""
        relu = (self.module.kinds.cpu() == RELU).double()
        c0, c1, c2, c3 = self.module.coefficients().cpu().unbind(1)  # zeros where ReLU
        m, r = (low + high) / 2, (high - low) / 2
        # Taylor coefficients at the middle of the range.
        at = [
            ((c3 * m + c2) * m + c1) * m + c0,
            (3 * c3 * m + 2 * c2) * m + c1,
            3 * c3 * m + c2,
            c3,
        ]
        return torch.stack([*(t * r**j for j, t in enumerate(at)), relu], dim=1)
