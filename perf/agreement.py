"""What the modes of decoding and the gate save, and whether they find the same people.

``modes``: each clip is read as fast as it goes, sampled, scaled and detected in this thread, once a mode and round, the
modes in turns. *Agreement* is the share of the frames that a mode analyses in which it counts as many people as ``full``;
*analysed* is how many of ``full``'s frames those are. CPU is that of the whole process over the clip's seconds.

``gate``: each clip goes through the whole pipeline twice, with and without the gate: who entered, and when each alert was
raised. ``still``: a picture of the first clip stands still under sensor noise; its camera's cost behind the gate, from
``SETTLED_S`` on, is compared with that of the busy (second) clip.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
from collections.abc import Sequence
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from perf.workload import DEFAULT_MODEL, SHARED
from stream.agreement import Clip, Reading, compare
from stream.agreement import read as read_clip
from stream.config import DetectorConfig, SourceConfig, TrackerConfig
from stream.config_file import parse_config
from stream.detectors.base import Detector
from stream.detectors.registry import load_detector
from stream.pipeline import Pipeline
from stream.sinks import open_sinks

CLIPS = tuple(SHARED / "data" / "videos" / name for name in ("one-by-one-person-detection.mp4", "retail02_h264_1080p25.mp4"))
MODES = ("full", "fast", "fast, file", "key")
"""As a camera is read, and ``fast`` as a file is too, where a frame may come out of the codec late."""
STILL_S, SETTLED_S = 60, 20
STILL_SIZE, STILL_FPS = (1920, 1080), 25
NOISE = 2.0  # grey levels, standard deviation
CONFIDENCE = 0.5


def read(clip: Path, fps: float, detector: Detector, *, decode: str = "fast", gated: bool = False, from_s: float = 0.0) -> Reading:
    """Read a clip as a live source would be read; CPU is counted from media time ``from_s`` on."""
    mode, _, file = decode.partition(", ")
    source = SourceConfig.model_validate(
        {"id": "clip", "uri": str(clip), "fps": fps, "gate": "on" if gated else "off", "decode": mode, "realtime": not file}
    )
    return read_clip(source, detector, CONFIDENCE, TrackerConfig().lost_s, Clip(from_s))


def compare_modes(clips: Sequence[Path], fps: float, rounds: int, detector: Detector) -> list[dict[str, Any]]:
    """A row for each clip and mode."""
    rows = []
    for clip in clips:
        readings: dict[str, list[Reading]] = {mode: [] for mode in MODES}
        for _ in range(rounds):
            for mode in MODES:
                readings[mode].append(read(clip, fps, detector, decode=mode))
        full = readings["full"][0]
        for mode in MODES:
            one = readings[mode][0]
            ratios = [a.cpu_s / b.cpu_s for a, b in zip(readings["full"], readings[mode], strict=True)]
            decoding = [a.tally.decode_cpu_s / b.tally.decode_cpu_s for a, b in zip(readings["full"], readings[mode], strict=True)]
            found = compare(full, one)
            rows.append(
                {
                    "clip": clip.name,
                    "mode": mode,
                    "agreement": round(found.same_analysed / found.analysed, 4),
                    "analysed": round(found.analysed / found.sampled, 4),
                    "decoded": round(one.tally.decoded / one.tally.frames, 4),
                    "cpu_ms_per_source_s": round(1e3 * statistics.median(r.cpu_s / r.media_s for r in readings[mode]), 1),
                    "cameras_against_full": round(statistics.median(ratios), 2),
                    "decoding_against_full": round(statistics.median(decoding), 2),
                }
            )
    return rows


def compare_gate(clip: Path, fps: float, model: Path, folder: Path) -> dict[str, Any]:
    """Counts and alerts of a clip with the gate and without."""
    found = {gate: _events(clip, fps, model, gate, folder / f"{clip.stem}-{gate}.jsonl") for gate in ("off", "on")}
    alerts = {gate: _raised(events) for gate, events in found.items()}
    late = [
        (after - before).total_seconds()
        for rule, times in alerts["off"].items()
        for before, after in zip(times, alerts["on"].get(rule, []), strict=False)
    ]
    return {
        "clip": clip.name,
        "analysed": {gate: sum("objects" in event for event in events) for gate, events in found.items()},
        "entered": {gate: sum(event.get("entered", 0) for event in events) for gate, events in found.items()},
        "alerts_raised": {gate: sum(map(len, times.values())) for gate, times in alerts.items()},
        "latest_alert_s": max(late, default=0.0),
    }


def _events(clip: Path, fps: float, model: Path, gate: str, path: Path) -> list[dict[str, Any]]:
    whole = [[0, 0], [1, 0], [1, 1], [0, 1]]
    config = {
        "detectors": {"people": {"model": str(model), "classes": ["person"], "confidence": CONFIDENCE}},
        "sources": [
            {
                "id": "clip",
                "uri": str(clip),
                "fps": fps,
                "gate": gate,
                "zones": [{"name": "all", "polygon": whole}],
                "lines": [{"name": "middle", "points": [[0.5, 0], [0.5, 1]]}],
            }
        ],
        "alerts": [
            {"name": "intrusion", "type": "intrusion", "zone": "clip/all"},
            {"name": "crossing", "type": "line", "line": "clip/middle", "clear_for_s": 2},
            {"name": "loitering", "type": "loitering", "zone": "clip/all", "dwell_s": 8},
        ],
        "sinks": [{"type": "jsonl", "path": str(path)}],
    }
    parsed = parse_config(config, "agreement", path.parent)
    with Pipeline(parsed, open_sinks(parsed.sinks, None)) as pipeline:
        pipeline.run(threading.Event())
    return [json.loads(line) for line in path.read_text().splitlines()]


def _raised(events: Sequence[dict[str, Any]]) -> dict[str, list[datetime]]:
    raised: dict[str, list[datetime]] = {}
    for event in events:
        if event.get("state") == "raised":
            raised.setdefault(event["rule"], []).append(datetime.fromisoformat(event["at"]))
    return raised


def compare_still(still: Path, busy: Path, fps: float, rounds: int, detector: Detector) -> dict[str, Any]:
    """What a still scene costs behind the gate, without it, and what the busy one costs behind it."""
    rows: dict[str, list[float]] = {"still_gated": [], "still_open": [], "busy_gated": []}
    for _ in range(rounds):
        for name, clip, gated in (("still_gated", still, True), ("still_open", still, False), ("busy_gated", busy, True)):
            reading = read(clip, fps, detector, gated=gated, from_s=SETTLED_S if clip is still else 0.0)
            rows[name].append(1e3 * reading.cpu_s / reading.media_s)
    found: dict[str, Any] = {f"{name}_cpu_ms_per_source_s": round(statistics.median(values), 1) for name, values in rows.items()}
    shares = [a / b for a, b in zip(rows["still_gated"], rows["busy_gated"], strict=True)]
    return found | {"still_share_of_busy": round(statistics.median(shares), 3)}


def make_still(clip: Path, path: Path) -> Path:
    """A video of the first picture of a clip, at 1080p25 with a key frame a second, under noise."""
    with av.open(str(clip)) as given:
        first = next(given.decode(video=0)).reformat(*STILL_SIZE, "yuv420p").to_ndarray()
    rng = np.random.default_rng(1)
    luma = np.s_[: STILL_SIZE[1]]
    noises = [rng.normal(0, NOISE, first[luma].shape).round().astype(np.int16) for _ in range(7)]  # 25 is no multiple
    with av.open(str(path), "w") as made:
        stream = made.add_stream("libx264", rate=STILL_FPS, options={"preset": "ultrafast", "tune": "zerolatency", "crf": "25"})
        stream.width, stream.height, stream.pix_fmt = *STILL_SIZE, "yuv420p"
        stream.codec_context.gop_size = STILL_FPS
        for i in range(STILL_S * STILL_FPS):
            pixels = first.copy()
            pixels[luma] = np.clip(first[luma] + noises[i % len(noises)], 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, "yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, STILL_FPS)
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    return path


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, action="append", metavar="FILE", help="a clip; give it twice (those of ../shared)")
    parser.add_argument("--fps", type=float, default=5.0, help="analysed frames per second (5)")
    parser.add_argument("--rounds", type=int, default=3, help="how often CPU is measured, the modes in turns (3)")
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, help="model file (FastestDet of ../shared/data)")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object, as the last line")
    args = parser.parse_args()
    clips = args.file or list(CLIPS)
    for path in [*clips, args.model]:
        if not path.is_file():
            parser.error(f"there is no file {path}")
    if not (args.fps > 0 and args.rounds > 0):
        parser.error("--fps and --rounds must be over 0")
    config = DetectorConfig(model=str(args.model.resolve()), classes=["person"], threads=1)
    detector = load_detector("agreement", config, TrackerConfig().low_confidence)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        modes = compare_modes(clips, args.fps, args.rounds, detector)
        still = compare_still(make_still(clips[0], folder / "still.mp4"), clips[-1], args.fps, args.rounds, detector)
        gate = [compare_gate(clip, args.fps, args.model.resolve(), folder) for clip in clips]
    detector.close()
    _print(modes, gate, still)
    if args.json:
        print(json.dumps({"fps": args.fps, "rounds": args.rounds, "modes": modes, "gate": gate, "still": still}), flush=True)
    return 0


def _print(modes: Sequence[dict[str, Any]], gate: Sequence[dict[str, Any]], still: dict[str, Any]) -> None:
    print(f"{'clip':<34} {'mode':<10} agreement analysed  decoded  CPU ms/s  cameras  decoding (times those of full)")
    for row in modes:
        print(
            f"{row['clip']:<34} {row['mode']:<10} {row['agreement']:>9.2%} {row['analysed']:>8.1%} {row['decoded']:>8.1%}"
            f" {row['cpu_ms_per_source_s']:>9.1f} {row['cameras_against_full']:>8.2f} {row['decoding_against_full']:>8.2f}"
        )
    for row in gate:
        pairs = ", ".join(f"{key} {row[key]['off']} / {row[key]['on']}" for key in ("analysed", "entered", "alerts_raised"))
        print(f"{row['clip']}: without / with the gate: {pairs}; latest alert {row['latest_alert_s']:+.2f} s")
    print(", ".join(f"{key} {value:g}" for key, value in still.items()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
