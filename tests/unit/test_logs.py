"""The log: one chain for every line, structured, bounded, and free of secrets."""

import gc
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import av
import pytest

from stream.logs import (
    FFMPEG,
    LIMIT,
    LIMIT_FFMPEG,
    LIMIT_S,
    MAX_KINDS,
    Limit,
    LogSettings,
    bind_source,
    configure,
    configure_process,
    get_logger,
)
from stream.logs import log_uncaught as install_hooks
from stream.testing.clock import ManualClock

Lines = Callable[[], list[dict[str, Any]]]
SECRET = "Z9secret"
URL = f"rtsp://viewer:{SECRET}@camera:554/hall"


@pytest.fixture
def hooks() -> Iterator[None]:
    before = sys.excepthook, threading.excepthook
    install_hooks()
    yield
    sys.excepthook, threading.excepthook = before


def test_a_line_has_time_level_logger_event_and_facts(log_lines: Lines) -> None:
    get_logger("stream.worker").warning("source state", source_id="hall", state="offline", n=3)
    [line] = log_lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "actor": "test",
        "level": "warning",
        "logger": "stream.worker",
        "event": "source state",
        "source_id": "hall",
        "state": "offline",
        "n": 3,
    }


def test_lines_of_libraries_pass_the_same_chain(log_lines: Lines) -> None:
    logging.getLogger("a.library").error("no answer of %s", URL, extra={"tries": 2})
    [line] = log_lines()
    assert line["event"] == "no answer of rtsp://viewer:***@camera:554/hall"
    assert (line["actor"], line["logger"], line["tries"]) == ("test", "a.library", 2)


def test_a_thread_says_which_source_its_lines_are_about(log_lines: Lines) -> None:
    def work(source_id: str) -> None:
        bind_source(source_id)
        av.logging.log(av.logging.ERROR, "rtsp", "method DESCRIBE failed: 401")

    for source_id in ("hall", "yard"):
        thread = threading.Thread(target=work, args=(source_id,))
        thread.start()
        thread.join()
    get_logger("stream.x").info("elsewhere")
    *of_ffmpeg, other = log_lines()
    assert [(line["source_id"], line["logger"]) for line in of_ffmpeg] == [("hall", "libav.rtsp"), ("yard", "libav.rtsp")]
    assert "source_id" not in other


@pytest.mark.parametrize(
    "value",
    [URL, {"uri": URL}, [URL], (URL,), {"password": SECRET}, {"a": [{"api_key": 1234}]}, ValueError(URL), URL.encode(), {URL: 1}],
    ids=repr,
)
def test_facts_of_any_shape_hold_no_secret(log_lines: Lines, value: object) -> None:
    get_logger("stream.x").info("fact", value=value, token=SECRET)
    [line] = log_lines()
    assert line["token"] == "***"
    assert "***" in json.dumps(line["value"])
    assert SECRET not in json.dumps(line)
    assert "1234" not in json.dumps(line["value"])


def test_exceptions_hold_no_secret(log_lines: Lines) -> None:
    try:
        raise ValueError(f"cannot open {URL}")
    except ValueError:
        get_logger("stream.x").exception("reading failed")
    [line] = log_lines()
    assert "ValueError: cannot open rtsp://viewer:***@camera:554/hall" in line["exception"]
    assert SECRET not in json.dumps(line)


@pytest.mark.usefixtures("hooks", "log_lines")
def test_what_a_process_has_loaded_is_not_looked_through_for_garbage() -> None:
    loaded = len(gc.get_objects())
    try:
        configure_process(LogSettings("json"))
        assert gc.get_freeze_count() > 0.9 * loaded
    finally:
        gc.unfreeze()


@pytest.mark.usefixtures("hooks")
def test_errors_that_nobody_caught_are_logged_without_secrets(log_lines: Lines) -> None:
    def fail() -> None:
        raise RuntimeError(URL)

    thread = threading.Thread(target=fail, name="source-hall")
    thread.start()
    thread.join()
    sys.excepthook(RuntimeError, RuntimeError(URL), None)
    in_thread, in_main = log_lines()
    assert in_thread["in_thread"] == "source-hall"
    assert all("viewer:***@camera" in line["exception"] and line["level"] == "critical" for line in (in_thread, in_main))


@pytest.mark.parametrize(
    "address",
    [
        f"rtsp://viewer:{SECRET}@127.0.0.1:1/hall",
        f"rtsp://viewer:{SECRET} with a/space@127.0.0.1:1/hall",
        f"rtsp://viewer:{SECRET}@127.0.0.1:99999/hall",
        f"rtsp://viewer:{SECRET}:x@@127.0.0.1:1/hall",
        f"http://viewer:{SECRET}@/hall?password={SECRET}",
        f"tcp://viewer:{SECRET}@127.0.0.1:1?token={SECRET}",
        f"rtsp://[viewer:{SECRET}@127.0.0.1:1/hall",
        f"RTSP:\\\\viewer:{SECRET}@127.0.0.1",
        f"rtsp://viewer:{SECRET}%40@127.0.0.1:1",
    ],
)
def test_what_ffmpeg_says_of_malformed_addresses(log_lines: Lines, address: str) -> None:
    """FFmpeg's own messages, and PyAV's errors, which end with them."""
    with pytest.raises((OSError, av.FFmpegError)) as caught:
        av.open(address, timeout=2)
    get_logger("stream.x").error("cannot be opened", reason=str(caught.value))
    assert SECRET in str(caught.value), "else this shows nothing"
    lines = log_lines()
    assert lines
    assert SECRET not in json.dumps(lines)


def test_handlers_of_others_are_redacted_too(log_lines: Lines, capsys: pytest.CaptureFixture[str]) -> None:
    """As Ray's, whose records never reach the root logger."""
    logger = logging.getLogger("test_logs.like_ray")
    logger.propagate = False
    handler = logging.StreamHandler(sys.stdout)
    logger.addHandler(handler)
    configure(LogSettings("json"))
    try:
        try:
            raise ValueError(URL)
        except ValueError:
            logger.exception("replica %s failed with password=%s", "a", SECRET)
    finally:
        logger.removeHandler(handler)
    out = capsys.readouterr().out
    assert "replica a failed with password=***" in out
    assert "ValueError: rtsp://viewer:***@camera" in out
    assert SECRET not in out


def test_lines_for_people(log_lines: Lines, capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogSettings("console", "warning"))
    get_logger("stream.x").warning("source state", source_id="hall", uri=URL)
    get_logger("stream.x").info("not told")
    err = capsys.readouterr().err
    assert "source state" in err
    assert "source_id=hall uri=rtsp://viewer:***@camera:554/hall" in err
    assert "not told" not in err
    assert len(err.splitlines()) == 1, "a second configure replaces the first"


class TestLimit:
    def records(self, limit: Limit, n: int, name: str = "stream.x", message: str = "source state", **extra: object) -> list[bool]:
        def record() -> logging.LogRecord:
            one = logging.LogRecord(name, logging.INFO, "", 0, message, None, None)
            vars(one).update(extra)
            return one

        return [limit.filter(record()) for _ in range(n)]

    def test_so_many_of_one_kind_pass(self) -> None:
        limit = Limit(ManualClock().monotonic)
        assert sum(self.records(limit, 500, source_id="hall")) == LIMIT
        assert sum(self.records(limit, 500, source_id="yard")) == LIMIT
        assert sum(self.records(limit, 500, message="gate", source_id="hall")) == LIMIT

    def test_messages_of_ffmpeg_differ_each_time_and_are_one_kind(self) -> None:
        limit = Limit(ManualClock().monotonic)
        passed = [self.records(limit, 1, f"{FFMPEG}.h264", f"error at block {i}", source_id="hall")[0] for i in range(500)]
        assert sum(passed) == LIMIT_FFMPEG

    def test_later_some_more_pass_and_the_first_tells_how_many_did_not(self) -> None:
        clock = ManualClock()
        limit = Limit(clock.monotonic)
        self.records(limit, LIMIT + 7)
        clock.advance(LIMIT_S + 1)
        record = logging.LogRecord("stream.x", logging.INFO, "", 0, "source state", None, None)
        assert limit.filter(record)
        assert vars(record)["suppressed"] == 7
        assert sum(self.records(limit, 100)) == LIMIT - 1

    def test_memory_is_bounded(self) -> None:
        limit = Limit(ManualClock().monotonic)
        for i in range(MAX_KINDS + 100):
            self.records(limit, 1, message=f"number {i}")
        assert len(limit._seen) == MAX_KINDS
