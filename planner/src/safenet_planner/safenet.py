"""The `safenet` command: finding it, running it, and reading what it prints."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safenet_planner.cost import Link

ENVIRONMENT = "SAFENET"
"""Environment variable with the path of the command, looked at before PATH."""

LAYER_FIGURES = (
    "client_prepare_s",
    "server_prepare_s",
    "client_online_s",
    "server_online_s",
    "prepare_bytes_up",
    "prepare_bytes_down",
    "online_bytes_up",
    "online_bytes_down",
    "rounds_prepare",
    "rounds_online",
)
"""What `safenet bench --json` must tell of every layer, all of them numbers."""

WHOLE_FIGURES = (
    "prepare_s",
    "online_s",
    "prepare_bytes_up",
    "prepare_bytes_down",
    "online_bytes_up",
    "online_bytes_down",
    "rounds_prepare",
    "rounds_online",
)
"""What it must tell of the whole network."""


class SafenetError(RuntimeError):
    """The `safenet` command is missing, failed, or printed something unexpected."""


@dataclass(frozen=True)
class Settings:
    """How inferences are measured; the options of `safenet bench` of the same names.

    Costs hold for these settings only. With `batch` > 1 what a session pays once (the start of
    the silent OT extension) is shared by so many inferences.
    """

    ot: str = "silent"
    batch: int = 1
    threads: int = 1

    def options(self) -> list[str]:
        """Command-line options of `safenet bench`."""
        return ["--ot", self.ot, "--batch", str(self.batch), "--threads", str(self.threads)]


def find(command: Path | str | None = None) -> Path:
    """The `safenet` command: `command` if given, else $SAFENET, else the one in PATH."""
    asked = command or os.environ.get(ENVIRONMENT)
    if asked:
        found = shutil.which(str(asked))
        if found is None:
            raise SafenetError(f"no program at {asked}: expected the `safenet` command")
        return Path(found).resolve()
    found = shutil.which("safenet")
    if found is None:
        raise SafenetError(
            "the `safenet` command was not found: expected it in PATH or in the environment"
            f" variable {ENVIRONMENT}; `cargo build --release -p safenet-cli` makes it,"
            " target/release/safenet"
        )
    return Path(found).resolve()


class Safenet:
    """Runs the subcommands that the planner needs; each returns the object that --json prints."""

    def __init__(self, command: Path | str | None = None) -> None:
        self.command = find(command)

    def compile(
        self, network: Path, calibration: Path, output: Path, options: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Compile an ONNX file to the server's model file `output`; the report."""
        arguments = [network, "--calibration", calibration, "--output", output, *options]
        return self._run("compile", [*arguments, "--json"], ("layers",))

    def inspect(self, model: Path, settings: Settings | None = None) -> dict[str, Any]:
        """Layers, bytes and rounds of a compiled model, without running it."""
        options = ["--ot", settings.ot] if settings else []
        report = self._run("inspect", [model, *options, "--json"], ("layers", "total"))
        return _with_layers(report, "inspect", ("name", "kind"), ())

    def bench(
        self,
        model: Path,
        link: Link,
        runs: int,
        settings: Settings | None = None,
        images: Path | None = None,
    ) -> dict[str, Any]:
        """Private inferences over a (simulated) link; medians over `runs` sessions.

        Fails if an output lies outside of the integer reference's interval.
        """
        options = [*link_options(link), "--runs", str(runs), *(settings or Settings()).options()]
        if images is not None:
            options += ["--images", str(images)]
        report = self._run("bench", [model, *options, "--json"], ("layers", *WHOLE_FIGURES))
        _numbers(report, WHOLE_FIGURES, "bench", "the whole network")
        return _with_layers(report, "bench", ("name", "kind"), LAYER_FIGURES)

    def accuracy(self, model: Path, data: Path) -> dict[str, Any]:
        """Accuracy of a compiled model in the protocol's arithmetic, on an .npz of images."""
        return self._run("accuracy", [model, data, "--json"], ())

    def _run(
        self, subcommand: str, arguments: Iterable[Path | str], fields: Sequence[str]
    ) -> dict[str, Any]:
        words = [str(self.command), subcommand, *(str(a) for a in arguments)]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            reason = "; ".join(lines[-5:]) or "it printed no reason"
            raise SafenetError(
                f"`safenet {subcommand}` failed with status {done.returncode}: {reason}"
            )
        try:
            report = json.loads(done.stdout)
        except json.JSONDecodeError as error:
            raise SafenetError(
                f"`safenet {subcommand} --json` printed no JSON object: {error};"
                f" it began with {done.stdout[:80]!r}"
            ) from error
        if not isinstance(report, dict):
            raise SafenetError(
                f"`safenet {subcommand} --json`: expected an object, got {type(report).__name__}"
            )
        missing = [name for name in fields if name not in report]
        if missing:
            raise SafenetError(
                f"`safenet {subcommand} --json` lacks {', '.join(missing)}: the planner and the"
                " command must be of the same release"
            )
        return report


def link_options(link: Link) -> list[str]:
    """The options of `safenet bench` that simulate `link`; none for a loopback."""
    options = ["--rtt-ms", f"{link.rtt_s * 1e3:g}"] if link.rtt_s else []
    if math.isfinite(link.bits_per_s):
        options += ["--mbit", f"{link.bits_per_s / 1e6:g}"]
    return options


def _with_layers(
    report: dict[str, Any], subcommand: str, texts: Sequence[str], numbers: Sequence[str]
) -> dict[str, Any]:
    """`report`, if each of its layers has these fields."""
    layers = report["layers"]
    if not isinstance(layers, list):
        raise SafenetError(
            f"`safenet {subcommand}`: expected a list of layers, got {type(layers).__name__}"
        )
    for index, layer in enumerate(layers):
        if not isinstance(layer, dict) or any(not isinstance(layer.get(t), str) for t in texts):
            raise SafenetError(
                f"`safenet {subcommand}`: layer {index} lacks one of the texts {', '.join(texts)}"
            )
        _numbers(layer, numbers, subcommand, f"layer {layer['name']}")
    return report


def _numbers(found: Mapping[str, Any], names: Sequence[str], subcommand: str, where: str) -> None:
    for name in names:
        value = found.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise SafenetError(
                f"`safenet {subcommand}`, {where}: expected {name} to be a number of at least 0,"
                f" got {value!r}"
            )
