"""The log of a process: one chain for our own lines, those of libraries and FFmpeg's.

Modules log through ``get_logger``: an event in fixed words and its facts by key, once per change of state, never per frame.
``configure`` is called once by the command and by every actor. From then on a record of any logger becomes a dict, gets the
time, what is bound to the process (``actor``) and to the thread (``source_id``), goes through ``redact_value``, and is
rendered as a line of JSON or for a console. Handlers that others have attached, such as Ray's, get the same redaction.
Without ``configure`` the records are plain ones of ``logging``, whose extra attributes are the facts.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, WrappedLogger

from stream.redact import redact, redact_value

LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
LIMIT_S = 60.0
LIMIT, LIMIT_FFMPEG = 20, 5
"""Lines of one kind that pass in ``LIMIT_S``; FFmpeg's of one source are one kind. The next one tells how many did not."""
MAX_KINDS = 1000
FFMPEG = "libav"
OURS = ("stream", "actors")
FORMATTED = ("message", "asctime")  # what other formatters leave on a record; Ray leaves names with an underscore
FIRST = ("timestamp", "level", "logger", "actor", "source_id", "event")
META = ("_record", "_from_structlog")  # structlog's


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module: ``logger.info("source is online", source_id="hall")``.

    Keys must not be attributes of a ``logging.LogRecord`` (``name``, ``args``, ``module``, ``process``, ...).
    """
    processors = [structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs]
    wrapped = structlog.wrap_logger(logging.getLogger(name), processors, wrapper_class=structlog.stdlib.BoundLogger)
    return cast(structlog.stdlib.BoundLogger, wrapped)


def bind_source(source_id: str) -> None:
    """Everything that this thread logs from now on is about a source, FFmpeg's messages included."""
    structlog.contextvars.bind_contextvars(source_id=source_id)


@dataclass(frozen=True, slots=True)
class LogSettings:
    """``level``: least level of our own lines. Libraries tell warnings and errors, below ``debug`` at least; kafka-python
    then tells nothing, as our own lines name what goes wrong."""

    format: LogFormat
    level: LogLevel = "info"


def configure_process(settings: LogSettings, **bound: str) -> None:
    """What a process of our own does first: ``configure``, have errors that nobody caught logged and redacted too, and set what
    has been loaded apart from what the garbage collector looks through: that held a busy process up for 70 ms now and then."""
    configure(settings, **bound)
    log_uncaught()
    gc.collect()
    gc.freeze()


def configure(settings: LogSettings, **bound: str) -> None:
    """Log to stderr from now on; a second call replaces what the first one set up.

    Args:
        settings: the format and the least level.
        bound: facts that every line gets, as ``actor``.
    """
    import av  # takes a tenth of a second, which a look at the config need not

    least = logging.getLevelNamesMapping()[settings.level.upper()]
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _Stderr):
            root.removeHandler(handler)
    handler = _Stderr()
    handler.addFilter(Limit())
    handler.setFormatter(_formatter(settings.format, bound))
    root.addHandler(handler)
    root.setLevel(max(least, logging.WARNING) if least > logging.DEBUG else least)
    for name in OURS:
        logging.getLogger(name).setLevel(least)
    logging.getLogger("kafka").setLevel(logging.CRITICAL if least > logging.DEBUG else least)
    logging.getLogger(FFMPEG).setLevel(logging.WARNING)
    av.logging.set_skip_repeated(False)  # it would say a line of one source again later, as one of another
    av.logging.set_level(av.logging.ERROR if least > logging.DEBUG else av.logging.WARNING)
    _redact_foreign_handlers()


def log_uncaught() -> None:
    """Have errors that nobody caught logged."""
    logger = get_logger(__name__)

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            logger.critical("uncaught error", exc_info=(kind, error, trace))

    def uncaught_in_thread(hook: threading.ExceptHookArgs) -> None:
        if hook.exc_value is not None and not issubclass(hook.exc_type, SystemExit):
            where = hook.thread.name if hook.thread else ""
            logger.critical("uncaught error", in_thread=where, exc_info=(hook.exc_type, hook.exc_value, hook.exc_traceback))

    sys.excepthook, threading.excepthook = uncaught, uncaught_in_thread


class Limit(logging.Filter):
    """Lets ``LIMIT`` records of one kind through in ``LIMIT_S``. A kind is a logger's message, before its values, about
    one source; memory holds the latest ``MAX_KINDS``.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, object, object], tuple[float, int]] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged; one that ends a silence gets the attribute ``suppressed``."""
        ffmpeg = record.name.partition(".")[0] == FFMPEG
        source_id = getattr(record, "source_id", None) or structlog.contextvars.get_contextvars().get("source_id")
        kind = (FFMPEG, source_id, None) if ffmpeg else (record.name, source_id, record.msg)
        limit, now_s = LIMIT_FFMPEG if ffmpeg else LIMIT, self._clock()
        with self._lock:
            since_s, seen = self._seen.pop(kind, (now_s, 0))
            if now_s - since_s >= LIMIT_S:
                if seen > limit:
                    record.suppressed = seen - limit
                since_s, seen = now_s, 0
            self._seen[kind] = since_s, seen + 1
            if len(self._seen) > MAX_KINDS:
                del self._seen[next(iter(self._seen))]
        return seen < limit


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to whatever ``sys.stderr`` is at the moment."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override] # an attribute there
        return sys.stderr


def _formatter(log_format: LogFormat, bound: dict[str, str]) -> logging.Formatter:
    def bind(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        facts = {key: value for key, value in event.items() if key not in FORMATTED and (key[0] != "_" or key in META)}
        return {**bound, **facts}

    def take_secrets_out(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        ordered = {key: event[key] for key in FIRST if key in event} | dict(event)
        return {key: redact_value(value, key) for key, value in ordered.items()}

    renderer: Any = structlog.processors.JSONRenderer()
    if log_format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.contextvars.merge_contextvars,
            bind,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, take_secrets_out, renderer],
    )


def _redact_foreign_handlers() -> None:
    """Put the redaction before the handlers that others have attached, to the root or to loggers of their own."""
    for logger in [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]:
        for handler in logger.handlers if isinstance(logger, logging.Logger) else ():
            if not isinstance(handler, _Stderr) and _redact_record not in handler.filters:
                handler.addFilter(_redact_record)


def _redact_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = redact(record.getMessage()), None
    if record.exc_info:
        record.exc_text = redact("".join(traceback.format_exception(*record.exc_info)).rstrip())
    return True
