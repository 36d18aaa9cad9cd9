"""A summary as one self-contained HTML page: nothing is loaded from anywhere, light and dark follow the reader's setting."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from importlib import resources

import numpy as np
import numpy.typing as npt

from stream.evaluation.charts import draw
from stream.evaluation.extra import extra
from stream.evaluation.summary import Cell, Summary, cell

TEMPLATE = "page.html.jinja"
MAX_MATRIX = 40  # names; a larger matrix cannot be read


def render_page(summary: Summary) -> str:
    """The page."""
    jinja2 = extra("jinja2")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = cell
    environment.filters["data_uri"] = _data_uri
    template = environment.from_string(resources.files("stream.evaluation").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    page: str = template.render(
        summary=summary,
        made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        headline=[metric for metric in summary.metrics if metric.headline],
        charts=[(chart, draw(chart)) for chart in summary.charts],
        tables=[(table, [_numeric(column) for column in zip(*table.rows, strict=True)]) for table in summary.tables if table.rows],
        matrices=[(matrix, _strengths(matrix.values)) for matrix in summary.matrices if len(matrix.rows) <= MAX_MATRIX],
    )
    return page


def _numeric(column: tuple[Cell, ...]) -> bool:
    return all(not isinstance(value, str) for value in column)


def _strengths(values: npt.NDArray[np.int64]) -> list[list[float]]:
    """How strongly each cell is coloured, 0..1; the root keeps the rare mistakes in sight."""
    strengths: list[list[float]] = np.sqrt(values / max(1, values.max(initial=0))).round(3).tolist()
    return strengths


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
