"""A small trained network with its observations and costs, for the tests of searches."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

import fake_safenet
from fake_safenet import FakeSafenet
from networks import images
from safenet_planner import LAN, Link, Problem, Recipe, instrument, measure, observe, train

Batches = list[tuple[Tensor, Tensor]]


class Small(nn.Module):
    """Three convolutions and a dense layer: four activation layers, 26 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(96, 8),
            nn.ReLU(),
        )
        self.scores = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 4)."""
        return self.scores(self.features(x))


def labelled(count: int, seed: int, batch: int = 32) -> Batches:
    """Images whose label is the quarter that is brightest in the middle colour."""
    x = images(count, seed=seed)
    quarters = nn.functional.avg_pool2d(x[:, 1:2], 4).flatten(1)
    return list(zip(x.split(batch), quarters.argmax(1).split(batch), strict=True))


def trained() -> Small:
    """The network after a few epochs."""
    torch.manual_seed(0)
    model = Small()
    recipe = Recipe(epochs=12, rate=0.1, decay=0.0)
    train(model, labelled(512, 1), labelled(64, 2), recipe)
    return model


def problem(model: Small, folder: Path, link: Link = LAN) -> Problem:
    """The problem of planning it, with made-up costs, most of them those of activations."""
    training, validation = labelled(512, 1), labelled(256, 2)
    planned = instrument(model, training[0][0][:1])
    with mock.patch.multiple(fake_safenet, LINEAR=2e-4, START=2e-4, FIXED=1e-4):
        cost = measure(planned, training[0][0], link, FakeSafenet(planned), folder, runs=1)
    return Problem(planned, observe(planned, training, 256), cost, link, training, validation)
