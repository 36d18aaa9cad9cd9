"""What all tests share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real videos, models and tools that lies beside the repository; tests skip without it."""
    folder = Path(os.environ.get("FRAMEWATCH_SHARED", ROOT.parent / "shared"))
    if not (folder / "data" / "MANIFEST.md").exists():
        pytest.skip(f"needs the test media in {folder} (or FRAMEWATCH_SHARED)")
    return folder
