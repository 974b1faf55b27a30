"""The `safenet-plan` command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch.utils.data import DataLoader

from costs import made_up
from networks import Plain, images, settled
from safenet_planner import KINDS, RELU, Plan, instrument
from safenet_planner import cli as command
from safenet_planner.activation import Outside
from safenet_planner.cli import main, parser
from safenet_planner.cost import WAN, CostModel
from safenet_planner.probes import fit_in_passing
from safenet_planner.safenet import Settings

NETS = """
import sys
import torch
sys.path.insert(0, {tests!r})
from networks import Plain, images

def net():
    x, y = images(6), torch.arange(6) % 5
    return Plain().eval(), [(x, y)], [(x, y)]

def broken():
    raise KeyError("weights")

def two():
    return 1, 2

def no_module():
    return 1, [], []

number = 5
"""


def error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a failing command says."""
    assert main(list(words)) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    return last


@pytest.fixture()
def nets(tmp_path: Path) -> str:
    """A file with functions that return networks."""
    path = tmp_path / "nets.py"
    path.write_text(NETS.format(tests=str(Path(__file__).parent)))
    return str(path)


@pytest.fixture()
def plan_file(tmp_path: Path) -> Path:
    """A plan of the network whose costs `test_cost` makes up."""
    path = tmp_path / "plan.json"
    Plan({"a": (RELU, 3, 2, 0), "b": (1, 2)}).to_json(path)
    return path


@pytest.mark.parametrize("name", ["plan", "cost", "inspect", "compare"])
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command has a help text with examples, each of which parses."""
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    examples = [line for line in text.splitlines() if line.startswith(f"  safenet-plan {name} ")]
    assert len(examples) >= 2
    for example in examples:
        assert parser().parse_args(example.split()[1:]).command == name


@pytest.mark.parametrize(
    "words",
    [
        "",
        "plan nets.py:net --out d",
        "plan nets.py:net --out d --budget-ms 5 --accuracy-floor 0.5",
        "plan nets.py:net --out d --budget-ms 0",
        "plan nets.py:net --out d --accuracy-floor 85",
        "plan nets.py:net --out d --budget-ms 5 --link moon",
        "plan nets.py:net --out d --budget-ms 5 --epochs -1",
        "cost nets.py:net --out c.json --ot 3",
        "inspect",
    ],
)
def test_wrong_options(words: str) -> None:
    """The parser refuses, with status 2 as is usual."""
    with pytest.raises(SystemExit) as end:
        main(words.split())
    assert end.value.code == 2


def test_inspect(tmp_path: Path, plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Kinds and predicted costs, as text and as JSON."""
    assert main(["inspect", str(plan_file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["a", "4", "1", "1", "1", "0", "1"]
    assert lines[-1].split()[:3] == ["all", "6", "16.7"]
    made_up().to_json(tmp_path / "cost.json")
    words = ["inspect", str(plan_file), "--cost", str(tmp_path / "cost.json")]
    assert main([*words, "--link", "wan", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    cost = made_up().predict(Plan.from_json(plan_file))
    assert found["layers"]["b"] == {"-1": 0, "3": 0, "2": 1, "1": 1, "0": 0}
    assert found["prepare_s"] == pytest.approx(cost.prepare_latency(WAN))
    assert found["online_s"] == pytest.approx(cost.online_latency(WAN))
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "predicted over lan (0.3 ms, 3000 Mbit/s)" in text
    assert f"{1e3 * cost.online_latency(made_up().link):.1f} ms" in text


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plot and the points of several files."""
    report = pytest.importorskip("safenet_planner.report")
    for name, latency in (("one", 0.2), ("two", 0.1)):
        curve = report.Curve(name, (report.Outcome(latency, 0.75),))
        report.write_curves(tmp_path / f"{name}.json", [curve])
    files = [str(tmp_path / "one.json"), str(tmp_path / "two.json")]
    out = tmp_path / "plot.png"
    assert main(["compare", *files, "--out", str(out), "--budget-ms", "150"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [["one", "200.0", "75.00"], ["two", "100.0", "75.00"]]
    assert out.read_bytes().startswith(b"\x89PNG")
    report.write_curves(tmp_path / "none.json", [report.Curve("none", ())])
    words = ["compare", str(tmp_path / "none.json"), "--out", str(out)]
    assert "at least one point" in error(capsys, *words)


def test_files(tmp_path: Path, plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that are missing, something else, or of another network."""
    assert "nothing.json" in error(capsys, "inspect", str(tmp_path / "nothing.json"))
    assert "expected" in error(capsys, "inspect", str(plan_file), "--cost", str(plan_file))
    other = tmp_path / "other.json"
    Plan({"x": (1,)}).to_json(other)
    made_up().to_json(tmp_path / "cost.json")
    words = ["inspect", str(other), "--cost", str(tmp_path / "cost.json")]
    assert "of another network" in error(capsys, *words)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nets", "expected path.py:function"),
        ("{nets}:missing", "expected a function missing"),
        ("{nets}:number", "expected a function number"),
        ("{nets}:broken", "failed: KeyError"),
        ("{nets}:two", "expected (model, train_loader, val_loader), got tuple"),
        ("{nets}:no_module", "expected a torch.nn.Module, got int"),
        ("nowhere.py:net", "no such file"),
        ("no.such.module:net", "cannot be imported"),
        ("net.onnx", "expected --data"),
        ("{nets}:net --data x.npz", "are for ONNX files"),
    ],
)
def test_networks(
    target: str, message: str, nets: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Functions that are not there or return something else."""
    words = target.format(nets=nets).split()
    assert message in error(capsys, "cost", *words, "--out", str(tmp_path / "cost.json"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((2, 3))}, "expected the arrays image and label, got image"),
        ({"image": np.zeros((2, 3)), "label": np.zeros(2)}, "whole numbers in label"),
        ({"image": np.zeros((2, 3)), "label": np.zeros(3, int)}, "got (2, 3) and (3,)"),
        ({"image": np.zeros(2), "label": np.zeros(2, int)}, "got (2,) and (2,)"),
        ({"image": np.zeros((0, 3)), "label": np.zeros(0, int)}, "N of at least 1"),
        ({"image": np.array(["a"]), "label": np.zeros(1, int)}, "expected numbers in image"),
        ({"image": np.array([None]), "label": np.zeros(1, int)}, "not a NumPy archive"),
    ],
)
def test_data(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    """Archives of something else."""
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    with pytest.raises(command.CommandError) as found:
        command.read_data(path)
    assert message in str(found.value)


def test_bytes_are_shares_of_255(tmp_path: Path) -> None:
    """As the `safenet` command reads them; other numbers are taken as they are."""
    label = np.zeros(2, np.uint8)
    np.savez(tmp_path / "bytes.npz", image=np.array([[0, 51], [102, 255]], np.uint8), label=label)
    np.savez(tmp_path / "whole.npz", image=np.array([[0, 51], [102, 255]]), label=label)
    read, _ = command.read_data(tmp_path / "bytes.npz")
    assert read.flatten().tolist() == pytest.approx([0, 0.2, 0.4, 1])
    read, _ = command.read_data(tmp_path / "whole.npz")
    assert read.flatten().tolist() == [0, 51, 102, 255]


def test_no_archive(tmp_path: Path) -> None:
    """Files that are no archives."""
    for content in (b"", b"PK\x03\x04 no", b"text"):
        (tmp_path / "data.npz").write_bytes(content)
        with pytest.raises(command.CommandError, match="not a NumPy archive"):
            command.read_data(tmp_path / "data.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(command.CommandError, match="got a single array"):
        command.read_data(tmp_path / "one.npy")
    with pytest.raises(command.CommandError, match="No such file"):
        command.read_data(tmp_path / "none.npz")


def test_cost(
    tmp_path: Path, nets: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The options reach the measurement, and what it gives is written."""
    seen: dict[str, Any] = {}

    def measure(*given: Any, **named: Any) -> CostModel:
        seen.update(named, given=given)
        return made_up()

    monkeypatch.setattr(command, "measure", measure)
    monkeypatch.setattr(command, "Safenet", str)
    out = tmp_path / "cost.json"
    words = ["cost", f"{nets}:net", "--link", "5,10", "--runs", "2", "--ot", "4", "--batch", "3"]
    assert main([*words, "--safenet", "/s", "--out", str(out)]) == 0
    planned, batch, link, safenet, folder = seen["given"]
    assert (link.rtt_s, link.bits_per_s) == (0.005, 1e7)
    assert (safenet, folder) == ("/s", tmp_path / "cost")
    assert (seen["runs"], seen["settings"]) == (2, Settings("4", 3, 1))
    assert batch.shape == (6, 3, 8, 8)
    assert len(planned.layers) == 3
    assert CostModel.from_json(out).as_dict() == made_up().as_dict()
    assert "1000.0 + 500.0 ms predicted" in capsys.readouterr().out


@pytest.mark.parametrize("fixed", [True, False])
def test_plan(
    fixed: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An ONNX file and images go in; network, plan and images to compile it with come out."""
    seen: dict[str, Any] = {}

    def plan(model: torch.nn.Module, training: Any, validation: Any, **named: Any) -> Any:
        seen.update(named, training=training, validation=validation)
        batch = next(iter(validation))[0]
        planned = instrument(model, batch)
        chosen = Plan.uniform({n: x.channels for n, x in planned.layers.items()}, 1)
        fit_in_passing(planned, chosen, batch)
        named["progress"]("half way")
        named["workdir"].mkdir()
        return SimpleNamespace(
            plan=chosen,
            accuracy=0.75,
            latency_s=0.07,
            outside={"act": Outside(1, 100, 1.5)},
            onnx_path=named["workdir"] / "planned.onnx",
            report_path=named["workdir"] / "report.html",
        )

    api = ModuleType("safenet_planner.api")
    api.plan = plan  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "safenet_planner.api", api)
    network, data = tmp_path / "net.onnx", tmp_path / "data.npz"
    torch.onnx.export(settled(Plain(), images(4)), (images(1),), str(network), opset_version=15)
    np.savez(data, image=images(20).numpy(), label=np.arange(20) % 5)
    words = ["plan", str(network), "--data", str(data), "--batch-size", "4", "--out"]
    words.append(str(tmp_path / "out"))
    words += ["--budget-ms", "80"] if fixed else ["--accuracy-floor", "0.8", "--seed", "3"]
    words += ["--validation", str(data)] if fixed else ["--json"]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "half way" in told.err
    if fixed:
        assert "report:" in told.out
    else:
        found = json.loads(told.out)
        assert (found["accuracy"], found["latency_s"]) == (0.75, 0.07)
        assert all(set(counts) == {str(k) for k in KINDS} for counts in found["layers"].values())
        assert found["outside"]["act"]["farthest"] == 1.5
    assert isinstance(seen["training"], DataLoader)
    sizes = [len(seen[name].dataset) for name in ("training", "validation")]
    assert sizes == ([20, 20] if fixed else [18, 2])
    goal = {name: seen[name] for name in ("budget", "floor", "seed")}
    assert goal == (
        {"budget": 0.08, "floor": None, "seed": None}
        if fixed
        else {"budget": None, "floor": 0.8, "seed": 3}
    )
    out = tmp_path / "out"
    with np.load(out / "calibration.npz") as archive:
        assert archive["image"].shape == (len(seen["training"].dataset), 3, 8, 8)


def test_refused_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network that cannot be planned, and one that is none."""
    data = tmp_path / "data.npz"
    np.savez(data, image=images(20).numpy(), label=np.arange(20) % 5)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Tanh", ["x"], ["y"])],
        "net",
        [value("x", TensorProto.FLOAT, ("n", 3))],
        [value("y", TensorProto.FLOAT, ("n", 3))],
    )
    network = tmp_path / "net.onnx"
    opsets = [helper.make_opsetid("", 15)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(network))
    words = ["cost", str(network), "--data", str(data), "--out", str(tmp_path / "c.json")]
    assert "y (Tanh): this operator is not supported" in error(capsys, *words)
    network.write_text("nothing")
    assert "not a valid ONNX file" in error(capsys, *words)
