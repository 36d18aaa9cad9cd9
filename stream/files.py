"""Files that are written whole or not at all, and their digests."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Another name to write under, in the folder of ``path``; it is renamed to ``path`` once the block is through. A failed
    block leaves ``path`` as it was and nothing beside it.

    Raises:
        OSError: it cannot be written; names ``path``.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        if error.filename == str(part):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        part.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Make sure that ``path`` can be written, before much is done for what is to be in it; leaves nothing behind.

    Raises:
        OSError: it cannot.
    """
    missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    finally:
        for folder in missing:
            if folder.exists():
                folder.rmdir()


def is_any_of(path: Path, others: Iterable[Path]) -> bool:
    """Whether ``path`` is one of these files, under whatever name; what is not there is none."""
    return path.exists() and any(other.exists() and path.samefile(other) for other in others)


def sha256(path: Path) -> str:
    """Hex digest of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file, and its folder where it is missing.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
