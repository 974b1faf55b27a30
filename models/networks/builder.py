"""Building an ONNX graph layer by layer, with random weights under which values stay in range.

Every layer is executed on sample images as it is added. The statistics of the normalisations, or
the weights of layers without one, are set from what was measured (Salimans & Kingma, Weight
Normalization, 2016, section 3): however deep the network is, its values neither vanish nor explode.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import planned
from planned import Plan

FloatArray = npt.NDArray[np.float32]
Array = npt.NDArray[np.generic]

OPSET = 15
IR_VERSION = 8
EPSILON = 1e-5
SHARED = 0.5
SHARED_DEPTHWISE = 0.8
"""Part of the variance of convolution weights that is common to a kernel."""
SPREAD = (0.1, 10.0)
"""Bounds of the standard deviation of what a layer puts out."""


@dataclass(frozen=True)
class Tensor:
    """An edge of the graph and its values for the sample images: (N, C, H, W) or (N, K)."""

    name: str
    values: FloatArray

    @property
    def channels(self) -> int:
        """C or K."""
        return self.values.shape[1]


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """An onnxruntime session on one CPU thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    data = model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", OPSET)]
    functions = []
    if any(node.domain == planned.DOMAIN for node in graph.node):
        functions.append(planned.function())
        opsets.append(helper.make_opsetid(planned.DOMAIN, 1))
    return helper.make_model(
        graph,
        producer_name="safenet-models",
        opset_imports=opsets,
        functions=functions,
        ir_version=IR_VERSION,
    )


class Builder:
    """Nodes and initializers of a graph under construction, and its values on sample images."""

    def __init__(self, images: FloatArray, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.image = Tensor("image", images)
        self.activations = 0
        """Values of one image that pass an activation."""
        self.relus = 0
        """Of these, the values that pass a ReLU or a Clip."""
        self.parameters = 0
        """Trainable values: weights, biases and scales."""
        self.spread: list[tuple[str, float]] = []
        """Each layer's name and the standard deviation of what it puts out."""
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._numbers: dict[str, int] = {}

    def model(self, name: str, scores: Tensor) -> onnx.ModelProto:
        """The finished model, whose output is `scores`."""
        self._nodes[-1].output[0] = "scores"
        info = helper.make_tensor_value_info
        inputs = [info("image", TensorProto.FLOAT, ["batch", *self.image.values.shape[1:]])]
        outputs = [info("scores", TensorProto.FLOAT, ["batch", scores.channels])]
        graph = helper.make_graph(self._nodes, name, inputs, outputs, self._initializers)
        model = _model(graph)
        # Types are not inferred through functions.
        onnx.checker.check_model(model, full_check=not model.functions)
        return model

    def convolution(
        self,
        x: Tensor,
        channels: int,
        size: int,
        stride: int = 1,
        pad: int | None = None,
        groups: int = 1,
        norm: bool = True,
        gain: float = 1.0,
    ) -> Tensor:
        """Convolution, padded to keep the size at stride 1 unless `pad` says otherwise.

        With `norm` a BatchNormalization follows; without, the convolution has a bias and puts out
        values of a standard deviation near `gain`.
        """
        pad = size // 2 if pad is None else pad
        weights = self._random((channels, x.channels // groups, size, size))
        name = self._name("conv")
        attributes = {
            "kernel_shape": [size, size],
            "strides": [stride, stride],
            "pads": [pad] * 4,
            "group": groups,
        }
        if norm:
            constants = {f"{name}.weight": weights}
            return self._norm(self._add("Conv", [x], name, constants, **attributes))
        node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
        measured = self._execute(node, {"x": x.values, "w": weights})
        constants = self._standardised(name, weights, measured, gain)
        return self._add("Conv", [x], name, constants, **attributes)

    def dense(self, x: Tensor, outputs: int) -> Tensor:
        """A fully connected layer with bias."""
        weights = self._random((outputs, x.channels))
        name = self._name("dense")
        constants = self._standardised(name, weights, x.values @ weights.T)
        return self._add("Gemm", [x], name, constants, transB=1)

    def relu(self, x: Tensor, plan: Plan = planned.ALL_RELU) -> Tensor:
        """max(x, 0), in as many channels as the plan says; a polynomial near it in the others."""
        size = int(np.prod(x.values.shape[1:]))
        self.activations += size
        degrees, coefficients = plan.fit(x.values)
        self.relus += size // x.channels * int(np.count_nonzero(degrees < 0))
        name = self._name("relu")
        if (degrees < 0).all():
            return self._add("Relu", [x], name)
        shape = (x.channels,) + (1,) * (x.values.ndim - 2)
        constants = {f"{name}.degree": degrees.reshape(shape)}
        for power, values in enumerate(coefficients.T):
            constants[f"{name}.c{power}"] = values.reshape(shape)
        return self._add(planned.FUNCTION, [x], name, constants, domain=planned.DOMAIN)

    def relu6(self, x: Tensor) -> Tensor:
        """min(max(x, 0), 6), as Clip."""
        size = int(np.prod(x.values.shape[1:]))
        self.activations += size
        self.relus += size
        name = self._name("clip")
        bounds = {f"{name}.min": np.array(0, np.float32), f"{name}.max": np.array(6, np.float32)}
        return self._add("Clip", [x], name, bounds)

    def average_pool(self, x: Tensor, size: int) -> Tensor:
        """Mean over squares that do not overlap."""
        name = self._name("pool")
        square = [size, size]
        return self._add("AveragePool", [x], name, kernel_shape=square, strides=square)

    def max_pool(
        self, x: Tensor, size: int, stride: int, pad: int = 0, ceil: bool = False
    ) -> Tensor:
        """Maximum over squares; `ceil` also takes those that reach over the far edges."""
        return self._add(
            "MaxPool",
            [x],
            self._name("pool"),
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[pad] * 4,
            ceil_mode=int(ceil),
        )

    def global_average_pool(self, x: Tensor) -> Tensor:
        """Mean of each channel."""
        return self._add("GlobalAveragePool", [x], self._name("pool"))

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum of `x` and `y`."""
        return self._add("Add", [x, y], self._name("add"))

    def concat(self, *parts: Tensor) -> Tensor:
        """The channels of all `parts`."""
        return self._add("Concat", list(parts), self._name("concat"), axis=1)

    def flatten(self, x: Tensor) -> Tensor:
        """One row for each image."""
        return self._add("Flatten", [x], self._name("flat"), axis=1)

    def _norm(self, x: Tensor) -> Tensor:
        """BatchNormalization with the statistics of `x`."""
        name = self._name("norm")
        mean, variance = _moments(x.values)
        scale, bias = self._affine(x.channels)
        constants = {
            f"{name}.scale": scale,
            f"{name}.bias": bias,
            f"{name}.mean": mean,
            f"{name}.variance": variance,
        }
        return self._add("BatchNormalization", [x], name, constants, epsilon=EPSILON)

    def _standardised(
        self, layer: str, weights: FloatArray, measured: FloatArray, gain: float = 1.0
    ) -> dict[str, FloatArray]:
        """Weights and bias that do what a normalisation after the layer would, times `gain`.

        `measured` is what `weights` put out without a bias.
        """
        mean, variance = _moments(measured)
        scale, bias = (np.float32(gain) * x for x in self._affine(len(weights)))
        factor = scale / np.sqrt(variance + EPSILON)
        return {
            f"{layer}.weight": weights * factor.reshape((-1,) + (1,) * (weights.ndim - 1)),
            f"{layer}.bias": bias - mean * factor,
        }

    def _affine(self, channels: int) -> tuple[FloatArray, FloatArray]:
        """Scale near 1 and bias near 0, as a trained normalisation has them."""
        scale = self.rng.normal(1.0, 0.1, channels)
        bias = self.rng.normal(0.0, 0.1, channels)
        return scale.astype(np.float32), bias.astype(np.float32)

    def _random(self, shape: tuple[int, ...]) -> FloatArray:
        """Weights of variance 2 / inputs (He et al., Delving Deep into Rectifiers, 2015).

        Half of the variance, and most of it in depthwise convolutions, is common to a whole
        kernel. Independent weights would favour noise over the images at every layer, so that
        deep networks amplified the rounding of their inputs to hundreds of times its size.
        """
        deviation = np.sqrt(2 / np.prod(shape[1:]))
        weights = self.rng.normal(0.0, deviation, shape)
        if len(shape) == 4 and shape[2] > 1:
            common = SHARED_DEPTHWISE if shape[1] == 1 else SHARED
            kernels = self.rng.normal(0.0, deviation, (*shape[:2], 1, 1))
            weights = np.sqrt(1 - common) * weights + np.sqrt(common) * kernels
        return weights.astype(np.float32)

    def _name(self, kind: str) -> str:
        self._numbers[kind] = self._numbers.get(kind, 0) + 1
        return f"{kind}{self._numbers[kind]}"

    def _add(
        self,
        op: str,
        inputs: list[Tensor],
        name: str,
        constants: dict[str, Array] | None = None,
        **attributes: object,
    ) -> Tensor:
        """Add a node named after its output, and execute it."""
        constants = constants or {}
        names = [*(x.name for x in inputs), *constants]
        node = helper.make_node(op, names, [name], name=name, **attributes)
        values = self._execute(node, {x.name: x.values for x in inputs} | constants)
        spread = float(values.std())
        if not SPREAD[0] <= spread <= SPREAD[1]:
            raise ValueError(f"{name} puts out values of standard deviation {spread:.3g}")
        self.spread.append((name, spread))
        self._nodes.append(node)
        for key, value in constants.items():
            if key.endswith((".weight", ".bias", ".scale")):
                self.parameters += value.size
            self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), key))
        return Tensor(name, values)

    def _execute(self, node: onnx.NodeProto, inputs: dict[str, Array]) -> FloatArray:
        info = helper.make_tensor_value_info
        kind = helper.np_dtype_to_tensor_dtype
        types = [info(name, kind(value.dtype), value.shape) for name, value in inputs.items()]
        output = info(node.output[0], TensorProto.FLOAT, None)
        graph = helper.make_graph([node], "layer", types, [output])
        (values,) = session(_model(graph)).run(None, inputs)
        return values


def _moments(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of each channel, the latter never far below that of the others."""
    rest = tuple(d for d in range(values.ndim) if d != 1)
    mean = values.mean(rest, dtype=np.float64)
    variance = values.var(rest, dtype=np.float64)
    variance = np.maximum(variance, 0.01 * variance.mean())
    return mean.astype(np.float32), variance.astype(np.float32)
