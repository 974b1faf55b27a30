"""Plots and reports."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from costs import made_up
from safenet_planner import RELU, Outside, Plan
from safenet_planner.report import (
    KIND_COLOURS,
    Curve,
    Outcome,
    Report,
    plot_curves,
    plot_kinds,
    read_curves,
    save,
    table,
    write_curves,
)
from safenet_planner.training import Epoch

PLAN = Plan({"a": (RELU, 3, 2, 0), "b": (1, 2)})
CURVES = [
    Curve("selection", (Outcome(0.3, 0.9), Outcome(0.1, 0.8))),
    Curve("<tree>", (Outcome(0.2, 0.8),)),
    Curve("nothing", ()),
]
PNG = b"\x89PNG\r\n\x1a\n"


class Page(HTMLParser):
    """Text of the cells, sources of images, and tags that were not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.images: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what opens."""
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Note what closes."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note words."""
        if data.strip():
            self.text.append(data.strip())


def test_report(tmp_path: Path) -> None:
    """One file with all tables and plots; names from outside are text, not markup."""
    epochs = [Epoch(1, 2, 0.5, 0.8, 3.0), Epoch(2, 2, 0.4, 0.85, 3.0)]
    report = Report(
        title="A <net> & its plan",
        plan=PLAN,
        facts={"accuracy": "85.0 %"},
        cost=made_up(),
        curves=CURVES,
        chosen=Outcome(0.1, 0.8),
        reference=0.92,
        budget_s=0.15,
        epochs=epochs,
        outside={"a": Outside(3, 1000, 1.25)},
    )
    path = report.write(tmp_path / "out")
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert not page.open
    assert "A <net> & its plan" in page.text
    for cell in ("<tree>", "85.0 %", "0.3000", "1.25", "whole network"):
        assert cell in page.text
    assert len(page.images) == 3
    assert all(image.startswith("data:image/png;base64,iVBOR") for image in page.images)
    assert "http" not in path.read_text(encoding="utf-8")
    for name in ("curve", "kinds", "training"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(PNG)
    seconds = made_up().predict(PLAN).prepare_latency(made_up().link)
    assert f"{1e3 * seconds:.2f}" in page.text


def test_short_report(tmp_path: Path) -> None:
    """Without costs, curves or training there is still the plan."""
    path = Report("net", PLAN, {}).write(tmp_path)
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert len(page.images) == 1
    assert page.text[-7:] == ["all", "6", "1", "1", "2", "1", "1"]


def test_plots(tmp_path: Path) -> None:
    """Axes have units, every line and bar its label."""
    figure = plot_curves(CURVES, reference=0.9, budget_s=0.2, chosen=Outcome(0.1, 0.8))
    axes = figure.axes[0]
    assert axes.get_xlabel().endswith("(ms)")
    words = [text.get_text() for text in axes.texts]
    assert {"selection", "<tree>", "budget", "chosen", "all ReLU: 90.00 %"} <= set(words)
    lines = [line.get_xdata() for line in axes.lines]
    assert list(lines[0]) == [100.0, 300.0]
    save(figure, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)
    bars = plot_kinds(PLAN).axes[0]
    widths = sorted(round(bar.get_width(), 2) for bar in bars.patches if bar.get_width())
    assert widths == [0.25, 0.25, 0.25, 0.25, 0.5, 0.5]
    assert len(set(KIND_COLOURS.values())) == 5


def test_curves_file(tmp_path: Path) -> None:
    """What is written is read."""
    write_curves(tmp_path / "curves.json", CURVES)
    assert read_curves(tmp_path / "curves.json") == CURVES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected curves as JSON"),
        ("{}", "expected an object with"),
        ('{"format": "safenet-planner curves", "version": 2}', "expected version 1, got 2"),
        ('{"format": "safenet-planner curves", "version": 1}', "lacks 'curves'"),
        (
            '{"format": "safenet-planner curves", "version": 1, "curves": [{"name": "x", "points":'
            ' [{"latency_s": 1, "accuracy": 85}]}]}',
            "expected an accuracy from 0 to 1, got 85.0",
        ),
        (
            '{"format": "safenet-planner curves", "version": 1, "curves": [{"name": "x", "points":'
            ' [{"latency_s": NaN, "accuracy": 1}]}]}',
            "expected a latency",
        ),
        ('{"format": "safenet-planner curves", "version": 1, "curves": [3]}', "not valid curves"),
    ],
)
def test_hostile_curves(tmp_path: Path, text: str, message: str) -> None:
    """Other files are refused, with their name and what is wrong."""
    path = tmp_path / "curves.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"curves\.json: ") as error:
        read_curves(path)
    assert message in str(error.value)


def test_table() -> None:
    """Cells are escaped."""
    assert table(("a&b", "c"), [("<i>", 3)]) == (
        '<div class="wide"><table><thead><tr><th>a&amp;b</th><th>c</th></tr></thead>\n<tbody>\n'
        "<tr><td>&lt;i&gt;</td><td>3</td></tr>\n</tbody></table></div>"
    )
