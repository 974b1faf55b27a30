"""What plans are predicted to cost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from costs import made_up
from safenet_planner import KINDS, RELU, Plan
from safenet_planner.channels import Channels
from safenet_planner.cost import (
    BROADBAND,
    LAN,
    LOOPBACK,
    Check,
    Cost,
    CostModel,
    Link,
    silent_starts,
)
from safenet_planner.safenet import Settings


def test_latency() -> None:
    """Preparing overlaps, online work does not; links add round trips and bytes."""
    cost = Cost(0.1, 0.2, 0.5, 0.03, 1e6, 2e6, 3e5, 1e5, 1, 20)
    assert cost.latency(LOOPBACK) == pytest.approx(0.1 + 0.5 + 0.03)
    assert cost.prepare_s == pytest.approx(0.6)
    link = Link(0.01, 16e6)
    assert cost.prepare_latency(link) == pytest.approx(0.01 + 0.1 + 0.5 + 1.0)
    assert cost.online_latency(link) == pytest.approx(0.2 + 0.03 + 0.2)
    doubled = cost + cost
    assert doubled == 2 * cost == cost * 2
    assert doubled.online_bytes == 8e5


def test_predict() -> None:
    """Every part of the model, added up by hand."""
    plan = Plan({"a": (RELU, 1, 0, 0), "b": (3, 0)})
    cost = made_up().predict(plan)
    client = 1e-3 + 5e-3 + 1000 * 2e-6 + 1000 * 1e-7 + 500 * 1e-6
    shares = {party: [] for party in (0.2, 0.6)}
    for product, values in shares.items():
        for reads, makes in ((1, 0.5), (0.5, 0.5), (0.5, 1)):
            values.append(product * reads * makes + (1 - product) * (reads + makes) / 2)
    client += sum(s * share for s, share in zip((4e-3, 2e-3, 1e-3), shares[0.2], strict=True))
    assert cost.ahead_s == pytest.approx(0.3 * client)
    assert cost.client_s == pytest.approx(0.7 * client)
    server = 2e-3 + 7e-3 + 1000 * 3e-6 + 1000 * 2e-7 + 500 * 9e-7
    server += sum(s * share for s, share in zip((9e-3, 5e-3, 2e-3), shares[0.6], strict=True))
    assert cost.server_s == pytest.approx(server)
    assert cost.online_rounds == 2 + 3 + 2
    assert cost.prepare_rounds == 1
    up = 1000 + 500 + 1000 + 30 * 500 + 8000 + (8000 - 3500) + (800 - 400)
    assert cost.prepare_up == pytest.approx(up)
    down = 4 * 2500 + (6000 - 2000) + (6000 - 2500) + 600
    assert cost.prepare_down == pytest.approx(down)
    assert cost.online_up == pytest.approx(40 * 1000 + 16 * 1000 + 32 * 500)


def test_constants_everywhere() -> None:
    """A plan of constants computes no inner layer, but still has what is fixed."""
    model = made_up()
    cost = model.predict(Plan.uniform({"a": 4, "b": 2}, 0))
    # The first layer has no live output, the last no live input.
    assert cost.ahead_s + cost.client_s == pytest.approx(1e-3)
    assert cost.server_s == pytest.approx(2e-3)
    assert cost.online_rounds == 2


@pytest.mark.parametrize("link", [LOOPBACK, LAN, BROADBAND])
def test_channel_costs(link: Link) -> None:
    """Exchanging one channel's kind changes the latency by the difference of its costs."""
    model = made_up()
    everywhere = Plan.uniform({"a": 4, "b": 2}, RELU)
    costs = model.channel_costs(link, at=everywhere)
    assert {name: tuple(table.shape) for name, table in costs.items()} == {"a": (4, 5), "b": (2, 5)}
    whole = model.predict(everywhere).latency(link)
    for name in ("a", "b"):
        for index, kind in enumerate(KINDS):
            kinds = (kind, *everywhere.layers[name][1:])
            other = Plan({**everywhere.layers, name: kinds})
            change = model.predict(other).latency(link) - whole
            assert change == pytest.approx(
                float(costs[name][0, index] - costs[name][0, 0]), rel=1e-6, abs=1e-9
            )
    assert (costs["a"][:, :-1] > 0).all()
    assert (costs["a"][:, -1] == 0).all()


def test_channel_costs_of_phases() -> None:
    """The two phases add up, and weights scale them."""
    model = made_up()
    both = model.channel_costs()
    prepare = model.channel_costs(prepare=1, online=0)
    online = model.channel_costs(prepare=0, online=1)
    half = model.channel_costs(prepare=0.5, online=0.5)
    for name in both:
        assert torch.allclose(both[name], prepare[name] + online[name])
        assert torch.allclose(both[name], 2 * half[name])


def test_shared_channels() -> None:
    """Activations that keep a channel alive together share its cost."""
    model = made_up()
    joint = Channels({frozenset({("a", 0), ("b", 0)}): 1.0})
    linear = replace(model.linear["two"], reads=joint, makes=Channels({}))
    alone = replace(model, linear={})
    together = replace(model, linear={"two": linear})
    added = together.channel_costs()["a"] - alone.channel_costs()["a"]
    same = together.channel_costs()["b"] - alone.channel_costs()["b"]
    assert torch.allclose(added[0, :4], same[0, :4])
    assert (added[0, :4] > 0).all()
    assert (added[1:] == 0).all()
    half = together.predict(Plan({"a": (0, 1, 1, 1), "b": (1, 1)}))
    none = together.predict(Plan({"a": (0, 1, 1, 1), "b": (0, 1)}))
    assert half.prepare_up - none.prepare_up == pytest.approx(7000)


def test_round_costs() -> None:
    """Round trips of the deepest kind, each with the link's time and the wait."""
    costs = made_up().round_costs(Link(0.01))
    assert costs["a"].tolist() == pytest.approx([3 * 0.0101, 2 * 0.0101, 2 * 0.0101, 0.0101, 0])


def test_layer_cost() -> None:
    """Layers' parts and what is there once add up to the whole but for linear layers."""
    model = replace(made_up(), linear={})
    plan = Plan({"a": (RELU, 3, 2, 0), "b": (1, 2)})
    total = model.predict(plan)
    first, second = (model.layer_cost(plan, name) for name in plan.layers)
    both = first + second
    once = model.parts[:, 0] + model.parts[:, 1]
    assert both.ahead_s + both.client_s + once[0] == pytest.approx(total.ahead_s + total.client_s)
    assert both.server_s + once[1] == pytest.approx(total.server_s)
    assert both.online_bytes + once[5] + once[6] == pytest.approx(total.online_bytes)
    assert both.prepare_up + once[3] == pytest.approx(total.prepare_up)
    assert (first.online_rounds, second.online_rounds, total.online_rounds) == (3, 2, 7)


def test_silent_start() -> None:
    """The round trip that the silent extension begins with, where it pays."""
    relus = np.array([25_000.0, 0, 0, 0])
    assert silent_starts(relus, Settings())
    assert not silent_starts(relus, Settings(ot="4"))
    assert not silent_starts(relus / 2, Settings())
    assert silent_starts(relus / 2, Settings(batch=2))
    assert silent_starts(np.array([0, 0, 0, 90_000.0]), Settings())
    assert not silent_starts(np.array([0, 0, 0, 80_000.0]), Settings())


@pytest.mark.parametrize("link", [LOOPBACK, BROADBAND, Link(0.005, 1e9, "ours")])
def test_file(tmp_path: Path, link: Link) -> None:
    """What is written is read, and predicts the same."""
    model = made_up(link)
    model.to_json(tmp_path / "cost.json")
    found = CostModel.from_json(tmp_path / "cost.json")
    assert found.as_dict() == model.as_dict()
    assert found.link == link
    assert found.check == model.check
    plan = Plan({"a": (RELU, 3, 2, 0), "b": (1, 2)})
    assert found.predict(plan) == model.predict(plan)


def _broken(change: Callable[[dict[str, Any]], object]) -> str:
    found = json.loads(json.dumps(made_up().as_dict()))
    change(found)
    return json.dumps(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected a cost model in JSON"),
        ("[1]", "expected an object of format"),
        (_broken(lambda d: d.update(format="safenet-plan")), "got 'safenet-plan'"),
        (_broken(lambda d: d.update(version=9)), "expected version 1, got 9"),
        (_broken(lambda d: d.pop("parts")), "lacks 'parts'"),
        (_broken(lambda d: d["layers"]["a"].update(channels=0)), "at least 1 channel, got 0"),
        (_broken(lambda d: d["layers"]["a"]["work"].pop("-1")), "a: expected kinds"),
        (_broken(lambda d: d["layers"]["a"]["work"].update({"1": [1]})), "expected 4 numbers"),
        (_broken(lambda d: d["parts"]["online_s"].update(relu=-1)), "at least 0, got -1"),
        (_broken(lambda d: d["parts"]["online_s"].update(relu="x")), "a number, got 'x'"),
        (_broken(lambda d: d["parts"]["online_s"].update(relu=math.inf)), "a finite number"),
        (_broken(lambda d: d["link"].update(bits_per_s=0)), "a positive rate"),
        (_broken(lambda d: d["linear"]["two"]["reads"].append([1, ["a", 9]])), "channel below 4"),
        (_broken(lambda d: d["linear"]["two"]["reads"].append([1, ["x", 0]])), "got 'x'"),
        (_broken(lambda d: d.update(product=[1])), "not a valid cost model"),
        (_broken(lambda d: d.update(layers=3)), "not a valid cost model"),
    ],
)
def test_hostile_files(tmp_path: Path, text: str, message: str) -> None:
    """Files that are something else are refused, with their name and what is wrong."""
    path = tmp_path / "cost.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"cost\.json: ") as error:
        CostModel.from_json(path)
    assert message in str(error.value)


def test_wrong_plan() -> None:
    """A plan of another network is refused."""
    with pytest.raises(ValueError, match="of another network: channels expected and got, b: 2"):
        made_up().predict(Plan({"a": (1, 1, 1, 1)}))
    with pytest.raises(ValueError, match="a: 4 and 5"):
        made_up().predict(Plan({"a": (1,) * 5, "b": (1, 1)}))


def test_links() -> None:
    """Presets and numbers; anything else is refused."""
    assert Link.parse("lan") == LAN
    assert Link.parse("20,100") == Link(0.02, 1e8, "20,100")
    assert str(LOOPBACK) == "loopback (0 ms, no limit)"
    assert str(BROADBAND) == "broadband (20 ms, 100 Mbit/s)"
    for text in ("moon", "20", "20,0", "-1,5", "nan,5", "1,2,3", ""):
        with pytest.raises(ValueError, match="expected a link"):
            Link.parse(text)


def test_check() -> None:
    """The error of a prediction counts both phases together."""
    assert Check(1.0, 0.5, 1.25, 0.25).error == 0
    assert Check(2.0, 1.0, 1.25, 0.25).error == 1
