"""``framewatch demo``: cameras over RTSP, the Ray service, a Kafka broker and a consumer, all on this machine."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
from kafka import KafkaConsumer
from rich.console import Console
from rich.table import Table

from actors.up import up
from stream.config import KafkaConnection, PipelineConfig, Topics
from stream.config_file import parse_config
from stream.errors import FramewatchError
from stream.events import AlertEvent, CountsEvent, HealthEvent, TracksEvent
from stream.kafka_client import client_options
from stream.slo import SloTracker
from stream.testing.embedded_broker import EmbeddedBroker, free_port
from stream.testing.rtsp_server import CameraServer

DEFAULT_S = 60.0
REPORT_S = 5.0
FPS = 5
CLIPS = {
    "entrance": "one-by-one-person-detection.mp4",
    "shop": "retail02_h264_1080p25.mp4",
    "plaza": "crowd12.mp4",
    "restaurant": "openfilter_01.mp4",
}
USER, PASSWORD = "viewer", "demo"  # of the cameras that this demo serves on loopback


def media_folder() -> Path:
    """The folder with the demo's footage and model: FRAMEWATCH_SHARED, else ``../shared`` beside the current folder.

    Raises:
        FramewatchError: it is not there.
    """
    folder = Path(os.environ.get("FRAMEWATCH_SHARED", "../shared")) / "data"
    if not (folder / "videos").is_dir():
        raise FramewatchError(
            f"the demo's footage is not in {folder.absolute()}: set FRAMEWATCH_SHARED to the folder that holds data/"
        )
    return folder


def demo_config(model: Path, cameras: dict[str, str], bootstrap: str, state_dir: Path) -> PipelineConfig:
    """Four cameras with a zone and a line each, a crowd alert and an intrusion alert."""
    floor = {"name": "floor", "polygon": [[0, 0.25], [1, 0.25], [1, 1], [0, 1]]}
    middle = {"name": "middle", "points": [[0.5, 0], [0.5, 1]]}
    return parse_config(
        {
            "detectors": {"people": {"model": str(model), "classes": ["person"], "confidence": 0.5}},
            "sources": [
                {"id": name, "uri": uri, "detector": "people", "fps": FPS, "zones": [floor], "lines": [middle]}
                for name, uri in cameras.items()
            ],
            "alerts": [
                {
                    "name": "crowd",
                    "type": "crowd",
                    "zone": "plaza/floor",
                    "above": 6,
                    "for_s": 1,
                    "clear_below": 4,
                    "clear_for_s": 2,
                },
                {"name": "somebody-enters", "type": "intrusion", "zone": "entrance/floor", "for_s": 0.5, "clear_for_s": 1},
            ],
            "sinks": [{"type": "kafka", "bootstrap_servers": [bootstrap]}],
            "service": {"port": free_port(), "state_dir": str(state_dir)},
        },
        "demo",
        Path.cwd(),
    )


class Tally:
    """What a consumer of the topics has seen."""

    def __init__(self, config: PipelineConfig):
        self.frames: Counter[str] = Counter()
        self.entered: Counter[str] = Counter()
        self.inside: dict[str, int] = {}
        self.alerts: Counter[str] = Counter()
        self.slo = SloTracker(config.slo)

    def add(self, topic: str, value: bytes, broker_time_s: float) -> str | None:
        """Take one record; returns a line worth printing, if it is one."""
        topics = Topics()
        if topic == topics.tracks:
            tracks = TracksEvent.model_validate_json(value)
            self.frames[tracks.source_id] += 1
            self.slo.record(tracks.source_id, max(0.0, broker_time_s - tracks.captured_at.timestamp()))
        elif topic == topics.counts:
            counts = CountsEvent.model_validate_json(value)
            if counts.occupancy:
                self.inside[counts.source_id] = counts.occupancy.last
                self.entered[counts.source_id] += counts.entered or 0
        elif topic == topics.alerts:
            alert = AlertEvent.model_validate_json(value)
            if alert.state != "updated":
                self.alerts[f"{alert.source_id} {alert.state}"] += 1
                return f"ALERT {alert.state}: {alert.rule} at {alert.source_id}/{alert.zone} ({alert.value:g} inside)"
        elif topic == topics.health:
            health = HealthEvent.model_validate_json(value)
            return f"{health.source_id}: {health.state} ({health.reason})"
        return None

    def table(self, config: PipelineConfig) -> Table:
        """The state so far."""
        table = Table(title="framewatch demo: read back from Kafka")
        table.add_column("camera")
        for column in ("analysed", "inside now", "entered", "alerts", "p50 ms", "p99 ms", "within SLO"):
            table.add_column(column, justify="right")
        for source in config.sources:
            report = self.slo.report(source.id)
            table.add_row(
                source.id,
                str(self.frames[source.id]),
                str(self.inside.get(source.id, 0)),
                str(self.entered[source.id]),
                str(self.alerts[f"{source.id} raised"]),
                f"{1e3 * report.latency_s['p50']:.0f}",
                f"{1e3 * report.latency_s['p99']:.0f}",
                f"{report.attainment:.1%}" if report.attainment is not None else "-",
            )
        return table


def consume(config: PipelineConfig, connection: KafkaConnection, tally: Tally, stop: threading.Event, console: Console) -> None:
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
                console.print(tally.table(config))
    finally:
        consumer.close()


def demo(stop: threading.Event, seconds: float | None) -> int:
    """Run the demo until ``stop`` or for ``seconds`` (60 by default); returns the exit code: 0 when every camera was
    analysed and an alert was raised.

    Raises:
        FramewatchError: the footage is not there.
    """
    media = media_folder()
    console = Console() if sys.stdout.isatty() else Console(width=110)
    clips = {name: media / "videos" / clip for name, clip in CLIPS.items()}
    with tempfile.TemporaryDirectory(prefix="framewatch-demo-") as folder:
        with (
            EmbeddedBroker(Path(folder) / "broker") as broker,
            CameraServer(clips, user=USER, password=PASSWORD) as cameras,
        ):
            uris = {name: cameras.url(name) for name in CLIPS}
            config = demo_config(media / "models" / "FastestDet.onnx", uris, broker.bootstrap, Path(folder) / "state")
            console.print(f"4 cameras on rtsp://127.0.0.1:{cameras.port}, Kafka on {broker.bootstrap}; starting Ray ...")
            tally = Tally(config)
            connection = KafkaConnection(bootstrap_servers=[broker.bootstrap])
            ended = threading.Event()
            consumer = threading.Thread(target=consume, args=(config, connection, tally, ended, console), name="consumer")

            def ready(url: str) -> None:
                console.print(f"the service is up: {url}/v1/sources {url}/metrics")
                consumer.start()
                timer = threading.Timer(DEFAULT_S if seconds is None else seconds, stop.set)
                timer.daemon = True
                timer.start()

            try:
                up(config, stop, dashboard=False, on_ready=ready)
            finally:
                ended.set()
                if consumer.is_alive():
                    consumer.join()
        console.print(tally.table(config))
    missing = [name for name in CLIPS if not tally.frames[name]]
    if missing:
        click.echo(f"framewatch: no frame of {', '.join(missing)} was analysed", err=True)
        return 1
    if not any(key.endswith("raised") for key in tally.alerts):
        click.echo("framewatch: no alert was raised", err=True)
        return 1
    return 0
