"""From PyTorch to the private result: the same network at every step.

A small network with all five kinds in every activation layer, in PyTorch, in onnxruntime, and
compiled and run by the `safenet` command: that of the environment variable SAFENET, else a build
beside the package, else the one in PATH. Without one the last steps are skipped, or fail if
SAFENET_TEST_ALL=1.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks import Plain, images, mixed
from safenet_planner import KINDS, PlannedModel, export, instrument, observe

ROOT = Path(__file__).resolve().parents[2]
SHOWN = 6
"""Images that run privately."""


def command() -> Path | None:
    """The `safenet` command, if there is one."""
    asked = os.environ.get("SAFENET")
    if asked:
        return Path(asked)
    for build in ("release", "debug"):
        path = ROOT / "target" / build / "safenet"
        if path.is_file():
            return path
    found = shutil.which("safenet")
    return Path(found) if found else None


@dataclass(frozen=True)
class Case:
    """A trained network and its file."""

    model: PlannedModel
    images: Tensor
    scores: Tensor
    folder: Path

    @property
    def network(self) -> Path:
        """The ONNX file."""
        return self.folder / "net.onnx"

    @property
    def size(self) -> float:
        """Difference of the largest and the smallest score."""
        return float(self.scores.max() - self.scores.min())


@pytest.fixture(scope="module", params=["1 colour, ReLU", "3 colours, ReLU", "3 colours, ReLU6"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Trained for a moment, planned, trained again."""
    torch.manual_seed(0)
    colours = int(request.param[0])
    activation = nn.ReLU6 if request.param.endswith("6") else nn.ReLU
    x = images(256, colours)
    # Classes that a small network can learn: which part of the image is brightest.
    labels = F.adaptive_avg_pool2d(x.mean(1, keepdim=True), (5, 1)).flatten(1).argmax(1)
    network = Plain(colours, activation)
    train(network, x, labels, 60)
    model = instrument(network, x[:1])
    model.apply(mixed(model), observe(model, x.split(64), 256))
    train(model, x, labels, 60)
    model.eval()
    for layer in model.activations().values():
        assert set(layer.kinds.tolist()) == set(KINDS)
    folder = tmp_path_factory.mktemp("exactness")
    export(model, folder / "net.onnx", x[:2])
    np.savez(folder / "calibration.npz", image=x.numpy())
    scores = model(x).detach()
    shown = {"image": x[:SHOWN].numpy(), "label": scores[:SHOWN].argmax(1).numpy()}
    np.savez(folder / "shown.npz", **shown)
    return Case(model, x, scores, folder)


def train(model: nn.Module, x: Tensor, labels: Tensor, steps: int) -> None:
    """A few steps on all images, keeping values within the fitted ranges."""
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        model.train()
        loss = F.cross_entropy(model(x), labels)
        layers = model.activations().values() if isinstance(model, PlannedModel) else []
        for layer in layers:
            assert layer.excess is not None
            loss = loss + layer.excess
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for layer in layers:
            layer.project()


def safenet(*arguments: object, plain: bool = False) -> Any:
    """Run a subcommand: the objects that it prints."""
    path = command()
    if path is None:
        if os.environ.get("SAFENET_TEST_ALL") == "1":
            pytest.fail("no `safenet` command: expected one in SAFENET, target or PATH")
        pytest.skip("no `safenet` command")
    line = [str(path), *map(str, arguments), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return (
        [json.loads(row) for row in done.stdout.splitlines()] if plain else json.loads(done.stdout)
    )


def test_onnx(case: Case) -> None:
    """Scores in onnxruntime are PyTorch's."""
    session = onnxruntime.InferenceSession(str(case.network), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"image": case.images.numpy()})
    assert np.abs(scores - case.scores.numpy()).max() <= 1e-4 * case.size


def test_private(case: Case) -> None:
    """The compiled network keeps to its bounds, and each private value is an allowed rounding."""
    compiled = case.folder / "net.safenet"
    report = safenet(
        "compile", case.network, "--calibration", case.folder / "calibration.npz", "-o", compiled
    )
    # The integer reference against real numbers, on all calibration images.
    output = report["output"]
    assert output["compared"] == len(case.images)
    assert output["overflows"] == 0
    assert output["max_error"] <= output["error_bound"]
    assert output["agreement"] >= 0.99
    activations = {k["name"]: k for k in report["layers"] if k["operation"] == "activation"}
    for layer in (*case.model.layers, "output"):
        whole = layer if layer in activations else f"{layer}/beyond"
        entry = activations[whole]["activation"]
        assert entry["snr_db"] >= entry["predicted_snr_db"] - 3
    for name, layer in case.model.activations().items():
        if layer.ceiling is None:
            kinds = activations[name]["activation"]["kinds"]
            found = {k["kind"]: k["channels"] for k in kinds}
            assert sum(found.values()) == layer.channels
            # A ReLU whose values are all on one side becomes a line or a constant.
            for kind, word in ((3, "cubic"), (2, "square")):
                assert found[word] == int((layer.kinds == kind).sum())

    accuracy = safenet("accuracy", compiled, case.folder / "shown.npz")
    assert accuracy["total"] == SHOWN
    assert accuracy["overflows"] == 0

    # Exit status 0: every private value of every layer is an allowed rounding.
    shown = case.folder / "shown.npz"
    runs = safenet(
        "debug", compiled, shown, "--network", case.network, "--limit", SHOWN, plain=True
    )
    about = safenet("inspect", compiled, "--images", shown)
    unit = 2.0 ** -about["output_fraction_bits"]
    interval = about["rounding"]["interval_ulp"]
    private = np.array([run["answer"] for run in runs])
    assert private.shape == (SHOWN, 5)
    for run in runs:
        assert run["layers"][-1]["distance_ulp"] <= interval
    # Against PyTorch: the compiler's error and the rounding interval.
    difference = np.abs(private * unit - case.scores[:SHOWN].numpy()).max()
    assert difference <= output["max_error"] + unit * interval + 1e-4 * case.size
    real = case.scores[:SHOWN].numpy()
    snr = 10 * np.log10((real**2).sum() / ((private * unit - real) ** 2).sum())
    assert snr >= activations["output"]["activation"]["predicted_snr_db"] - 3
    agree = int((private.argmax(1) == real.argmax(1)).sum())
    gaps = np.sort(real, axis=1)
    sure = (gaps[:, -1] - gaps[:, -2]) > 2 * difference
    assert agree >= int(sure.sum())
    assert accuracy["right"] >= int(sure.sum())
    assert sure.any()
