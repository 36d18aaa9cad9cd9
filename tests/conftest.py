"""What all tests share."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real videos, models and tools that lies beside the repository; tests skip without it."""
    folder = Path(os.environ.get("FRAMEWATCH_SHARED", ROOT.parent / "shared"))
    if not (folder / "data" / "MANIFEST.md").exists():
        pytest.skip(f"needs the test media in {folder} (or FRAMEWATCH_SHARED)")
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI with the test media at hand a skipped test is a failed one, but for those that need a GPU."""
    report = yield
    in_ci = os.environ.get("CI") == "true" and (ROOT.parent / "shared" / "data" / "MANIFEST.md").exists()
    if in_ci and report.skipped and not hasattr(report, "wasxfail") and "GPU" not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where all that it needs must be there: {report.longrepr}"
    return report
