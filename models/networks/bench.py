#!/usr/bin/env python3
"""Measure the compiled networks of target/networks with `safenet bench`, and print a table.

    models/networks/bench.py [NAME ...]

Without names, those that are compiled; `make networks` compiles them. Both parties run on this
machine. Sessions with one inference each: three, or one where a session takes long.
"""

import json
import pathlib
import subprocess
import sys

FOLDER = pathlib.Path("target/networks")
SAFENET = "target/release/safenet"
# In the order of the table; the last two take long.
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


def measure(name: str) -> dict:
    """What `safenet bench` measures of a network on its calibration images."""
    runs = "1" if name in LONG else "3"
    images = FOLDER / f"{name}-calibration.npz"
    command = [
        SAFENET,
        "bench",
        str(FOLDER / f"{name}.safenet"),
        "--images",
        str(images),
        "--runs",
        runs,
        "--json",
    ]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def bytes_of(figures: dict, phase: str) -> str:
    """Both directions of a phase."""
    return f"{(figures[f'{phase}_bytes_up'] + figures[f'{phase}_bytes_down']) / 1e6:,.1f} MB"


def row(name: str, figures: dict) -> str:
    """One line of the table."""
    cells = [
        name,
        f"{figures['prepare_s']:.2f} s",
        bytes_of(figures, "prepare"),
        str(figures["rounds_prepare"]),
        f"{figures['online_s']:.2f} s",
        bytes_of(figures, "online"),
        str(figures["rounds_online"]),
        f"{figures['client_peak_heap'] / 1e6:,.0f} MB",
        f"{figures['server_peak_heap'] / 1e6:,.0f} MB",
        str(figures["max_ulp"]),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table, line by line as it is measured."""
    names = sys.argv[1:] or [name for name in NETWORKS if (FOLDER / f"{name}.safenet").exists()]
    if not names:
        sys.exit(f"{FOLDER}: expected compiled networks, got none; run `make networks` first")
    titles = ["network", "prepare", "bytes", "round trips", "online", "bytes", "round trips"]
    titles += ["client's heap", "server's heap", "ulp"]
    print(f"| {' | '.join(titles)} |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in names:
        print(row(name, measure(name)), flush=True)


if __name__ == "__main__":
    main()
