"""Train the network whose ReLUs the planner replaces, and keep it under target/planner."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import images
from networks import minionn
from safenet_planner.training import Epoch, Recipe, train

TARGET = images.ROOT / "target" / "planner"


def recipe(epochs: int) -> Recipe:
    """For training from random weights."""
    return Recipe(epochs=epochs, rate=0.2, warm=0.2)


def checkpoint(width: int, epochs: int) -> Path:
    """Where the network of `width` is kept."""
    return TARGET / f"minionn{width}-relu-{epochs}.pt"


def show(epoch: Epoch) -> None:
    """One line for an epoch."""
    print(
        f"epoch {epoch.number}/{epoch.of}: loss {epoch.loss:.4f},"
        f" validation {epoch.accuracy:.2%}, {epoch.seconds:.0f} s",
        file=sys.stderr,
        flush=True,
    )


def main() -> int:
    """Train, or go on training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=32, help="channels of the network (32)")
    parser.add_argument("--epochs", type=int, default=20, help="epochs (20)")
    parser.add_argument("--seed", type=int, default=1, help="of every random choice (1)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    cifar10 = images.load()
    path = checkpoint(args.width, args.epochs)
    train(
        minionn(args.width),
        images.Augmented(cifar10.train),
        images.Plain(cifar10.validation),
        recipe(args.epochs),
        checkpoint=path,
        progress=show,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
