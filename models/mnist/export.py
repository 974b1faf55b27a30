"""Writing a trained network as ONNX, node by node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from network import ChannelActivation, Net

OPSET = 15
DOMAIN = "safenet"
FUNCTION = "ChannelActivation"


def channel_activation() -> onnx.FunctionProto:
    """The function behind a planned activation, in standard operators only.

    Y = ReLU(X) where degree is -1, ((c3 X + c2) X + c1) X + c0 elsewhere.
    """
    node = helper.make_node
    return helper.make_function(
        DOMAIN,
        FUNCTION,
        ["X", "degree", "c0", "c1", "c2", "c3"],
        ["Y"],
        [
            node("Constant", [], ["zero"], value_int=0),
            node("Less", ["degree", "zero"], ["exact"]),
            node("Relu", ["X"], ["relu"]),
            node("Mul", ["c3", "X"], ["t3"]),
            node("Add", ["t3", "c2"], ["s2"]),
            node("Mul", ["s2", "X"], ["t2"]),
            node("Add", ["t2", "c1"], ["s1"]),
            node("Mul", ["s1", "X"], ["t1"]),
            node("Add", ["t1", "c0"], ["polynomial"]),
            node("Where", ["exact", "relu", "polynomial"], ["Y"]),
        ],
        [helper.make_opsetid("", OPSET)],
    )


class Graph:
    """Nodes and initializers of a graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """Add an initializer."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        """Add a node named after its output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def activation(self, layer: ChannelActivation, x: str, name: str, spatial: bool) -> str:
        """Add ReLU, or the planned activation if any channel of `layer` is a polynomial."""
        if not layer.planned:
            return self.add("Relu", [x], name)
        shape = (layer.channels, 1, 1) if spatial else (layer.channels,)
        inputs = [x, self.constant(f"{name}.degree", layer.kinds.numpy().reshape(shape))]
        coefficients = layer.coefficients().float().numpy()
        for i in range(4):
            inputs.append(self.constant(f"{name}.c{i}", coefficients[:, i].reshape(shape)))
        return self.add(FUNCTION, inputs, name, domain=DOMAIN)


def export(net: Net, name: str, path: Path) -> None:
    """Write `net` to `path`, checked by onnx.checker."""
    graph = Graph()
    weights = {key: value.numpy() for key, value in net.state_dict().items()}

    def parameters(*keys: str) -> list[str]:
        return [graph.constant(key, weights[key]) for key in keys]

    def convolution(x: str, index: int, pad: int) -> str:
        kernel = parameters(f"conv{index}.weight")
        size = weights[f"conv{index}.weight"].shape[2]
        x = graph.add(
            "Conv",
            [x, *kernel],
            f"conv{index}",
            kernel_shape=[size, size],
            pads=[pad] * 4,
        )
        bn = f"bn{index}"
        scale = parameters(*(f"{bn}.{k}" for k in ("weight", "bias")))
        moments = parameters(*(f"{bn}.{k}" for k in ("running_mean", "running_var")))
        epsilon = getattr(net, bn).eps
        return graph.add("BatchNormalization", [x, *scale, *moments], bn, epsilon=epsilon)

    def dense(x: str, layer: str, output: str) -> str:
        inputs = [x, *parameters(f"{layer}.weight", f"{layer}.bias")]
        return graph.add("Gemm", inputs, output, transB=1)

    def pool(x: str, output: str) -> str:
        return graph.add("AveragePool", [x], output, kernel_shape=[2, 2], strides=[2, 2])

    x = convolution("image", 1, pad=2)
    x = graph.activation(net.act1, x, "act1", spatial=True)
    x = convolution(pool(x, "pool1"), 2, pad=1)
    x = graph.activation(net.act2, x, "act2", spatial=True)
    x = graph.add("Flatten", [pool(x, "pool2")], "flat", axis=1)
    x = graph.activation(net.act3, dense(x, "fc1", "fc1"), "act3", spatial=False)
    dense(x, "fc2", "scores")

    planned = any(layer.planned for layer in net.activations().values())
    opsets = [helper.make_opsetid("", OPSET)]
    if planned:
        opsets.append(helper.make_opsetid(DOMAIN, 1))
    tensor = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            name,
            [tensor("image", TensorProto.FLOAT, ["batch", 1, 28, 28])],
            [tensor("scores", TensorProto.FLOAT, ["batch", 10])],
            graph.initializers,
        ),
        producer_name="safenet-models",
        opset_imports=opsets,
        functions=[channel_activation()] if planned else [],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=not planned)
    onnx.save(model, str(path))
