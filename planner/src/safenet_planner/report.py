"""Plots, and a report in one HTML file that needs nothing else.

Colours are those of Okabe and Ito (*Color Universal Design*, 2008), which colour-blind readers can
tell apart; every line and bar has its label beside it as well.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from safenet_planner.activation import Outside
from safenet_planner.cost import CostModel, Link
from safenet_planner.kinds import KINDS, NAMES
from safenet_planner.plans import Plan
from safenet_planner.training import Epoch

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
KIND_COLOURS = dict(
    zip(KINDS, ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#BBBBBB"), strict=True)
)

FORMAT = "safenet-planner curves"
VERSION = 1


@dataclass(frozen=True)
class Outcome:
    """A plan's latency and accuracy."""

    latency_s: float
    """Seconds of an inference, preparing included."""
    accuracy: float
    """Share of images that are classified correctly, 0 to 1."""

    def __post_init__(self) -> None:
        if not (self.latency_s >= 0 and math.isfinite(self.latency_s)):
            raise ValueError(f"expected a latency of at least 0 s, got {self.latency_s!r}")
        if not 0 <= self.accuracy <= 1:
            raise ValueError(f"expected an accuracy from 0 to 1, got {self.accuracy!r}")


@dataclass(frozen=True)
class Curve:
    """What one method reaches at several budgets."""

    name: str
    points: tuple[Outcome, ...]


def write_curves(path: Path | str, curves: Iterable[Curve]) -> None:
    """Write curves to a file that `read_curves` and `safenet-plan compare` read."""
    rows = [
        {
            "name": curve.name,
            "points": [{"latency_s": p.latency_s, "accuracy": p.accuracy} for p in curve.points],
        }
        for curve in curves
    ]
    found = {"format": FORMAT, "version": VERSION, "curves": rows}
    Path(path).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def read_curves(path: Path | str) -> list[Curve]:
    """Read what `write_curves` wrote. Raises ValueError, naming the file and what is wrong."""
    try:
        found: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: expected curves as JSON, got {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f'{path}: expected an object with "format": "{FORMAT}"')
    if found.get("version") != VERSION:
        raise ValueError(f"{path}: expected version {VERSION}, got {found.get('version')!r}")
    try:
        return [
            Curve(
                str(row["name"]),
                tuple(Outcome(float(p["latency_s"]), float(p["accuracy"])) for p in row["points"]),
            )
            for row in found["curves"]
        ]
    except KeyError as error:
        raise ValueError(f"{path}: a curve lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: not valid curves: {error}") from error


def plot_curves(
    curves: Sequence[Curve],
    *,
    reference: float | None = None,
    budget_s: float | None = None,
    chosen: Outcome | None = None,
) -> Figure:
    """Accuracy against latency, a line for each method.

    `reference` is the accuracy of the unplanned network, `chosen` the plan that was taken.
    """
    figure, axes = _figure("latency of an inference, preparing included (ms)", "accuracy")
    ends = []
    for index, curve in enumerate(curves):
        points = sorted(curve.points, key=lambda p: p.latency_s)
        if not points:
            continue
        colour = COLOURS[index % len(COLOURS)]
        x, y = [1e3 * p.latency_s for p in points], [p.accuracy for p in points]
        style = DASHES[index // len(COLOURS) % len(DASHES)]
        axes.plot(x, y, style, color=colour, marker=MARKERS[index % len(MARKERS)], markersize=5)
        ends.append((x[-1], y[-1], curve.name, colour))
    if reference is not None:
        axes.axhline(reference, color="#666666", linestyle=":", linewidth=1)
        axes.annotate(
            f"all ReLU: {100 * reference:.2f} %",
            (0, reference),
            xycoords=("axes fraction", "data"),
            xytext=(4, 3),
            textcoords="offset points",
            color="#666666",
        )
    if budget_s is not None:
        axes.axvline(1e3 * budget_s, color="#666666", linestyle=":", linewidth=1)
        axes.annotate(
            "budget",
            (1e3 * budget_s, 0),
            xycoords=("data", "axes fraction"),
            xytext=(3, 4),
            textcoords="offset points",
            color="#666666",
        )
    if chosen is not None:
        place = (1e3 * chosen.latency_s, chosen.accuracy)
        axes.plot(*place, "o", markersize=12, markerfacecolor="none", color="#000000")
        axes.annotate("chosen", place, xytext=(8, -12), textcoords="offset points")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _label_ends(axes, ends)
    return figure


def _label_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Names at the right edge, at the height of the lines' ends but never over one another."""
    low, high = axes.get_ylim()
    step, previous = 0.055, -math.inf
    for x, y, name, colour in sorted(ends, key=lambda end: end[1]):
        height = max((y - low) / (high - low), previous + step)
        previous = height
        axes.annotate(
            name,
            (x, y),
            xytext=(1.02, height),
            textcoords="axes fraction",
            va="center",
            color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.5},
        )


def plot_kinds(plan: Plan) -> Figure:
    """Kinds of each layer's channels, as shares, in a stacked bar."""
    counts = plan.counts()
    figure, axes = _figure("share of the layer's channels", "", height=1.2 + 0.32 * len(counts))
    for row, by_kind in enumerate(counts.values()):
        total, left = sum(by_kind.values()), 0.0
        for kind, count in by_kind.items():
            share = count / total
            axes.barh(row, share, left=left, height=0.8, color=KIND_COLOURS[kind])
            if share >= 0.05:
                dark = kind in (KINDS[0], 2)
                axes.text(
                    left + share / 2,
                    row,
                    str(count),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="#FFFFFF" if dark else "#000000",
                )
            left += share
    axes.set_yticks(range(len(counts)), list(counts))
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(False)
    handles = [axes.barh(0, 0, color=colour) for colour in KIND_COLOURS.values()]
    names = [NAMES[kind] for kind in KIND_COLOURS]
    axes.legend(
        handles,
        names,
        ncols=len(names),
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        frameon=False,
        fontsize=8,
        handlelength=1,
    )
    return figure


def plot_training(epochs: Sequence[Epoch]) -> Figure:
    """Loss and validation accuracy by epoch, one above the other."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    numbers = [epoch.number for epoch in epochs]
    for axes, values, colour, label in (
        (upper, [epoch.accuracy for epoch in epochs], COLOURS[0], "validation accuracy"),
        (lower, [epoch.loss for epoch in epochs], COLOURS[1], "training loss"),
    ):
        axes.plot(numbers, values, marker="o", markersize=4, color=colour)
        axes.set_ylabel(label)
        _plain(axes)
    upper.yaxis.set_major_formatter(PercentFormatter(1.0))
    lower.set_xlabel("epoch")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _figure(x: str, y: str, height: float = 4.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


def save(figure: Figure, path: Path | str) -> None:
    """Write a figure as PNG."""
    figure.savefig(path, format="png", dpi=144)


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #888; }
img { max-width: 100%; }
div.wide { overflow-x: auto; }
"""


@dataclass(frozen=True)
class Report:
    """What there is to report of a planned network."""

    title: str
    plan: Plan
    facts: Mapping[str, str]
    """Figures of the summary, in order: what and how much."""
    cost: CostModel | None = None
    link: Link | None = None
    """The link of the latencies; that of `cost` unless given."""
    curves: Sequence[Curve] = ()
    chosen: Outcome | None = None
    reference: float | None = None
    """Accuracy of the unplanned network, 0 to 1."""
    budget_s: float | None = None
    epochs: Sequence[Epoch] = ()
    outside: Mapping[str, Outside] | None = None
    """By layer, values of held-out images beyond the fitted ranges."""

    def write(self, folder: Path | str) -> Path:
        """Write `report.html` and its plots as PNG files to `folder`; the path of the former."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        parts = [f"<h1>{html.escape(self.title)}</h1>", table(("", ""), self.facts.items())]
        if any(curve.points for curve in self.curves):
            figure = plot_curves(
                self.curves,
                reference=self.reference,
                budget_s=self.budget_s,
                chosen=self.chosen,
            )
            parts += ["<h2>Accuracy against latency</h2>", _image(figure, folder / "curve.png")]
            rows = [
                (curve.name, f"{1e3 * p.latency_s:.1f}", f"{100 * p.accuracy:.2f}")
                for curve in self.curves
                for p in sorted(curve.points, key=lambda p: p.latency_s)
            ]
            parts.append(table(("method", "latency, ms", "accuracy, %"), rows))
        parts += ["<h2>Kinds by layer</h2>", _image(plot_kinds(self.plan), folder / "kinds.png")]
        rows = [
            (name, sum(by_kind.values()), *by_kind.values())
            for name, by_kind in self.plan.counts().items()
        ]
        totals = [sum(row[i] for row in rows) for i in range(1, len(KINDS) + 2)]
        heads = ("layer", "channels", *(NAMES[kind] for kind in KINDS))
        parts.append(table(heads, [*rows, ("all", *totals)]))
        if self.cost is not None:
            parts += self._costs(self.cost, self.link or self.cost.link)
        if self.outside is not None:
            parts += _ranges(self.outside)
        if self.epochs:
            figure = plot_training(self.epochs)
            parts += ["<h2>Fine-tuning</h2>", _image(figure, folder / "training.png")]
        page = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{html.escape(self.title)}</title><style>{STYLE}</style></head>\n<body>\n"
            + "\n".join(parts)
            + "\n</body></html>\n"
        )
        path = folder / "report.html"
        path.write_text(page, encoding="utf-8")
        return path

    def _costs(self, model: CostModel, link: Link) -> list[str]:
        """Tables of predicted costs."""
        total = model.predict(self.plan)
        parts = [
            "<h2>Predicted cost</h2>",
            f"<p>Over {html.escape(str(link))}. A layer's milliseconds are those that both parties"
            " compute for its activations; the network's are those that pass.</p>",
        ]
        heads = ("layer", "preparing, ms", "kB", "online, ms", "kB", "round trips")
        rows = []
        for name in self.plan.layers:
            cost = model.layer_cost(self.plan, name)
            prepare_s = cost.ahead_s + cost.client_s + cost.server_s
            rows.append((name, *_cost_cells(prepare_s, cost.online_s, cost)))
        whole = _cost_cells(total.prepare_latency(link), total.online_latency(link), total)
        parts.append(table(heads, [*rows, ("whole network", *whole)]))
        if model.check is not None:
            check = model.check
            parts.append(
                "<p>On a plan that the model of costs was not fitted on, over"
                f" {html.escape(str(model.link))}: {1e3 * check.predicted_prepare_s:.1f} +"
                f" {1e3 * check.predicted_online_s:.1f} ms predicted,"
                f" {1e3 * check.measured_prepare_s:.1f} + {1e3 * check.measured_online_s:.1f} ms"
                f" measured (preparing + online), {100 * check.error:+.1f} %.</p>"
            )
        return parts


def _cost_cells(prepare_s: float, online_s: float, cost: Any) -> tuple[str, ...]:
    return (
        f"{1e3 * prepare_s:.2f}",
        f"{cost.prepare_bytes / 1e3:.1f}",
        f"{1e3 * online_s:.2f}",
        f"{cost.online_bytes / 1e3:.1f}",
        f"{cost.online_rounds:.0f}",
    )


def _ranges(outside: Mapping[str, Outside]) -> list[str]:
    """Table of the values beyond the fitted ranges."""
    rows = [
        (name, f"{o.total:,}", f"{o.count:,}", f"{100 * o.share:.4f}", f"{o.farthest:.2f}")
        for name, o in outside.items()
    ]
    heads = ("layer", "values at polynomials", "outside", "%", "farthest, half widths")
    return [
        "<h2>Ranges on held-out images</h2>",
        "<p>A polynomial was fitted to ReLU on a range, and may be far from it outside. The"
        " farthest value is counted from the middle of the range: 1 is its end.</p>",
        table(heads, rows),
    ]


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """An HTML table; every cell is escaped."""
    top = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    head = f"<thead><tr>{top}</tr></thead>" if any(heads) else ""
    lines = (
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    body = "\n".join(lines)
    return f'<div class="wide"><table>{head}\n<tbody>\n{body}\n</tbody></table></div>'


def _image(figure: Figure, path: Path) -> str:
    """Save a figure, and the HTML that has it in itself."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=144)
    path.write_bytes(stream.getvalue())
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return f'<p><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}"></p>'
