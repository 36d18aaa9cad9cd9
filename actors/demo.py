"""``framewatch demo``: simulated cameras over RTSP, the Ray service, a Kafka broker, and a consumer that knows the truth."""

from __future__ import annotations

import math
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from kafka import KafkaConsumer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from actors.tally import OCCUPANCY_PERCENT, Tally
from actors.up import up
from stream.config import KafkaConnection, PipelineConfig, Topics
from stream.config_file import parse_config
from stream.events import CountsEvent
from stream.kafka_client import client_options
from stream.rules import CrowdRule
from stream.simulation.scene import build_scene
from stream.simulation.studio import make
from stream.simulation.video import STARTED_AT, Shot
from stream.testing.embedded_broker import EmbeddedBroker, free_port
from stream.testing.rtsp_server import CameraServer

REPORT_S = 5.0
FPS = 5  # analysed
FILM_FPS, FILM_WIDTH, FILM_HEIGHT = 10.0, 960, 540
FILM_SHARE = 0.8  # of the demo: all of a film is shown, wherever it is when the service is up, and its crowd comes and goes
LONGEST_FILM_S = 120.0  # a longer demo plays it more than once
START_S = 200.0  # at most of film that plays while the service starts
FIRST_FRAMES_S = 60.0  # at most from then to the first frames of all cameras; a slow machine takes 15 s
MODEL = "simulated-person"
CAMERAS = {"plaza": (101, 16), "corridor": (101, 8), "street": (101, 14), "station": (101, 14)}
"""Scene: seed and people. The seeds, and the whole station, are unknown to the model."""
CROWD = "station", "concourse"  # camera and zone of the alert
SETTINGS: dict[str, Any] = {
    "detectors": {"people": {"model": MODEL, "confidence": 0.6, "nms_iou": 0.6}},
    "tracker": {"low_confidence": 0.1, "start_margin": 0.1, "second_match_iou": 0.5, "lost_s": 2.0, "hidden_s": 3.0},
    "counting": {"enter_s": 0.0, "leave_s": 0.0, "unseen_s": 0.3, "foot_inset": 0.12, "upright": True},
}
"""Chosen on other seeds, see the card of the model."""
USER, PASSWORD = "viewer", "demo"  # of the cameras that this demo serves on loopback


def shots(seconds: float) -> dict[str, Shot]:
    """What each camera films for a demo of so many seconds."""
    length_s = math.ceil(min(FILM_SHARE * seconds, LONGEST_FILM_S))
    return {
        scene: Shot(scene, seed, (people, people), length_s, FILM_FPS, FILM_WIDTH, FILM_HEIGHT)
        for scene, (seed, people) in CAMERAS.items()
    }


def read_truth(films: Path, cameras: dict[str, Shot], begin_at: float, seconds: float) -> dict[str, list[CountsEvent]]:
    """The true counts of every camera for so many seconds of playing from ``begin_at`` (POSIX, a whole second) on."""
    truth = {}
    for name, shot in cameras.items():
        lines = (films / shot.name / "counts.jsonl").read_bytes().splitlines()
        once = [CountsEvent.model_validate_json(line) for line in lines]
        shifts = [
            timedelta(seconds=begin_at - STARTED_AT + turn * shot.seconds) for turn in range(math.ceil(seconds / shot.seconds))
        ]
        truth[name] = [_moved(event, name, shift) for shift in shifts for event in once]
    return truth


def _moved(event: CountsEvent, source_id: str, shift: timedelta) -> CountsEvent:
    start, end = event.window_start + shift, event.window_end + shift
    return event.model_copy(update={"source_id": source_id, "window_start": start, "window_end": end})


def crowd_limit(truth: Sequence[CountsEvent], zone: str) -> int:
    """More people than this are a crowd in this zone, fewer are none: half of the time there are more."""
    people = sorted(event.occupancy.mean for event in truth if event.zone == zone and event.occupancy)
    return max(1, int(people[len(people) // 2]))


def demo_config(
    uris: dict[str, str], cameras: dict[str, Shot], truth: dict[str, list[CountsEvent]], bootstrap: str, state_dir: Path
) -> PipelineConfig:
    """Four cameras with the zones and lines of their scenes, and a crowd alert."""
    scenes = {name: build_scene(shot.scene, shot.seed, shot.width, shot.height) for name, shot in cameras.items()}
    camera, zone = CROWD
    limit = crowd_limit(truth[camera], zone)
    crowd = {"name": "crowd", "type": "crowd", "zone": f"{camera}/{zone}", "above": limit, "for_s": 1}
    crowd |= {"clear_below": limit, "clear_for_s": 1}
    return parse_config(
        {
            **SETTINGS,
            "sources": [
                {
                    "id": name,
                    "uri": uris[name],
                    "detector": "people",
                    "fps": FPS,
                    "decode": "fast",  # the counts are held against the truth: never key frames only, on a slow machine either
                    "zones": [zone.model_dump(mode="json") for zone in scene.zones],
                    "lines": [line.model_dump(mode="json") for line in scene.lines],
                }
                for name, scene in scenes.items()
            ],
            "alerts": [crowd],
            "sinks": [{"type": "kafka", "bootstrap_servers": [bootstrap]}],
            "service": {"port": free_port(), "state_dir": str(state_dir), "access": {"enabled": False}},
        },
        "demo",
        Path.cwd(),
    )


def consume(connection: KafkaConnection, tally: Tally, stop: threading.Event, console: Console) -> None:
    """Read all topics back until ``stop``, printing alerts at once and the table every few seconds."""
    topics = list(Topics().model_dump().values())
    consumer: Any = KafkaConsumer(
        *topics, **client_options(connection), group_id=None, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    reported_s = time.monotonic()
    try:
        while not stop.is_set():
            for records in consumer.poll(timeout_ms=200).values():
                for record in records:
                    line = tally.add(record.topic, record.value, record.timestamp / 1e3)
                    if line:
                        console.print(line, highlight=False)
            if time.monotonic() - reported_s >= REPORT_S:
                reported_s = time.monotonic()
                console.print(tally.table())
    finally:
        consumer.close()


def film(cameras: dict[str, Shot], films: Path, stop: threading.Event, console: Console) -> bool:
    """Film what the cameras will show; False where ``stop`` ended it."""
    wanted = list(cameras.values())
    length_s = wanted[0].seconds
    console.print(f"filming {len(wanted)} simulated cameras: {', '.join(cameras)}, {length_s:g} s each ...", highlight=False)
    columns = (TextColumn("filming"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("filming", total=sum(shot.frames for shot in wanted))
        return make(wanted, films, stop, lambda done: bar.update(task, completed=done))


def demo(stop: threading.Event, seconds: float) -> int:
    """Run the demo for ``seconds``, or until ``stop``.

    Returns:
        The exit code: 0 when every camera was analysed, the counts are within the promised error of the truth, and the
        alert was raised and cleared where there was a crowd.
    """
    console = Console() if sys.stdout.isatty() else Console(width=130)
    cameras = shots(seconds)
    with tempfile.TemporaryDirectory(prefix="framewatch-demo-") as name:
        folder = Path(name)
        if not film(cameras, folder / "films", stop, console):
            return 130
        config, tally = _serve(cameras, folder, stop, seconds, console)
    console.print(tally.table())
    return _verdict(tally, config, console)


def _serve(
    cameras: dict[str, Shot], folder: Path, stop: threading.Event, run_s: float, console: Console
) -> tuple[PipelineConfig, Tally]:
    """Cameras, broker, service and consumer, for ``run_s`` seconds after all cameras have been analysed for the first time."""
    clips = {name: folder / "films" / shot.name / "video.mp4" for name, shot in cameras.items()}
    begin_at = math.ceil(time.time()) + 1.0
    truth = read_truth(folder / "films", cameras, begin_at, run_s + START_S)
    with (
        EmbeddedBroker(folder / "broker") as broker,
        CameraServer(clips, user=USER, password=PASSWORD, begin_at=begin_at) as server,
    ):
        config = demo_config({name: server.url(name) for name in cameras}, cameras, truth, broker.bootstrap, folder / "state")
        console.print(f"they are on rtsp://127.0.0.1:{server.port}, Kafka on {broker.bootstrap}; starting Ray ...")
        tally = Tally(config, truth)
        ended = threading.Event()
        connection = KafkaConnection(bootstrap_servers=[broker.bootstrap])
        consumer = threading.Thread(target=consume, args=(connection, tally, ended, console), name="consumer")

        def run_out() -> None:
            patience_s = time.monotonic() + FIRST_FRAMES_S
            while not all(tally.frames[name] for name in cameras) and time.monotonic() < patience_s and not stop.wait(0.2):
                pass
            stop.wait(run_s)
            stop.set()

        def ready(url: str) -> None:
            console.print(f"the service is up: {url} shows the cameras; {url}/metrics")
            consumer.start()
            threading.Thread(target=run_out, name="run-out", daemon=True).start()

        try:
            up(config, stop, dashboard=False, on_ready=ready)
        finally:
            ended.set()
            if consumer.is_alive():
                consumer.join()
    return config, tally


def _verdict(tally: Tally, config: PipelineConfig, console: Console) -> int:
    """Say how it went."""
    cameras = [source.id for source in config.sources]
    missing = [name for name in cameras if not tally.frames[name]]
    if missing:
        click.echo(f"framewatch: no frame of {', '.join(missing)} was analysed", err=True)
        return 1
    score = tally.score(cameras)
    console.print(
        f"people in zones: error {score.occupancy_percent:.1f} % (promised: {OCCUPANCY_PERCENT:g} %); lines: {score.crossings[1]} "
        f"crossings counted, {score.crossings[0]} in truth, {score.crossings_wrong} wrong",
        highlight=False,
    )
    if score.unscored:
        click.echo(f"framewatch: too little was seen of {', '.join(score.unscored)} to hold against the truth", err=True)
        return 1
    if not score.kept:
        click.echo("framewatch: the counts are not within the promised error", err=True)
        return 1
    [crowd] = [rule for rule in config.alerts if isinstance(rule, CrowdRule)]
    raised, cleared = tally.true_crowd(crowd.zone_paths[0], int(crowd.above), int(crowd.clear_below or crowd.above))
    if (raised and not tally.alerts["raised"]) or (cleared and not tally.alerts["cleared"]):
        click.echo("framewatch: there was a crowd, and its alert was not raised and cleared", err=True)
        return 1
    return 0
