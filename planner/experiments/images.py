"""CIFAR-10 as batches of tensors, shifted and mirrored in training."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "models" / "cifar10"))

import data  # noqa: E402

DIRECTORY = ROOT / "target" / "data"
MARGIN = 4
"""Pixels by which a training image is moved at most, each way."""


class Plain:
    """Batches of images in their order: (N, 3, 32, 32) with values from 0 to 1, and labels."""

    def __init__(self, pictures: data.Pictures, batch: int = 250) -> None:
        self.pictures = pictures
        self.batch = batch

    def __len__(self) -> int:
        return -(-len(self.pictures) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.pictures), self.batch):
            part = self.pictures[start : start + self.batch]
            yield _tensors(part.images, part.labels)


class Augmented:
    """Shuffled batches, each image shifted by up to `MARGIN` pixels and half of them mirrored.

    Random choices come from torch's generator, which checkpoints keep.
    """

    def __init__(self, pictures: data.Pictures, batch: int = 128) -> None:
        self.labels = pictures.labels
        edges = ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))
        self.padded = np.pad(pictures.images, edges, mode="reflect")
        self.batch = batch

    def __len__(self) -> int:
        return len(self.labels) // self.batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        order = rng.permutation(len(self.labels))
        side = np.arange(32)
        for start in range(0, len(self) * self.batch, self.batch):
            index = order[start : start + self.batch]
            top, left = rng.integers(0, 2 * MARGIN + 1, (2, self.batch, 1))
            rows, columns = top + side, left + side
            mirrored = rng.random(self.batch) < 0.5
            columns[mirrored] = columns[mirrored, ::-1]
            images = self.padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]
            yield _tensors(images, self.labels[index])


def _tensors(images: data.Bytes, labels: data.Bytes) -> tuple[Tensor, Tensor]:
    """Images and labels as PyTorch takes them, channels last in memory."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)
    return x, torch.from_numpy(labels.astype(np.int64))


def load() -> data.Cifar10:
    """The 45,000 training, 5,000 validation and 10,000 test images, fetched if need be."""
    return data.load(DIRECTORY)
