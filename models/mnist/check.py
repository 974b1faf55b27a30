"""Check the two ONNX files without PyTorch.

Prints the accuracy of both networks on the digits of mnist-test.npz (or all held-back ones) and,
for the mixed plan, how the values each polynomial receives there compare with the range it was
fitted on.
Needs numpy, onnx and onnxruntime.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import numpy_helper

import data

FloatArray = npt.NDArray[np.float32]

MODELS = ("mnist-relu", "mnist-mixed")
LAYERS = ("act1", "act2", "act3")
KIND_NAMES = {-1: "relu", 3: "cubic", 2: "square", 1: "linear", 0: "constant"}


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """An onnxruntime session on one CPU thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    data = model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, images: FloatArray, batch: int = 250) -> list[FloatArray]:
    """All outputs of `model` for `images`, computed in batches."""
    runner = session(model)
    parts = [
        runner.run(None, {"image": images[i : i + batch]}) for i in range(0, len(images), batch)
    ]
    return [np.concatenate(output) for output in zip(*parts, strict=True)]


def accuracy(scores: FloatArray, labels: npt.NDArray[np.uint8]) -> float:
    """Percentage of the digits whose highest score is at their label."""
    return 100.0 * float(np.mean(scores.argmax(1) == labels))


def initializers(model: onnx.ModelProto) -> dict[str, npt.NDArray[np.generic]]:
    """The constants of `model` by name."""
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def pre_activations(model: onnx.ModelProto, images: FloatArray) -> list[FloatArray]:
    """What each activation layer of `model` receives: (N, C, positions) each."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    inputs = {node.output[0]: node.input[0] for node in model.graph.node}
    del probe.graph.output[:]
    for layer in LAYERS:
        probe.graph.output.append(
            onnx.helper.make_tensor_value_info(inputs[layer], onnx.TensorProto.FLOAT, None)
        )
    return [x.reshape(*x.shape[:2], -1) for x in run(probe, images)]


def main() -> int:
    """Run the check; the exit status is 1 if an accuracy or a range is far off."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).resolve().parent.parent
    parser.add_argument("--models", type=Path, default=default, help="folder of the .onnx files")
    parser.add_argument("--data", type=Path, help="MNIST cache: use all 10,000 test digits")
    parser.add_argument("--channels", action="store_true", help="print every polynomial channel")
    args = parser.parse_args()
    folder: Path = args.models
    if args.data:
        digits = data.load(args.data).test
        images, labels = data.to_input(digits.images), digits.labels
    else:
        with np.load(folder / "mnist-test.npz") as test:
            images, labels = data.to_input(test["image"][:, 0]), test["label"]
    report = json.loads((folder / "mnist" / "report.json").read_text())
    failed = False
    for name in MODELS:
        model = onnx.load(str(folder / f"{name}.onnx"))
        onnx.checker.check_model(model)
        (scores,) = run(model, images)
        percent = accuracy(scores, labels)
        print(f"{name}: {percent:.2f} % of {len(labels)} test digits")
        failed |= percent < 97.0
        constants = initializers(model)
        for layer, x in zip(LAYERS, pre_activations(model, images), strict=True):
            print(f"  {layer}: receives {x.min():.3f} to {x.max():.3f}")
            if f"{layer}.degree" not in constants:
                continue
            kinds = constants[f"{layer}.degree"].flatten().astype(np.int64)
            fitted = report["models"][name]["layers"][layer]["fitted_range"]
            counts = {text: int(np.sum(kinds == kind)) for kind, text in KIND_NAMES.items()}
            print(f"    kinds: {counts}")
            worst, outside = 0.0, 0.0
            for c in np.flatnonzero(kinds > 0):
                low, high = fitted[c]
                seen_low, seen_high = float(x[:, c].min()), float(x[:, c].max())
                half = (high - low) / 2
                over = max(low - seen_low, seen_high - high, 0.0) / half
                beyond = float(np.mean((x[:, c] < low) | (x[:, c] > high)))
                worst, outside = max(worst, over), max(outside, beyond)
                if args.channels:
                    print(
                        f"    {c:3} {KIND_NAMES[int(kinds[c])]:8}"
                        f" fitted [{low:8.3f}, {high:8.3f}]"
                        f" seen [{seen_low:8.3f}, {seen_high:8.3f}]"
                        f" beyond {100 * beyond:.4f} %"
                    )
            print(
                f"    polynomials of degree 1 to 3: at most {100 * worst:.1f} % of the half range"
                f" beyond it, at most {100 * outside:.4f} % of a channel's values"
            )
            failed |= worst > 0.5
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
