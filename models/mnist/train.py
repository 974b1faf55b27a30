"""Train the MNIST network, plan it, and write everything in the models folder.

First the network with ReLU everywhere (mnist-relu); from it the planner makes a plan that takes a
given share of its time (mnist-mixed). What kinds of activation cost is measured on this machine, by
private inferences, and kept. The 5,000 validation digits only watch the progress.
The 10,000 test digits are evaluated once, at the end, through onnxruntime. Started again, it goes
on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safenet_planner import LAN, CostModel, measure, plan
from safenet_planner.export import export
from safenet_planner.kinds import KINDS, NAMES
from safenet_planner.probes import IMAGES
from safenet_planner.tracing import instrument
from safenet_planner.training import Epoch, Recipe, train
from torch import Tensor
from torch.nn import functional as F

import check
import data
from network import Net

ROOT = Path(__file__).resolve().parents[2]


class Distorted:
    """Shuffled batches, three digits in four shifted, rotated and scaled a little."""

    def __init__(self, digits: data.Digits, batch: int = 128) -> None:
        self.images, self.labels = tensors(digits)
        self.batch = batch

    def __len__(self) -> int:
        return len(self.labels) // self.batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.randperm(len(self.labels))[: len(self) * self.batch].split(self.batch):
            x, keep = self.images[index], len(index) // 4
            yield torch.cat([x[:keep], distorted(x[keep:])]), self.labels[index]


def distorted(images: Tensor) -> Tensor:
    """Shift by up to 2 pixels, rotate by up to 10 degrees, scale by up to a tenth."""
    n = len(images)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(n) * 2 - 1) * limit

    angle, scale = uniform(0.17), 1 + uniform(0.1)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift = 2 / 14
    row_x = torch.stack([cos, -sin, uniform(shift)], 1)
    row_y = torch.stack([sin, cos, uniform(shift)], 1)
    grid = F.affine_grid(torch.stack([row_x, row_y], 1), list(images.shape), False)
    return F.grid_sample(images, grid, align_corners=False)


def tensors(digits: data.Digits) -> tuple[Tensor, Tensor]:
    """The images and labels as PyTorch takes them."""
    x = torch.from_numpy(data.to_input(digits.images))
    return x, torch.from_numpy(digits.labels.astype(np.int64))


def batches(digits: data.Digits, size: int = 500) -> list[tuple[Tensor, Tensor]]:
    """The digits in their order."""
    x, y = tensors(digits)
    return list(zip(x.split(size), y.split(size), strict=True))


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


def show(epoch: Epoch) -> None:
    """Progress of training with ReLU everywhere."""
    say(f"epoch {epoch.number} of {epoch.of}: validation {epoch.accuracy:.2%}")


def main() -> None:
    """Train, plan, export, evaluate and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    cache = Path.home() / ".cache" / "safenet"
    work = ROOT / "target" / "planner" / "mnist"
    command = ROOT / "target" / "release" / "safenet"
    parser.add_argument("--data", type=Path, default=cache, help=f"MNIST cache ({cache})")
    parser.add_argument("--out", type=Path, default=ROOT / "models", help="folder written to")
    parser.add_argument("--workdir", type=Path, default=work, help=f"kept between runs ({work})")
    parser.add_argument("--safenet", type=Path, default=command, help=f"command ({command})")
    parser.add_argument("--seed", type=int, default=1, help="of every random choice (1)")
    parser.add_argument("--epochs", type=int, default=16, help="of the ReLU network (16)")
    parser.add_argument("--mixed-epochs", type=int, default=8, help="of the mixed plan (8)")
    parser.add_argument("--share", type=float, default=0.8, help="of the time (0.8)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.workdir.mkdir(parents=True, exist_ok=True)

    mnist = data.load(args.data)
    data.write_samples(mnist, args.out)
    training, validation = Distorted(mnist.train), batches(mnist.validation)

    relu = Net()
    history = train(
        relu,
        training,
        validation,
        Recipe(epochs=args.epochs, rate=0.1),
        checkpoint=args.workdir / "relu.pt",
        progress=show,
    )
    example = validation[0][0][:1]
    traced = instrument(relu, example).eval()
    export(traced, args.out / "mnist-relu.onnx", example)

    kept = args.workdir / "cost.json"
    if not kept.is_file():
        images = torch.from_numpy(data.to_input(mnist.train.images[:IMAGES]))
        measure(traced, images, LAN, args.safenet, args.workdir / "cost", progress=say).to_json(
            kept
        )
    cost = CostModel.from_json(kept)
    all_relu_s = cost.predict(traced.current_plan()).latency(LAN)
    result = plan(
        relu,
        training,
        validation,
        budget=args.share * all_relu_s,
        link=LAN,
        method="joint",
        epochs=args.mixed_epochs,
        seed=args.seed,
        workdir=args.workdir,
        cost=cost,
        progress=say,
        # The first dense layer has no normalisation that would keep its values in the ranges.
        recipe=Recipe(rate=0.01),
    )
    export(result.model, args.out / "mnist-mixed.onnx", example)

    report: dict[str, Any] = {"seed": args.seed}
    for name, accuracy in (("mnist-relu", history.accuracy), ("mnist-mixed", result.accuracy)):
        right = check.accuracy(
            check.scores(args.out / f"{name}.onnx", data.to_input(mnist.test.images)),
            mnist.test.labels,
        )
        report[name] = {"validation": accuracy, "test": right}
        say(f"{name}: {accuracy:.2%} of the validation, {right:.2%} of the test digits")
    report["mnist-mixed"] |= {
        "link": LAN.name,
        "predicted_s": result.latency_s,
        "predicted_all_relu_s": all_relu_s,
        "kinds": {
            layer: {NAMES[kind]: kinds.count(kind) for kind in KINDS}
            for layer, kinds in result.plan.layers.items()
        },
        "outside": {name: vars(outside) for name, outside in result.outside.items()},
    }
    (args.out / "mnist" / "report.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
