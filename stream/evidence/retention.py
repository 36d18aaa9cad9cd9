"""Retention: deletes evidence that is too old, and the oldest while there is too much of it."""

from __future__ import annotations

from collections.abc import Iterator

from stream.clock import Clock
from stream.errors import EvidenceError
from stream.events import timestamp
from stream.evidence.settings import EvidenceConfig
from stream.evidence.store import Store, Stored
from stream.logs import get_logger
from stream.metrics import Metrics

PASS_INTERVAL_S = 60.0
DELETED_AT_ONCE = 50

logger = get_logger(__name__)


class Retention:
    """Goes through the store, a folder of one day and one source a step, about once a minute. Not thread-safe.

    Several processes may look after one store. It deletes only files whose names are those of evidence, and folders
    that are empty then.

    Args:
        store: where.
        config: for how long and how much.
        clock: wall time for ages, monotonic time between passes.
        metrics: counts what expired.
    """

    def __init__(self, store: Store, config: EvidenceConfig, clock: Clock, metrics: Metrics):
        self._store, self._config, self._clock, self._metrics = store, config, clock, metrics
        self._pass: Iterator[None] | None = None
        self._next_s = clock.monotonic()
        self._failed = False

    def step(self) -> bool:
        """Do a little, if it is time; False when there is nothing to do at present.

        A store that cannot be reached is tried again with the next pass.
        """
        if self._pass is None:
            if self._clock.monotonic() < self._next_s:
                return False
            self._pass = self._go_through()
        try:
            next(self._pass)
        except StopIteration:
            self._done(failed=False)
        except EvidenceError as error:
            if not self._failed:
                logger.warning("evidence cannot be looked after", reason=error.detail)
            self._done(failed=True)
        return self._pass is not None

    def _done(self, failed: bool) -> None:
        self._pass, self._failed = None, failed
        self._next_s = self._clock.monotonic() + PASS_INTERVAL_S

    def _go_through(self) -> Iterator[None]:
        limit, days = self._config.max_bytes, self._store.folders()
        sizes = dict.fromkeys(days, 0)
        for day in days:
            yield
            for source in self._store.folders(day):
                files = self._store.files(f"{day}/{source}")
                yield from self._delete([one for one in files if self._expired(one)], "age")
                sizes[day] += sum(one.size_bytes for one in files if not self._expired(one))
                self._tidy(f"{day}/{source}", any(not self._expired(one) for one in files))
                yield
            self._tidy(day, bool(self._store.folders(day)))
        total = sum(sizes.values())
        for day in days:
            if limit is None or total <= limit:
                return
            yield
            files = [one for source in self._store.folders(day) for one in self._store.files(f"{day}/{source}")]
            total += sum(one.size_bytes for one in files) - sizes[day]  # another process may delete, too
            excess = []
            for one in sorted(files, key=_raised):
                if total > limit:
                    excess.append(one)
                    total -= one.size_bytes
            yield from self._delete(excess, "size")

    def _expired(self, one: Stored) -> bool:
        return self._config.max_age_s is not None and self._clock.time() - one.written_at > self._config.max_age_s

    def _tidy(self, folder: str, used: bool) -> None:
        """Delete a folder that is empty, but not one that may just have been made."""
        if not used and folder[:10] < f"{timestamp(self._clock.time()):%Y-%m-%d}":
            self._store.delete_folder(folder)

    def _delete(self, files: list[Stored], why: str) -> Iterator[None]:
        for number, one in enumerate(files, 1):
            if self._store.delete(one.path):
                self._metrics.evidence("expired", why)
            if number % DELETED_AT_ONCE == 0:
                yield


def _raised(one: Stored) -> str:
    """Sorts by the time of the alert: the day, then the time that the file's name begins with."""
    day, _, name = one.path.split("/")
    return f"{day}/{name}"
