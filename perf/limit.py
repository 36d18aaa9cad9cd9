"""The bare loop: what decoding, scaling and detecting cost without a service around them.

As many cameras as the load test has are read in real time from a file that begins again at its end: PyAV with one decoder
thread a stream, the service's sampler and scaler, the service's OpenVINO detector on the sampled frames. No Ray, no
Kafka, no tracking, no queues between stages: one thread a core serves its share of the cameras, whichever is due first,
and runs the detector on a frame before it goes on.

CPU is user and system time of this process and its children over ``--seconds``. It is read for the first time when all
models are compiled, all files are open and frames have been analysed for ``--warmup`` seconds. Latency runs from the
moment at which a camera would have taken the frame to the detections. A frame that is later than the latency objective
when it could be scaled is dropped as ``stale``.
"""

from __future__ import annotations

import heapq
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import av

from perf.processes import MemoryPeak, ProcessTree, measure
from perf.workload import SLO, Result, Workload, options, percentiles_ms, workload
from stream.config import TrackerConfig
from stream.detectors.base import Detector, InputSpec
from stream.detectors.registry import load_detector
from stream.frame import FrameBatch, FrameInfo, Uint8Array
from stream.sample import FrameSampler
from stream.scale import Scaler

IDLE_S = 0.2  # longest sleep, so that the stop flag is seen


class Camera:
    """A looped file that is read at the speed of its clock.

    Attributes:
        due_s: monotonic time at which the next packet would arrive.
    """

    def __init__(self, source_id: str, file: Path, fps: float, spec: InputSpec, started_s: float):
        self.source_id, self.due_s = source_id, started_s
        self._file, self._started_s = file, started_s
        self._sampler, self._scaler = FrameSampler(fps), Scaler(spec)
        self._offset_s = 0.0  # of this pass, added to media time
        self._end_s = 0.0
        self._reorder_s = 0.0  # how far presentation runs ahead of decoding
        self._open()
        self._advance()

    def _open(self) -> None:
        self._container = av.open(str(self._file))
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_count = 1
        self._packets = self._container.demux(self._stream)

    def _advance(self) -> None:
        """Read the next packet, from the start again after the last."""
        self._packet = next(self._packets)
        base = self._packet.time_base
        if self._packet.dts is None:  # the end
            return
        pts = self._packet.dts if self._packet.pts is None else self._packet.pts
        self._reorder_s = max(self._reorder_s, float((pts - self._packet.dts) * base))
        self._end_s = max(self._end_s, self._media_s(pts) + float((self._packet.duration or 0) * base))
        self.due_s = self._started_s + self._media_s(self._packet.dts) + self._reorder_s

    def _media_s(self, pts: int) -> float:
        return float((pts - (self._stream.start_time or 0)) * self._packet.time_base) + self._offset_s

    def read(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """Decode the packet that is due; gives each sampled frame with the monotonic time of its capture."""
        for frame in self._stream.codec_context.decode(self._packet):
            pts_s = self._media_s(frame.pts or 0)
            if self._sampler.keep(pts_s):
                yield self._started_s + pts_s, frame
        if self._packet.dts is None:
            self._container.close()
            self._offset_s = self._end_s
            self._open()
        self._advance()

    def scale(self, frame: av.VideoFrame) -> Uint8Array:
        """The model's picture of a frame."""
        return self._scaler.scale(frame)

    def close(self) -> None:
        """Close the file."""
        self._container.close()


class Loop(threading.Thread):
    """A thread that serves ``cameras``, the one that is due first next.

    Attributes:
        analysed: monotonic time and latency in seconds of each analysed frame.
        stale: monotonic time of each frame that came too late.
    """

    def __init__(self, cameras: list[Camera], detector: Detector, stop: threading.Event):
        super().__init__(name="loop", daemon=True)
        self._cameras, self._detector, self._stopping = cameras, detector, stop
        self.analysed: deque[tuple[float, float]] = deque()
        self.stale: deque[float] = deque()

    def run(self) -> None:
        """Until the stop flag is set."""
        due = [(camera.due_s, number) for number, camera in enumerate(self._cameras)]
        heapq.heapify(due)
        while not self._stopping.is_set():
            due_s, number = due[0]
            wait_s = due_s - time.monotonic()
            if wait_s > 0:
                time.sleep(min(wait_s, IDLE_S))
                continue
            camera = self._cameras[number]
            for captured_s, frame in camera.read():
                self._analyse(camera, frame, captured_s)
            heapq.heapreplace(due, (camera.due_s, number))

    def _analyse(self, camera: Camera, frame: av.VideoFrame, captured_s: float) -> None:
        now_s = time.monotonic()
        if now_s - captured_s > SLO.latency_ms / 1000:
            self.stale.append(now_s)
            return
        info = FrameInfo(camera.source_id, "", 0, 0.0, 0.0, frame.width, frame.height, captured_s, now_s)
        self._detector.detect(FrameBatch("limit", (info,), camera.scale(frame)[None]))
        now_s = time.monotonic()
        self.analysed.append((now_s, now_s - captured_s))


def run(load: Workload, threads: int) -> Result:
    """Run the loop and measure it."""
    detector = load_detector("limit", load.detector, TrackerConfig().low_confidence)
    interval_s = 1 / load.source_fps
    started_s = time.monotonic() + 0.1 * load.sources  # time to open the files
    cameras = [  # cameras are not in step: their frames come evenly spread over a frame interval
        Camera(f"cam{i:02d}", load.file, load.fps, detector.input, started_s + interval_s * i / load.sources)
        for i in range(load.sources)
    ]
    stop = threading.Event()
    loops = [Loop(cameras[i::threads], detector, stop) for i in range(threads)]
    tree = ProcessTree(own=True)
    peak = MemoryPeak(tree)
    try:
        for loop in loops:
            loop.start()
        time.sleep(max(0.0, started_s - time.monotonic()) + load.warmup_s)
        began_s = time.monotonic()
        measured = measure(tree, load.seconds, peak)
        until_s = began_s + measured.wall_s
    finally:
        stop.set()
        for loop in loops:
            loop.join()
        for camera in cameras:
            camera.close()
        detector.close()
    latencies_s = [latency_s for loop in loops for at_s, latency_s in loop.analysed if began_s <= at_s < until_s]
    stale = sum(began_s <= at_s < until_s for loop in loops for at_s in loop.stale)
    within = sum(latency_s <= SLO.latency_ms / 1000 for latency_s in latencies_s)
    return Result(
        kind="limit",
        workload=load,
        wall_s=measured.wall_s,
        cpu_s=measured.cpu_s,
        frames_analysed=len(latencies_s),
        drops={"stale": stale} if stale else {},
        latency_ms=percentiles_ms(latencies_s),
        latency_of="capture to detections, exact",
        slo_attainment=within / len(latencies_s) if latencies_s else None,
        peak_memory_mib=peak.mib,
        cpu_s_by_process={"limit": measured.cpu_s},
        mean_batch=1.0,
    )


def main() -> int:
    """The command line."""
    parser = options(__doc__, warmup_s=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads that share the cameras (one a core)")
    args = parser.parse_args()
    if args.threads < 1:
        parser.error(f"--threads must be over 0, not {args.threads}")
    load = workload(parser, args)
    run(load, min(args.threads, load.sources)).report()
    return 0


if __name__ == "__main__":
    sys.exit(main())
