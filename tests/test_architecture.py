"""The house rules that a machine can check."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.compute

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 500

IMPORT_ALL_WITHOUT_RAY = """
import importlib, importlib.abc, importlib.util, pkgutil, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError(f"{name} is blocked here", name=name)
        return None

sys.meta_path.insert(0, Block())
import stream
names = [module.name for module in pkgutil.walk_packages(stream.__path__, "stream.")]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Extras need not be installed, but then it must be their absence that is in the way.
        package = (error.name or "").partition(".")[0]
        if package in ("", "ray", "stream", "actors") or importlib.util.find_spec(package):
            raise
assert "ray" not in sys.modules
print(len(names))
"""


def test_stages_import_only_what_they_may() -> None:
    lint = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True, no_logo=True))"
    run = subprocess.run([sys.executable, "-c", lint], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 broken" in run.stdout


def test_all_of_stream_imports_without_ray() -> None:
    run = subprocess.run([sys.executable, "-c", IMPORT_ALL_WITHOUT_RAY], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[-1]) > 15


@pytest.mark.parametrize("package", ["stream", "actors"])
def test_no_module_is_too_long(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    lines = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {file: count for file, count in lines.items() if count > MAX_LINES} == {}
