"""Writing the trained network as ONNX."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch

from network import ResNet20

OPSET = 15


def share_constants(model: onnx.ModelProto) -> None:
    """Let nodes use a shared constant itself, not Identity nodes that rename it.

    The two biases that meet in an addition are always equal, and PyTorch writes them once.
    """
    nodes = model.graph.node
    constants = {tensor.name for tensor in model.graph.initializer}
    renamed = {
        n.output[0]: n.input[0]
        for n in nodes
        if n.op_type == "Identity" and n.input[0] in constants
    }
    kept = [n for n in nodes if n.output[0] not in renamed]
    for node in kept:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    del nodes[:]
    nodes.extend(kept)


def export(net: ResNet20, path: Path) -> None:
    """Write `net` to `path`, normalisations as nodes of their own, checked by onnx.checker."""
    net.eval()
    torch.onnx.export(
        net,
        torch.zeros(1, 3, 32, 32),
        str(path),
        # In evaluation mode, which stays as it is, but without merging what could be merged.
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["scores"],
        dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
    )
    model = onnx.load(str(path))
    share_constants(model)
    model.graph.name = path.stem
    onnx.checker.check_model(model, full_check=True)
    norms = sum(node.op_type == "BatchNormalization" for node in model.graph.node)
    expected = sum(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    if norms != expected:
        raise ValueError(f"{path}: {norms} normalisations are left of {expected}")
    onnx.save(model, str(path))
