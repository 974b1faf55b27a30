"""Planning from start to end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from problems import Small, labelled
from safenet_planner import (
    LAN,
    Plan,
    Problem,
    Recipe,
    Result,
    Settings,
    accuracy,
    api,
    plan,
)
from safenet_planner.training import train

pytest.importorskip("matplotlib")

TRAINING, VALIDATION = labelled(256, 1), labelled(128, 2)


def run(network: Small, posed: Problem, folder: Path, **named: Any) -> Result:
    """`plan` with a short recipe and known costs."""
    options: dict[str, Any] = {
        "epochs": 2, "seed": 3, "workdir": folder, "cost": posed.cost, "link": LAN, **named
    }  # fmt: skip
    return plan(network, TRAINING, VALIDATION, **options)


def test_budget(network: Small, posed: Problem, tmp_path: Path) -> None:
    """Everything there should be, and as it says."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    budget = 0.5 * posed.relu_s
    lines: list[str] = []
    result = run(network, posed, tmp_path, budget=budget, progress=lines.append)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert result.latency_s == posed.seconds(result.plan) <= budget
    assert result.model.current_plan() == result.plan
    assert result.accuracy == accuracy(result.model, VALIDATION) > 0.5
    assert Plan.from_json(tmp_path / "plan.json") == result.plan
    for start in ("observing", "searching", "found", "fine-tuning: epoch 2 of 2", "accuracy"):
        assert any(line.startswith(start) for line in lines)
    page = result.report_path.read_text(encoding="utf-8")
    assert f"{result.accuracy:.2%}" in page
    assert all((tmp_path / name).is_file() for name in ("curve.png", "kinds.png", "training.png"))
    tuned, untuned = result.curve
    outcomes = {(p.latency_s, p.accuracy) for p in tuned.points}
    assert (result.latency_s, result.accuracy) in outcomes
    assert (posed.relu_s, accuracy(network, VALIDATION)) in outcomes
    assert len(untuned.points) > 3
    total = sum(o.total for o in result.outside.values())
    assert total == sum(
        128 * posed.layers[name].positions * sum(k > 0 for k in kinds)
        for name, kinds in result.plan.layers.items()
    )
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(result.onnx_path), providers=["CPUExecutionProvider"])
    x = VALIDATION[0][0]
    (scores,) = session.run(None, {"image": x.numpy()})
    with torch.no_grad():
        assert np.allclose(scores, result.model(x).numpy(), atol=1e-4)


def test_goes_on(
    network: Small, posed: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the midst of fine-tuning it ends as if it had not been."""
    budget = 0.5 * posed.relu_s
    whole = run(network, posed, tmp_path / "whole", budget=budget)

    def stop(text: str) -> None:
        if text.startswith("fine-tuning: epoch 1"):
            raise KeyboardInterrupt

    folder = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        run(network, posed, folder, budget=budget, progress=stop)
    lines: list[str] = []
    result = run(network, posed, folder, budget=budget, progress=lines.append)
    assert [x[:20] for x in lines if x.startswith("fine")] == ["fine-tuning: epoch 2"]
    assert (result.plan, result.accuracy) == (whole.plan, whole.accuracy)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, result.model.state_dict()[name])
    # A third time nothing is left to be done.
    again = run(network, posed, folder, budget=budget, progress=lines.append)
    assert sum(x.startswith("fine") for x in lines) == 1
    assert (again.accuracy, again.curve) == (result.accuracy, result.curve)


def test_random_seed_is_kept(network: Small, posed: Problem, tmp_path: Path) -> None:
    """Without a seed one is drawn, and a later call goes on with the same."""
    options = {"budget": 0.6 * posed.relu_s, "seed": None, "method": "random", "epochs": 1}
    first = run(network, posed, tmp_path / "a", **options)
    again = run(network, posed, tmp_path / "a", **options)
    other = run(network, posed, tmp_path / "b", **options)
    assert first.plan == again.plan != other.plan
    (tmp_path / "a" / "run.json").write_text("[]")
    with pytest.raises(ValueError, match=r"run\.json: expected what an earlier run left"):
        run(network, posed, tmp_path / "a", **options)


def test_floor(network: Small, posed: Problem, tmp_path: Path) -> None:
    """The quickest of the plans that keep the accuracy, those before the first that does not."""
    result = run(network, posed, tmp_path, floor=0.8)
    assert result.accuracy >= 0.8
    points = sorted(result.curve[0].points, key=lambda p: -p.latency_s)[1:]
    assert len(points) >= 2
    assert all(p.accuracy >= 0.8 for p in points[:-1])
    kept = [p for p in points if p.accuracy >= 0.8]
    assert result.latency_s == kept[-1].latency_s


def test_floor_that_no_plan_keeps(
    network: Small, posed: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every channel keeps its ReLU if planning costs too much; more cannot be asked for."""
    reference = accuracy(network, VALIDATION)
    with pytest.raises(ValueError, match="floor: expected at most 0."):
        run(network, posed, tmp_path, floor=min(1.0, reference + 0.01))
    ruined = Recipe(rate=3.0, clip=1e9, warm=0.0, temperature=0.1)
    result = run(network, posed, tmp_path, floor=reference, recipe=ruined, epochs=1)
    assert result.plan == posed.relu_plan
    assert (result.accuracy, result.latency_s) == (reference, posed.relu_s)


@pytest.mark.parametrize("method", ["tree", "delphi", "differentiable"])
def test_methods(method: str, network: Small, posed: Problem, tmp_path: Path) -> None:
    """Trials are a curve of their own, and are kept in the folder."""
    settings = Settings(steps=2, population=2, generations=1, epochs=1)
    budget = 0.8 * posed.relu_s
    result = run(
        network, posed, tmp_path, budget=budget, method=method, epochs=1, settings=settings
    )
    names = [curve.name for curve in result.curve]
    assert names == [method, f"{method}, trials", "selection, before fine-tuning"]
    assert len(result.curve[1].points) == len(result.found.trials) > 0
    assert list((tmp_path / "search").glob(f"{method}-*/*"))


def test_measured_costs(
    network: Small, posed: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Costs that are not given are measured, over the link, with the command that is given."""
    seen: dict[str, Any] = {}

    def measure(model: Any, images: Any, link: Any, safenet: Any, folder: Any, **named: Any) -> Any:
        seen.update(layers=set(model.layers), count=len(images), link=link, safenet=safenet)
        return posed.cost

    monkeypatch.setattr(api, "measure", measure)
    options = {"cost": None, "safenet": "/s", "link": "wan", "epochs": 1}
    run(network, posed, tmp_path, budget=1.0, **options)
    assert seen["layers"] == set(posed.layers)
    assert (seen["count"], seen["safenet"], seen["link"].name) == (api.IMAGES, "/s", "wan")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "a budget or a floor"),
        ({"budget": 1.0, "floor": 0.5}, "a budget or a floor"),
        ({"budget": -1.0}, "budget: expected a positive number"),
        ({"budget": math.inf}, "budget: expected a positive number"),
        ({"floor": 85.0}, "floor: expected an accuracy from 0 to 1"),
        ({"budget": 1.0, "method": "best"}, "method: expected one of selection"),
        ({"budget": 1e-9}, "budget: expected at least"),
        ({"budget": 1.0, "link": "moon"}, "expected a link"),
        ({"budget": 1.0, "epochs": 0}, "at least 1 epoch"),
    ],
)
def test_wrong_goals(
    changes: dict[str, Any], message: str, network: Small, posed: Problem, tmp_path: Path
) -> None:
    """Refused, with what was expected."""
    with pytest.raises(ValueError, match=message):
        run(network, posed, tmp_path, **changes)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (iter(TRAINING), "train_loader: expected batches that can be iterated over many times"),
        (5, "train_loader: expected batches"),
        ([], "train_loader: expected at least one batch"),
        ([torch.zeros(2, 3)], "train_loader: expected at least one batch"),
    ],
)
def test_wrong_loaders(training: Any, message: str, network: Small, tmp_path: Path) -> None:
    """Refused before anything is measured."""
    with pytest.raises(ValueError, match=message):
        plan(network, training, VALIDATION, budget=1.0, workdir=tmp_path)


def test_teacher_only_for_those_who_distil(
    network: Small, posed: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual recipe learns from the original network, Delphi's from labels alone."""
    teachers: dict[float, bool] = {}

    def spy(model: Any, training: Any, validation: Any, recipe: Recipe, **named: Any) -> Any:
        if named.get("checkpoint"):
            teachers[recipe.distil] = named["teacher"] is not None
        return train(model, training, validation, recipe, **named)

    monkeypatch.setattr("safenet_planner.search.start.train", spy)
    settings = Settings(steps=1, population=2, generations=1)
    for method in ("layerwise", "delphi"):
        run(
            network, posed, tmp_path, budget=0.8 * posed.relu_s, method=method, epochs=1,
            settings=settings,
        )  # fmt: skip
    assert teachers == {Recipe().distil: True, 0.0: False}
