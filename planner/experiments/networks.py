"""The networks whose plans docs/planner.md reports."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MEAN = (0.4914, 0.4822, 0.4465)
DEVIATION = (0.2470, 0.2435, 0.2616)
"""Of the pixels of CIFAR-10's training images, divided by 255, for red, green and blue."""


class Normalise(nn.Module):
    """Colours with mean 0 and variance 1 over the training images."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`x` of shape (N, 3, H, W) and values from 0 to 1, normalised."""
        return (x - self.mean) / self.deviation


def minionn(width: int = 64) -> nn.Sequential:
    """MiniONN's seven convolutions (Liu et al., 2017), which Delphi (2020) measures, too.

    Images are (N, 3, 32, 32) with values from 0 to 1. `width` is the number of channels of the
    first six convolutions, 64 in the papers; 16 in the last. Batch normalisation stands before
    every activation, which the papers do not say they have; it is folded into the convolution.
    """

    def layer(inputs: int, outputs: int, size: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )

    return nn.Sequential(
        Normalise(),
        layer(3, width, 3),
        layer(width, width, 3),
        nn.AvgPool2d(2),
        layer(width, width, 3),
        layer(width, width, 3),
        nn.AvgPool2d(2),
        layer(width, width, 3),
        layer(width, width, 1),
        layer(width, 16, 1),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, 10),
    )
