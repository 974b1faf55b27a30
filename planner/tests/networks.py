"""Small networks and images that the tests share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safenet_planner import KINDS, Plan, PlannedModel


def images(count: int, colours: int = 3, size: int = 8, seed: int = 0) -> Tensor:
    """Smooth random images in [0, 1]: (count, colours, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, colours, size // 2, size // 2, generator=generator)
    return F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)


class Plain(nn.Module):
    """Two convolutions with normalisations, a pool, two dense layers."""

    def __init__(self, colours: int = 3, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(colours, 10, 3, padding=1, bias=False),
            nn.BatchNorm2d(10),
            activation(),
            nn.AvgPool2d(2),
            nn.Conv2d(10, 10, 3, padding=1, bias=False),
            nn.BatchNorm2d(10),
            activation(),
        )
        self.dense = nn.Linear(160, 15)
        self.activation = activation()
        self.scores = nn.Linear(15, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 5)."""
        x = self.features(x)
        return self.scores(self.activation(self.dense(x.view(x.size(0), -1))))


class Tangled(nn.Module):
    """Every way to write a ReLU, a module used twice, operations in place, dropout by function."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.six = nn.ReLU6(inplace=True)
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 4)."""
        x = self.act(self.norm(self.first(x)))
        y = self.second(x)
        z = y * 1
        # Overwrites z: what follows reads the ReLU's result.
        F.relu(z, inplace=True)
        y = self.act(z - 0.1) + F.relu6(y) + y.relu()
        y += self.six(x - 0.5)
        y = torch.relu(y - 0.5) + (y - 1).clamp(min=0) + torch.clamp(y - 0.7, 0, 2.0)
        y = F.dropout(y, 0.25, self.training)
        return self.last(F.adaptive_avg_pool2d(y, 1).flatten(1))


class Residual(nn.Module):
    """A block with an identity beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.norm = nn.BatchNorm2d(10)
        self.conv1 = nn.Conv2d(10, 10, 3, padding=1)
        self.conv2 = nn.Conv2d(10, 10, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.last = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 5)."""
        x = self.relu(self.norm(self.stem(x)))
        y = self.conv2(self.relu(self.conv1(x)))
        y += x
        y = self.relu(y)
        return self.last(y.mean((2, 3)))


def settled(model: nn.Module, batch: Tensor, passes: int = 10) -> nn.Module:
    """The model after its normalisations have followed a batch; in evaluation mode."""
    model.train()
    with torch.no_grad():
        for _ in range(passes):
            model(batch)
    return model.eval()


def mixed(model: PlannedModel) -> Plan:
    """A plan with all five kinds in every layer, in turn."""
    return Plan(
        {
            name: tuple(KINDS[(channel + i) % 5] for channel in range(layer.channels))
            for i, (name, layer) in enumerate(model.layers.items())
        }
    )
