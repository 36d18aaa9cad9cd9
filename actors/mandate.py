"""Mandate: while Serve replaces a replica there are two Controls at once; the youngest one looks after the actors."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from stream.logs import get_logger

logger = get_logger(__name__)

FILE = "run"


class Mandate:
    """Each Control takes it when it begins, from the one before in its Ray cluster; so a restarted one gets it too. Any thread.

    Attributes:
        run: names this one.

    Args:
        folder: that all Controls of the service share.
        cluster: names the Ray cluster. One of another cluster has other actors: there is nothing to take from it.
    """

    def __init__(self, folder: Path, cluster: str):
        self.run = uuid.uuid4().hex
        self._path, self._cluster, self._taken = folder / FILE, cluster, False

    def take(self) -> None:
        """It is this one's from now on."""
        part = self._path.with_name(f".{FILE}.{self.run}.part")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(f"{self.run} {self._cluster}", encoding="utf-8")
            os.replace(part, self._path)
        except OSError as error:  # the disk is full, say: the actors need somebody all the same
            logger.error("an older Control may go on beside this one", reason=error.strerror)
        else:
            self._taken = True

    def held(self) -> bool:
        """Whether no younger one has taken it; so, too, where that cannot be known."""
        if not self._taken:
            return True
        try:
            run, _, cluster = self._path.read_text(encoding="utf-8", errors="replace").partition(" ")
        except OSError:
            return True
        return run == self.run or cluster != self._cluster
