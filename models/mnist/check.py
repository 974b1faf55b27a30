"""Check the two ONNX files without PyTorch: accuracy, and the kinds of each layer.

Takes the digits of mnist-test.npz, or all held-back ones. Needs numpy, onnx and onnxruntime.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import numpy_helper

import data

MODELS = ("mnist-relu", "mnist-mixed")
KIND_NAMES = {-1: "relu", 3: "cubic", 2: "square", 1: "linear", 0: "constant"}
LEAST = 0.98
"""Accuracy below which the check fails."""


def scores(model: Path, images: npt.NDArray[np.float32], batch: int = 250) -> npt.NDArray[Any]:
    """The scores of a network for `images` (N, 1, 28, 28), on one thread: (N, 10)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    parts = np.split(images, range(batch, len(images), batch))
    return np.concatenate([session.run(None, {"image": part})[0] for part in parts])


def accuracy(found: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> float:
    """Share of the digits whose highest score is at their label, 0 to 1."""
    return float(np.mean(found.argmax(1) == labels))


def kinds(model: onnx.ModelProto) -> dict[str, dict[str, int]]:
    """How many channels of each planned layer have each kind."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    counts = {}
    for node in model.graph.node:
        if node.op_type == "ChannelActivation":
            found = Counter(constants[node.input[1]].flatten().tolist())
            counts[node.name] = {KIND_NAMES[kind]: found[kind] for kind in KIND_NAMES}
    return counts


def main() -> int:
    """Run the check; the exit status is 1 if an accuracy is far off."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).resolve().parent.parent
    parser.add_argument("--models", type=Path, default=default, help="folder of the .onnx files")
    parser.add_argument("--data", type=Path, help="MNIST cache: use all 10,000 test digits")
    args = parser.parse_args()
    if args.data:
        digits = data.load(args.data).test
        images, labels = data.to_input(digits.images), digits.labels
    else:
        with np.load(args.models / "mnist-test.npz") as test:
            images, labels = data.to_input(test["image"][:, 0]), test["label"]
    failed = False
    for name in MODELS:
        path = args.models / f"{name}.onnx"
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
        right = accuracy(scores(path, images), labels)
        print(f"{name}: {right:.2%} of {len(labels)} test digits")
        for layer, counts in kinds(model).items():
            print(f"  {layer}: {', '.join(f'{n} {kind}' for kind, n in counts.items())}")
        failed |= right < LEAST
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
