"""A plain feed-forward ONNX network as a PyTorch module, so that it can be planned and fine-tuned.

Read are convolutions, dense layers, normalisations, ReLU and ReLU6, pools, sums, concatenation,
flattening, and arithmetic with constants. Anything else is refused by one message that names every
such node.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper, shape_inference
from torch import fx, nn
from torch.nn import functional as F

BATCH = 7919
"""Stands for the number of images while shapes are computed; no real dimension is likely to be."""

ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.truediv,
}


LARGEST = 1_000_000
"""Elements of a constant that is computed while reading, at most."""

CASTS = {
    onnx.TensorProto.INT32: "i",
    onnx.TensorProto.INT64: "i",
    onnx.TensorProto.FLOAT: "f",
    onnx.TensorProto.DOUBLE: "f",
}
"""Types between which constants need no conversion, with the NumPy kind that both must have."""


class Unsupported(ValueError):
    """A node that has no counterpart here."""


def from_onnx(path: Path | str) -> fx.GraphModule:
    """Read an ONNX file with one input and one output; the module is in evaluation mode.

    Weights are parameters, and normalisations keep their statistics, so it can be trained.
    """
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except OSError:
        raise
    except Exception as error:  # The parser raises what protobuf makes it raise.
        reason = str(error).strip().splitlines()
        what = reason[0] if reason else type(error).__name__
        raise ValueError(f"{path}: not a valid ONNX file: {what}") from error
    return _Reader(model, str(path)).module()


class _Reader:
    """Makes a graph of torch.fx from one of ONNX, node by node."""

    def __init__(self, model: onnx.ModelProto, path: str) -> None:
        self.path = path
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.values: dict[str, fx.Node] = {}
        self.constants: dict[str, npt.NDArray[Any]] = {
            i.name: numpy_helper.to_array(i) for i in model.graph.initializer
        }
        inputs = [i for i in model.graph.input if i.name not in self.constants]
        if len(inputs) != 1 or len(model.graph.output) != 1:
            raise ValueError(
                f"{path}: expected one input and one output, got {len(inputs)} and"
                f" {len(model.graph.output)}"
            )
        dims = inputs[0].type.tensor_type.shape.dim
        if len(dims) < 2 or any(d.dim_value < 1 for d in list(dims)[1:]):
            raise ValueError(
                f"{path}: expected an input (batch, ...) of known size, got"
                f" ({', '.join(d.dim_param or str(d.dim_value) for d in dims)})"
            )
        self.values[inputs[0].name] = self.graph.placeholder(_identifier(inputs[0].name))
        self.output = model.graph.output[0].name
        self.nodes = list(model.graph.node)
        dims[0].dim_value = BATCH
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        inferred = shape_inference.infer_shapes(model, data_prop=True).graph
        self.shapes: dict[str, tuple[int, ...]] = {}
        for value in [*inferred.input, *inferred.value_info, *inferred.output]:
            shape = value.type.tensor_type.shape.dim
            self.shapes[value.name] = tuple(d.dim_value for d in shape)

    def module(self) -> fx.GraphModule:
        refused = []
        for node in self.nodes:
            label = node.name or node.output[0]
            try:
                if not self._constant(node):
                    self.values[node.output[0]] = self._node(node)
            except (ValueError, LookupError, TypeError, RuntimeError) as error:
                known = isinstance(error, Unsupported)
                what = str(error) if known else f"not understood, {type(error).__name__}: {error}"
                refused.append(f"{label} ({node.op_type}): {what}")
                # What follows is looked at, too: one message for all.
                self.values[node.output[0]] = next(iter(self.values.values()))
        if refused:
            raise ValueError(f"{self.path}: cannot be planned: " + "; ".join(refused))
        if self.output not in self.values:
            raise ValueError(f"{self.path}: its output does not depend on its input")
        self.graph.output(self.values[self.output])
        module = fx.GraphModule(self.root, self.graph, "OnnxNetwork")
        module.graph.eliminate_dead_code()
        module.recompile()
        return module.eval()

    def _constant(self, node: onnx.NodeProto) -> bool:
        """Evaluate a node that does not depend on the images, such as a shape; False otherwise."""
        attributes = _attributes(node)
        names = [name for name in node.input if name]
        if node.op_type == "Shape":
            shape = self.shapes.get(node.input[0], ())
            if not shape or 0 in shape:
                raise Unsupported("the shape that it asks for is not known")
            value: Any = np.array(shape, dtype=np.int64)
        elif node.op_type == "Constant":
            if "value" not in attributes:
                raise Unsupported("expected the attribute value")
            value = numpy_helper.to_array(attributes["value"])
        elif names and all(name in self.constants for name in names):
            value = _evaluate(node.op_type, [self.constants[n] for n in names], attributes)
        else:
            return False
        self.constants[node.output[0]] = np.asarray(value)
        return True

    def _node(self, node: onnx.NodeProto) -> fx.Node:
        """The node's counterpart."""
        attributes = _attributes(node)
        make = getattr(self, f"_op_{node.op_type.lower()}", None) if node.domain == "" else None
        if node.op_type in ARITHMETIC and node.domain == "":
            return self._arithmetic(node)
        if make is None:
            raise Unsupported("this operator is not supported")
        return make(node, attributes)

    def _call(self, node: onnx.NodeProto, layer: nn.Module, x: fx.Node | None = None) -> fx.Node:
        """A node that calls `layer`, stored under the node's name."""
        name = self._store(node)
        self.root.add_module(name, layer)
        return self.graph.call_module(name, (self._value(node) if x is None else x,))

    def _store(self, node: onnx.NodeProto) -> str:
        """A name for what belongs to a node."""
        base = name = _identifier(node.name or f"{node.op_type}_{node.output[0]}")
        count = 1
        while hasattr(self.root, name):
            count += 1
            name = f"{base}_{count}"
        return name

    def _value(self, node: onnx.NodeProto, index: int = 0) -> fx.Node:
        name = node.input[index]
        if name not in self.values:
            raise Unsupported(f"expected its input {index} to be computed from the images")
        return self.values[name]

    def _weights(self, node: onnx.NodeProto, index: int) -> torch.Tensor:
        name = node.input[index] if index < len(node.input) else ""
        if name not in self.constants:
            raise Unsupported(f"expected its input {index} to be a constant")
        return torch.from_numpy(np.array(self.constants[name], dtype=np.float32))

    def _op_conv(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> fx.Node:
        weight = self._weights(node, 1)
        if weight.dim() != 4:
            raise Unsupported(f"expected a 2-dimensional convolution, got {weight.dim() - 2}")
        x, padding = self._padding(node, attributes, 0.0)
        groups = attributes.get("group", 1)
        biased = len(node.input) > 2 and bool(node.input[2])
        layer = nn.Conv2d(
            weight.shape[1] * groups,
            weight.shape[0],
            tuple(weight.shape[2:]),
            stride=tuple(attributes.get("strides", (1, 1))),
            padding=padding,
            dilation=tuple(attributes.get("dilations", (1, 1))),
            groups=groups,
            bias=biased,
        )
        return self._call(
            node, _filled(layer, weight, self._weights(node, 2) if biased else None), x
        )

    def _padding(
        self, node: onnx.NodeProto, attributes: Mapping[str, Any], value: float
    ) -> tuple[fx.Node, tuple[int, int]]:
        """The input and its symmetric padding; padded explicitly where it is not symmetric."""
        auto = attributes.get("auto_pad", b"NOTSET")
        if auto not in (b"NOTSET", b"VALID"):
            raise Unsupported(f"expected explicit padding, got auto_pad={auto.decode()}")
        top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
        x = self._value(node)
        if (top, left) == (bottom, right):
            return x, (top, left)
        padded = self.graph.call_function(F.pad, (x, (left, right, top, bottom)), {"value": value})
        return padded, (0, 0)

    def _op_gemm(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> fx.Node:
        if attributes.get("transA", 0):
            raise Unsupported("expected transA=0")
        weight = self._weights(node, 1) * attributes.get("alpha", 1.0)
        weight = weight if attributes.get("transB", 0) else weight.t()
        bias = None
        if len(node.input) > 2 and node.input[2]:
            bias = self._weights(node, 2) * attributes.get("beta", 1.0)
            bias = bias.broadcast_to(1, len(weight)).flatten()
        return self._linear(node, weight, bias)

    def _op_matmul(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> fx.Node:
        weight = self._weights(node, 1)
        if weight.dim() != 2:
            raise Unsupported(f"expected a matrix, got {weight.dim()} dimensions")
        return self._linear(node, weight.t(), None)

    def _linear(
        self, node: onnx.NodeProto, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> fx.Node:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        return self._call(node, _filled(layer, weight, bias))

    def _op_batchnormalization(
        self, node: onnx.NodeProto, attributes: Mapping[str, Any]
    ) -> fx.Node:
        scale, bias, mean, variance = (self._weights(node, index) for index in range(1, 5))
        rank = len(self.shapes.get(node.input[0], (0, 0, 0, 0)))
        layer = (nn.BatchNorm1d if rank == 2 else nn.BatchNorm2d)(
            len(scale), eps=attributes.get("epsilon", 1e-5)
        )
        assert layer.running_mean is not None and layer.running_var is not None
        with torch.no_grad():
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(variance)
        return self._call(node, _filled(layer, scale, bias))

    def _op_relu(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> fx.Node:
        return self._call(node, nn.ReLU())

    def _op_clip(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> fx.Node:
        bounds = [attributes.get("min", -math.inf), attributes.get("max", math.inf)]
        for index in (1, 2):
            if index < len(node.input) and node.input[index]:
                bounds[index - 1] = float(self._weights(node, index))
        if bounds != [0.0, 6.0]:
            raise Unsupported(f"expected bounds 0 and 6, got {bounds[0]:g} and {bounds[1]:g}")
        return self._call(node, nn.ReLU6())

    def _op_maxpool(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> fx.Node:
        if len(attributes["kernel_shape"]) != 2:
            raise Unsupported("expected two dimensions")
        x, padding = self._padding(node, attributes, -math.inf)
        layer = nn.MaxPool2d(
            tuple(attributes["kernel_shape"]),
            stride=tuple(attributes.get("strides", (1, 1))),
            padding=padding,
            dilation=tuple(attributes.get("dilations", (1, 1))),
            ceil_mode=bool(attributes.get("ceil_mode", 0)),
        )
        return self._call(node, layer, x)

    def _op_averagepool(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> fx.Node:
        if len(attributes["kernel_shape"]) != 2:
            raise Unsupported("expected two dimensions")
        counted = bool(attributes.get("count_include_pad", 0))
        top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
        if (top, left) != (bottom, right) and not counted:
            raise Unsupported("expected the same padding on both sides, or count_include_pad=1")
        x, padding = self._padding(node, attributes, 0.0)
        layer = nn.AvgPool2d(
            tuple(attributes["kernel_shape"]),
            stride=tuple(attributes.get("strides", (1, 1))),
            padding=padding,
            ceil_mode=bool(attributes.get("ceil_mode", 0)),
            count_include_pad=counted,
        )
        return self._call(node, layer, x)

    def _op_globalaveragepool(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> fx.Node:
        return self._call(node, nn.AdaptiveAvgPool2d(1))

    def _op_pad(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> fx.Node:
        if attributes.get("mode", b"constant") != b"constant":
            raise Unsupported("expected padding by a constant")
        if len(node.input) > 1 and node.input[1] not in self.constants:
            raise Unsupported("expected its input 1 to be a constant")
        given = self.constants[node.input[1]] if len(node.input) > 1 else attributes["pads"]
        pads = [int(n) for n in given]
        rank = len(pads) // 2
        if rank != 4 or any(pads[i] for i in (0, 1, 4, 5)):
            raise Unsupported(f"expected padding of rows and columns only, got {pads}")
        named = len(node.input) > 2 and bool(node.input[2])
        value = float(self._weights(node, 2)) if named else float(attributes.get("value", 0.0))
        if not any(pads):
            return self._value(node)
        sides = (pads[3], pads[7], pads[2], pads[6])
        return self.graph.call_function(F.pad, (self._value(node), sides), {"value": value})

    def _arithmetic(self, node: onnx.NodeProto) -> fx.Node:
        sides = []
        fixed = [name in self.constants for name in node.input]
        if node.op_type in ("Mul", "Div", "Sub") and not any(fixed):
            raise Unsupported("expected one operand to be a constant")
        for index in range(len(node.input)):
            if fixed[index]:
                buffer = self._store(node)
                self.root.register_buffer(buffer, self._weights(node, index))
                sides.append(self.graph.get_attr(buffer))
            else:
                sides.append(self._value(node, index))
        if node.op_type == "Div" and fixed[0]:
            raise Unsupported("expected the divisor to be a constant")
        return self.graph.call_function(ARITHMETIC[node.op_type], tuple(sides))

    def _op_concat(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> fx.Node:
        parts = [self._value(node, index) for index in range(len(node.input))]
        return self.graph.call_function(torch.cat, (parts, attributes["axis"]))

    def _op_flatten(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> fx.Node:
        if attributes.get("axis", 1) != 1:
            raise Unsupported(f"expected axis 1, got {attributes['axis']}")
        return self.graph.call_function(torch.flatten, (self._value(node), 1))

    def _op_reshape(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> fx.Node:
        if node.input[1] not in self.constants:
            raise Unsupported("expected a constant shape")
        shape = [int(n) for n in self.constants[node.input[1]]]
        before = self.shapes.get(node.input[0], ())
        wanted = list(before[: len(shape)]) if 0 in shape else []
        shape = [wanted[i] if n == 0 and i < len(wanted) else n for i, n in enumerate(shape)]
        size = math.prod(before[1:]) if before else 0
        rest = shape[1:]
        known = math.prod(n for n in rest if n > 0)
        if rest.count(-1) == 1 and size and known and size % known == 0:
            rest[rest.index(-1)] = size // known
        if not rest or min(rest) < 1 or math.prod(rest) != size:
            raise Unsupported(f"expected a shape that keeps the images apart, got {shape}")
        if len(rest) == 1:
            return self.graph.call_function(torch.flatten, (self._value(node), 1))
        return self.graph.call_function(torch.reshape, (self._value(node), (-1, *rest)))

    def _op_identity(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> fx.Node:
        return self._value(node)

    def _op_dropout(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> fx.Node:
        return self._value(node)


def _evaluate(operator_: str, inputs: list[npt.NDArray[Any]], attributes: Mapping[str, Any]) -> Any:
    """The few operators with which exporters compute shapes, and copies of weights."""
    first = inputs[0]
    if operator_ == "Identity":
        return first
    if operator_ == "Gather":
        return np.take(first, inputs[1].astype(np.int64), axis=attributes.get("axis", 0))
    if operator_ == "Concat":
        return np.concatenate(inputs, axis=attributes["axis"])
    if operator_ == "Unsqueeze":
        axes = inputs[1] if len(inputs) > 1 else attributes["axes"]
        return np.expand_dims(first, tuple(int(axis) for axis in axes))
    if operator_ == "Reshape":
        return first.reshape(inputs[1])
    if operator_ == "Transpose":
        return first.transpose(attributes.get("perm"))
    if operator_ == "ConstantOfShape" and math.prod(int(n) for n in first) <= LARGEST:
        value = attributes.get("value")
        return np.full(first, 0.0 if value is None else numpy_helper.to_array(value).item())
    if operator_ == "Slice" and len(inputs) > 1:
        starts, ends, *others = (given.tolist() for given in inputs[1:])
        axes = others[0] if others else range(len(starts))
        steps = others[1] if len(others) > 1 else [1] * len(starts)
        places = [slice(None)] * first.ndim
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            # Below every index stands for the end where the step goes back.
            stop = None if step < 0 and end < -first.shape[axis] else end
            places[axis] = slice(start, stop, step)
        return first[tuple(places)]
    if operator_ in ("Add", "Sub", "Mul"):
        return ARITHMETIC[operator_](first, inputs[1])
    if operator_ == "Cast" and first.dtype.kind == CASTS.get(attributes["to"]):
        return first
    raise Unsupported("this operator on constants is not supported")


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _filled(layer: Any, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    """`layer` with these parameters."""
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


def _identifier(name: str) -> str:
    """`name` as Python can have it as an attribute's."""
    cleaned = re.sub(r"\W+", "_", name).strip("_")
    return cleaned if cleaned and not cleaned[0].isdigit() else f"node_{cleaned}"
