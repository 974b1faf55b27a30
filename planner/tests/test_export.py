"""ONNX files of planned networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from networks import Plain, Residual, Tangled, images, mixed, settled
from safenet_planner import RELU, Plan, PlannedModel, export, instrument, observe


def planned(network: nn.Module, example: Tensor) -> PlannedModel:
    """The network with all five kinds in every layer."""
    model = instrument(settled(network, example), example[:1])
    return model.apply(mixed(model), observe(model, [example], len(example))).eval()


def run(path: Path, x: Tensor) -> Tensor:
    """What onnxruntime makes of a file."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(scores)


@pytest.mark.parametrize("network", [Plain, Tangled, Residual])
def test_same_results(network: type[nn.Module], tmp_path: Path) -> None:
    """A mixed plan gives the same scores in onnxruntime, for any number of images."""
    torch.manual_seed(0)
    model = planned(network(), images(16))
    path = tmp_path / "net.onnx"
    export(model, path, images(2))
    for count in (1, 7):
        x = images(count, seed=2)
        scores = model(x).detach()
        size = float(scores.max() - scores.min())
        assert torch.allclose(run(path, x), scores, rtol=0, atol=1e-5 * size)


def test_format(tmp_path: Path) -> None:
    """Versions, names, symbolic batch, one function, normalisations as nodes of their own."""
    torch.manual_seed(0)
    model = planned(Plain(), images(16))
    plan = model.current_plan()
    plan.layers["features.6"] = (RELU,) * 10
    model.apply(plan, observe(model, [images(8)], 8))
    path = tmp_path / "net.onnx"
    export(model, str(path), images(2), input_name="picture", output_name="classes")
    proto = onnx.load(str(path))
    assert proto.graph.name == path.stem
    assert proto.ir_version == 8
    assert {(o.domain, o.version) for o in proto.opset_import} == {("", 15), ("safenet", 1)}
    (x,), (y,) = proto.graph.input, proto.graph.output
    assert (x.name, y.name) == ("picture", "classes")
    dimensions = [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim]
    assert dimensions == ["batch", 3, 8, 8]
    assert y.type.tensor_type.shape.dim[0].dim_param == "batch"
    (function,) = proto.functions
    assert (function.domain, function.name) == ("safenet", "ChannelActivation")
    assert list(function.input) == ["X", "degree", "c0", "c1", "c2", "c3"]
    nodes = {node.name: node for node in proto.graph.node}
    assert nodes["features.2"].op_type == "ChannelActivation"
    assert nodes["features.2"].domain == "safenet"
    assert nodes["features.6"].op_type == "Relu"
    assert nodes["activation"].op_type == "ChannelActivation"
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("BatchNormalization") == 2
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    assert constants["features.2.degree"].shape == (10, 1, 1)
    assert constants["features.2.degree"].flatten().tolist() == list(plan.layers["features.2"])
    assert constants["activation.c2"].shape == (15,)
    c = model.activations()["features.2"].coefficients().float().numpy()
    for i in range(4):
        np.testing.assert_array_equal(constants[f"features.2.c{i}"].flatten(), c[:, i])
    assert "features.0.weight" in constants


def test_all_relu(tmp_path: Path) -> None:
    """Without polynomials there are Relu and Clip nodes, and no function."""
    torch.manual_seed(0)
    model = instrument(settled(Tangled(), images(8)), images(1)).eval()
    path = tmp_path / "net.onnx"
    export(model, path, images(1))
    proto = onnx.load(str(path))
    kinds = [node.op_type for node in proto.graph.node]
    assert (kinds.count("Relu"), kinds.count("Clip")) == (6, 3)
    assert not proto.functions
    assert [o.domain for o in proto.opset_import] == [""]
    x = images(5, seed=1)
    assert torch.allclose(run(path, x), model(x).detach(), atol=1e-6)


def test_ceilings(tmp_path: Path) -> None:
    """A ReLU's ceiling is kept beside polynomials, and only where there is a ReLU."""
    torch.manual_seed(0)
    model = planned(Plain(activation=nn.ReLU6), images(16))
    with torch.no_grad():  # large values, to meet the ceiling
        model.get_parameter("features.1.weight").mul_(20)
        model.get_parameter("dense.weight").mul_(3)
    model.apply(model.current_plan(), observe(model, [images(16)], 16))
    x = images(6, seed=4)
    scores = model(x).detach()
    capped: list[float] = []
    first = model.activations()["features.2"]
    hook = first.register_forward_hook(
        lambda m, _, y: capped.append(float((y[:, m.kinds == RELU] == 6).float().mean()))
    )
    model(x)
    hook.remove()
    assert capped[0] > 0.01
    path = tmp_path / "net.onnx"
    export(model, path, x)
    size = float(scores.max() - scores.min())
    assert torch.allclose(run(path, x), scores, rtol=0, atol=1e-5 * size)
    quadratic = Plan.uniform({n: k.channels for n, k in model.layers.items()}, 2)
    model.apply(quadratic, observe(model, [images(16)], 16))
    export(model, path, x)
    names = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert (names.count("ChannelActivation"), names.count("Sub")) == (3, 0)


def test_leaves_the_model_alone(tmp_path: Path) -> None:
    """Modes and weights stay; a model in training mode is written as it evaluates."""
    torch.manual_seed(0)
    model = planned(Plain(), images(16))
    scores = model(images(4)).detach()
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    export(model, tmp_path / "net.onnx", images(2))
    assert model.training and model.get_submodule("features.1").training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.allclose(run(tmp_path / "net.onnx", images(4)), scores, atol=1e-5)


def test_refuses_blends(tmp_path: Path) -> None:
    """A network half way between ReLUs and polynomials has no private form."""
    torch.manual_seed(0)
    model = planned(Plain(), images(16))
    model.activations()["activation"].blend = 0.5
    with pytest.raises(ValueError, match="'activation': expected polynomials alone"):
        export(model, tmp_path / "net.onnx", images(1))
    assert not (tmp_path / "net.onnx").exists()
