"""Files by their name: pictures and videos; and by their content: their digest, and whether two sets have one in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from stream import files
from stream.errors import DatasetError

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEOS = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".ts", ".m4v", ".gif")


def shared_file(some: Iterable[Path], others: Iterable[Path]) -> tuple[Path, Path] | None:
    """A file of each side with the same content; None where there is none. Only files of equal size are read.

    Raises:
        DatasetError: a file is missing or cannot be read.
    """
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in others:
        by_size[_size(path)].append(path)
    known: dict[int, dict[str, Path]] = {}
    for path in some:
        size = _size(path)
        if size in by_size:
            if size not in known:
                known[size] = {sha256(other): other for other in by_size[size]}
            twin = known[size].get(sha256(path))
            if twin is not None:
                return path, twin
    return None


def sha256(path: Path) -> str:
    """Hex digest of a file's content.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        return files.sha256(path)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
