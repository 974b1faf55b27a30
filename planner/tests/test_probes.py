"""Measuring a model of costs: on a stand-in with known costs, and on the real command."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fake_safenet import AHEAD, PRODUCT, SECONDS, WAIT, FakeSafenet, random_plan
from networks import Plain, Residual, images, mixed, settled
from safenet_planner import Plan, instrument
from safenet_planner.cost import BROADBAND, LAN, LOOPBACK, OPERATIONS, CostModel, Link
from safenet_planner.probes import fit_in_passing, measure, non_negative, probe_plans
from safenet_planner.safenet import Safenet, SafenetError, Settings, find


@pytest.mark.parametrize("link", [LOOPBACK, LAN, BROADBAND])
def test_recovers_costs(tmp_path: Path, link: Link) -> None:
    """Whatever follows the model's form is found exactly, and so is what other plans cost."""
    batch = images(8)
    planned = instrument(settled(Plain(), batch), batch[:1])
    fake = FakeSafenet(planned)
    seen: list[str] = []
    model = measure(planned, batch, link, fake, tmp_path, progress=seen.append)
    assert len(seen) == 7
    assert model.check is not None
    assert abs(model.check.error) < 0.01
    per_value = [SECONDS["client"][op] for op in OPERATIONS]
    assert model.parts[0, 2:] == pytest.approx(per_value, rel=1e-3)
    assert model.product == pytest.approx((PRODUCT, PRODUCT), abs=1e-3)
    assert model.overlap.ahead == pytest.approx(AHEAD, abs=0.02)
    assert model.overlap.wait_s == pytest.approx(WAIT, rel=0.01)
    for seed in (3, 4, 5):
        plan = Plan(random_plan(planned, seed))
        cost = model.predict(plan)
        truth = _truth(fake, planned, plan, batch, link, tmp_path)
        assert cost.online_rounds == truth["rounds_online"]
        for name, got in (
            ("prepare_bytes_up", cost.prepare_up),
            ("prepare_bytes_down", cost.prepare_down),
            ("online_bytes_up", cost.online_up),
            ("online_bytes_down", cost.online_down),
            ("prepare_s", cost.prepare_latency(link)),
            ("online_s", cost.online_latency(link)),
        ):
            assert got == pytest.approx(truth[name], rel=0.02), name


def _truth(
    fake: FakeSafenet, planned: object, plan: Plan, batch: torch.Tensor, link: Link, folder: Path
) -> dict[str, float]:
    from safenet_planner import PlannedModel, export

    assert isinstance(planned, PlannedModel)
    fit_in_passing(planned, plan, batch)
    export(planned, folder / "other.onnx", batch[:1])
    fake.compile(folder / "other.onnx", folder / "none", folder / "other.safenet")
    return fake.bench(folder / "other.safenet", link, 1)


def test_keeps_measurements(tmp_path: Path) -> None:
    """What was measured before is not measured again, unless something else is asked for."""
    batch = images(8)
    planned = instrument(settled(Residual(), batch), batch[:1])
    before = {key: value.clone() for key, value in planned.state_dict().items()}
    fake = FakeSafenet(planned)
    first = measure(planned, batch, LAN, fake, tmp_path, runs=2)
    assert fake.measured == 7
    again = measure(planned, batch, LAN, fake, tmp_path, runs=2)
    assert fake.measured == 7
    assert again.as_dict() == first.as_dict()
    (tmp_path / "thin.json").write_text("{")
    measure(planned, batch, LAN, fake, tmp_path, runs=2)
    assert fake.measured == 8
    measure(planned, batch, BROADBAND, fake, tmp_path, runs=2)
    assert fake.measured == 15
    after = planned.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    with pytest.raises(ValueError, match="at least 1 run"):
        measure(planned, batch, LAN, fake, tmp_path, runs=0)


def test_plans() -> None:
    """The plans that are measured have what solving needs."""
    plans = probe_plans({"a": 8, "b": 1, "c": 13})
    assert [plans[name].share(kind) for name, kind in (("relu", -1), ("cubic", 3))] == [1, 1]
    assert plans["halved"].layers["b"] == (-1,)
    assert plans["thin"].layers["a"] == (3, 0, 2, 0, 1, 0, 3, 0)
    assert {kind for kinds in plans["check"].layers.values() for kind in kinds} == {-1, 3, 2, 1, 0}


def test_fit_in_passing() -> None:
    """On the images it was fitted on no value is outside its range, however deep the plan."""
    batch = images(16)
    planned = instrument(settled(Residual(), batch), batch[:1])
    plan = mixed(planned)
    fit_in_passing(planned, plan, batch)
    assert planned.current_plan() == plan
    for layer in planned.activations().values():
        layer.counting = True
    with torch.no_grad():
        assert torch.isfinite(planned(batch)).all()
    for layer in planned.activations().values():
        assert layer.outside.total > 0
        assert layer.outside.farthest <= 1 + 1e-4
        assert (layer.q[layer.kinds == 3, 3] > 0).all()


def test_non_negative() -> None:
    """Least squares with bounds: exact where it can be, on the border where it must."""
    rng = np.random.default_rng(0)
    design = rng.uniform(0.5, 2, (9, 4))
    wanted = np.array([1.0, 0.0, 2e-6, 3.0])
    assert non_negative(design, design @ wanted) == pytest.approx(wanted, abs=1e-9)
    found = non_negative(design, design @ np.array([1.0, -0.2, 0.5, 0.3]))
    assert (found >= 0).all()
    assert found[1] == 0

    def error(x: np.ndarray) -> float:
        target = design @ np.array([1.0, -0.2, 0.5, 0.3])
        return float((((design @ x - target) / target) ** 2).sum())

    # No small step that stays non-negative is better.
    for step in 1e-3 * np.concatenate([np.eye(4), -np.eye(4)]):
        assert error(np.maximum(found + step, 0)) >= error(found) - 1e-12
    assert (non_negative(design, np.zeros(9)) == 0).all()


def _command() -> Path | None:
    try:
        return find()
    except SafenetError:
        built = Path(__file__).resolve().parents[2] / "target" / "release" / "safenet"
        return built if shutil.which(str(built)) else None


@pytest.mark.skipif(_command() is None, reason="the `safenet` command is not built")
def test_private_runs(tmp_path: Path) -> None:
    """Bytes and round trips online of a plan, foretold from real runs of others."""
    batch = images(16)
    planned = instrument(settled(Plain(), batch), batch[:1])
    command = Safenet(_command())
    model = measure(planned, batch, LOOPBACK, command, tmp_path, runs=1)
    check = Plan(probe_plans({n: x.channels for n, x in planned.layers.items()})["check"].layers)
    real = command.bench(tmp_path / "check.safenet", LOOPBACK, 1, Settings(), None)
    cost = model.predict(check)
    assert cost.online_rounds == real["rounds_online"]
    online = real["online_bytes_up"] + real["online_bytes_down"]
    assert cost.online_bytes == pytest.approx(online, rel=0.05)
    # Times are for idle machines; that they are found at all is what counts here.
    assert model.check is not None
    assert model.check.measured_prepare_s > 0
    assert cost.prepare_latency(LOOPBACK) > 0
    model.to_json(tmp_path / "cost.json")
    assert CostModel.from_json(tmp_path / "cost.json").as_dict() == model.as_dict()
