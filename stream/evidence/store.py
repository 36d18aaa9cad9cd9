"""Store: where evidence is kept, a folder or any file system that fsspec knows."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import IO, Any, cast

import fsspec

from stream.errors import EvidenceError, EvidenceMissing
from stream.evidence.address import place_of, public_root
from stream.evidence.settings import EvidenceConfig
from stream.redact import reason

RENAMING = {"file", "local", "ftp", "sftp", "ssh", "smb"}  # a file that is being written shows there; object stores show whole ones


WRITTEN = ("mtime", "LastModified", "last_modified", "updated", "created", "modify")  # as the file systems call it


@dataclass(frozen=True, slots=True)
class Stored:
    """A file of evidence: its path below the root, its size, and when it was written (POSIX seconds), which for a recording
    that is analysed later is not when its alert was raised."""

    path: str
    size_bytes: int
    written_at: float


class Store:
    """One place for evidence. Any number of processes may use the same one; a ``Store`` is for one thread at a time.

    It connects when it is used, and anew after an error: servers hang up on those who are silent.

    Raises:
        EvidenceError: by every method: ``store``, with a reason that holds no secret.
    """

    def __init__(self, config: EvidenceConfig):
        self._config = config
        self._fs: Any = None
        self._root = ""
        self._renames = False

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """The file system. Those of fsspec raise errors of libraries that are not known here."""
        try:
            if self._fs is None:
                # Not one of fsspec's cached instances: a connection is for one thread.
                self._fs, root = fsspec.core.url_to_fs(self._config.url, skip_instance_cache=True, **self._config.options)
                self._root = str(root).rstrip("/")
                protocols = {self._fs.protocol} if isinstance(self._fs.protocol, str) else set(self._fs.protocol)
                self._renames = bool(protocols & RENAMING)
            yield self._fs
        except FileNotFoundError:
            raise EvidenceMissing("there is no such file") from None
        except Exception as error:  # noqa: BLE001 - see above
            self._fs = None
            raise EvidenceError("store", f"{type(error).__name__}: {reason(error)}") from None

    def write(self, path: str, data: bytes) -> None:
        """Write a file whole, in the place of one that may be there."""
        with self._connected() as fs:
            target = f"{self._root}/{path}"
            fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            if not self._renames:
                fs.pipe_file(target, data)
                return
            part = f"{target}.{secrets.token_hex(4)}.part"
            try:
                fs.pipe_file(part, data)
                fs.mv(part, target)
            except BaseException:
                with contextlib.suppress(Exception):
                    fs.rm_file(part)
                raise

    def open(self, path: str) -> IO[bytes]:
        """A file for reading.

        Raises:
            EvidenceMissing: it is not there.
        """
        with self._connected() as fs:
            fs.invalidate_cache()
            return cast("IO[bytes]", fs.open(f"{self._root}/{path}", "rb"))

    def folders(self, path: str = "") -> list[str]:
        """Names of the folders in a folder, in their order."""
        return sorted(PurePosixPath(entry["name"]).name for entry in self._entries(path) if entry["type"] == "directory")

    def files(self, path: str) -> list[Stored]:
        """The evidence in a folder, in the order of time; other files do not count."""
        found = []
        for entry in self._entries(path):
            name = f"{path}/{PurePosixPath(entry['name']).name}"
            place = place_of(name) if entry["type"] == "file" else None
            if place is not None:
                found.append(Stored(name, int(entry["size"] or 0), max(place.raised_at.timestamp(), _written_at(entry))))
        return sorted(found, key=lambda one: one.path)

    def _entries(self, path: str) -> list[dict[str, Any]]:
        try:
            with self._connected() as fs:
                fs.invalidate_cache()
                return cast("list[dict[str, Any]]", fs.ls(f"{self._root}/{path}".rstrip("/"), detail=True))
        except EvidenceMissing:
            return []

    def delete(self, path: str) -> bool:
        """Delete a file; False where another process was faster."""
        with contextlib.suppress(EvidenceMissing), self._connected() as fs:
            target = f"{self._root}/{path}"
            try:
                fs.rm_file(target)
            except Exception:
                fs.invalidate_cache()
                if fs.exists(target):
                    raise
                return False
            return True
        return False

    def delete_folder(self, path: str) -> None:
        """Delete a folder that is empty; one that is not stays."""
        with contextlib.suppress(EvidenceMissing, EvidenceError), self._connected() as fs:
            fs.rmdir(f"{self._root}/{path}")  # fails where somebody writes into it, or has no folders, as an object store


def _written_at(entry: Mapping[str, Any]) -> float:
    """POSIX seconds; 0 where the file system does not tell."""
    for value in (entry[key] for key in WRITTEN if key in entry):
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, int | float):
            return float(value)
        with contextlib.suppress(ValueError):  # FTP; before ISO, which takes fourteen digits for something else
            return datetime.strptime(str(value)[:14] + " +0000", "%Y%m%d%H%M%S %z").timestamp()
        with contextlib.suppress(ValueError):
            at = datetime.fromisoformat(str(value))
            return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    return 0.0


def open_evidence(config: EvidenceConfig, url: str) -> IO[bytes]:
    """The picture or clip at an address that an alert's event has, for reading; the caller closes it.

    Args:
        config: of the service that wrote it.
        url: ``AlertEvent.evidence.picture`` or ``.clip``.

    Raises:
        EvidenceMissing: it is not there (yet, or any more), or is no address of this store.
        EvidenceError: the store cannot be read at present.
    """
    root = public_root(config)
    path = url.removeprefix(f"{root}/")
    if path == url or place_of(path) is None:
        raise EvidenceMissing("no evidence of this service lies there")
    return Store(config).open(path)
