"""Write an archive of CIFAR-10 test images for `safenet accuracy`, and measure on it.

Prints the accuracy of cifar10-resnet20.onnx, in floating point through onnxruntime, on the images
of the archive. Needs the packages of models/networks/requirements.txt, no PyTorch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

import data

BATCH = 250


def scores(model: Path, pictures: data.Pictures) -> data.FloatArray:
    """What the network `model` puts out for `pictures`: (N, 10)."""
    if not model.is_file():
        raise ValueError(f"{model} is missing")
    # Shapes are not inferred through functions.
    onnx.checker.check_model(str(model), full_check=not onnx.load(str(model)).functions)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    parts = [
        session.run(None, {"image": data.to_input(pictures.images[i : i + BATCH])})[0]
        for i in range(0, len(pictures), BATCH)
    ]
    return np.concatenate(parts)


def accuracy(model: Path, pictures: data.Pictures) -> float:
    """Percentage of `pictures` whose highest score is at their label."""
    return 100.0 * float(np.mean(scores(model, pictures).argmax(1) == pictures.labels))


def main() -> int:
    """Write the archive and print the accuracy; the exit status is 1 if that fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = Path(__file__).resolve().parent.parent.parent
    cache = root / "target" / "data"
    model = root / "models" / "cifar10-resnet20.onnx"
    out = cache / "cifar10-test.npz"
    parser.add_argument("--data", type=Path, default=cache, help="CIFAR-10 cache (target/data)")
    parser.add_argument("--model", type=Path, default=model, help="the network")
    parser.add_argument("--out", type=Path, default=out, help="the archive (in target/data)")
    parser.add_argument("--images", type=int, default=1_000, help="how many (1000; at most 10000)")
    parser.add_argument("--validation", action="store_true", help="measure on validation images")
    args = parser.parse_args()
    try:
        cifar10 = data.load(args.data)
        if args.validation:
            percent = accuracy(args.model, cifar10.validation)
            print(f"{percent:.2f} % of {len(cifar10.validation)} validation images")
            return 0
        if not 1 <= args.images <= len(cifar10.test):
            parser.error(f"expected 1 to {len(cifar10.test)} images, got {args.images}")
        test = cifar10.test[: args.images]
        args.out.parent.mkdir(parents=True, exist_ok=True)
        images = np.ascontiguousarray(test.images.transpose(0, 3, 1, 2))
        np.savez_compressed(args.out, image=images, label=test.labels)
        print(f"{args.out}: {len(test)} test images")
        print(f"{args.model.name}: {accuracy(args.model, test):.2f} % of them, in floating point")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
