"""Writing a planned network as ONNX, as `safenet compile` reads it."""

from __future__ import annotations

import copy
import inspect
import io
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from .activation import ChannelActivation
from .kinds import RELU
from .tracing import PlannedModel

OPSET = 15
IR_VERSION = 8
DOMAIN = "safenet"
FUNCTION = "ChannelActivation"


def channel_activation() -> onnx.FunctionProto:
    """The model-local function behind a planned activation, in standard operators.

    Inputs X (N, C, ...), and per channel degree (int64) and c0 to c3 (float32), of shape
    (C, 1, 1) or (C). Y = ReLU(X) where degree is -1, ((c3 X + c2) X + c1) X + c0 elsewhere.
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
            node("Mul", ["c3", "X"], ["cubic"]),
            node("Add", ["cubic", "c2"], ["above2"]),
            node("Mul", ["above2", "X"], ["square"]),
            node("Add", ["square", "c1"], ["above1"]),
            node("Mul", ["above1", "X"], ["linear"]),
            node("Add", ["linear", "c0"], ["polynomial"]),
            node("Where", ["exact", "relu", "polynomial"], ["Y"]),
        ],
        [helper.make_opsetid("", OPSET)],
    )


def export(
    model: PlannedModel,
    path: str | PathLike[str],
    example: Tensor,
    *,
    input_name: str = "image",
    output_name: str = "scores",
) -> None:
    """Write `model`, as it computes in evaluation mode, to an ONNX file, whose graph has its name.

    Opset 15, IR version 8, batch dimension symbolic; normalisations stay nodes of their
    own. `example` is a batch of images, of which only the shape matters. A layer with ReLU in
    every channel is a Relu node (Clip where ReLU has a ceiling), others are nodes of the
    function `safenet.ChannelActivation`; a node has its activation layer's name. Where only some
    channels have a ReLU with a ceiling c, theirs is ReLU(x) - ReLU(x - c), the second one
    being a constant 0 in the other channels.
    """
    blended = [n for n, m in model.activations().items() if m.blend != 1 and m.planned]
    if blended:
        raise ValueError(
            f"layer {blended[0]!r}: expected polynomials alone (blend 1), got a blend with ReLU of"
            f" {model.activations()[blended[0]].blend}"
        )
    copied = copy.deepcopy(model).cpu().float().eval()
    activations = copied.activations()
    for name in activations:
        _put(copied, copied._paths[name], _Marker(name))
    proto = _convert(copied, example.detach().cpu().float(), input_name, output_name)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    for node in proto.graph.node:
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        marks = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        name = marks["layer"].decode()
        layer = _Layer(name, activations[name], marks["dimensions"] - 2)
        nodes += layer.nodes(node.input[0], node.output[0])
        constants += layer.constants
    planned = any(node.domain == DOMAIN for node in nodes)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(constants)
    # Shapes of inner tensors may be those of the example.
    del proto.graph.value_info[:]
    proto.graph.name = Path(path).stem
    proto.ir_version = IR_VERSION
    proto.producer_name = "safenet-planner"
    del proto.opset_import[:]
    proto.opset_import.append(helper.make_opsetid("", OPSET))
    if planned:
        proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        proto.functions.append(channel_activation())
    onnx.checker.check_model(proto, full_check=not planned)
    onnx.save(proto, str(path))


class _Marked(torch.autograd.Function):
    """Stands for an activation layer while PyTorch converts the network."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: str, dimensions: int) -> Tensor:
        return x.clone()

    @staticmethod
    def symbolic(g: Any, x: Any, layer: str, dimensions: int) -> Any:
        made = g.op(f"{DOMAIN}::{FUNCTION}", x, layer_s=layer, dimensions_i=dimensions)
        made.setType(x.type())
        return made


class _Marker(nn.Module):
    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return _Marked.apply(x, self.layer, x.dim())


def _put(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent) if parent else root, name, module)


def _convert(model: nn.Module, example: Tensor, input_name: str, output_name: str) -> Any:
    """PyTorch's own conversion, by tracing."""
    options: dict[str, Any] = {}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        options["dynamo"] = False
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,),
            buffer,
            input_names=[input_name],
            output_names=[output_name],
            dynamic_axes={input_name: {0: "batch"}, output_name: {0: "batch"}},
            opset_version=OPSET,
            custom_opsets={DOMAIN: 1},
            # Keeps normalisations apart from the convolutions before them.
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            **options,
        )
    return onnx.load_from_string(buffer.getvalue())


class _Layer:
    """Nodes of one activation layer."""

    def __init__(self, name: str, module: ChannelActivation, spatial: int) -> None:
        self.name = name
        self.module = module
        self.shape = (module.channels,) + (1,) * spatial
        self.constants: list[onnx.TensorProto] = []

    def constant(self, suffix: str, value: npt.NDArray[Any]) -> str:
        name = f"{self.name}.{suffix}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def nodes(self, x: str, y: str) -> list[onnx.NodeProto]:
        """What computes the output `y` from `x`."""
        kinds = self.module.kinds.numpy()
        ceiling = self.module.ceiling
        if not self.module.planned:
            if ceiling is None:
                return [helper.make_node("Relu", [x], [y], name=self.name)]
            ends = [
                self.constant("low", np.array(0, np.float32)),
                self.constant("high", np.array(ceiling, np.float32)),
            ]
            return [helper.make_node("Clip", [x, *ends], [y], name=self.name)]
        coefficients = self.module.coefficients().float().numpy()
        if ceiling is None or not (kinds == RELU).any():
            return [self._activation("", x, y, kinds, coefficients)]
        high = self.constant("ceiling", np.array(ceiling, np.float32))
        below, shifted, beyond = (f"{self.name}/{part}" for part in ("below", "shifted", "beyond"))
        nothing = np.where(kinds == RELU, RELU, 0)
        return [
            self._activation("", x, below, kinds, coefficients),
            helper.make_node("Sub", [x, high], [shifted], name=shifted),
            self._activation("beyond", shifted, beyond, nothing, np.zeros_like(coefficients)),
            helper.make_node("Sub", [below, beyond], [y], name=f"{self.name}/capped"),
        ]

    def _activation(
        self,
        part: str,
        x: str,
        y: str,
        kinds: npt.NDArray[np.int64],
        coefficients: npt.NDArray[np.float32],
    ) -> onnx.NodeProto:
        prefix = f"{part}." if part else ""
        inputs = [x, self.constant(f"{prefix}degree", kinds.astype(np.int64).reshape(self.shape))]
        for i in range(4):
            column = coefficients[:, i].reshape(self.shape)
            inputs.append(self.constant(f"{prefix}c{i}", column))
        name = f"{self.name}/{part}" if part else self.name
        return helper.make_node(FUNCTION, inputs, [y], name=name, domain=DOMAIN)
