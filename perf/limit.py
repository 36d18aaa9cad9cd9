"""The bare loop: what decoding, scaling and detecting cost without a service around them.

As many cameras as the load test has are read in real time from a file that begins again at its end: PyAV with one decoder
thread a stream, the service's sampler and scaler, the service's OpenVINO detector on the sampled frames. No Ray, no
Kafka, no tracking, no queues between stages: one thread a core serves its share of the cameras, whichever is due first,
and runs the detector on a frame before it goes on.

``--decode fast``, ``key`` or ``auto`` reads the cameras by the service's intake instead, which decodes no more than the
sampled frames need, and ``--gate`` puts the service's gate before them. Several modes, as ``--decode full,fast``, are
measured in turns, ``--rounds`` times, and compared with the first.

CPU is user and system time of this process and its children over ``--seconds``. It is read for the first time when all
models are compiled, all files are open and frames have been analysed for ``--warmup`` seconds. Latency runs from the
moment at which a camera would have taken the frame to the detections. A frame that is later than the latency objective
when it could be scaled is dropped as ``stale``.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import statistics
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av

from perf.processes import MemoryPeak
from perf.workload import SLO, Result, Workload, options, percentiles_ms, workload
from stream.clock import SystemClock
from stream.config import SourceConfig, TrackerConfig
from stream.detections import Detections
from stream.detectors.base import Detector, InputSpec
from stream.detectors.registry import load_detector
from stream.effort import Effort
from stream.frame import FrameBatch, FrameInfo, Packet, Uint8Array
from stream.gate import Gate, Presence
from stream.intake import Intake, IntakeTally, Outcomes
from stream.processes import ProcessTree, measure
from stream.sample import FrameSampler
from stream.scale import Scaler
from stream.sources.file import FileSource

MODES = ("full", "fast", "key", "auto")
CONFIDENCE = 0.5  # the workload's detector has the default
IDLE_S = 0.2  # longest sleep, so that the stop flag is seen


@dataclass(frozen=True, slots=True)
class Shown:
    """A sampled frame: what is known of it, monotonic seconds at which it was due for analysis, and how to get its picture."""

    info: FrameInfo
    due_s: float
    frame: av.VideoFrame
    image: Uint8Array | None = None


class Camera:
    """A looped file that is read at the speed of its clock.

    Attributes:
        due_s: monotonic time at which the next packet would arrive.
        spared: frames that were not analysed on purpose, by reason.
    """

    def __init__(self, source_id: str, file: Path, fps: float | None, spec: InputSpec, started_s: float):
        self.source_id, self.due_s = source_id, started_s
        self.spared: Counter[str] = Counter()
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

    def read(self) -> Iterator[Shown]:
        """Decode the packet that is due; gives each sampled frame."""
        for frame in self._stream.codec_context.decode(self._packet):
            pts_s = self._media_s(frame.pts or 0)
            if self._sampler.keep(pts_s):
                captured_s = self._started_s + pts_s
                info = FrameInfo(self.source_id, "", 0, pts_s, 0.0, frame.width, frame.height, captured_s, time.monotonic())
                yield Shown(info, captured_s, frame)
        if self._packet.dts is None:
            self._container.close()
            self._offset_s = self._end_s
            self._open()
        self._advance()

    def scale(self, shown: Shown) -> Uint8Array:
        """The model's picture of a frame."""
        return self._scaler.scale(shown.frame)

    def detected(self, info: FrameInfo, detections: Detections) -> None:
        """Hear of what was found in a frame."""

    def close(self) -> None:
        """Close the file."""
        self._container.close()


class SparingCamera(Camera):
    """The same, read by the service's intake: what it does not need it does not decode."""

    def __init__(self, source_id: str, file: Path, fps: float | None, spec: InputSpec, started_s: float, mode: str, gated: bool):
        config = SourceConfig(id=source_id, uri=str(file), fps=fps, loop=True, gate="on" if gated else "off")
        self._source = FileSource(config, SystemClock())
        self._live = config.model_copy(update={"realtime": True, "decode": mode})
        self._gate = Gate(Presence(CONFIDENCE, TrackerConfig().lost_s)) if gated else None
        super().__init__(source_id, file, fps, spec, started_s)

    def _open(self) -> None:
        self._source.__enter__()
        self._given = self._source.packets()
        effort = Effort(self._live, gated=self._gate is not None)
        outcomes = Outcomes(IntakeTally(), self._spare, lambda: True)
        scaler = self._scaler
        self._intake = Intake(
            self._live, self._source, lambda one: scaler.scale(one.frame), effort, self._gate, SystemClock(), outcomes
        )

    def _spare(self, reason: str, frames: int) -> None:
        if reason != "sampled":
            self.spared[reason] += frames

    def _advance(self) -> None:
        packet = next(self._given)
        assert isinstance(packet, Packet)
        self._next, data = packet, packet.data
        if data.size and data.dts is not None and data.pts is not None:
            self._reorder_s = max(self._reorder_s, float((data.pts - data.dts) * data.time_base))
            self.due_s = self._started_s + float(data.dts * data.time_base) + self._reorder_s

    def read(self) -> Iterator[Shown]:
        now_s = time.monotonic()
        late = replace(self._next, arrived_s=now_s, age_s=max(0.0, now_s - self.due_s))
        for sampled in self._intake.frames(late):
            frame = sampled.decoded
            captured_s = self._started_s + frame.pts_s
            info = FrameInfo(
                self.source_id,
                self._source.session,
                frame.frame_index,
                frame.pts_s,
                0.0,
                frame.width,
                frame.height,
                captured_s,
                now_s,
                held_s=sampled.held_s,
            )
            yield Shown(info, captured_s + sampled.held_s, frame.frame, sampled.image)
        self._advance()

    def scale(self, shown: Shown) -> Uint8Array:
        assert shown.image is not None
        return shown.image

    def detected(self, info: FrameInfo, detections: Detections) -> None:
        if self._gate is not None:
            self._gate.presence.saw(info, detections)

    def close(self) -> None:
        self._source.__exit__()


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
            for shown in camera.read():
                self._analyse(camera, shown)
            heapq.heapreplace(due, (camera.due_s, number))

    def _analyse(self, camera: Camera, shown: Shown) -> None:
        now_s = time.monotonic()
        if now_s - shown.due_s > SLO.latency_ms / 1000:
            self.stale.append(now_s)
            return
        [found] = self._detector.detect(FrameBatch("limit", (shown.info,), camera.scale(shown)[None]))
        camera.detected(shown.info, found)
        now_s = time.monotonic()
        self.analysed.append((now_s, now_s - shown.due_s))


def run(load: Workload, threads: int, mode: str = "full", gated: bool = False) -> Result:
    """Run the loop and measure it."""
    detector = load_detector("limit", load.detector, TrackerConfig().low_confidence)
    interval_s = 1 / load.source_fps
    started_s = time.monotonic() + 0.1 * load.sources  # time to open the files

    def open_camera(i: int) -> Camera:  # cameras are not in step: their frames come evenly spread over a frame interval
        at_s = started_s + interval_s * i / load.sources
        if mode == "full" and not gated:
            return Camera(f"cam{i:02d}", load.file, load.fps, detector.input, at_s)
        return SparingCamera(f"cam{i:02d}", load.file, load.fps, detector.input, at_s, mode, gated)

    cameras = [open_camera(i) for i in range(load.sources)]
    stop = threading.Event()
    loops = [Loop(cameras[i::threads], detector, stop) for i in range(threads)]
    tree = ProcessTree(own=True)
    peak = MemoryPeak(tree)
    try:
        for loop in loops:
            loop.start()
        time.sleep(max(0.0, started_s - time.monotonic()) + load.warmup_s)
        began_s = time.monotonic()
        before = sum((camera.spared for camera in cameras), Counter[str]())
        measured = measure(tree, load.seconds, peak.update)
        until_s = began_s + measured.wall_s
        spared = sum((camera.spared for camera in cameras), Counter[str]()) - before
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
        kind="limit" if mode == "full" and not gated else f"limit, {mode}{' gated' if gated else ''}",
        workload=load,
        wall_s=measured.wall_s,
        cpu_s=measured.cpu_s,
        frames_analysed=len(latencies_s),
        drops={"stale": stale} if stale else {},
        spared=spared,
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
    parser.add_argument("--decode", default="full", metavar="MODE[,MODE]", help=f"{', '.join(MODES)}; several in turns (full)")
    parser.add_argument("--gate", action="store_true", help="put the service's gate before the cameras")
    parser.add_argument("--rounds", type=int, default=1, help="how often each mode is measured (1)")
    args = parser.parse_args()
    modes = args.decode.split(",")
    if args.threads < 1 or args.rounds < 1:
        parser.error(f"--threads and --rounds must be over 0, not {args.threads} and {args.rounds}")
    if unknown := set(modes) - set(MODES):
        parser.error(f"--decode: there is no {', '.join(sorted(unknown))}; there is {', '.join(MODES)}")
    load = workload(parser, args)
    results: dict[str, list[Result]] = {mode: [] for mode in modes}
    for _ in range(args.rounds):
        for mode in modes:
            results[mode].append(run(load, min(args.threads, load.sources), mode, args.gate))
            results[mode][-1].report()
    if len(modes) > 1:
        compare(results, args)
    return 0


def compare(results: Mapping[str, Sequence[Result]], args: argparse.Namespace) -> None:
    """Print how many times the cameras of the first mode each of the others serves with a CPU second."""
    first = next(iter(results.values()))
    ratios = {
        mode: [a.cpu_s_per_source_s / b.cpu_s_per_source_s for a, b in zip(first, runs, strict=True)]
        for mode, runs in results.items()
    }
    for mode, values in ratios.items():
        of = f"{statistics.median(values):.2f} times the cameras ({min(values):.2f} to {max(values):.2f})"
        print(f"{mode:<5} {1000 * statistics.median(r.cpu_s_per_source_s for r in results[mode]):6.1f} ms per source second, {of}")
    if args.json:
        print(json.dumps({mode: [round(value, 3) for value in values] for mode, values in ratios.items()}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
