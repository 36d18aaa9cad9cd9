"""Leftover: aggregators of an earlier config, which had more of them. Each ends once it has nothing more to tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from actors import names
from actors.aggregator import AggregatorStatus
from stream.logs import get_logger

logger = get_logger(__name__)


class Leftover:
    """Which aggregators there are beyond those of the config, by their folders: those have alerts that are raised, and events
    that are not sent yet.

    Attributes:
        names: of those that are needed as yet.

    Args:
        state_dir: where the folders are.
        count: of the config's own aggregators.
    """

    def __init__(self, state_dir: Path, count: int):
        self._state_dir = state_dir
        folders = [path for path in state_dir.glob(f"{names.AGGREGATOR}*") if path.is_dir()]
        indices = [int(index) for path in folders if (index := path.name.removeprefix(names.AGGREGATOR)).isdecimal()]
        self.names = [names.aggregator(index) for index in sorted(indices) if index >= count]
        self._done: list[str] = []

    def take(self, answered: Mapping[str, AggregatorStatus]) -> None:
        """Take notice of what they told, having been given no sources: their alerts are cleared then."""
        for name in list(self.names):
            status = answered.get(name)
            if status and not (status.pending_events or status.news.alerts or status.news.active):
                self.names.remove(name)
                self._done.append(name)

    def put_away(self, gone: Callable[[str], bool]) -> None:
        """Rename the folders of those that have ended, so that they are not taken up again.

        Args:
            gone: whether there is no actor of that name any more.
        """
        for name in [name for name in self._done if gone(name)]:
            self._done.remove(name)
            folder = self._state_dir / name
            aside = folder.with_name(f"{name}.drained-{datetime.now(UTC):%Y%m%dT%H%M%S}")
            try:
                folder.rename(aside)
            except OSError as error:
                logger.error("the folder of a former aggregator stays", folder=str(folder), reason=error.strerror)
            else:
                logger.info("a former aggregator has sent all it had", of=name, folder=str(aside))
