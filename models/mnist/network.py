"""The network for handwritten digits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10


class Net(nn.Module):
    """Two convolutions and two dense layers for 1 x 28 x 28 digits in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 5, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.act2 = nn.ReLU()
        self.fc1 = nn.Linear(16 * 7 * 7, 64)
        self.act3 = nn.ReLU()
        self.fc2 = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """The ten scores of each digit of `x`, (N, 1, 28, 28)."""
        x = F.avg_pool2d(self.act1(self.bn1(self.conv1(x))), 2)
        x = F.avg_pool2d(self.act2(self.bn2(self.conv2(x))), 2)
        x = self.act3(self.fc1(torch.flatten(x, 1)))
        return self.fc2(x)
