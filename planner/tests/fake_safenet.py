"""A stand-in for the `safenet` command whose costs are known exactly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from safenet_planner import KINDS, PlannedModel
from safenet_planner.channels import structure
from safenet_planner.cost import OPERATIONS, Link, pair_share
from safenet_planner.safenet import Safenet, Settings

SECONDS = {
    "client": {"relu": 3e-6, "cubic": 1.5e-6, "square": 1e-6, "linear": 1e-7},
    "server": {"relu": 4e-6, "cubic": 2e-6, "square": 8e-7, "linear": 2e-7},
    "online": {"relu": 5e-7, "cubic": 4e-7, "square": 3e-7, "linear": 1e-7},
}
BYTES = {"relu": 40, "cubic": 30, "square": 20, "linear": 10}
ROUNDS = {"relu": 3, "cubic": 2, "square": 2, "linear": 1, "zero": 0}
NAMES = dict(zip(KINDS, (*OPERATIONS, "zero"), strict=True))
FIXED, START, LINEAR, PRODUCT, AHEAD, WAIT = 2e-3, 5e-3, 4e-3, 0.5, 0.25, 1e-4
"""Seconds of the client that are always there, or with a ReLU; of a linear layer; the rest as in
`CostModel`."""


class FakeSafenet(Safenet):
    """Compiles nothing and measures what the numbers above say."""

    def __init__(self, model: PlannedModel) -> None:
        self.model = model
        self.measured = 0

    def compile(
        self, network: Path, calibration: Path, output: Path, options: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Keep the kinds and the live channels of a network."""
        proto = onnx.load(str(network))
        degrees = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
        kinds = {}
        for name, layer in self.model.layers.items():
            given = degrees.get(f"{name}.degree")
            kinds[name] = [-1] * layer.channels if given is None else given.flatten().tolist()
        constant = {name: [kind == 0 for kind in given] for name, given in kinds.items()}
        shape = structure(network, list(self.model.layers))
        rows = []
        for node in proto.graph.node:
            if node.name in shape.reads:
                sides = [s[node.name].live(constant) for s in (shape.reads, shape.makes)]
                rows.append({"name": node.name, "kind": "convolution", "live": sides})
            elif node.name in kinds:
                # The compiler names what it derives of a node after it.
                rows.append({"name": f"{node.name}.window", "kind": "window", "shape": [1, 1, 1]})
                channels = {NAMES[k]: kinds[node.name].count(k) for k in set(kinds[node.name])}
                positions = self.model.layers[node.name].positions
                shape_ = [len(kinds[node.name]), positions, 1]
                row = {"name": node.name, "kind": "activation", "shape": shape_}
                rows.append({**row, "channels": channels})
        output.write_text(json.dumps(rows))
        return {"layers": rows}

    def inspect(self, model: Path, settings: Settings | None = None) -> dict[str, Any]:
        """The layers."""
        return {"layers": json.loads(model.read_text()), "total": {}}

    def bench(
        self,
        model: Path,
        link: Link,
        runs: int,
        settings: Settings | None = None,
        images: Path | None = None,
    ) -> dict[str, Any]:
        """What the network costs."""
        self.measured += 1
        rows = json.loads(model.read_text())
        layers = [_row("(whole network)", "shared", 0, 0, 0, (900, 1100, 500, 40), 1)]
        relus = 0
        for row in rows:
            if row["kind"] == "convolution":
                reads, makes = row["live"]
                share = pair_share(PRODUCT, reads, makes) if reads and makes else 0
                sent = (round(8000 * reads), round(4000 * makes), 0, 0)
                seconds = (LINEAR * share, 2 * LINEAR * share, 1e-4 * share)
                layers.append(_row(row["name"], "convolution", *seconds, sent, 0))
                continue
            counts = row.get("channels", {})
            values = {op: counts.get(op, 0) * row["shape"][1] for op in OPERATIONS}
            relus += values["relu"]
            seconds = (sum(v * SECONDS[p][op] for op, v in values.items()) for p in SECONDS)
            sent = sum(n * BYTES[op] for op, n in values.items())
            traffic = (0, sent, 2 * sent, sent)
            rounds = max((ROUNDS[op] for op, count in counts.items() if count), default=0)
            layers.append(_row(row["name"], row["kind"], *seconds, traffic, rounds))
        layers[0]["client_prepare_s"] = FIXED + START * (relus > 0)
        total = {name: sum(layer[name] for layer in layers) for name in layers[0] if "_" in name}
        client, server = total["client_prepare_s"], total["server_prepare_s"]
        down = link.seconds(total["prepare_bytes_down"])
        answers = max(server, (1 - AHEAD) * client, down)
        asking = AHEAD * client + link.seconds(total["prepare_bytes_up"])
        online = total["client_online_s"] + total["server_online_s"]
        sent = total["online_bytes_up"] + total["online_bytes_down"]
        whole = {
            **{name: value for name, value in total.items() if "bytes" in name},
            "rounds_prepare": 1,
            "rounds_online": total["rounds_online"],
            "prepare_s": link.rtt_s + asking + answers,
            "online_s": online + link.seconds(sent) + total["rounds_online"] * (link.rtt_s + WAIT),
        }
        return {**whole, "layers": layers}


def _row(
    name: str,
    kind: str,
    client: float,
    server: float,
    online: float,
    traffic: tuple[int, int, int, int],
    rounds: int,
) -> dict[str, Any]:
    up, down, online_up, online_down = traffic
    return {
        "name": name,
        "kind": kind,
        "client_prepare_s": client,
        "server_prepare_s": server,
        "client_online_s": 0.25 * online,
        "server_online_s": 0.75 * online,
        "prepare_bytes_up": up,
        "prepare_bytes_down": down,
        "online_bytes_up": online_up,
        "online_bytes_down": online_down,
        "rounds_prepare": 0,
        "rounds_online": rounds,
    }


def random_plan(model: PlannedModel, seed: int) -> dict[str, tuple[int, ...]]:
    """Kinds in shares that differ by layer."""
    rng = np.random.default_rng(seed)
    return {
        name: tuple(int(k) for k in rng.choice(KINDS, layer.channels, p=rng.dirichlet(np.ones(5))))
        for name, layer in model.layers.items()
    }
