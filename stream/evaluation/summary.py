"""Summary: what every evaluation comes down to, on a terminal, as JSON, and as the limits of a build that may fail."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from stream.errors import ConfigError, Fault
from stream.evaluation.charts import Chart

Unit = Literal["share", "percent", "count", "number", "seconds"]
Cell = str | int | float | None
UNKNOWN = "–"  # noqa: RUF001 # an en dash stands for what could not be measured
SHOWN_ROWS = 30  # of a table on the terminal


@dataclass(frozen=True)
class Metric:
    """One figure.

    Attributes:
        name: key in JSON and in ``--min`` and ``--max``.
        label: for people.
        value: nan where it could not be measured.
        unit: how it is shown; a share lies in 0..1.
        headline: shown large at the top of the page.
        hint: one line that says what it is.
    """

    name: str
    label: str
    value: float
    unit: Unit = "share"
    headline: bool = False
    hint: str = ""

    @property
    def shown(self) -> str:
        """The value for people."""
        return shown(self.value, self.unit)


@dataclass(frozen=True)
class Table:
    """A table; floats are shown with three digits after the point."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    hint: str = ""


@dataclass(frozen=True)
class Matrix:
    """Counts by two names, as a confusion matrix: int64 (rows, columns)."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: npt.NDArray[np.int64]
    hint: str = ""


@dataclass(frozen=True)
class Snapshot:
    """A picture for the page: JPEG bytes and a line of text."""

    caption: str
    jpeg: bytes


@dataclass(frozen=True)
class Summary:
    """One evaluation.

    Attributes:
        kind: name of the sub-command.
        truth, result: what was compared, as given on the command line.
        metrics, tables, matrices: the figures.
        notes: what a reader must know: the protocol, what was left out.
        charts, snapshots: for the page only. legend: what the colours of the snapshots mean, (CSS colour, text).
    """

    kind: str
    truth: str
    result: str
    metrics: tuple[Metric, ...]
    tables: tuple[Table, ...] = ()
    matrices: tuple[Matrix, ...] = ()
    notes: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> str:
        """The figures as JSON; what could not be measured is null."""
        data = {
            "kind": self.kind,
            "truth": self.truth,
            "result": self.result,
            "metrics": {metric.name: _plain(metric.value) for metric in self.metrics},
            "tables": [
                {"title": table.title, "columns": table.columns, "rows": [[_plain(cell) for cell in row] for row in table.rows]}
                for table in self.tables
            ],
            "matrices": [
                {"title": matrix.title, "rows": matrix.rows, "columns": matrix.columns, "values": matrix.values.tolist()}
                for matrix in self.matrices
            ],
            "notes": self.notes,
        }
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class Limit:
    """A metric must be at least (``least``) or at most this value."""

    name: str
    least: bool
    value: float


def parse_limits(minima: Iterable[str], maxima: Iterable[str]) -> list[Limit]:
    """Limits from ``FIGURE=VALUE``.

    Raises:
        ConfigError: one is not of that form.
    """
    found = []
    for option, texts in (("--min", minima), ("--max", maxima)):
        for text in texts:
            name, _, value = text.partition("=")
            try:
                number = float(value)
            except ValueError:
                number = math.nan
            if not name or math.isnan(number):
                raise ConfigError("framewatch evaluate", [Fault(option, f"{text!r} is not FIGURE=VALUE")])
            found.append(Limit(name.strip(), option == "--min", number))
    return found


def broken(limits: Sequence[Limit], metrics: Sequence[Metric]) -> list[str]:
    """A line for every limit that is not kept; what could not be measured keeps none.

    Raises:
        ConfigError: there is no such metric.
    """
    by_name = {metric.name: metric for metric in metrics}
    faults = [Fault(limit.name, f"no such figure; there is {', '.join(by_name)}") for limit in limits if limit.name not in by_name]
    if faults:
        raise ConfigError("framewatch evaluate", faults)
    lines = []
    for limit in limits:
        metric = by_name[limit.name]
        value = metric.value
        if math.isnan(value):
            lines.append(f"{limit.name} could not be measured; it must be at {'least' if limit.least else 'most'} {limit.value:g}")
        elif value < limit.value if limit.least else value > limit.value:
            lines.append(f"{limit.name} is {value:.6g}; it must be at {'least' if limit.least else 'most'} {limit.value:g}")
    return lines


def print_summary(summary: Summary, console: Console) -> None:
    """Figures, tables and notes on a terminal."""
    console.print(f"[bold]{summary.kind}[/]  {_escaped(summary.result)} against {_escaped(summary.truth)}")
    figures = RichTable(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    figures.add_column()
    figures.add_column(justify="right")
    figures.add_column(style="dim")
    for metric in summary.metrics:
        style = "bold" if metric.headline else ""
        figures.add_row(metric.name, f"[{style}]{metric.shown}[/]" if style else metric.shown, metric.hint or metric.label)
    console.print(figures)
    for table in summary.tables:
        _print_table(table.title, table.columns, table.rows, console)
    for matrix in summary.matrices:
        rows: list[tuple[Cell, ...]] = [(name, *map(int, counts)) for name, counts in zip(matrix.rows, matrix.values, strict=True)]
        if len(matrix.columns) <= 12:  # what fits a terminal; JSON and the page have it all
            _print_table(matrix.title, ("truth \\ result", *matrix.columns), rows, console)
    for note in summary.notes:
        console.print(f"[dim]{_escaped(note)}[/]")


def shown(value: Cell, unit: Unit = "share") -> str:
    """A figure for people."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return UNKNOWN
    if isinstance(value, str):
        return value
    match unit:
        case "count":
            return f"{value:,.0f}"
        case "percent":
            return f"{value:.1f} %"
        case "seconds":
            return f"{value:.2f} s"
        case "number":
            return f"{value:.2f}"
        case "share":
            return f"{value:.3f}"


def cell(value: Cell) -> str:
    """A table's cell for people."""
    return f"{value:,}" if isinstance(value, int) else shown(value)


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], console: Console) -> None:
    table = RichTable(title=_escaped(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(columns):
        numeric = bool(rows) and all(not isinstance(row[i], str) for row in rows)
        table.add_column(_escaped(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows[:SHOWN_ROWS]:
        table.add_row(*(_escaped(cell(value)) for value in row))
    console.print(table)
    if len(rows) > SHOWN_ROWS:
        console.print(f"[dim]and {len(rows) - SHOWN_ROWS} more rows: see --json or --html[/]")


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


def _plain(value: Cell) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
