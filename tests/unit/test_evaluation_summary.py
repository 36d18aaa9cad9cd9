"""Figures on a terminal, as JSON, as limits, and as a page."""

from __future__ import annotations

import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from stream.cli import main
from stream.errors import ConfigError
from stream.evaluation.charts import Chart, Line, Mark, draw
from stream.evaluation.extra import extra
from stream.evaluation.page import render_page
from stream.evaluation.summary import Limit, Matrix, Metric, Snapshot, Summary, Table, broken, parse_limits, print_summary, shown

SUMMARY = Summary(
    kind="detections",
    truth="a<b>.json",
    result="[model] & co",
    metrics=(
        Metric("ap50", "AP50", 0.91234, headline=True, hint="the main one"),
        Metric("ap_small", "AP small", math.nan),
        Metric("error_percent", "Error", 2.04, "percent"),
        Metric("objects", "Objects", 12345, "count"),
        Metric("delay_s", "Delay", -0.5, "seconds"),
        Metric("mae", "MAE", 0.25, "number"),
    ),
    tables=(Table("Classes", ("class", "AP", "n"), (("person [1]", 0.5, 1000), ("car", math.nan, 3))), Table("Empty", ("a",), ())),
    matrices=(Matrix("Confusion", ("x", "y"), ("x", "y"), np.array([[4, 1], [0, 9]])),),
    notes=("a note with [brackets]",),
    charts=(
        Chart(
            "PR <curve>",
            [Line("all", [0, 1], [1, 0.5]), Line("car $1 or $2", [0, 1], [1, 0.2], "--")],
            ("recall", "precision"),
            True,
        ),
        Chart(
            "Occupancy", [Line("truth", [0, 1, 2], [3, 4, 2], step=True)], ("s", "objects"), marks=[Mark(1, 4, "here")], wide=True
        ),
    ),
    snapshots=(Snapshot("one.jpg: F1 0.5", b"\xff\xd8jpeg"),),
    legend=(("#dc143c", "wrong"),),
)


def test_limits() -> None:
    limits = parse_limits(["ap50=0.9", "ap_small=0.1"], ["error_percent=2", "mae=0.25"])
    assert limits[0] == Limit("ap50", True, 0.9)
    assert broken(limits, SUMMARY.metrics) == [
        "ap_small could not be measured; it must be at least 0.1",
        "error_percent is 2.04; it must be at most 2",
    ]
    assert broken(parse_limits(["ap50=0.92"], []), SUMMARY.metrics) == ["ap50 is 0.91234; it must be at least 0.92"]
    assert broken(parse_limits([], ["ap50=0.91"]), SUMMARY.metrics) == ["ap50 is 0.91234; it must be at most 0.91"]


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(ConfigError, match=r"needs no_such_package, which is not installed: pip install 'framewatch\[evaluate\]'"):
        extra("no_such_package")


@pytest.mark.parametrize("text", ["ap50", "ap50=", "=0.9", "ap50=high", "ap50=nan"])
def test_a_limit_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"--max: '{text}' is not FIGURE=VALUE"):
        parse_limits([], [text])


def test_a_limit_of_an_unknown_figure_is_refused() -> None:
    with pytest.raises(ConfigError, match="ap51: no such figure; there is ap50, ap_small"):
        broken(parse_limits(["ap51=0.9"], []), SUMMARY.metrics)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.9, "share", "0.900"),
        (2.04, "percent", "2.0 %"),
        (12345, "count", "12,345"),
        (-0.5, "seconds", "-0.50 s"),
        (1, "number", "1.00"),
    ],
)
def test_units(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text  # type: ignore[arg-type]


def test_json_holds_everything_and_no_nan() -> None:
    data = json.loads(SUMMARY.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert data["metrics"]["ap50"] == 0.91234
    assert data["metrics"]["ap_small"] is None
    assert data["tables"][0]["rows"] == [["person [1]", 0.5, 1000], ["car", None, 3]]
    assert data["matrices"][0]["values"] == [[4, 1], [0, 9]]
    assert (data["truth"], data["result"], data["notes"]) == ("a<b>.json", "[model] & co", ["a note with [brackets]"])


def test_an_output_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.csv").write_text("id,label\n1,cat\n")
    (tmp_path / "file").write_text("")
    labels, out = str(tmp_path / "labels.csv"), str(tmp_path / "file" / "figures.json")
    monkeypatch.setattr("sys.argv", ["framewatch", "evaluate", "classification", labels, labels, "--json", out])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"framewatch: {tmp_path / 'file'}: File exists\n"


def test_the_terminal_shows_it_all_as_it_is() -> None:
    out = io.StringIO()
    print_summary(SUMMARY, Console(file=out, width=100))
    text = out.getvalue()
    for part in (
        "[model] & co",
        "ap50",
        "0.912",
        "2.0 %",
        "12,345",
        "person [1]",
        "1,000",
        "a note with [brackets]",
        "truth \\ result",
    ):
        assert part in text
    assert "nan" not in text


class Page(HTMLParser):
    """Collects the elements' names, their text, and everything that a page could load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br", "link", "path", "use", "rect"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset"):
                self.loads.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "use", "rect"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_loads_nothing() -> None:
    html = render_page(SUMMARY)
    page = Page(html)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert any(load.startswith("data:image/jpeg;base64,/9h") for load in page.loads)
    assert all(load.startswith(("data:", "#")) for load in page.loads)
    assert not re.search(r"url\((?!#)|@import|<script|<link", html)
    assert "prefers-color-scheme: dark" in html
    for part in ("a<b>.json", "[model] & co", "0.912", "PR <curve>", "person [1]", "one.jpg: F1 0.5", "recall", "a note with"):
        assert part in page.text
    assert "Empty" not in page.text  # a table without rows says nothing


def test_charts_take_the_colours_of_the_page() -> None:
    svg = draw(SUMMARY.charts[0])
    colors = set(re.findall(r"(?:stroke|fill): ([^;\"']+)", svg)) - {"none"}
    assert {"var(--series-1)", "var(--series-2)", "var(--muted)", "var(--line)"} <= colors
    assert {color for color in colors if not color.startswith("var(")} <= {"#ffffff", "#000000"}
    assert draw(SUMMARY.charts[0]) == svg  # the same each time
    assert "car $1 or $2" in svg
    assert 'aria-label="PR &lt;curve>"' in svg
