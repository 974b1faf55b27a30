"""Which channels linear layers read and make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from networks import Plain, Residual, images, mixed
from safenet_planner import Plan, PlannedModel, export, instrument
from safenet_planner.channels import Channels, Structure, structure
from safenet_planner.probes import fit_in_passing


def analysed(model: nn.Module, path: Path, plan: bool = False) -> tuple[PlannedModel, Structure]:
    """An instrumented network, and its structure as exported."""
    batch = images(4)
    planned = instrument(model.eval(), batch[:1])
    if plan:
        fit_in_passing(planned, mixed(planned), batch)
    export(planned, path, batch[:1])
    return planned, structure(path, list(planned.layers))


def constants(model: PlannedModel, chosen: dict[str, list[int]]) -> dict[str, list[bool]]:
    """Which channels are constants, from lists of them."""
    return {
        name: [c in chosen.get(name, []) for c in range(layer.channels)]
        for name, layer in model.layers.items()
    }


@pytest.mark.parametrize("planned", [False, True])
def test_chain(tmp_path: Path, planned: bool) -> None:
    """Through normalisations, pools and flattening, in exported ReLUs and planned layers."""
    model, found = analysed(Plain(), tmp_path / "net.onnx", planned)
    first, second, last = model.layers
    conv1, conv2, dense, scores = found.reads
    dead = constants(model, {first: [0, 1], second: [3], last: [0, 1, 2]})
    live = {name: round(side.live(dead), 6) for name, side in found.reads.items()}
    assert live == {conv1: 1, conv2: 0.8, dense: 0.9, scores: 0.8}
    live = {name: round(side.live(dead), 6) for name, side in found.makes.items()}
    assert live == {conv1: 0.8, conv2: 0.9, dense: 0.8, scores: 1}
    assert [found.owners[name] for name in model.layers] == list(model.layers)


def test_residual(tmp_path: Path) -> None:
    """A channel of a sum is live while either summand is; the identity keeps outputs live."""
    model, found = analysed(Residual(), tmp_path / "net.onnx")
    before, inner, after = model.layers
    stem, conv1, conv2, last = found.reads
    dead = constants(model, {before: [0, 1, 2], inner: [0], after: [1, 2]})
    assert found.reads[conv1].live(dead) == pytest.approx(0.7)
    assert found.reads[conv2].live(dead) == pytest.approx(0.9)
    assert found.makes[conv2].live(dead) == pytest.approx(0.8)
    assert found.reads[last].live(dead) == pytest.approx(0.8)
    # A pixel of the stem is read by the first activation alone.
    assert found.makes[stem].live(dead) == pytest.approx(0.7)


class Branches(nn.Module):
    """Sums and concatenations of activations, one of which the output reads itself."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.joined, self.last = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 1)
        self.a, self.b, self.c = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, 4)."""
        a, b = self.a(self.left(x)), self.b(self.right(x))
        c = self.c(self.joined(torch.cat([a, b], 1)))
        return (self.last(a + c) + c).mean((2, 3))


def test_branches(tmp_path: Path) -> None:
    """Channels keep their place in concatenations; in a sum, both activations count."""
    model, found = analysed(Branches(), tmp_path / "net.onnx")
    _, _, joined, last = found.reads
    dead = constants(model, {"a": [0, 1, 2], "b": [3], "c": [0, 3]})
    assert found.reads[joined].live(dead) == pytest.approx(0.5)
    assert found.reads[last].live(dead) == pytest.approx(0.75)
    assert found.makes[joined].live(dead) == pytest.approx(0.5)
    assert found.makes[last].live(dead) == 1
    assert found.reads[last].shares[frozenset({("a", 1), ("c", 1)})] == 0.25


def test_all_dead() -> None:
    """No share is left where every channel is constant."""
    side = Channels.of([frozenset({("a", c)}) for c in range(3)])
    assert side.live({"a": [True] * 3}) == pytest.approx(0)
    assert side.live({"a": [True, False, True]}) == pytest.approx(1 / 3)
    assert Channels.of([None, frozenset({("a", 0)})]).live({"a": [True]}) == 0.5


def test_wrong_layers(tmp_path: Path) -> None:
    """A file of another network is refused."""
    model, _ = analysed(Plain(), tmp_path / "net.onnx")
    with pytest.raises(ValueError, match="expected the activation layers other"):
        structure(tmp_path / "net.onnx", ["other"])
    assert Plan.uniform({n: x.channels for n, x in model.layers.items()}, 1).channels == 35
