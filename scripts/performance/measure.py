#!/usr/bin/env python3
"""Measure what docs/performance.md and docs/networks.md report, into docs/performance.json.

    scripts/performance/measure.py [GROUP ...]

Without groups, all of them; what was measured of other groups before is kept. Needs `make networks
ladder`, and a machine that does nothing else. report.py makes tables and plots of the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
Json = dict[str, Any]

NETWORKS = [
    "minionn",
    "resnet20",
    "resnet32",
    "vgg16",
    "resnet18",
    "resnet18-tiny",
    "squeezenet",
    "mobilenetv2",
    "resnet50",
]
LONG = {"mobilenetv2", "resnet50"}
"""Networks of which one session is measured."""
LADDER = [
    "minionn",
    "minionn-relu75",
    "minionn-relu50",
    "minionn-mixed",
    "minionn-relu10",
    "minionn-relu0",
    "minionn-square",
]
LINKS = ["lan", "broadband", "wan"]


@dataclass(frozen=True)
class Bench:
    """The command that measures, and the networks that it measures."""

    safenet: Path
    networks: Path
    runs: int

    def run(self, *arguments: object) -> Json:
        """What the command prints as JSON."""
        command = [str(self.safenet), *map(str, arguments), "--json"]
        print("  safenet", *command[1:], file=sys.stderr, flush=True)
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    def model(self, name: str) -> Path:
        """A compiled network, of target/networks or of models."""
        path = self.networks / f"{name}.safenet"
        return path if path.exists() else ROOT / "models" / f"{name}.safenet"

    def network(self, name: str, *arguments: object) -> Json:
        """One network's figures."""
        images = self.networks / f"{name}-calibration.npz"
        if not images.exists():
            images = ROOT / "models" / "mnist-test.npz"
        runs = 1 if name in LONG else self.runs
        figures = self.run(
            "bench", self.model(name), "--images", images, "--runs", runs, *arguments
        )
        return _compact(figures) | self._size(name)

    def _size(self, name: str) -> Json:
        """How many values of a network are activated, and how many of them pass a ReLU."""
        report = self.run("inspect", self.model(name))
        relus = 0
        for layer in report["layers"]:
            channels, *plane = layer["shape"]
            each = layer.get("channels") or {}
            size = plane[0] * plane[1] if plane else 1
            if sum(each.values()) == channels:
                relus += each.get("relu", 0) * size
        return {"activations": report["activations"], "relus": relus}


def _compact(figures: Json) -> Json:
    """Figures with the sums of each kind of layer instead of the layers."""
    kinds: dict[str, Json] = {}
    # What follows from the others.
    derived = ("prepare_s", "online_s")
    for layer in figures.pop("layers"):
        sums = kinds.setdefault(layer["kind"], {"layers": 0})
        sums["layers"] += 1
        for key, value in layer.items():
            if isinstance(value, int | float) and value and key not in derived:
                sums[key] = sums.get(key, 0) + value
    return figures | {"kinds": kinds}


def _rounded(value: object) -> object:
    """Measurements with five digits: more would be noise."""
    match value:
        case dict():
            return {key: _rounded(item) for key, item in value.items()}
        case list():
            return [_rounded(item) for item in value]
        case float():
            return float(f"{value:.5g}")
        case _:
            return value


def networks(bench: Bench) -> list[Json]:
    """Whole networks, all ReLU, over loopback."""
    there = [name for name in NETWORKS if bench.model(name).exists()]
    return [bench.network(name, "--ot", extension) for name in there for extension in ("silent", 4)]


def ladder(bench: Bench) -> list[Json]:
    """One network with ever fewer ReLUs, over loopback and simulated networks."""
    rows = []
    for name in LADDER:
        rows.append(bench.network(name))
        rows.extend(bench.network(name, "--network", link) for link in ("lan", "wan"))
    return rows


def links(bench: Bench) -> list[Json]:
    """Two networks over simulated networks."""
    names = ["minionn", "minionn-mixed", "resnet32"]
    return [bench.network(name, "--network", link) for name in names for link in LINKS]


def operations(bench: Bench) -> list[Json]:
    """Single operations."""
    runs = 2 * bench.runs + 1
    return [bench.run("bench", "--operations", "--runs", runs, "--ot", ot) for ot in ("silent", 4)]


def extensions(bench: Bench) -> list[Json]:
    """One network with each OT extension, for one inference and for eight at a time."""
    rows = []
    for extension in (2, 4, 8, "silent"):
        for batch in (1, 8):
            rows.append(bench.network("minionn", "--ot", extension, "--batch", batch))
    return rows


def levels(bench: Bench) -> list[Json]:
    """One network with each instruction set that the processor has."""
    rows = []
    for level in ("base", "avx2", "avx512"):
        try:
            rows.append(bench.network("minionn", "--simd", level))
        except subprocess.CalledProcessError as error:
            if b"this processor has" not in error.stderr:
                raise
    return rows


def clients(bench: Bench) -> list[Json]:
    """Throughput with many clients at once."""
    rows = []
    for name in ("mnist-mixed", "minionn-mixed"):
        for count in (1, 4, 16):
            arguments = ["--clients", count, "--runs", bench.runs, "--batch", 2]
            rows.append(bench.run("bench", bench.model(name), *arguments))
    return rows


GROUPS: dict[str, Callable[[Bench], list[Json]]] = {
    "networks": networks,
    "ladder": ladder,
    "links": links,
    "operations": operations,
    "extensions": extensions,
    "levels": levels,
    "clients": clients,
}


def conditions() -> Json:
    """The machine, and what is measured on it."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    commit = git("rev-parse", "--short", "HEAD").stdout.strip()
    if git("diff", "--quiet", "HEAD", "--", "core", "cli", "Cargo.lock").returncode:
        commit += " with changes"
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "processor": processor,
        "processors": os.cpu_count(),
    }


class Others:
    """What share of the processors' time other programs take, as Linux tells it."""

    def __init__(self) -> None:
        self._start = self._times()

    @staticmethod
    def _times() -> tuple[float, float]:
        """Seconds of all processors so far, and how many of them others have worked."""
        first = Path("/proc/stat").read_text().splitlines()[0]
        ticks = [int(word) / os.sysconf("SC_CLK_TCK") for word in first.split()[1:9]]
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        worked = sum(ticks) - ticks[3] - ticks[4]
        return sum(ticks), worked - sum(usage.ru_utime + usage.ru_stime for usage in own)

    def share(self) -> float:
        """Their share since this was made."""
        (start, worked), (now, later) = self._start, self._times()
        return round(max(0.0, (later - worked) / max(now - start, 1.0)), 2)


def _text(measured: Json) -> str:
    """All groups as JSON, a line for each row."""
    groups = []
    for name, group in measured.items():
        rows = ",\n".join(json.dumps(row) for row in group["rows"])
        head = json.dumps(group["conditions"])
        groups.append(f'"{name}": {{"conditions": {head}, "rows": [\n{rows}\n]}}')
    return "{\n" + ",\n".join(groups) + "\n}\n"


def main() -> None:
    """Measure the groups that the command line names, and write each when it is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("group", nargs="*", help=f"of {', '.join(GROUPS)}; default: all")
    add("--safenet", type=Path, default=ROOT / "target/release/safenet", help="the command")
    add("--networks", type=Path, default=ROOT / "target/networks", help="compiled networks")
    add("--out", type=Path, default=ROOT / "docs/performance.json", help="file written")
    add("--runs", type=int, default=5, help="sessions of which medians are taken")
    args = parser.parse_args()
    if unknown := [name for name in args.group if name not in GROUPS]:
        parser.error(f"no group is called {unknown[0]}; there are {', '.join(GROUPS)}")
    bench = Bench(args.safenet, args.networks, args.runs)
    measured = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name in args.group or GROUPS:
        print(name, file=sys.stderr)
        others = Others()
        try:
            rows = GROUPS[name](bench)
        except subprocess.CalledProcessError as error:
            sys.exit(f"error: {error}\n{error.stderr.decode(errors='replace')}")
        where = conditions() | {"busy": others.share()}
        measured[name] = {"conditions": where, "rows": _rounded(rows)}
        args.out.write_text(_text(measured))


if __name__ == "__main__":
    main()
