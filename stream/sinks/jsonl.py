"""JsonlSink: events as JSON lines, in a file or on standard output."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from stream.config import JsonlSinkConfig
from stream.errors import SinkError
from stream.events import TOPICS, Event

FLUSH_EVERY_S = 0.05  # a frame is acknowledged when its line is handed over, so this adds to its latency
FLUSH_BYTES = 256 << 10


class JsonlSink:
    """Appends one line an event to a file, or to standard output for ``-``.

    Lines are buffered and handed to the operating system whole, after ``FLUSH_EVERY_S`` at the latest, so a reader or a
    second writer of the file never sees half a line. An event is safe, and acknowledged, from then on (a crash of
    this process cannot take it back; a power cut can). A line that a full disk cut short is taken off again, and what
    could not be written is tried again every ``FLUSH_EVERY_S``; until that works, ``write`` raises.

    ``write`` from one thread; all else from any.

    Raises:
        SinkError: the file cannot be opened.
    """

    def __init__(self, config: JsonlSinkConfig):
        self._topics = set(config.events if config.events is not None else TOPICS.values())
        self._name = "standard output" if config.path == "-" else config.path
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._callbacks: list[Callable[[], None]] = []
        self._bytes = 0
        self._written = self._safe = 0
        self._dropped: Counter[str] = Counter()
        self._error: SinkError | None = None
        try:
            if config.path == "-":
                sys.stdout.flush()
                self._file = os.dup(sys.stdout.fileno())
            else:
                Path(config.path).parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(config.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise self._failed(error) from error
        self._regular = stat.S_ISREG(os.fstat(self._file).st_mode)
        self._closed = threading.Event()
        self._flusher = threading.Thread(target=self._flush_regularly, name="jsonl-sink", daemon=True)
        self._flusher.start()

    def check(self, timeout_s: float = 10) -> None:
        """Nothing is left to be tried: the file is open."""

    def _failed(self, error: OSError) -> SinkError:
        return SinkError(f"cannot write to {self._name}: {error.strerror or error}")

    def write(
        self,
        event: Event,
        on_acknowledged: Callable[[], None] | None = None,
        *,
        droppable: bool = False,
        traceparent: str | None = None,
    ) -> None:
        """See ``Sink.write``.

        Raises:
            SinkError: the disk is full, or the reader of standard output went away.
        """
        topic = TOPICS[type(event)]
        with self._lock:
            self._written += 1
            if self._error:
                self._dropped[topic] += 1
                raise SinkError(str(self._error))
            if topic in self._topics:
                line = event.to_json() + b"\n"
                self._lines.append(line)
                self._bytes += len(line)
            if on_acknowledged:
                self._callbacks.append(on_acknowledged)
            full = self._bytes >= FLUSH_BYTES
        if full:
            self._flush()

    def _flush_regularly(self) -> None:
        while not self._closed.wait(FLUSH_EVERY_S):
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            if self._safe == self._written:
                return
            try:
                self._put()
            except OSError as error:
                self._error = self._failed(error)
                return
            self._error = None
            self._safe = self._written
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def _put(self) -> None:
        """Write the buffered lines; those that did not make it stay buffered."""
        data = b"".join(self._lines)
        start = os.lseek(self._file, 0, os.SEEK_END) if self._regular else 0
        done = 0
        try:
            while done < len(data):
                done += os.write(self._file, memoryview(data)[done:])
        finally:
            if self._regular and done < len(data):
                done = data.rfind(b"\n", 0, done) + 1
                os.ftruncate(self._file, start + done)
            del self._lines[: data.count(b"\n", 0, done)]
            self._bytes = len(data) - done

    @property
    def written(self) -> int:
        return self._written

    @property
    def safe(self) -> int:
        return self._safe

    def unsafe(self) -> list[bytes]:
        """See ``Sink.unsafe``; without the kinds of events that are not written."""
        with self._lock:
            return [line.removesuffix(b"\n") for line in self._lines]

    def flush(self, timeout_s: float) -> bool:
        """Hand all lines to the operating system. A pipe whose reader stands still holds this up beyond ``timeout_s``."""
        self._flush()
        return self._safe == self._written

    def fault(self) -> str:
        return ""

    def spooled(self) -> tuple[int, int]:
        return 0, 0

    def dropped(self) -> dict[str, int]:
        with self._lock:
            return dict(self._dropped)

    def pending(self) -> int:
        return self._written - self._safe

    def close(self, timeout_s: float = 10) -> None:
        if not self._closed.is_set():
            self._closed.set()
            self._flusher.join(timeout_s)
            self._flush()
            os.close(self._file)
