"""FileSource: packets of a video file."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import av

from stream.clock import Clock
from stream.config import SourceConfig
from stream.errors import SourceTruncated, SourceUnreadable
from stream.events import DeadLetter
from stream.frame import Packet, media_s
from stream.redact import redact
from stream.sources.base import MAX_REORDER_S, Sequential, wait_until
from stream.sources.timeline import USUAL_INTERVAL_S, Timeline

DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,mxf,ivf,obu,h264,hevc,mjpeg,gif,apng,"
    "image2,jpeg_pipe,png_pipe"
)  # formats that hold their own media: a playlist or script could make FFmpeg open any other file or address
INDEX_TAIL = 64  # packets of several tracks interleave: the last of the file is among the last few of the index
OLDEST_CREATION = datetime(1990, 1, 1, tzinfo=UTC)  # cameras without a clock write 1904 or 1970


class FileSource(Sequential):
    """One video file, in decode order; the first frame has ``pts_s`` 0, and times that start again go on.

    Plain: as fast as packets are taken. ``captured_at`` is the time of recording (the container's ``creation_time``,
    else the file's modification time) plus ``pts_s``, so every replay gives the same frames; ``session`` is empty.

    ``realtime``: packets come when a camera would have sent them, and ``captured_at`` is the wall time at which the
    frame was due. ``loop``: begins again at the end. Both have a new ``session`` for each opening.

    A file that ends before its own index or duration says so is truncated; MPEG-TS and bare elementary streams announce
    nothing, so there this cannot be seen.
    """

    def __init__(self, config: SourceConfig, clock: Clock):
        super().__init__()
        self.source_id = config.id
        self.session = secrets.token_hex(8) if config.realtime or config.loop else ""
        self._config, self._clock = config, clock
        self._path = config.path.absolute()
        self._container: av.container.InputContainer | None = None
        self._timeline = Timeline()
        self._closed = False
        self._seen_s = 0.0  # media time of the end of the last packet
        self._pass_began_s = 0.0
        self._packets = 0  # of this pass
        self._broken = ""
        self._recorded_at = 0.0
        self._started_s = 0.0  # monotonic time of media time 0
        self._reorder_s = 0.0  # how far presentation runs ahead of decoding

    def __enter__(self) -> FileSource:
        container = self._open()
        try:
            stream = container.streams.video[0]
            start_s = float(stream.start_time * stream.time_base) if stream.start_time and stream.time_base else 0.0
        except BaseException:
            container.close()
            raise
        self._container, self._timeline = container, Timeline(start_s)
        self._recorded_at = _recorded_at(container, self._path)
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed = True
        if self._container is not None:
            self._container.close()
            self._container = None

    def _open(self) -> av.container.InputContainer:
        if not self._path.exists():
            raise SourceUnreadable(self.source_id, f"{self._path}: no such file")
        if not self._path.is_file():
            raise SourceUnreadable(self.source_id, f"{self._path}: not a file")
        options = {"protocol_whitelist": "file", "format_whitelist": DEMUXERS, "pattern_type": "none"}
        try:
            container = av.open(f"file:{self._path}", "r", options=options)
        except PermissionError as error:
            raise SourceUnreadable(self.source_id, f"{self._path}: may not be read") from error
        except (av.FFmpegError, ValueError) as error:
            raise SourceUnreadable(self.source_id, f"{self._path}: not a video that can be read ({_words(error)})") from error
        reason = ""
        if not container.streams.video:
            reason = "no video stream" + (", only audio" if container.streams.audio else "")
        elif container.streams.video[0].codec_context is None:
            reason = "the codec of its video is unknown"
        if reason:
            container.close()
            raise SourceUnreadable(self.source_id, f"{self._path}: {reason}")
        return container

    def codec_context(self) -> av.VideoCodecContext:
        return self.stream.codec_context

    @property
    def stream(self) -> av.VideoStream:
        """The video stream, for remuxing; valid while the source is open."""
        assert self._container is not None
        return self._container.streams.video[0]

    @property
    def duration_s(self) -> float | None:
        """What the container announces, from its first frame on; None where it announces nothing."""
        container = self._container
        assert container is not None
        ticks = container.duration or 0
        if "matroska" in container.format.name:  # its duration counts from time zero
            ticks -= container.start_time or 0
        return ticks / av.time_base if ticks > 0 else None

    @property
    def rate_fps(self) -> float | None:
        """Frames per second as the container tells; None where it does not. Do not trust it for timing."""
        rate = self.stream.average_rate or self.stream.guessed_rate
        return float(rate) if rate else None

    def packets(self) -> Iterator[Packet | DeadLetter | None]:
        self._started_s = self._clock.monotonic()
        while True:
            yield from self._pass()
            if self._closed:
                return
            if reason := self._broken or self._missing():
                raise SourceTruncated(self.source_id, f"{self._path}: {reason}")
            if not self._config.loop:
                return
            self._reopen()

    def _reopen(self) -> None:
        """Begin the next pass. Seeking is not possible in every format, opening again is."""
        assert self._container is not None
        self._container.close()
        self._container = self._open()
        self._timeline.restart()

    def _pass(self) -> Iterator[Packet | None]:
        """The packets of one pass and an empty one at its end; an error that ends it early is left in ``_broken``."""
        assert self._container is not None
        interval_s = 1 / self.rate_fps if self.rate_fps else USUAL_INTERVAL_S
        packets = self._container.demux(self.stream)
        self._packets, self._pass_began_s = 0, self._seen_s
        while not self._closed:
            try:
                data = next(packets, None)
            except (av.FFmpegError, ValueError) as error:
                self._broken = f"damaged after {self._seen_s:.1f} s ({_words(error)})"
                break
            if data is None:
                break
            if not data.size:  # demux ends with an empty packet, and some files hold empty samples
                continue
            self._packets += 1
            pts_s, dts_s = self._place(data, interval_s)
            if self._config.realtime:
                yield from self._wait(dts_s, pts_s)
            if not self._closed:
                yield self._packet(data, pts_s)
        yield self._packet(_empty_packet(), self._seen_s)

    def _place(self, data: av.Packet[av.VideoStream], interval_s: float) -> tuple[float, float]:
        """Move the packet's times to where they belong; returns presentation and decode time in seconds."""
        pts, dts, base = data.pts, data.dts, data.time_base
        if pts is None and dts is None:
            at_s = self._seen_s
            self._seen_s = at_s + interval_s
            return at_s, at_s
        first = dts if dts is not None else pts
        assert first is not None
        offset = round(self._timeline.place(media_s(first, base)) / media_s(1, base))
        if offset:
            data.pts = None if pts is None else pts + offset
            data.dts = None if dts is None else dts + offset
        dts_s = media_s(first + offset, base)
        pts_s = dts_s if pts is None else media_s(pts + offset, base)
        self._seen_s = max(self._seen_s, pts_s + (media_s(data.duration, base) if data.duration else interval_s))
        return pts_s, dts_s

    def _wait(self, dts_s: float, pts_s: float) -> Iterator[None]:
        """Wait until a camera would have sent the packet: it cannot send a picture before it has taken it."""
        self._reorder_s = min(MAX_REORDER_S, max(self._reorder_s, pts_s - dts_s))
        due_s = self._started_s + dts_s + self._reorder_s
        yield from wait_until(due_s, self._clock, lambda: self._closed)

    def _packet(self, data: av.Packet[av.VideoStream], pts_s: float) -> Packet:
        now_s = self._clock.monotonic()
        if not self._config.realtime:
            return Packet(data, self._recorded_at + pts_s, now_s)
        age_s = max(0.0, now_s - (self._started_s + pts_s))
        return Packet(data, self._clock.time() - age_s, now_s, age_s=age_s)

    def _missing(self) -> str:
        """What shows, at the end of a pass, that the file is not whole; empty when nothing does."""
        assert self._container is not None
        size = self._path.stat().st_size
        if any(entry.pos + entry.size > size for entry in self.stream.index_entries[-INDEX_TAIL:]):
            return f"truncated: its index names data beyond the end of the file; {self._seen_s:.1f} s were read"
        if not self._packets:
            return "it holds no video data"
        if len(self._container.streams) > 1 or "mov" in self._container.format.name:
            return ""  # the duration may be that of a longer sound track; the index of MP4 says more than its duration
        announced_s, read_s = self.duration_s or 0.0, self._seen_s - self._pass_began_s
        if "avi" in self._container.format.name and self.rate_fps:  # FFmpeg scales the duration of a cut AVI by its size
            announced_s = max(announced_s, self.stream.frames / self.rate_fps)
        if announced_s - read_s > max(1.0, 0.05 * announced_s):
            return f"truncated: {announced_s:.1f} s are announced, {read_s:.1f} s were read"
        return ""

    def close(self) -> None:
        self._closed = True


def _empty_packet() -> av.Packet[av.VideoStream]:
    return cast("av.Packet[av.VideoStream]", av.Packet())


def _recorded_at(container: av.container.InputContainer, path: Path) -> float:
    """POSIX seconds of the first frame, as far as the file tells."""
    try:
        created = datetime.fromisoformat(container.metadata.get("creation_time", ""))
        created = created if created.tzinfo else created.replace(tzinfo=UTC)
        if created > OLDEST_CREATION:
            return created.timestamp()
    except ValueError:
        pass
    return path.stat().st_mtime


def _words(error: BaseException) -> str:
    """The error without number and address, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(redact(text).split())
