"""RtspSource: packets of a camera."""

from __future__ import annotations

import logging
import queue
import secrets
import struct
import threading
from collections.abc import Iterator

import av

from stream.clock import Clock
from stream.config import SourceConfig
from stream.errors import SourceUnavailable
from stream.events import DeadLetter
from stream.frame import Packet, media_s
from stream.redact import redact
from stream.sources.base import Sequential
from stream.sources.timeline import Timeline

HEARTBEAT_S = 0.5
MAX_CLOCK_ERROR_S = 10.0  # a sender's clock further away than this is not set; the time of arrival is better
QUEUED_PACKETS = 256  # 10 s at 25 fps; then the camera feels the back-pressure
PROTOCOLS = "rtsp,rtsps,rtp,srtp,udp,tcp,tls,crypto"  # a redirect must not lead to files or web servers

logger = logging.getLogger(__name__)


class RtspSource(Sequential):
    """One opening of an RTSP or RTSPS camera; whoever uses it opens a new one after ``SourceUnavailable``.

    A thread reads the socket, so that ``packets`` gives None in time, notices a stall after ``read_timeout_s`` sharp,
    and ends at once on ``close``. The thread itself ends when FFmpeg gives up its blocked read, at most twice the longer
    of the two timeouts later, and closes the connection; while packets come it ends at once. Opening blocks for at
    most twice ``open_timeout_s``.

    ``captured_at`` follows the sender's clock (RTCP sender reports) where that is within ``MAX_CLOCK_ERROR_S`` of
    arrival, else it is the time of arrival. ``pts_s`` goes on steadily where the sender's media clock steps.
    """

    def __init__(self, config: SourceConfig, clock: Clock):
        super().__init__()
        self.source_id = config.id
        self.session = secrets.token_hex(8)
        self._config, self._clock = config, clock
        self._container: av.container.InputContainer | None = None
        self._timeline = Timeline()
        self._queue: queue.Queue[Packet | str] = queue.Queue(QUEUED_PACKETS)
        self._closed = threading.Event()

    def __enter__(self) -> RtspSource:
        settings = self._config.rtsp
        timeout_s = max(settings.open_timeout_s, settings.read_timeout_s)
        options = {
            "rtsp_transport": settings.transport,
            "timeout": str(int(timeout_s * 1e6)),
            "protocol_whitelist": PROTOCOLS,
            "fflags": "nobuffer",  # packets read while probing are not held back
            "fpsprobesize": "0",  # FFmpeg would watch 20 frames, 2 to 4 s, to guess a frame rate that nobody needs
        }
        began_s = self._clock.monotonic()
        try:
            # The second timeout stays unset: PyAV would take the GIL for every read. FFmpeg's own `timeout` does not.
            self._container = av.open(self._config.uri, "r", options=options, timeout=(settings.open_timeout_s, None))
        except (av.FFmpegError, OSError, ValueError) as error:
            late = self._clock.monotonic() - began_s >= settings.open_timeout_s
            raise SourceUnavailable(self.source_id, "timed out: no answer" if late else _reason(error)) from None
        streams = self._container.streams.video
        if not streams or streams[0].codec_context is None:
            self._container.close()
            reason = "the camera sends no video" if not streams else "the codec of the camera's video is unknown"
            raise SourceUnavailable(self.source_id, reason)  # it may be starting still, or be set otherwise tomorrow
        self._context = streams[0].codec_context
        threading.Thread(target=self._read, args=(self._container,), name=f"rtsp-{self.source_id}", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def codec_context(self) -> av.VideoCodecContext:
        return self._context

    def packets(self) -> Iterator[Packet | DeadLetter | None]:
        timeout_s = self._config.rtsp.read_timeout_s
        heard_s = self._clock.monotonic()
        while not self._closed.is_set():
            quiet_s = self._clock.monotonic() - heard_s
            if quiet_s >= timeout_s:
                raise SourceUnavailable(self.source_id, f"stalled: no packet for {quiet_s:.1f} s")
            try:
                item = self._queue.get(timeout=max(0.001, min(HEARTBEAT_S, timeout_s - quiet_s)))
            except queue.Empty:
                yield None
                continue
            if isinstance(item, str):
                raise SourceUnavailable(self.source_id, item)
            yield item
            heard_s = self._clock.monotonic()

    def close(self) -> None:
        self._closed.set()

    # -- the reading thread, which owns the container from here on

    def _read(self, container: av.container.InputContainer) -> None:
        ended = "the camera ended the stream"
        try:
            with container:
                for data in container.demux(container.streams.video[0]):
                    if self._closed.is_set():
                        return
                    if data.size:
                        self._put(self._packet(data))
        except (av.FFmpegError, OSError, ValueError) as error:
            ended = _reason(error)
        self._put(ended)

    def _put(self, item: Packet | str) -> None:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=HEARTBEAT_S)
                return
            except queue.Full:
                continue

    def _packet(self, data: av.Packet[av.VideoStream]) -> Packet:
        arrived_s, arrived_at = self._clock.monotonic(), self._clock.time()
        first = data.dts if data.dts is not None else data.pts
        if first is not None:
            base = data.time_base
            offset = round(self._timeline.place(media_s(first, base), arrived_s) / media_s(1, base))
            data.pts = None if data.pts is None else data.pts + offset
            data.dts = None if data.dts is None else data.dts + offset
        sent_at = _sender_time(data)
        if sent_at is None or abs(arrived_at - sent_at) > MAX_CLOCK_ERROR_S:
            sent_at = arrived_at
        return Packet(data, sent_at, arrived_s, age_s=max(0.0, arrived_at - sent_at))


def _sender_time(data: av.Packet[av.VideoStream]) -> float | None:
    """POSIX seconds of the picture on the sender's clock; None before the first sender report."""
    if not data.has_sidedata("prft"):
        return None
    wallclock_us: int = struct.unpack_from("<q", bytes(data.get_sidedata("prft")))[0]  # AVProducerReferenceTime
    return wallclock_us / 1e6


def _reason(error: BaseException) -> str:
    """What went wrong, without the address: FFmpeg's texts hold the URL with its password."""
    match error:
        case av.HTTPUnauthorizedError():
            return "authentication failed (401): check user and password"
        case av.HTTPForbiddenError():
            return "access refused (403): this user may not see the stream"
        case av.HTTPNotFoundError():
            return "no such stream on the camera (404): check the path"
        case ConnectionRefusedError():
            return "connection refused"
        case TimeoutError() | av.ExitError():
            return "timed out"
        case av.InvalidDataError():
            return "the camera's answer or stream cannot be understood"
        case OSError() if error.strerror:
            return redact(error.strerror).lower()
        case _:
            return type(error).__name__
