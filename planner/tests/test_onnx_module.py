"""ONNX networks as modules: what they compute, held against onnxruntime, and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from networks import Plain, images, settled
from safenet_planner import RELU, instrument
from safenet_planner.onnx_module import from_onnx

onnxruntime = pytest.importorskip("onnxruntime")


def exported(model: nn.Module, path: Path, example: Tensor, fold: bool = True) -> None:
    """Write a network by PyTorch's own exporter."""
    mode = torch.onnx.TrainingMode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,),
            str(path),
            input_names=["image"],
            output_names=["scores"],
            dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
            opset_version=15,
            training=mode.EVAL if fold else mode.PRESERVE,
            do_constant_folding=fold,
        )


def runtime(path: Path, x: Tensor) -> Tensor:
    """The scores by onnxruntime."""
    options = onnxruntime.SessionOptions()
    # Fusing a Pad with the AveragePool after it, 1.20 forgets that the zeros count.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


class Pools(nn.Module):
    """Every pool, sums, concatenations, constants, padding that is not symmetric."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=(2, 1), bias=False)
        self.grouped = nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=3)
        self.max = nn.MaxPool2d(3, 2, 1)
        self.average = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.counted = nn.AvgPool2d(2, 1, 1)
        self.whole = nn.AdaptiveAvgPool2d(1)
        self.relu, self.six = nn.ReLU(), nn.ReLU6()
        self.dense = nn.Linear(18, 4)
        self.matrix = nn.Parameter(torch.randn(4, 5))
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("shift", torch.randn(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 5)."""
        x = (x - self.shift) / 0.3 + 0.1
        x = self.relu(self.first(F.pad(x, (0, 1, 1, 0))))
        y = self.six(4 * self.grouped(x)) + x
        z = torch.cat([self.max(y), self.average(x), 1.5 * self.average(y)], 1)
        z = self.dropout(self.whole(self.counted(z)).flatten(1))
        return 1 - self.dense(z) @ self.matrix


@pytest.mark.parametrize("make", [Plain, Pools])
@pytest.mark.parametrize("fold", [True, False])
def test_computes_the_same(tmp_path: Path, make: Callable[[], nn.Module], fold: bool) -> None:
    """Within the error of floating point; after tracing, too."""
    torch.manual_seed(1)
    x = images(6, size=8)
    path = tmp_path / "net.onnx"
    exported(settled(make(), x), path, x[:2], fold)
    module = from_onnx(path)
    assert not module.training
    expected = runtime(path, x)
    with torch.no_grad():
        assert torch.allclose(module(x), expected, atol=1e-5)
        planned = instrument(module, x[:1])
        assert torch.allclose(planned(x), expected, atol=1e-5)
    assert planned.current_plan().share(RELU) == 1
    ceilings = {layer.ceiling for layer in planned.layers.values()}
    assert ceilings == ({None} if make is Plain else {None, 6.0})
    # Weights can be trained.
    module.train()
    module(x).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def graph(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray] | None = None,
    shape: tuple[int | str, ...] = ("batch", 3, 8, 8),
    opset: int = 15,
) -> onnx.ModelProto:
    """A model of these nodes, from `image` to `scores`."""
    value = helper.make_tensor_value_info
    return helper.make_model(
        helper.make_graph(
            nodes,
            "net",
            [value("image", TensorProto.FLOAT, shape)],
            [value("scores", TensorProto.FLOAT, ("batch", "scores"))],
            [numpy_helper.from_array(w, name) for name, w in (weights or {}).items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )


def test_by_hand(tmp_path: Path) -> None:
    """What PyTorch's exporter does not write: asymmetric padding, Gemm's factors, Reshape's 0."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "m": rng.normal(size=(64, 5)).astype(np.float32),
        "b": rng.normal(size=(1, 5)).astype(np.float32),
        "flat": np.array([0, 64], np.int64),
        "again": np.array([-1, 4, 4, 4], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "w"], ["c"], pads=[0, 1, 2, 1], name="1 weird/name"),
        node("Relu", ["c"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 1, 0]),
        node("Reshape", ["p", "flat"], ["f"]),
        node("Reshape", ["f", "again"], ["a"]),
        node("Flatten", ["a"], ["g"]),
        node("Identity", ["g"], ["i"]),
        node("Gemm", ["i", "m", "b"], ["scores"], alpha=0.5, beta=2.0),
    ]
    path = tmp_path / "net.onnx"
    onnx.save(graph(nodes, weights), str(path))
    x = images(4)
    with torch.no_grad():
        assert torch.allclose(from_onnx(path)(x), runtime(path, x), atol=1e-5)


def test_refuses(tmp_path: Path) -> None:
    """One message names every node that is not supported, and why."""
    node = helper.make_node
    nodes = [
        node("Sigmoid", ["image"], ["a"], name="gate"),
        node("Mul", ["a", "image"], ["b"], name="product"),
        node("Clip", ["b", "low", "high"], ["c"], name="clip"),
        node("Conv", ["c", "w"], ["d"], auto_pad="SAME_UPPER", name="same"),
        node("Reshape", ["d", "mixed"], ["scores"], name="mix"),
    ]
    weights = {
        "low": np.float32(0).reshape(()),
        "high": np.float32(5).reshape(()),
        "w": np.zeros((4, 3, 3, 3), np.float32),
        "mixed": np.array([-1, 7], np.int64),
    }
    path = tmp_path / "net.onnx"
    onnx.save(graph(nodes, weights), str(path))
    with pytest.raises(ValueError, match=r"net\.onnx: cannot be planned: ") as error:
        from_onnx(path)
    for words in (
        "gate (Sigmoid): this operator is not supported",
        "product (Mul): expected one operand to be a constant",
        "clip (Clip): expected bounds 0 and 6, got 0 and 5",
        "same (Conv): expected explicit padding, got auto_pad=SAME_UPPER",
        "mix (Reshape): expected a shape that keeps the images apart",
    ):
        assert words in str(error.value)


def test_hostile_files(tmp_path: Path) -> None:
    """Files that are no such network."""
    path = tmp_path / "net.onnx"
    with pytest.raises(FileNotFoundError):
        from_onnx(path)
    for content in (b"", b"hello", bytes(range(8, 64))):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a valid ONNX file"):
            from_onnx(path)
    relu = helper.make_node("Relu", ["image"], ["scores"])
    onnx.save(graph([relu], shape=("batch", "c", "h", 8)), str(path))
    with pytest.raises(ValueError, match=r"of known size, got \(batch, c, h, 8\)"):
        from_onnx(path)
    constant = helper.make_node("Identity", ["w"], ["scores"])
    onnx.save(graph([constant], {"w": np.ones(3, np.float32)}), str(path))
    with pytest.raises(ValueError, match="does not depend on its input"):
        from_onnx(path)
    two = graph([relu])
    two.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3)))
    onnx.save(two, str(path))
    with pytest.raises(ValueError, match="expected one input and one output, got 2 and 1"):
        from_onnx(path)
