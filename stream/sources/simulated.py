"""SimulatedSource: packets of a simulated camera, made as they are taken."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import av

from stream.clock import Clock
from stream.config import SourceConfig
from stream.errors import SourceUnreadable
from stream.events import DeadLetter
from stream.frame import Packet
from stream.simulation.crowd import Crowd
from stream.simulation.encode import LIVE, set_up, to_frame
from stream.simulation.render import Renderer
from stream.simulation.scene import build_scene
from stream.simulation.truth import frame_count
from stream.simulation.video import STARTED_AT
from stream.sources.base import Sequential, wait_until


class SimulatedSource(Sequential):
    """A simulated camera, drawn and encoded on the caller's thread, one frame for each packet that is taken.

    Plain: as fast as packets are taken; ``captured_at`` is ``STARTED_AT`` plus ``pts_s``, every run gives the same packets,
    and ``session`` is empty. ``realtime``: a packet comes when a camera would have sent it, ``captured_at`` is the wall time
    at which the frame was due, and each opening has its own ``session``. A machine that is too slow falls behind,
    and then sends frames late.

    It ends after ``seconds``, where the address has them.
    """

    def __init__(self, config: SourceConfig, clock: Clock):
        super().__init__()
        self.source_id = config.id
        self.session = secrets.token_hex(8) if config.realtime else ""
        self._camera, self._realtime, self._clock = config.simulated, config.realtime, clock
        self._decoder = av.VideoCodecContext.create("h264", "r")
        self._closed = False

    def __enter__(self) -> SimulatedSource:
        camera = self._camera
        try:
            scene = build_scene(camera.scene, camera.seed, camera.width, camera.height)
            self._crowd = Crowd(scene, camera.people, camera.seed, camera.fps)
        except ValueError as error:
            raise SourceUnreadable(self.source_id, str(error)) from error
        self._renderer = Renderer(scene, camera.fps)
        self._encoder = av.VideoCodecContext.create("libx264", "w")
        set_up(self._encoder, camera.width, camera.height, camera.fps, LIVE)
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed = True

    def codec_context(self) -> av.VideoCodecContext:
        return self._decoder

    def packets(self) -> Iterator[Packet | DeadLetter | None]:
        camera, started_s, index = self._camera, self._clock.monotonic(), 0
        last = None if camera.seconds is None else frame_count(camera.seconds, camera.fps)
        while not self._closed and (last is None or index < last):
            picture = self._renderer.render(self._crowd.step(), index).bgr
            packets = self._encoder.encode(to_frame(picture, index, camera.fps))  # one, because nothing is held back
            pts_s = index / camera.fps
            if self._realtime:
                yield from wait_until(started_s + pts_s, self._clock, lambda: self._closed)
            for data in packets:
                if not self._closed:
                    yield self._packet(data, pts_s, started_s)
            index += 1

    def _packet(self, data: av.Packet[av.VideoStream], pts_s: float, started_s: float) -> Packet:
        now_s = self._clock.monotonic()
        if not self._realtime:
            return Packet(data, STARTED_AT + pts_s, now_s)
        age_s = max(0.0, now_s - (started_s + pts_s))
        return Packet(data, self._clock.time() - age_s, now_s, age_s=age_s)

    def close(self) -> None:
        self._closed = True
