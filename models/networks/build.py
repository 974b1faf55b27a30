"""Write a network that papers on private inference measure, and images to calibrate it with.

All but resnet20 and resnet20-planned have random weights and random images: their cost is that of
the trained network, their answers mean nothing. These two are models/cifar10-*.onnx; their
calibration images are the first training images of CIFAR-10, which are fetched.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

import builder
from builder import Builder, FloatArray
from families import NETWORKS, Network

HERE = Path(__file__).resolve().parent
TRAINED = {
    "resnet20": "ResNet-20, trained on CIFAR-10, 3x32x32",
    "resnet20-planned": "the same with fewer ReLUs, chosen by the planner",
}
"""The networks with real weights, in models/cifar10-NAME.onnx, and what they are."""

REAL_IMAGES = 256
WAVES = 12
NOISE = 1e-4
TOLERANCE = 1e-3
"""Most by which scores of the whole graph may differ from those of its layers run one by one."""

Bytes = npt.NDArray[np.uint8]


def smooth_images(count: int, side: int, rng: np.random.Generator) -> Bytes:
    """Sums of random waves, at most six periods to an image: (count, 3, side, side)."""
    position = np.arange(side) / side
    images = np.empty((count, 3, side, side), np.uint8)
    for image in images:
        frequency = rng.uniform(-6, 6, (WAVES, 2))
        phase = rng.uniform(0, 2 * np.pi, (WAVES, 1, 1))
        angle = frequency[:, :1, None] * position[:, None] + frequency[:, 1:, None] * position
        # Low frequencies are strong, as in photographs; the colours share all waves.
        size = rng.normal(size=(3, WAVES)) / (1 + np.linalg.norm(frequency, axis=1))
        sums = np.tensordot(size, np.sin(2 * np.pi * angle + phase), 1)
        low, high = sums.min(), sums.max()
        darkest, brightest = rng.uniform(0, 0.2), rng.uniform(0.8, 1)
        values = darkest + (brightest - darkest) * (sums - low) / (high - low)
        image[:] = np.round(255 * values)
    return images


def to_input(images: Bytes) -> FloatArray:
    """The network's input for `images`: values from 0 to 1."""
    return images.astype(np.float32) / np.float32(255.0)


def run(model: onnx.ModelProto, inputs: FloatArray) -> FloatArray:
    """The scores that onnxruntime computes for `inputs`, one by one; they must be finite."""
    runner = builder.session(model)
    rows = [runner.run(None, {"image": inputs[i : i + 1]})[0] for i in range(len(inputs))]
    scores = np.concatenate(rows)
    if not np.isfinite(scores).all():
        raise ValueError(f"{model.graph.name} puts out values that are not finite")
    return scores


def noise_growth(model: onnx.ModelProto, inputs: FloatArray, scores: FloatArray) -> float:
    """By how much noise in the images is larger in the scores, relative to what carries it."""
    noise = np.random.default_rng(0).normal(0.0, NOISE, inputs.shape).astype(np.float32)
    change = run(model, inputs + noise) - scores
    return float((change.std() / scores.std()) / (noise.std() / inputs.std()))


def random_network(name: str, network: Network, verbose: bool) -> tuple[onnx.ModelProto, Bytes]:
    """The network `name` with weights that depend on its name only, and calibration images."""
    seed = zlib.crc32((network.like or name).encode())
    large = network.side > 64
    images = smooth_images(16 if large else 64, network.side, np.random.default_rng(seed + 1))
    inputs = to_input(images)
    # As many of them are measured while layers are added as fit into the memory comfortably.
    b = Builder(inputs[: 8 if large else 32], seed)
    output = network.layers(b, b.image)
    if verbose:
        for layer, spread in b.spread:
            print(f"  {layer:10} standard deviation {spread:6.3f}")
    model = b.model(name, output)
    if b.activations != network.activations:
        raise ValueError(f"{name} has {b.activations:,} activations, not {network.activations:,}")
    scores = run(model, inputs)
    difference = float(np.abs(scores[: len(output.values)] - output.values).max())
    if difference > TOLERANCE:
        raise ValueError(f"{name} as a whole differs by {difference:.1e} from its layers")
    growth = noise_growth(model, inputs, scores)
    spreads = [spread for _, spread in b.spread]
    print(
        f"{name}: {b.parameters:,} parameters, {b.activations:,} activations, {b.relus:,} of them"
        f" ReLU, standard deviations of layers {min(spreads):.2f} to {max(spreads):.2f}, noise"
        f" grows {growth:.1f} times, {len(np.unique(scores.argmax(1)))} classes found"
    )
    return model, images


def trained_path(name: str) -> Path:
    """Where a trained network is kept."""
    return HERE.parent / f"cifar10-{name}.onnx"


def trained_network(name: str, cache: Path) -> tuple[onnx.ModelProto, Bytes]:
    """A trained network and the first training images of CIFAR-10."""
    sys.path.append(str(HERE.parent / "cifar10"))
    import data

    path = trained_path(name)
    if not path.is_file():
        raise ValueError(f"{path} is missing; models/README.md tells what makes it")
    images = data.load(cache).train.images[:REAL_IMAGES].transpose(0, 3, 1, 2)
    images = np.ascontiguousarray(images)
    model = onnx.load(str(path))
    # Shapes are not inferred through functions.
    onnx.checker.check_model(model, full_check=not model.functions)
    inputs = to_input(images)
    scores = run(model, inputs)
    growth = noise_growth(model, inputs, scores)
    print(
        f"{name}: scores {scores.min():.1f} to {scores.max():.1f}, noise grows {growth:.1f} times"
    )
    return model, images


def write(name: str, out: Path, cache: Path, verbose: bool) -> None:
    """Write NAME.onnx and NAME-calibration.npz."""
    started = time.monotonic()
    print(f"{name}: building", flush=True)
    if name in TRAINED:
        model, images = trained_network(name, cache)
    else:
        model, images = random_network(name, NETWORKS[name], verbose)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.onnx"
    np.savez_compressed(out / f"{name}-calibration.npz", image=images)
    if name in TRAINED:
        shutil.copyfile(trained_path(name), path)
    else:
        onnx.save(model, str(path))
    size = path.stat().st_size / 1e6
    print(
        f"{name}: {path} ({size:.1f} MB), {len(images)} images, {time.monotonic() - started:.0f} s",
        flush=True,
    )


def listing() -> str:
    """One line for each network."""
    lines = [f"{name:16} {about}" for name, about in TRAINED.items()]
    for name, network in NETWORKS.items():
        size = f"3x{network.side}x{network.side}"
        lines.append(f"{name:16} {network.about}, {size}, {network.activations:,} activations")
    return "\n".join(lines)


def main() -> int:
    """Build what the command line names; the exit status is 1 if that fails."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="networks:\n" + listing(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root = HERE.parent.parent
    names = [*TRAINED, *NETWORKS]
    parser.add_argument("name", nargs="*", metavar="NAME", help="a network of the list below")
    parser.add_argument(
        "--out",
        type=Path,
        default=root / "target" / "networks",
        metavar="DIR",
        help="folder written to (target/networks)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=root / "target" / "data",
        metavar="DIR",
        help="CIFAR-10 cache, for trained networks (target/data)",
    )
    parser.add_argument("--verbose", action="store_true", help="print each layer's spread")
    parser.add_argument("--list", action="store_true", help="list the networks and end")
    args = parser.parse_args()
    if args.list:
        print(listing())
        return 0
    if not args.name:
        parser.error("expected the NAME of a network; --list lists them")
    for name in args.name:
        if name not in names:
            parser.error(f"no network is called {name}; there are {', '.join(names)}")
    try:
        for name in args.name:
            write(name, args.out, args.data, args.verbose)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
