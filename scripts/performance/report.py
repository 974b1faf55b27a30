#!/usr/bin/env python3
"""Write the tables and plots of docs/performance.json into the documentation.

    scripts/performance/report.py

Tables replace what stands between `<!-- NAME -->` and `<!-- end -->` in docs/performance.md and
docs/networks.md, where something was measured for them; plots are docs/plots/*.svg.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import chart
from chart import COLOURS, Axis, Panel

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
Json = dict[str, Any]

IDLE = 0.1
"""A machine of whose processors other programs take a larger share is not idle."""
LINK_NAMES = {
    None: "loopback",
    (0.3, 3000.0): "LAN",
    (20.0, 100.0): "broadband",
    (40.0, 350.0): "WAN",
}
LINEAR = ("convolution", "grouped convolution", "dense")
ACTIVATIONS = ("activation", "maximum")


def seconds(value: float) -> str:
    """A duration with three digits."""
    if value == 0:
        return "-"
    if value < 0.9995:
        return f"{value * 1e3:#.3g} ms".replace(". ", " ")
    return f"{value:#.3g} s".replace(". ", " ")


def megabytes(count: float) -> str:
    """A number of bytes in 10^6 bytes."""
    value = count / 1e6
    return f"{value:,.1f} MB" if value >= 10 else f"{value:.2f} MB"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def conditions(group: Json) -> str:
    """A sentence on where and when a group was measured."""
    c = group["conditions"]
    text = f"{c['processor']}, {c['processors']} processors; {c['date']}, commit {c['commit']}."
    if c["busy"] > IDLE:
        text += " The machine was **not idle**: times are indicative only."
    return text


def both(row: Json, phase: str) -> int:
    """Bytes of a phase, both directions."""
    return row[f"{phase}_bytes_up"] + row[f"{phase}_bytes_down"]


def link(row: Json) -> str:
    """Over which network something was measured."""
    network = row["network"]
    return LINK_NAMES[network and (network["rtt_ms"], network["mbit"])]


def of_kinds(row: Json, kinds: Sequence[str], *keys: str) -> float:
    """Sums of figures over all layers of some kinds."""
    found = (row["kinds"].get(kind, {}) for kind in kinds)
    return sum(kind.get(key, 0) for kind in found for key in keys)


def costs(row: Json) -> list[str]:
    """Time, bytes and round trips of both phases."""
    cells = []
    for phase in ("prepare", "online"):
        cells += [seconds(row[f"{phase}_s"]), megabytes(both(row, phase))]
        cells.append(str(row[f"rounds_{phase}"]))
    return cells


COSTS = ["prepare", "bytes", "round trips", "online", "bytes", "round trips"]


def networks(rows: list[Json]) -> str:
    """Whole networks over loopback."""
    titles = ["network", "activated", "OT", *COSTS, "client's heap", "server's heap", "ulp"]
    return table(
        titles,
        [
            [
                row["model"],
                f"{row['activations']:,}",
                row["ot"],
                *costs(row),
                f"{row['client_peak_heap'] / 1e6:,.0f} MB",
                f"{row['server_peak_heap'] / 1e6:,.0f} MB",
                str(row["max_ulp"]),
            ]
            for row in rows
        ],
    )


def parts(rows: list[Json]) -> str:
    """Seconds that each party computes, by kind of layer."""
    titles = ["network", "OT"]
    for phase in ("prepare", "online"):
        for kind in ("linear", "activations"):
            titles.append(f"{phase}, {kind}: client + server")
    cells = []
    for row in rows:
        line = [row["model"], row["ot"]]
        for phase in ("prepare", "online"):
            for kinds in (LINEAR, ACTIVATIONS):
                client = of_kinds(row, kinds, f"client_{phase}_s")
                server = of_kinds(row, kinds, f"server_{phase}_s")
                line.append(f"{seconds(client)} + {seconds(server)}")
        cells.append(line)
    return table(titles, cells)


def ladder(rows: list[Json]) -> str:
    """One network with ever fewer ReLUs."""
    plain = [row for row in rows if row["network"] is None]
    cells = []
    for row in plain:
        share = row["relus"] / row["activations"]
        online = {link(r): r["online_s"] for r in rows if r["model"] == row["model"]}
        cells.append(
            [row["model"], f"{100 * share:.0f} %", *costs(row)]
            + [seconds(online[name]) for name in ("LAN", "WAN")]
        )
    return table(["network", "ReLU", *COSTS, "online, LAN", "online, WAN"], cells)


def links(rows: list[Json]) -> str:
    """Networks over simulated networks."""
    cells = []
    for row in rows:
        line = [row["model"], link(row), seconds(row["setup_s"])]
        for phase in ("prepare", "online"):
            line += [seconds(row[f"{phase}_s"]), seconds(row[f"{phase}_network_s"])]
        cells.append([*line, seconds(row["prepare_s"] + row["online_s"])])
    titles = ["network", "over", "set-up", "prepare", "network alone"]
    return table([*titles, "online", "network alone", "prepare + online"], cells)


def activations(rows: list[Json]) -> str:
    """Single activations, each value's part."""
    cells = []
    each = [(group["ot"], row) for group in rows for row in group["operations"]]
    for extension, row in each:
        if (count := row["elements"]) is None:
            continue
        time, size = (
            [row["prepare_s"], row["online_s"]],
            [row["prepare_bytes"], row["online_bytes"]],
        )
        cpu = [row[f"{p}_prepare_s"] + row[f"{p}_online_s"] for p in ("client", "server")]
        cells.append(
            [row["name"], extension]
            + [f"{value / count * 1e6:.2f} us" for value in [*time, sum(time), *cpu]]
            + [f"{value / count:.1f}" for value in [*size, sum(size)]]
            + [str(row["rounds_online"]), seconds(sum(time))]
        )
    titles = ["each of 65,536", "OT", "prepare", "online", "together", "client computes"]
    titles += [
        "server computes",
        "bytes prepare",
        "online",
        "together",
        "round trips",
        "all 65,536",
    ]
    return table(titles, cells)


def layers(rows: list[Json]) -> str:
    """Single linear layers."""
    cells = []
    for row in rows[0]["operations"]:
        if row["elements"] is None:
            time = [row["prepare_s"], row["online_s"]]
            cpu = [row[f"{p}_prepare_s"] + row[f"{p}_online_s"] for p in ("client", "server")]
            cells.append(
                [row["name"], *map(seconds, [*time, sum(time), *cpu])]
                + [megabytes(row["prepare_bytes"] + row["online_bytes"])]
            )
    titles = ["layer", "prepare", "online", "together", "client computes", "server computes"]
    return table([*titles, "bytes"], cells)


def extensions(rows: list[Json]) -> str:
    """OT extensions."""
    return table(
        ["OT", "inferences", "set-up", *COSTS],
        [[row["ot"], str(row["batch"]), seconds(row["setup_s"]), *costs(row)] for row in rows],
    )


def levels(rows: list[Json]) -> str:
    """Instruction sets."""
    cells = []
    for row in rows:
        times = [seconds(row[key]) for key in ("setup_s", "prepare_s", "online_s")]
        cells.append([row["simd"], *times])
    return table(["instructions", "set-up", "prepare", "online"], cells)


def clients(rows: list[Json]) -> str:
    """Throughput."""
    cells = []
    for row in rows:
        line = [row["model"], str(row["clients"])]
        for phase in ("prepare", "online"):
            figures = row[phase]
            line += [
                f"{figures['per_s']:.1f}",
                seconds(figures["p50_s"]),
                seconds(figures["p95_s"]),
            ]
        cpu = row["server_cpu_s"]
        line += [seconds(cpu) if cpu is not None else "-", megabytes(row["server_session_heap"])]
        cells.append(line)
    titles = ["network", "clients", "prepared/s", "wait 50 %", "95 %", "inferences/s"]
    titles += ["wait 50 %", "95 %", "server's processor, each", "server's heap, each session"]
    return table(titles, cells)


BLOCKS: dict[str, tuple[str, Callable[[list[Json]], str]]] = {
    "networks": ("networks", networks),
    "parts": ("networks", parts),
    "ladder": ("ladder", ladder),
    "links": ("links", links),
    "activations": ("operations", activations),
    "layers": ("operations", layers),
    "extensions": ("extensions", extensions),
    "levels": ("levels", levels),
    "clients": ("clients", clients),
}
"""Which group of measurements a block of the documentation shows, and how."""


def fill(path: Path, measured: Json) -> None:
    """Replace the blocks of a document."""
    text = path.read_text()
    for name, (group, write) in BLOCKS.items():
        start, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, found, rest = text.partition(start)
        if not found or group not in measured:
            continue
        _, found, after = rest.partition(end)
        if not found:
            sys.exit(f"{path}: expected {end} after {start.strip()}, got none")
        content = f"{write(measured[group]['rows'])}\n\n{conditions(measured[group])}\n"
        text = before + start + content + end + after
    path.write_text(text)


def share_plot(rows: list[Json]) -> str:
    """Time against the share of ReLUs."""
    rows = [row for row in rows if row["model"] != "minionn-square"]
    values = [row[f"{phase}_s"] for row in rows for phase in ("prepare", "online")]
    panels = []
    for phase in ("prepare", "online"):
        x = Axis("values that pass a ReLU, %", 0, 100)
        y = Axis("seconds", min(values) / 1.3, max(values) * 1.3, log=True)
        panel = Panel(f"minionn, {phase}", x, y)
        for colour, name in zip(COLOURS, ("loopback", "LAN", "WAN"), strict=False):
            points = [
                (100 * row["relus"] / row["activations"], row[f"{phase}_s"])
                for row in rows
                if link(row) == name
            ]
            panel.series(sorted(points), colour, name)
        panels.append(panel)
    return chart.beside(*panels)


def bytes_plot(rows: list[Json]) -> str:
    """Bytes by phase and kind of layer."""
    bars = []
    for row in rows:
        split = []
        for phase in ("prepare", "online"):
            keys = f"{phase}_bytes_up", f"{phase}_bytes_down"
            linear = of_kinds(row, LINEAR, *keys) / 1e6
            activated = of_kinds(row, ACTIVATIONS, *keys) / 1e6
            rest = both(row, phase) / 1e6 - linear - activated
            split.append((linear, activated, rest))
        (linear, prepared, shared), (_, online, ends) = split
        bars.append((row["model"], [linear, prepared, shared, online, ends]))
    labels = ["prepare: linear layers", "prepare: activations", "prepare: shared by layers"]
    labels += ["online: activations", "online: input and answer"]
    return chart.bars("Bytes of one inference, both directions", "MB", bars, labels)


def scaling_plot(rows: list[Json]) -> str:
    """Time against the number of activations."""
    rows = sorted(rows, key=lambda row: row["activations"])
    sizes = [row["activations"] for row in rows]
    times = [row[f"{phase}_s"] for row in rows for phase in ("prepare", "online")]
    x = Axis("activated values, rescalings included", min(sizes) / 2, max(sizes) * 2, log=True)
    y = Axis("seconds", min(times) / 6, max(times) * 6, log=True)
    panel = Panel("Networks of different sizes, all ReLU, loopback", x, y, 640, 420)
    for colour, phase in zip(COLOURS, ("prepare", "online"), strict=False):
        points = [(row["activations"], row[f"{phase}_s"]) for row in rows]
        panel.series(points, colour, phase, line=False)
    for index, row in enumerate(rows):
        above = index % 2 == 0
        phase = max if above else min
        panel.note(
            row["activations"], phase(row["prepare_s"], row["online_s"]), row["model"], above
        )
    return chart.beside(panel)


def main() -> None:
    """Fill the documents and write the plots."""
    measured = json.loads((DOCS / "performance.json").read_text())
    for name in ("performance.md", "networks.md"):
        fill(DOCS / name, measured)
    plots = DOCS / "plots"
    plots.mkdir(exist_ok=True)
    rows = {name: group["rows"] for name, group in measured.items()}
    if "ladder" in rows:
        (plots / "relu-share.svg").write_text(share_plot(rows["ladder"]))
    shown = [row for row in rows.get("ladder", []) if row["network"] is None]
    small = ("resnet20", "resnet32", "vgg16", "resnet18")
    shown += [row for row in rows.get("networks", []) if row["model"] in small]
    if shown:
        (plots / "bytes.svg").write_text(bytes_plot(shown))
    if "networks" in rows:
        (plots / "scaling.svg").write_text(scaling_plot(rows["networks"]))


if __name__ == "__main__":
    main()
