"""Charts of a page: SVG drawn by matplotlib, in colours that follow the page's light or dark scheme."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy.typing as npt

from stream.evaluation.extra import extra

INK, GRID, CARD = "#0a0b0c", "#0d0e0f", "#0b0c0d"
SERIES = ("#010201", "#020302", "#030403", "#040504", "#050605", "#060706", "#070807", "#080908")
COLORS = {INK: "var(--muted)", GRID: "var(--line)", CARD: "var(--card)"} | {
    color: f"var(--series-{i})" for i, color in enumerate(SERIES, 1)
}
"""Colours that nobody would choose stand for those of the page's style sheet, and are replaced in the drawn SVG."""
GENERATED_ID = re.compile(
    r' id="(?:figure|axes|patch|text|line2d|legend|matplotlib\.axis|xtick|ytick|PathCollection|LineCollection)_\d+"'
)


class Line(NamedTuple):
    """One line of a chart: x and y (N,), and how it is drawn."""

    label: str
    x: npt.ArrayLike
    y: npt.ArrayLike
    style: Literal["-", "--"] = "-"
    color: int | None = None  # of the page's series, from 1; by its place if None
    step: bool = False


class Mark(NamedTuple):
    """A point that is marked and named."""

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A chart of lines.

    Attributes:
        title, hint: shown above.
        lines: at least one; named in a legend where there are several.
        labels: of the x and the y axis.
        unit_square: both axes from 0 to 1; otherwise y counts things.
        marks: points.
        wide: twice as wide.
    """

    title: str
    lines: Sequence[Line]
    labels: tuple[str, str]
    unit_square: bool = False
    marks: Sequence[Mark] = ()
    hint: str = ""
    wide: bool = False


def draw(chart: Chart) -> str:
    """The chart as an ``<svg>`` element."""
    matplotlib, ticker = extra("matplotlib"), extra("matplotlib.ticker")
    style = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": chart.title,  # ids that are the same each time and differ between charts
        "text.parse_math": False,  # a name may hold a dollar sign
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": GRID,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": GRID,
    }
    with matplotlib.rc_context(style):
        figure = extra("matplotlib.figure").Figure(figsize=(10.4, 2.6) if chart.wide else (5.2, 3.4), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        for i, line in enumerate(chart.lines):
            color = SERIES[((line.color or i + 1) - 1) % len(SERIES)]
            axes.plot(
                line.x,
                line.y,
                line.style,
                color=color,
                label=line.label,
                linewidth=1.6,
                drawstyle="steps-post" if line.step else None,
            )
        for mark in chart.marks:
            axes.plot([mark.x], [mark.y], "o", color=SERIES[0], markersize=5)
            left = chart.unit_square and mark.x > 0.6
            axes.annotate(
                mark.label,
                (mark.x, mark.y),
                (-10 if left else 10, -26),
                textcoords="offset points",
                ha="right" if left else "left",
                bbox={"facecolor": CARD, "edgecolor": GRID, "boxstyle": "round", "linewidth": 0.7},
            )
        axes.set_xlabel(chart.labels[0])
        axes.set_ylabel(chart.labels[1])
        axes.grid(visible=True, linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        if chart.unit_square:
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1.02)
        else:
            axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])  # a line at 0 stays in sight
            axes.yaxis.set_major_locator(ticker.MaxNLocator(integer=True))
            axes.margins(x=0.01)
        if len(chart.lines) > 1:
            axes.legend(frameon=False, ncols=2 if chart.wide else 1, loc="best")
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return _inline(drawn.getvalue(), chart.title)


def _inline(svg: str, title: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = GENERATED_ID.sub("", svg)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)  # it takes the width of its place
    for color, variable in COLORS.items():
        svg = svg.replace(color, variable)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{_attribute(title)}" ', 1)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
