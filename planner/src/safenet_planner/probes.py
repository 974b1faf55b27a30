"""Measuring a `CostModel`: private runs of a few plans of the user's own network.

What the polynomials are does not matter to costs, only their degrees and the widths that the
compiler finds for them. So nothing is trained: each probe's polynomials are fitted to what its
channels receive on the calibration images, layer after layer.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from safenet_planner.activation import ChannelActivation
from safenet_planner.channels import Structure, structure
from safenet_planner.cost import (
    LAN,
    OPERATIONS,
    QUANTITIES,
    Array,
    Check,
    CostModel,
    LayerCost,
    LinearCost,
    Link,
    Overlap,
    pair_share,
    silent_starts,
)
from safenet_planner.export import export
from safenet_planner.kinds import KINDS, RELU
from safenet_planner.plans import Plan
from safenet_planner.safenet import Safenet, SafenetError, Settings
from safenet_planner.tracing import PlannedModel

CONVOLUTIONS = {"convolution", "grouped convolution", "dense"}
"""What `safenet bench` calls the linear layers that cost ciphertexts."""

UNIFORM = {RELU: "relu", 3: "cubic", 2: "square", 1: "linear"}
"""The probes in which every channel has the same kind."""

TRAFFIC = ("prepare_bytes_up", "prepare_bytes_down", "online_bytes_up", "online_bytes_down")
SAMPLES = 4096
"""Values of a channel that a polynomial is fitted to, at most."""
IMAGES = 64
"""Calibration images used, at most: ranges need not be exact here."""

Progress = Callable[[str], None]


def probe_plans(layers: Mapping[str, int]) -> dict[str, Plan]:
    """The plans that are measured; `layers` has numbers of channels.

    Four uniform ones; `halved`, where every other channel is a constant and the others are ReLU;
    `thin`, where every other one is a constant and the others take turns at degrees 3, 2 and 1; and
    `check`, of random kinds in shares that differ by layer, which is for checking only.
    """

    def alternating(kinds: tuple[int, ...]) -> Plan:
        turns = {
            name: tuple(0 if c % 2 else kinds[c // 2 % len(kinds)] for c in range(channels))
            for name, channels in layers.items()
        }
        return Plan(turns)

    rng = np.random.default_rng(1)
    drawn = {
        name: tuple(int(k) for k in rng.choice(KINDS, channels, p=rng.dirichlet(np.ones(5))))
        for name, channels in layers.items()
    }
    plans = {name: Plan.uniform(layers, kind) for kind, name in UNIFORM.items()}
    halves = {"halved": alternating((RELU,)), "thin": alternating((3, 2, 1))}
    return {**plans, **halves, "check": Plan(drawn)}


@torch.no_grad()
def fit_in_passing(model: PlannedModel, plan: Plan, images: Tensor) -> None:
    """Give `model` the plan, each polynomial fitted to what its channel gets on `images`.

    One pass, in which a layer is fitted before it is executed: its input is that of the planned
    network, so no value lies outside of the fitted ranges on these images, whatever the plan.
    """
    handles = []

    def hook(kinds: tuple[int, ...]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def before(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(layer, ChannelActivation)
            layer.plan(torch.tensor(kinds), *_fit(inputs[0], kinds))

        return before

    for name, layer in model.activations().items():
        handles.append(layer.register_forward_pre_hook(hook(plan.layers[name])))
    try:
        model.eval()
        model(images)
    finally:
        for handle in handles:
            handle.remove()


def _fit(x: Tensor, kinds: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Least-squares fits to ReLU, and ranges of all values: low (C,), high (C,), q (C, 4)."""
    values = x.detach().movedim(1, 0).flatten(1).double()
    low, high = values.amin(1), values.amax(1)
    flat = high - low < 1e-3
    low, high = torch.where(flat, low - 0.5, low), torch.where(flat, high + 0.5, high)
    middle, radius = ((low + high) / 2)[:, None], ((high - low) / 2)[:, None]
    values = values[:, :: -(-values.shape[1] // SAMPLES)]
    u, target = (values - middle) / radius, values.clamp(min=0) / radius
    powers = torch.stack([torch.ones_like(u), u, u * u, u * u * u], 2)
    powers = powers * (torch.arange(4)[None] <= torch.tensor(kinds)[:, None])[:, None]
    gram = powers.transpose(1, 2) @ powers / values.shape[1]
    moment = (powers * target[:, :, None]).mean(1)
    q = torch.linalg.solve(gram + 1e-6 * torch.eye(4, dtype=torch.float64), moment[..., None])
    q = q[..., 0]
    # The compiler takes no cubic with a negative leading coefficient before a maximum.
    q[:, 3] = q[:, 3].abs()
    # Any constant costs the same; some others find no scale beside a ReLU with a ceiling.
    q[torch.tensor(kinds) == 0] = 0
    return low.float(), high.float(), q.float()


@dataclass(frozen=True)
class Probe:
    """A plan, as it was measured."""

    name: str
    plan: Plan
    structure: Structure
    rows: list[dict[str, Any]]
    """Layers of `safenet bench --json`, first what belongs to none, each with `node`, the node of
    the exported network that it comes from, `shape`, and `channels` by operation."""
    whole: dict[str, Any]

    def linear(self) -> dict[str, dict[str, Any]]:
        """Rows of the linear layers that stand in the exported network."""
        rows = (row for row in self.rows if row["kind"] in CONVOLUTIONS)
        return {row["node"]: row for row in rows if row["node"] in self.structure.reads}

    def owned(self, layer: str) -> list[dict[str, Any]]:
        """Rows whose cost is decided by the kinds of an activation layer."""
        return [row for row in self.rows if self._owner(row) == layer]

    def _owner(self, row: dict[str, Any]) -> str | None:
        if row["kind"] in CONVOLUTIONS or row["kind"] == "shared":
            return None
        return self.structure.owners.get(row["node"])

    def work(self) -> Array:
        """Values of each of `OPERATIONS` in the activation layers."""
        return sum((_work(row) for row in self.rows if self._owner(row)), np.zeros(4))

    def computing(self) -> Array:
        """Seconds in all, as the first rows of `QUANTITIES`."""
        return sum((_seconds(row) for row in self.rows), np.zeros(3))

    def rest(self) -> Array:
        """By `QUANTITIES`: seconds but those of linear layers; bytes that no layer has."""
        total = np.zeros(len(QUANTITIES))
        linear = self.linear()
        for row in self.rows:
            if row["node"] in linear and row["kind"] in CONVOLUTIONS:
                continue
            total[:3] += _seconds(row)
            if not self._owner(row):
                total[3:] += [row[name] for name in TRAFFIC]
        return total


def _seconds(row: Mapping[str, Any]) -> Array:
    online = row["client_online_s"] + row["server_online_s"]
    return np.array([row["client_prepare_s"], row["server_prepare_s"], online])


def _work(row: Mapping[str, Any]) -> Array:
    """Values of each of `OPERATIONS`; the maximum of two values costs what a ReLU does."""
    shape = row.get("shape", [])
    if row["kind"] == "maximum":
        return np.array([float(np.prod(shape)), 0, 0, 0])
    counts = row.get("channels", {})
    unknown = set(counts) - {*OPERATIONS, "zero"}
    if unknown:
        raise SafenetError(f"`safenet inspect`, {row['name']}: unknown kinds {sorted(unknown)}")
    return np.prod(shape[1:]) * np.array([float(counts.get(name, 0)) for name in OPERATIONS])


def measure(
    model: PlannedModel,
    images: Tensor,
    link: Link = LAN,
    safenet: Safenet | Path | str | None = None,
    workdir: Path | str = "cost",
    *,
    runs: int = 3,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> CostModel:
    """Measure what plans of `model` cost over `link`.

    `images` are typical inputs, (N, C, H, W). Seven plans are compiled and run `runs` times each;
    six are fitted, the seventh is what `CostModel.check` holds the model against. Files, among
    them each measurement, are kept in `workdir`; a measurement of the same network, link and
    settings that is there already is not made again.
    """
    if runs < 1:
        raise ValueError(f"expected at least 1 run, got {runs}")
    command = safenet if isinstance(safenet, Safenet) else Safenet(safenet)
    settings, folder = settings or Settings(), Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    images = images[:IMAGES].detach().cpu().float()
    calibration = folder / "calibration.npz"
    np.savez(calibration, image=images.numpy())
    plans = probe_plans({name: layer.channels for name, layer in model.layers.items()})
    probes = {}
    for number, (name, plan) in enumerate(plans.items(), 1):
        if progress:
            progress(f"measuring plan {number} of {len(plans)}: {name}")
        planned = copy.deepcopy(model).cpu()
        fit_in_passing(planned, plan, images)
        network = folder / f"{name}.onnx"
        export(planned, network, images[:1])
        probes[name] = _run(name, plan, network, calibration, command, link, runs, settings)
    return solve(probes, link, settings)


def _run(
    name: str,
    plan: Plan,
    network: Path,
    calibration: Path,
    command: Safenet,
    link: Link,
    runs: int,
    settings: Settings,
) -> Probe:
    """Compile and measure a network, or take what was measured before."""
    kept, compiled = network.with_suffix(".json"), network.with_suffix(".safenet")
    digest = hashlib.sha256(network.read_bytes() + calibration.read_bytes())
    digest.update(json.dumps([asdict(link), asdict(settings), runs]).encode())
    try:
        found = json.loads(kept.read_text())
        fresh = found["key"] == digest.hexdigest()
    except (OSError, ValueError, KeyError, TypeError):
        fresh = False
    if not fresh:
        try:
            command.compile(network, calibration, compiled)
            found = {
                "key": digest.hexdigest(),
                "inspect": command.inspect(compiled, settings),
                "bench": command.bench(compiled, link, runs, settings, calibration),
            }
        except SafenetError as error:
            raise SafenetError(f"probe {name}: {error}") from error
        kept.write_text(json.dumps(found) + "\n")
    shape = structure(network, list(plan.layers))
    return Probe(name, plan, shape, _rows(found["inspect"], found["bench"], shape), found["bench"])


def _rows(
    inspected: Mapping[str, Any], measured: Mapping[str, Any], shape: Structure
) -> list[dict[str, Any]]:
    """Both reports' layers joined, which are the same and in the same order."""
    first, *others = measured["layers"]
    names = [layer["name"] for layer in inspected["layers"]]
    if first["kind"] != "shared" or names != [layer["name"] for layer in others]:
        raise SafenetError(
            "`safenet bench`: expected the layers of `safenet inspect`, and first what they share"
        )
    joined = [{**a, **b} for a, b in zip(inspected["layers"], others, strict=True)]
    nodes = {*shape.reads, *shape.owners}
    return [{**row, "node": _node(row["name"], nodes)} for row in [first, *joined]]


def _node(name: str, nodes: set[str]) -> str:
    """The node that a layer comes from: the compiler appends `.rescale` and the like."""
    short = name
    while short not in nodes and "." in short:
        short = short.rpartition(".")[0]
    return short if short in nodes else name


def solve(probes: Mapping[str, Probe], link: Link, settings: Settings) -> CostModel:
    """The model that explains the probes best, held against the one named `check`."""
    fitted = [probe for name, probe in probes.items() if name != "check"]
    relu = probes["relu"]
    layers = {
        name: _layer({kind: probes[label] for kind, label in UNIFORM.items()}, name)
        for name in relu.plan.layers
    }
    linear = _linear(fitted)
    model = CostModel(
        link=link,
        settings=settings,
        layers=layers,
        linear=linear,
        parts=_parts(fitted),
        product=_product(fitted, linear),
        overlap=_overlap(fitted, link),
        prepare_rounds=_prepare_rounds(fitted, settings),
        online_rounds=relu.whole["rounds_online"] - sum(x.rounds[RELU] for x in layers.values()),
    )
    if "check" not in probes:
        return model
    measured = probes["check"]
    predicted = model.predict(measured.plan)
    check = Check(
        predicted.prepare_latency(link),
        predicted.online_latency(link),
        measured.whole["prepare_s"],
        measured.whole["online_s"],
    )
    return CostModel(**{**model.__dict__, "check": check})


def _layer(uniform: Mapping[int, Probe], name: str) -> LayerCost:
    """An activation layer's costs from the probes in which all its channels are of one kind."""
    channels = len(uniform[RELU].plan.layers[name])
    work, traffic, rounds = {}, {}, {}
    for kind, probe in uniform.items():
        rows = probe.owned(name)
        total = sum((_work(row) for row in rows), np.zeros(len(OPERATIONS)))
        work[kind] = tuple((total / channels).tolist())
        traffic[kind] = tuple(sum(row[field] for row in rows) / channels for field in TRAFFIC)
        rounds[kind] = float(sum(row["rounds_online"] for row in rows))
    return LayerCost(channels, work, traffic, rounds)


def _sides(probe: Probe, name: str) -> tuple[float, float]:
    """Shares of a linear layer's input and output channels that the probe leaves live."""
    constant = {layer: [k == 0 for k in kinds] for layer, kinds in probe.plan.layers.items()}
    shape = probe.structure
    return shape.reads[name].live(constant), shape.makes[name].live(constant)


def _linear(probes: list[Probe]) -> dict[str, LinearCost]:
    """Linear layers: medians where all channels are live; bytes by the live channels."""
    whole = [probe for probe in probes if not probe.plan.share(0)]
    partial = [probe for probe in probes if probe.plan.share(0)]
    layers = {}
    for name in probes[0].linear():
        rows = [probe.linear()[name] for probe in whole if name in probe.linear()]
        if len(rows) < len(whole):
            continue

        def full(field: str, rows: list[dict[str, Any]] = rows) -> float:
            return float(median(row[field] for row in rows))

        def live(field: str, side: int, name: str = name, full: Any = full) -> float:
            """Bytes that go with the live channels, from what constants saved."""
            saved = []
            for probe in partial:
                share = _sides(probe, name)[side]
                row = probe.linear().get(name)
                if row and 0 < share < 1:
                    saved.append((full(field) - row[field]) / (1 - share))
            total = full(field)
            return min(max(median(saved), 0.0), total) if saved else total

        layers[name] = LinearCost(
            reads=probes[0].structure.reads[name],
            makes=probes[0].structure.makes[name],
            client_s=full("client_prepare_s"),
            server_s=full("server_prepare_s"),
            online_s=full("client_online_s") + full("server_online_s"),
            up=full("prepare_bytes_up"),
            down=full("prepare_bytes_down"),
            up_live=live("prepare_bytes_up", 0),
            down_live=live("prepare_bytes_down", 1),
        )
    return layers


def _product(probes: list[Probe], linear: Mapping[str, LinearCost]) -> tuple[float, float]:
    """The shares `CostModel.product` that explain the probes with constants, least squares."""
    found = []
    for field in ("client_prepare_s", "server_prepare_s"):
        numerator = denominator = 0.0
        for probe in (probe for probe in probes if probe.plan.share(0)):
            rest = slope = 0.0
            for name, row in probe.linear().items():
                if name in linear:
                    whole = linear[name].client_s if field[0] == "c" else linear[name].server_s
                    none, every = (pair_share(x, *_sides(probe, name)) for x in (0.0, 1.0))
                    rest += row[field] - whole * none
                    slope += whole * (every - none)
            numerator += rest * slope
            denominator += slope * slope
        share = numerator / denominator if denominator else 0.0
        found.append(float(min(max(share, 0.0), 1.0)))
    return found[0], found[1]


def _prepare_rounds(probes: list[Probe], settings: Settings) -> float:
    """Round trips of preparing, per inference, without the silent extension's."""
    began = (silent_starts(probe.work(), settings) / settings.batch for probe in probes)
    found = (p.whole["rounds_prepare"] - b for p, b in zip(probes, began, strict=True))
    return max(0.0, float(median(found)))


def _parts(probes: list[Probe]) -> Array:
    """`CostModel.parts`: non-negative, with the least squares of relative errors."""
    work = np.stack([probe.work() for probe in probes])
    ones = np.ones((len(probes), 1))
    design = np.concatenate([ones, work[:, :1] > 0, work], 1)
    targets = np.stack([probe.rest() for probe in probes], 1)
    return np.stack([non_negative(design, target) for target in targets])


def non_negative(design: Array, target: Array) -> Array:
    """The x >= 0 with the least sum of squares of (design x - target) / target.

    `design` is (rows, columns) of few columns: every set of columns is tried, as at the optimum
    some set's unconstrained solution is non-negative. Rows whose target is 0 count as they are.
    """
    weight = 1 / np.where(target > 0, target, 1.0)
    a, b = design * weight[:, None], target * weight
    size = np.abs(a).max(0)
    columns = np.flatnonzero(size > 0)
    best, least = np.zeros(design.shape[1]), float(b @ b)
    for count in range(1, len(columns) + 1):
        for subset in itertools.combinations(columns, count):
            chosen = list(subset)
            x = np.linalg.lstsq(a[:, chosen] / size[chosen], b, rcond=None)[0]
            error = float(((a[:, chosen] / size[chosen] @ x - b) ** 2).sum())
            # A larger set must explain more than rounding does.
            if (x >= 0).all() and error < least * (1 - 1e-9) - 1e-15:
                best, least = np.zeros(design.shape[1]), error
                best[chosen] = x / size[chosen]
    return best


def _overlap(probes: list[Probe], link: Link) -> Overlap:
    """The overlap with which the probes' own computing explains best, relatively, their times."""
    shares = np.linspace(0, 1, 201)
    errors = np.zeros(len(shares))
    numerator = denominator = 0.0
    for probe in probes:
        client, server, online = probe.computing()
        whole = probe.whole
        asked = whole["rounds_prepare"] * link.rtt_s + link.seconds(whole["prepare_bytes_up"])
        answers = np.maximum(server, link.seconds(whole["prepare_bytes_down"]))
        predicted = asked + shares * client + np.maximum(answers, (1 - shares) * client)
        errors += (predicted / max(whole["prepare_s"], 1e-9) - 1) ** 2
        rounds = whole["rounds_online"]
        sent = link.seconds(whole["online_bytes_up"] + whole["online_bytes_down"])
        unexplained = whole["online_s"] - online - rounds * link.rtt_s - sent
        numerator += rounds * unexplained / max(whole["online_s"], 1e-9) ** 2
        denominator += (rounds / max(whole["online_s"], 1e-9)) ** 2
    wait = numerator / denominator if denominator else 0.0
    return Overlap(float(shares[errors.argmin()]), max(0.0, wait))
