"""Which channels each linear layer of an exported network reads and makes.

A channel that is planned to be a constant costs nothing where it is made, and saves work in its
neighbours: no ciphertext carries it to the convolution that reads it, and the convolution that
would feed it leaves it out. This module follows channels through everything that stands between
(normalisations, pools, sums, concatenations, flattening). Of a channel that it cannot follow it
says that it is always live.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import shape_inference

Atom = tuple[str, int]
"""An activation layer's name and a channel of it."""

Live = frozenset[Atom] | None
"""A channel is live while one of these activation channels is no constant; None: always."""

LINEAR = {"Conv", "Gemm", "MatMul"}
ACTIVATIONS = {"Relu", "Clip"}
CHANNELWISE = {
    *("BatchNormalization", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"),
    *("ReduceMean", "Pad", "Identity", "Dropout", "Add", "Sub", "Mul", "Div", "Sum"),
    *("Flatten", "Reshape", "Squeeze", "Unsqueeze"),
}
"""Operators whose output channel, or run of channels, depends on the input's channel alone."""


@dataclass(frozen=True)
class Channels:
    """Channels of one side of a linear layer: share of all of them, by what keeps them live.

    `shares` maps sets of activation channels to the share of the side's channels that are live
    while one of the set is no constant. Shares add up to at most 1; the rest is always live.
    """

    shares: Mapping[frozenset[Atom], float]

    def live(self, constant: Mapping[str, Sequence[bool]]) -> float:
        """Share of the channels that are live, 0 to 1, if these activation channels are constant.

        `constant` has an entry for each channel of each activation layer.
        """
        dead = sum(
            share
            for atoms, share in self.shares.items()
            if all(constant[layer][channel] for layer, channel in atoms)
        )
        return max(0.0, 1.0 - dead)

    @classmethod
    def of(cls, channels: Sequence[Live]) -> Channels:
        """Collect the channels of one side, in any order."""
        shares: dict[frozenset[Atom], float] = {}
        for atoms in channels:
            if atoms:
                shares[atoms] = shares.get(atoms, 0.0) + 1 / len(channels)
        return cls(shares)


@dataclass(frozen=True)
class Structure:
    """A network's linear layers, and to which activation layer each other node belongs."""

    reads: Mapping[str, Channels]
    """Input channels of each linear layer, by the name of its node."""
    makes: Mapping[str, Channels]
    """Output channels, likewise."""
    owners: Mapping[str, str]
    """The activation layer whose kinds decide what a node costs, by the node's name: the layer
    itself, or the one before it, or, for what stands before any, the one after it."""


def name_of(node: onnx.NodeProto) -> str:
    """The name that the compiler gives a node: its own, or else that of its output."""
    return node.name or node.output[0]


def structure(path: Path, layers: Sequence[str]) -> Structure:
    """Analyse a network that `export` wrote, with these activation layers.

    Their nodes have their names; where several make up one layer, with a slash and more behind.
    """
    model = onnx.load(str(path))
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    for node in model.graph.node:
        if node.op_type == "ChannelActivation":
            # Has the shape of its input, as ReLU has, of which that is known.
            node.op_type, node.domain = "Relu", ""
            del node.input[1:]
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    static = {i.name for i in graph.initializer}
    computed: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type in {"Constant", "Shape"} or all(i in static for i in node.input if i):
            static.update(node.output)
        else:
            computed.append(node)
    owners = {
        id(node): name_of(node).partition("/")[0]
        for node in computed
        if node.op_type in ACTIVATIONS
    }
    if set(owners.values()) != set(layers):
        raise ValueError(
            f"{path}: expected the activation layers {', '.join(layers)}; found"
            f" {', '.join(owners.values()) or 'none'}"
        )
    return _Flow(graph, computed, static, owners).structure()


class _Flow:
    """Channels followed forwards (`live`) and backwards (`needed`)."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        nodes: list[onnx.NodeProto],
        static: set[str],
        layers: Mapping[int, str],
    ) -> None:
        self.nodes, self.static, self.layers = nodes, static, layers
        self.channels: dict[str, int] = {}
        for value in [*graph.input, *graph.value_info, *graph.output]:
            dims = value.type.tensor_type.shape.dim
            if len(dims) > 1 and dims[1].dim_value > 0:
                self.channels[value.name] = dims[1].dim_value
        self.ends = {o.name for o in graph.output}
        self.live: dict[str, list[Live]] = {}
        self.needed: dict[str, list[Live]] = {}
        self.owner: dict[str, str] = {}

    def structure(self) -> Structure:
        for node in self.nodes:
            self._forward(node)
        for name in self.ends:
            self._need(name, [None] * self.channels.get(name, 0))
        for node in reversed(self.nodes):
            self._backward(node)
        reads, makes, owners = {}, {}, {}
        for node in self.nodes:
            output = node.output[0]
            if node.op_type in LINEAR:
                reads[name_of(node)] = Channels.of(self._of(self.live, self._inputs(node)[0]))
                makes[name_of(node)] = Channels.of(self._of(self.needed, output))
            following = [atoms for atoms in self._of(self.needed, output) if atoms]
            if output in self.owner:
                owners[name_of(node)] = self.owner[output]
            elif following:
                owners[name_of(node)] = min(following[0])[0]
        return Structure(reads, makes, owners)

    def _inputs(self, node: onnx.NodeProto) -> list[str]:
        return [name for name in node.input if name and name not in self.static]

    def _of(self, found: Mapping[str, list[Live]], tensor: str) -> list[Live]:
        """The channels of a tensor, always live where nothing is known of them."""
        known = found.get(tensor)
        return known if known is not None else [None] * self.channels.get(tensor, 0)

    def _forward(self, node: onnx.NodeProto) -> None:
        output, inputs = node.output[0], self._inputs(node)
        if node.op_type in ACTIVATIONS:
            layer = self.layers[id(node)]
            count = self.channels.get(output, self.channels.get(inputs[0], 0))
            self.live[output] = [frozenset({(layer, c)}) for c in range(count)]
            self.channels[output] = count
            self.owner[output] = layer
            return
        if node.op_type in LINEAR:
            return
        owners = [self.owner[name] for name in inputs if name in self.owner]
        if owners:
            self.owner[output] = owners[0]
        count = self.channels.get(output, 0)
        sides = [self._of(self.live, name) for name in inputs]
        if node.op_type == "Concat":
            joined = [atoms for side in sides for atoms in side]
            if len(joined) == count:
                self.live[output] = joined
        elif node.op_type in CHANNELWISE and count:
            spread = [_repeat(side, count) for side in sides]
            if all(side is not None for side in spread):
                self.live[output] = [_union(c) for c in zip(*(s for s in spread if s), strict=True)]

    def _backward(self, node: onnx.NodeProto) -> None:
        output, inputs = node.output[0], self._inputs(node)
        if node.op_type in ACTIVATIONS:
            self._need(inputs[0], self.live[output])
            return
        wanted = self._of(self.needed, output)
        if node.op_type == "Concat":
            sizes = [self.channels.get(name, 0) for name in inputs]
            if sum(sizes) == len(wanted):
                place = 0
                for name, size in zip(inputs, sizes, strict=True):
                    self._need(name, wanted[place : place + size])
                    place += size
                return
        for name in inputs:
            count = self.channels.get(name, 0)
            if node.op_type in CHANNELWISE and count and len(wanted) % count == 0 and wanted:
                each = len(wanted) // count
                runs = (wanted[c * each : (c + 1) * each] for c in range(count))
                self._need(name, [_union(run) for run in runs])
            else:
                self._need(name, [None] * count)

    def _need(self, tensor: str, wanted: list[Live]) -> None:
        """`tensor` has a reader that wants its channels while these are live."""
        known = self.needed.get(tensor)
        if known is None or len(known) != len(wanted):
            self.needed[tensor] = list(wanted) if known is None else [None] * len(wanted)
        else:
            self.needed[tensor] = [_union(pair) for pair in zip(known, wanted, strict=True)]


def _union(channels: Iterable[Live]) -> Live:
    """Live while any of these is."""
    found: set[Atom] = set()
    for atoms in channels:
        if atoms is None:
            return None
        found |= atoms
    return frozenset(found)


def _repeat(side: list[Live], count: int) -> list[Live] | None:
    """Channels flattened to `count`: each one's pixels follow each other."""
    if not side or count % len(side):
        return None
    return [atoms for atoms in side for _ in range(count // len(side))]
