"""Small charts as SVG text: lines, labelled points, stacked bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

# Told apart by people with colour-blindness too (Okabe & Ito, 2008).
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 44
Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A range of values, linear or logarithmic."""

    title: str
    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high end."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values within the range."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            within = [m * 10.0**d for d in decades for m in (1, 2, 5)]
            within = [tick for tick in within if self.low <= tick * 1.0001 <= self.high * 1.0002]
            powers = [tick for tick in within if round(math.log10(tick), 6).is_integer()]
            return powers if len(powers) > 3 else within
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / 2))
        while (self.high - self.low) / step > 6:
            step *= 2.5 if str(step).startswith("2") or str(step).endswith("2") else 2
        first = math.ceil(self.low / step)
        return [step * i for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass
class Panel:
    """One coordinate system and what is drawn in it."""

    title: str
    x: Axis
    y: Axis
    width: int = 420
    height: int = 300
    parts: list[str] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)

    def at(self, x: float, y: float) -> Point:
        """Pixels of a point."""
        across = LEFT + self.x.place(x) * (self.width - LEFT - RIGHT)
        down = TOP + (1 - self.y.place(y)) * (self.height - TOP - BOTTOM)
        return across, down

    def series(self, points: Sequence[Point], colour: str, label: str, line: bool = True) -> None:
        """Points, joined by a line."""
        pixels = [self.at(*point) for point in points]
        if line:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
            self.parts.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
        for x, y in pixels:
            self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
        self.legend.append((colour, label))

    def note(self, x: float, y: float, text: str, above: bool) -> None:
        """A slanted word above or below a point."""
        across, down = self.at(x, y)
        down += -8 if above else 14
        angle, anchor = (-40, "start") if above else (-40, "end")
        self.parts.append(
            _text(across, down, text, anchor, f"rotate({angle} {across:.1f} {down:.1f})")
        )

    def svg(self) -> str:
        """The panel with its axes and legend."""
        right, bottom = self.width - RIGHT, self.height - BOTTOM
        out = [_text(LEFT, 16, self.title, weight="bold")]
        for tick in self.x.ticks():
            x, _ = self.at(tick, self.y.low)
            out.append(_rule(x, TOP, x, bottom))
            out.append(_text(x, bottom + 15, number(tick), "middle"))
        for tick in self.y.ticks():
            _, y = self.at(self.x.low, tick)
            out.append(_rule(LEFT, y, right, y))
            out.append(_text(LEFT - 6, y + 4, number(tick), "end"))
        middle = (TOP + bottom) / 2
        out.append(_text((LEFT + right) / 2, self.height - 10, self.x.title, "middle"))
        out.append(_text(16, middle, self.y.title, "middle", f"rotate(-90 16 {middle})"))
        out.extend(self.parts)
        out.extend(_legend(self.legend, right - 130, bottom - 14 * len(self.legend)))
        return "\n".join(out)


def bars(
    title: str, unit: str, rows: Sequence[tuple[str, Sequence[float]]], labels: Sequence[str]
) -> str:
    """Stacked horizontal bars: a name and the lengths of its parts in each row."""
    left, width, step = 130, 860, 24
    most = max(sum(parts) for _, parts in rows)
    axis = Axis(unit, 0, most * 1.12)
    height = TOP + step * len(rows) + BOTTOM + 14
    scale = width - left - RIGHT
    bottom = TOP + step * len(rows)
    out = [_text(left, 16, title, weight="bold")]
    for tick in axis.ticks():
        x = left + axis.place(tick) * scale
        out += [_rule(x, TOP, x, bottom), _text(x, bottom + 15, number(tick), "middle")]
    for index, (name, parts) in enumerate(rows):
        y, start = TOP + step * index + 4, 0.0
        out.append(_text(left - 6, y + 12, name, "end"))
        for colour, part in zip(COLOURS, parts, strict=False):
            x, length = left + axis.place(start) * scale, axis.place(part) * scale
            out.append(
                f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="16" fill="{colour}"/>'
            )
            start += part
        out.append(_text(left + axis.place(start) * scale + 5, y + 12, number(sum(parts))))
    out.append(_text((left + width) / 2, bottom + 31, unit, "middle"))
    x = left
    for colour, label in zip(COLOURS, labels, strict=False):
        out += _legend([(colour, label)], x, height - 10)
        x += 24 + 7 * len(label)
    return document(width, height, "\n".join(out))


def beside(*panels: Panel) -> str:
    """Panels in a row."""
    out, offset = [], 0
    for panel in panels:
        out.append(f'<g transform="translate({offset} 0)">\n{panel.svg()}\n</g>')
        offset += panel.width
    return document(offset, max(panel.height for panel in panels), "\n".join(out))


def document(width: int, height: int, content: str) -> str:
    """A whole file."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n{content}\n</svg>\n'
    )


def number(value: float) -> str:
    """A number in as few digits as it needs."""
    for limit, unit in ((1e6, "M"), (1e4, "k")):
        if value >= limit:
            return f"{value / (1e6 if unit == 'M' else 1e3):g}{unit}"
    return f"{value:.3g}"


def _text(
    x: float, y: float, text: str, anchor: str = "start", turn: str = "", weight: str = ""
) -> str:
    turned = f' transform="{turn}"' if turn else ""
    bold = f' font-weight="{weight}"' if weight else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}{bold}>{escape(text)}</text>'
    )


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="#ddd"/>'


def _legend(entries: Sequence[tuple[str, str]], x: float, y: float) -> list[str]:
    out = []
    for index, (colour, label) in enumerate(entries):
        down = y + 14 * index
        out.append(f'<rect x="{x}" y="{down - 9:.1f}" width="10" height="10" fill="{colour}"/>')
        out.append(_text(x + 15, down, label))
    return out
