"""Train the MNIST network in two plans and write everything in the models folder.

First the network with ReLU everywhere (mnist-relu), then, starting from it, the mixed plan
(mnist-mixed), in which every activation layer holds exact ReLU and polynomials of degree 3, 2,
1 and 0. The plan and the best epochs are chosen on training digits only; the 10,000 test digits
are evaluated once, at the end, through onnxruntime.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional as F

import check
import data
from export import export
from network import RELU, Net, powers
from planning import plan

BATCH = 128
Penalty = Callable[[Net], Tensor]


def distort(images: Tensor, rng: torch.Generator) -> Tensor:
    """Shift, rotate and scale each digit a little."""
    n = len(images)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(n, generator=rng) * 2 - 1) * limit

    angle, scale = uniform(0.17), 1 + uniform(0.1)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift = 2 / 14
    row_x = torch.stack([cos, -sin, uniform(shift)], 1)
    row_y = torch.stack([sin, cos, uniform(shift)], 1)
    grid = F.affine_grid(torch.stack([row_x, row_y], 1), list(images.shape), False)
    return F.grid_sample(images, grid, align_corners=False)


def batches(
    images: Tensor, labels: Tensor, rng: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of shuffled batches, three digits in four distorted."""
    for index in torch.randperm(len(labels), generator=rng).split(BATCH):
        x, y = images[index], labels[index]
        keep = len(index) // 4
        yield torch.cat([x[:keep], distort(x[keep:], rng)]), y


@torch.no_grad()
def evaluate(net: Net, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Percentage of the digits recognised, and the mean cross-entropy."""
    net.eval()
    scores = torch.cat([net(part) for part in images.split(500)])
    right = (scores.argmax(1) == labels).float().mean().item()
    return 100 * right, F.cross_entropy(scores, labels).item()


def optimise(
    net: Net,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    epochs: int,
    rate: float,
    loss: Callable[[Net, Tensor, Tensor], Tensor],
    frozen: bool,
    rng: torch.Generator,
) -> None:
    """Train `net` and leave it at the best epoch of the last quarter on `validation`."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-3)
    steps = epochs * math.ceil(len(train[1]) / BATCH)
    warm = steps // 20 + 1

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.01 + 0.495 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    best: tuple[float, float] | None = None
    state = copy.deepcopy(net.state_dict())
    for epoch in range(epochs):
        started = time.monotonic()
        net.train()
        if frozen:
            net.freeze_norms()
        total = 0.0
        for x, y in batches(*train, rng):
            x = x.contiguous(memory_format=torch.channels_last)
            optimiser.zero_grad(set_to_none=True)
            value = loss(net, x, y)
            value.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            for layer in net.activations().values():
                layer.project()
            total += value.item() * len(y)
        percent, entropy = evaluate(net, *validation)
        took = time.monotonic() - started
        print(
            f"  epoch {epoch + 1:2}/{epochs}: loss {total / len(train[1]):.4f},"
            f" validation {percent:.2f} % (entropy {entropy:.4f}), {took:.0f} s",
            flush=True,
        )
        quality = (percent, -entropy)
        if epoch >= epochs - max(1, epochs // 4) and (best is None or quality > best):
            best, state = quality, copy.deepcopy(net.state_dict())
    net.load_state_dict(state)


def relu_loss(l1: float) -> Callable[[Net, Tensor, Tensor], Tensor]:
    """Cross-entropy, with penalties on the l1 norms and on idle channels."""

    def loss(net: Net, x: Tensor, y: Tensor) -> Tensor:
        value = F.cross_entropy(net(x), y) + l1 * net.l1_penalty()
        for layer in net.activations().values():
            assert layer.idle is not None
            value = value + 0.05 * layer.idle
        return value

    return loss


def mixed_loss(teacher: Net, l1: float) -> Callable[[Net, Tensor, Tensor], Tensor]:
    """Distillation from `teacher`, with penalties on ranges, slopes, l1 norms, idle channels."""
    temperature = 3.0

    def loss(net: Net, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            target = (teacher(x) / temperature).softmax(1)
        scores = net(x)
        soft = F.kl_div((scores / temperature).log_softmax(1), target, reduction="batchmean")
        value = temperature**2 * soft + 0.3 * F.cross_entropy(scores, y) + l1 * net.l1_penalty()
        for layer in net.activations().values():
            assert layer.overflow is not None and layer.idle is not None
            value = (
                value + 0.05 * layer.idle + 3.0 * layer.overflow + 0.02 * layer.excess_slope(1.25)
            )
        return value

    return loss


def private_form(layer_half: float, q: list[float], kind: int) -> dict[str, float]:
    """How the protocol will rewrite a polynomial of degree 2 or 3, in normalised units.

    `cancellation` is the sum of the largest magnitudes of the rewritten terms over the range,
    divided by the largest magnitude of the result.
    """
    u = torch.linspace(-1, 1, 201, dtype=torch.float64)
    result = (powers(u) @ torch.tensor(q, dtype=torch.float64)).abs().max().item()
    shift = q[kind - 1] / (kind * q[kind])
    lead = abs(q[kind]) * (u + shift).abs().max().item() ** kind
    if kind == 2:
        terms = lead + abs(q[0] - q[2] * shift**2)
    else:
        slope = q[1] - q[2] ** 2 / (3 * q[3])
        value = q[0] - q[1] * shift + q[2] * shift**2 - q[3] * shift**3
        terms = lead + abs(slope) * (u + shift).abs().max().item() + abs(value)
    return {"shift": shift, "cancellation": terms / result, "half_range": layer_half}


def describe(net: Net, path: Path, images: data.Images) -> dict[str, Any]:
    """Figures about an exported network, its ranges measured on training digits."""
    model = onnx.load(str(path))
    pre = check.pre_activations(model, data.to_input(images))
    (scores,) = check.run(model, data.to_input(images))
    top = np.sort(scores, axis=1)
    margins = np.percentile(top[:, -1] - top[:, -2], (1, 10, 50))
    norms = {name: w.detach().abs().sum(1) for name, w in net.folded_weights()}
    layers: dict[str, Any] = {}
    for (name, layer), x in zip(net.activations().items(), pre, strict=True):
        entry: dict[str, Any] = {"pre_activation": [float(x.min()), float(x.max())]}
        if layer.planned:
            low, high = layer.middle - layer.radius, layer.middle + layer.radius
            curved = (layer.kinds > 0).numpy()
            entry["kinds"] = layer.kinds.tolist()
            entry["fitted_range"] = torch.stack([low, high], 1).tolist()
            entry["train_range"] = np.stack([x.min((0, 2)), x.max((0, 2))], 1).tolist()
            entry["coefficients"] = layer.coefficients().tolist()
            entry["max_abs_slope"] = max_slope(layer.q.detach() * layer.mask, curved)
            entry["private_form"] = {
                str(c): private_form(float(layer.radius[c]), layer.q[c].tolist(), int(k))
                for c, k in enumerate(layer.kinds.tolist())
                if k >= 2
            }
        layers[name] = entry
    return {
        "l1_norm_max": {name: float(n.max()) for name, n in norms.items()},
        "l1_norm_mean": {name: float(n.mean()) for name, n in norms.items()},
        "score_range": [float(scores.min()), float(scores.max())],
        "score_margin_percentiles_1_10_50": margins.tolist(),
        "layers": layers,
    }


def max_slope(q: Tensor, rows: Any) -> float:
    """The steepest slope of the polynomials in `rows` on their range."""
    u = torch.linspace(-1, 1, 101)
    _, q1, q2, q3 = q[rows].unbind(1)
    return (q1[:, None] + 2 * q2[:, None] * u + 3 * q3[:, None] * u * u).abs().max().item()


def write(net: Net, name: str, out: Path, images: data.Images) -> dict[str, Any]:
    """Export `net`, compare onnxruntime with PyTorch on `images`, describe it."""
    net.eval()
    path = out / f"{name}.onnx"
    export(net, name, path)
    x = data.to_input(images[:1_000])
    (scores,) = check.run(onnx.load(str(path)), x)
    with torch.no_grad():
        reference = net(torch.from_numpy(x)).numpy()
    difference = float(np.abs(scores - reference).max())
    print(f"{name}: onnxruntime differs from PyTorch by at most {difference:.1e}")
    if difference > 1e-4:
        raise ValueError(f"{name}: the exported network computes something else")
    report = describe(net, path, images)
    report["onnx_difference"] = difference
    return report


def tensors(digits: data.Digits) -> tuple[Tensor, Tensor]:
    """The images and labels as PyTorch takes them."""
    x = torch.from_numpy(data.to_input(digits.images))
    return x, torch.from_numpy(digits.labels.astype(np.int64))


def main() -> None:
    """Train, export, evaluate and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    here = Path(__file__).resolve().parent
    cache = Path.home() / ".cache" / "safenet"
    parser.add_argument("--data", type=Path, default=cache, help=f"MNIST cache ({cache})")
    parser.add_argument("--out", type=Path, default=here.parent, help="folder written to")
    parser.add_argument("--seed", type=int, default=1, help="seed of every random choice (1)")
    parser.add_argument("--epochs", type=int, default=16, help="epochs of the ReLU network (16)")
    parser.add_argument("--mixed-epochs", type=int, default=8, help="epochs of the mixed plan (8)")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate (0.002)")
    parser.add_argument("--mixed-rate", type=float, default=2e-3, help="for the mixed plan (0.002)")
    parser.add_argument("--l1", type=float, default=3e-4, help="weight of the l1 penalty (3e-4)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    parser.add_argument("--relu-state", type=Path, help="reuse, or keep, the trained ReLU network")
    parser.add_argument("--skip-test", action="store_true", help="leave the test digits alone")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = torch.Generator().manual_seed(args.seed)
    out: Path = args.out
    (out / "mnist").mkdir(parents=True, exist_ok=True)

    mnist = data.load(args.data)
    data.write_samples(mnist, out)
    train, validation = tensors(mnist.train), tensors(mnist.validation)

    print("ReLU network")
    started = time.monotonic()
    relu = Net()
    if args.relu_state and args.relu_state.is_file():
        relu.load_state_dict(torch.load(args.relu_state))
    else:
        optimise(relu, train, validation, args.epochs, args.rate, relu_loss(args.l1), False, rng)
        if args.relu_state:
            torch.save(relu.state_dict(), args.relu_state)
    print(f"  {time.monotonic() - started:.0f} s")

    print("mixed plan")
    started = time.monotonic()
    torch.manual_seed(args.seed + 1)
    rng = torch.Generator().manual_seed(args.seed + 1)
    mixed = Net()
    mixed.load_state_dict(relu.state_dict())
    order = torch.randperm(len(train[1]), generator=rng)
    plan(mixed, train[0][order[:4_000]])
    percent, entropy = evaluate(mixed, *validation)
    print(f"  before fine-tuning: validation {percent:.2f} % (entropy {entropy:.4f})")
    relu.eval()
    loss = mixed_loss(relu, args.l1)
    optimise(mixed, train, validation, args.mixed_epochs, args.mixed_rate, loss, True, rng)
    print(f"  {time.monotonic() - started:.0f} s")

    report: dict[str, Any] = {"seed": args.seed, "models": {}}
    for name, net in (("mnist-relu", relu), ("mnist-mixed", mixed)):
        figures = write(net, name, out, mnist.train.images[:10_000])
        percent, _ = evaluate(net, *validation)
        figures["validation_accuracy"] = percent
        print(f"{name}: {percent:.2f} % of {len(mnist.validation)} validation digits")
        if not args.skip_test:
            model = onnx.load(str(out / f"{name}.onnx"))
            (scores,) = check.run(model, data.to_input(mnist.test.images))
            figures["test_accuracy"] = check.accuracy(scores, mnist.test.labels)
            print(f"{name}: {figures['test_accuracy']:.2f} % of {len(mnist.test)} held-back digits")
        report["models"][name] = figures
    for name, layer in mixed.activations().items():
        counts = {check.KIND_NAMES[k]: int((layer.kinds == k).sum()) for k in (RELU, 3, 2, 1, 0)}
        print(f"{name}: {counts}")
    (out / "mnist" / "report.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
