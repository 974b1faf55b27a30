"""Train ResNet-20 on CIFAR-10 and write cifar10-resnet20.onnx.

The state after each epoch is kept: run the same command again to continue after an interruption.
The last 5,000 training images only watch the progress. The test images are left to evaluate.py.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import data
from export import export
from network import ResNet20

BATCH = 128
MARGIN = 4
"""Pixels by which a training image is moved at most, each way."""


def tensor(images: data.Bytes) -> Tensor:
    """`images` as PyTorch takes them: (N, 3, 32, 32) in [0, 1], channels last in memory."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)


def batches(
    train: data.Pictures, padded: data.Bytes, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of shuffled batches, each image shifted and half of them mirrored."""
    order = rng.permutation(len(train))
    side = np.arange(32)
    for start in range(0, len(order) - BATCH + 1, BATCH):
        index = order[start : start + BATCH]
        top, left = rng.integers(0, 2 * MARGIN + 1, (2, BATCH, 1))
        rows, columns = top + side, left + side
        mirrored = rng.random(BATCH) < 0.5
        columns[mirrored] = columns[mirrored, ::-1]
        images = padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        yield tensor(images), torch.from_numpy(train.labels[index].astype(np.int64))


@torch.no_grad()
def evaluate(net: ResNet20, pictures: data.Pictures) -> tuple[float, float]:
    """Percentage of the images recognised, and the mean cross-entropy."""
    net.eval()
    parts = [net(tensor(pictures.images[i : i + 500])) for i in range(0, len(pictures), 500)]
    scores = torch.cat(parts)
    labels = torch.from_numpy(pictures.labels.astype(np.int64))
    right = (scores.argmax(1) == labels).float().mean().item()
    return 100 * right, F.cross_entropy(scores, labels).item()


def optimise(net: ResNet20, cifar10: data.Cifar10, args: argparse.Namespace) -> None:
    """Train `net`, continuing from the kept state if there is one."""
    decayed = [p for p in net.parameters() if p.dim() > 1]
    others = [p for p in net.parameters() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": args.decay}, {"params": others}]
    optimiser = torch.optim.SGD(groups, lr=args.rate, momentum=0.9, nesterov=True)
    steps = len(cifar10.train) // BATCH
    total = args.epochs * steps
    warm = 0.2 * total

    def factor(step: int) -> float:
        if step < warm:
            return 0.04 + 0.96 * step / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    first = 0
    if args.state.is_file():
        state = torch.load(args.state)
        if state["seed"] != args.seed:
            raise ValueError(f"{args.state} is of a run with another seed; delete it")
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"]
    edge = [(0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)]
    padded = np.pad(cifar10.train.images, edge, mode="reflect")
    for epoch in range(first, args.epochs):
        started = time.monotonic()
        net.train()
        loss_sum = 0.0
        for x, y in batches(cifar10.train, padded, np.random.default_rng((args.seed, epoch))):
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
                scores = net(x)
            loss = F.cross_entropy(scores.float(), y, label_smoothing=args.smoothing)
            loss.backward()
            optimiser.step()
            schedule.step()
            loss_sum += loss.item()
        trained = time.monotonic() - started
        percent, entropy = evaluate(net, cifar10.validation)
        took = time.monotonic() - started
        print(
            f"epoch {epoch + 1:2}/{args.epochs}: loss {loss_sum / steps:.4f},"
            f" validation {percent:.2f} % (entropy {entropy:.4f}),"
            f" {took:.0f} s, {steps * BATCH / trained:.0f} images/s",
            flush=True,
        )
        state = {
            "seed": args.seed,
            "epoch": epoch + 1,
            "net": net.state_dict(),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
        }
        partial = args.state.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(args.state)


def main() -> None:
    """Train, export and evaluate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = Path(__file__).resolve().parent.parent.parent
    models, target = root / "models", root / "target"
    parser.add_argument("--data", type=Path, default=target / "data", help="CIFAR-10 cache")
    parser.add_argument("--out", type=Path, default=models / "cifar10-resnet20.onnx")
    parser.add_argument("--state", type=Path, default=target / "cifar10-resnet20.pt")
    parser.add_argument("--seed", type=int, default=1, help="seed of every random choice (1)")
    parser.add_argument("--epochs", type=int, default=11, help="passes over the images (11)")
    parser.add_argument("--rate", type=float, default=0.2, help="highest learning rate (0.2)")
    parser.add_argument("--decay", type=float, default=5e-4, help="of the weights (5e-4)")
    parser.add_argument("--smoothing", type=float, default=0.0, help="of the labels (0)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    parser.add_argument("--bfloat16", action="store_true", help="faster on some processors")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.state.parent.mkdir(parents=True, exist_ok=True)
    cifar10 = data.load(args.data)
    net = ResNet20().to(memory_format=torch.channels_last)
    optimise(net, cifar10, args)
    net = net.to(memory_format=torch.contiguous_format)
    percent, _ = evaluate(net, cifar10.validation)
    export(net, args.out)
    print(f"{args.out}: {percent:.2f} % of {len(cifar10.validation)} validation images")


if __name__ == "__main__":
    main()
