"""The config: one pydantic model per part.

Unknown keys are errors. Coordinates are normalised: x and y from 0 (left, top) to 1 (right, bottom). ``config_file``
reads a config from YAML.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, field_validator, model_validator

from stream.access import AccessConfig, TlsConfig, is_loopback
from stream.errors import Fault
from stream.evidence.settings import EvidenceConfig
from stream.logs import LogFormat, LogLevel, LogSettings
from stream.part import Name, Part, Point, Seconds
from stream.rules import AlertRule, CrowdRule, IntrusionRule, LineRule, LoiteringRule, SourceRule, watches
from stream.scaling import Replicas, Scaling
from stream.simulation.address import SimulatedCamera
from stream.telemetry import DriftConfig, MetricsConfig, TracingConfig

GATE_HOLD_S = 10.0  # longest time of packets that a closed gate holds back
SOURCE_SCHEMES = ("file", "rtsp", "rtsps", "kafka", "simulate")


class DetectorConfig(Part):
    """A model and how it is run.

    ``model`` is a model file, or the name of one of the registry (``framewatch models list``). ``confidence`` is the
    operating point: objects below it are not reported (the tracker uses fainter ones to keep a track alive).
    ``backend: auto`` takes OpenVINO for ``.onnx`` and ``.pb``, torch for ``.pt2``.
    """

    model: str
    classes: list[str] | None = None
    confidence: float = Field(0.5, gt=0, lt=1)
    nms_iou: float = Field(0.5, gt=0, le=1)
    backend: Literal["auto", "openvino", "torch"] = "auto"
    device: str = "auto"
    precision: Literal["f32", "bf16", "f16"] = "f32"
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of one replica; 0 lets the backend choose")
    batch_size: int = Field(16, ge=1, le=256)
    replicas: Replicas = Replicas()

    @property
    def model_name(self) -> str | None:
        """Name of a model of the registry; None where ``model`` is a path: those have a folder or an ending."""
        return self.model if re.fullmatch("[a-z0-9][a-z0-9-]{0,62}", self.model) else None


class ZoneConfig(Part):
    """A polygon; an object is inside when its ``anchor`` is."""

    name: Name
    polygon: list[Point] = Field(min_length=3, max_length=1000)
    anchor: Literal["bottom_center", "center", "top_center"] = "bottom_center"
    classes: list[str] | None = None

    @field_validator("polygon")
    @classmethod
    def _has_area(cls, polygon: list[Point]) -> list[Point]:
        doubled = sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(polygon, polygon[1:] + polygon[:1], strict=True))
        if abs(doubled) < 1e-9:
            raise ValueError("the polygon encloses no area")
        return polygon


class LineConfig(Part):
    """A directed segment. Seen along the line from its first to its second point, an object that moves from the left
    to the right side crosses ``in``, the other way ``out``."""

    name: Name
    points: tuple[Point, Point]
    anchor: Literal["bottom_center", "center", "top_center"] = "bottom_center"
    classes: list[str] | None = None

    @field_validator("points")
    @classmethod
    def _has_length(cls, points: tuple[Point, Point]) -> tuple[Point, Point]:
        if points[0] == points[1]:
            raise ValueError("the line's two points are the same")
        return points


class RtspConfig(Part):
    """How an RTSP source is reached and when it counts as lost."""

    transport: Literal["tcp", "udp"] = "tcp"
    open_timeout_s: float = Field(5, gt=0, le=120)
    read_timeout_s: float = Field(5, gt=0, le=120, description="no packet for this long is a stall")
    backoff_initial_s: float = Field(0.5, gt=0, le=60)
    backoff_max_s: float = Field(30, gt=0, le=3600)


class KafkaConnection(Part):
    """Where the brokers are. ``options`` go to kafka-python as they are (``ssl_cafile``, ``sasl_mechanism``, ...)."""

    bootstrap_servers: list[str] = Field(min_length=1)
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "OAUTHBEARER"] | None = None
    username: str | None = None
    password: str | None = Field(None, repr=False)
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    ssl_check_hostname: bool = True
    options: dict[str, Any] = Field({}, repr=False)  # may hold sasl_plain_password

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.security_protocol.startswith("SASL") and not (self.sasl_mechanism or "sasl_mechanism" in self.options):
            raise ValueError(f"security_protocol {self.security_protocol} needs sasl_mechanism")
        return self


class KafkaInput(KafkaConnection):
    """Connection of a ``kafka://`` source. ``group`` defaults to ``framewatch.<source id>``."""

    group: str | None = None
    offset_reset: Literal["earliest", "latest"] = "earliest"


class SourceConfig(Part):
    """One camera, file or topic. The scheme of ``uri`` decides what it is:

    - a path or ``file:`` URL: a video file;
    - ``rtsp://``, ``rtsps://``: a camera;
    - ``kafka://TOPIC``: records whose key is this source's id (``?key=NAME`` names another, ``?key=*`` takes all);
    - ``simulate://SCENE``: a simulated camera, see :class:`SimulatedCamera`.

    ``decode``: all (``full``), what the analysed frames need (``fast``), key frames (``key``); ``auto``: see ``effort``.
    ``gate``: a still scene is not decoded but for a look every few seconds, see ``gate``; ``auto``: cameras only.
    ``tamper``: say so when the view is black, covered, frozen, blurred or moved, see ``tamper``; ``auto``: cameras only.
    """

    id: Name
    uri: str = Field(repr=False)
    detector: str | None = None
    fps: float | None = Field(None, gt=0, le=1000, description="analysed frames per second of media time; all if unset")
    realtime: bool = Field(False, description="files and simulations: play at the speed of the media clock, as a camera would")
    loop: bool = Field(False, description="files: begin again at the end")
    decode: Literal["auto", "full", "fast", "key"] = "auto"
    gate: Literal["auto", "on", "off"] = "auto"
    tamper: Literal["auto", "on", "off"] = "auto"
    zones: list[ZoneConfig] = Field([], max_length=256)
    lines: list[LineConfig] = Field([], max_length=256)
    rtsp: RtspConfig = RtspConfig()
    kafka: KafkaInput | None = None

    @property
    def scheme(self) -> str:
        """``file``, ``rtsp``, ``rtsps``, ``kafka`` or ``simulate``."""
        return _scheme(self.uri)

    @property
    def path(self) -> Path:
        """Path of a ``file`` source."""
        return Path(re.sub("^file:(//)?", "", self.uri, flags=re.IGNORECASE))

    @property
    def topic(self) -> str:
        """Topic of a ``kafka`` source."""
        return urlsplit(self.uri).netloc

    @property
    def record_key(self) -> str | None:
        """Key of the records that are this source's; None takes every record."""
        key = parse_qs(urlsplit(self.uri).query).get("key", [self.id])[0]
        return None if key == "*" else key

    @property
    def simulated(self) -> SimulatedCamera:
        """Camera of a ``simulate`` source."""
        return SimulatedCamera.of(self.uri)

    @property
    def recorded(self) -> bool:
        """True where every run gives the same frames from the first on: files and simulations."""
        return self.scheme in ("file", "simulate")

    @property
    def camera(self) -> bool:
        """True for RTSP."""
        return self.scheme in ("rtsp", "rtsps")

    @property
    def live(self) -> bool:
        """True where frames come at their own pace and the stale are dropped; otherwise reading slows down."""
        return self.camera or (self.recorded and self.realtime)

    @property
    def gated(self) -> bool:
        """True where a still scene is not decoded."""
        return self._is_on(self.gate)

    @property
    def guarded(self) -> bool:
        """True where tampering with the view is told."""
        return self._is_on(self.tamper)

    def _is_on(self, switch: Literal["auto", "on", "off"]) -> bool:
        return switch == "on" or (switch == "auto" and self.camera)

    @field_validator("gate", "tamper", mode="before")
    @classmethod
    def _yaml_word(cls, switch: object) -> object:
        return ("on" if switch else "off") if isinstance(switch, bool) else switch  # so YAML reads on and off

    @field_validator("uri")
    @classmethod
    def _known_scheme(cls, uri: str) -> str:
        scheme = _scheme(uri)
        if scheme not in SOURCE_SCHEMES:
            raise ValueError(f"unknown scheme {scheme!r}; known are {', '.join(SOURCE_SCHEMES)} and plain paths")
        if scheme == "kafka" and not (uri[6:8] == "//" and urlsplit(uri).netloc):
            raise ValueError("kafka:// needs a topic, as in kafka://frames")
        if scheme in ("rtsp", "rtsps") and not uri.partition("://")[2].partition("/")[0].rpartition("@")[2]:
            raise ValueError(f"{scheme}:// needs a host, as in {scheme}://camera.example/stream")
        if scheme == "simulate":
            SimulatedCamera.of(uri)
        if not uri.strip():
            raise ValueError("is empty")
        return uri

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.scheme == "kafka" and (self.gated or self.decode in ("fast", "key")):
            raise ValueError("every record of kafka:// is decoded: decode may be auto or full, gate auto or off")
        if self.loop and self.scheme == "simulate" and self.simulated.seconds is not None:
            raise ValueError("loop is for files; a simulation without seconds never ends")
        names = [zone.name for zone in self.zones] + [line.name for line in self.lines]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"zones and lines share the name {', '.join(map(repr, twice))}")
        return self


class TrackerConfig(Part):
    """ByteTrack's thresholds. High-score detections are those at or above the detector's ``confidence``."""

    low_confidence: float = Field(0.1, gt=0, lt=1)
    start_margin: float = Field(0.0, ge=0, lt=1, description="a track starts so much above the detector's confidence")
    match_iou: float = Field(0.2, gt=0, lt=1, description="least IoU of a first-stage match")
    second_match_iou: float = Field(0.5, gt=0, lt=1, description="least IoU of a match with a low-score detection")
    lost_s: float = Field(2.0, gt=0, le=600, description="a track unseen for this long ends")
    hidden_s: Seconds = Field(0.0, description="but behind another one it may be hidden for this long")
    max_tracks: int = Field(1000, ge=1, le=100_000)


class CountingConfig(Part):
    """``enter_s``: an object must be inside this long to count as entered; ``leave_s``: and be seen outside for this long,
    or ``unseen_s``: not be seen at all for this long, to count as gone. Both begin with the first frame on that side, so
    with equal ``enter_s`` and ``leave_s`` the mean occupancy has no bias. ``foot_inset``: a ``bottom_center`` anchor lies so
    much of its box's height above the lower edge, which is the tip of the nearer shoe and not the middle of the feet.
    ``upright``: the objects stand upright, as people do; the counter learns from their boxes which way they lean in the picture
    of a camera that looks down, and seeks their feet there. ``foot_inset`` is then that at the picture's lower edge."""

    window_s: float = Field(1.0, gt=0, le=3600)
    enter_s: Seconds = 0.3
    leave_s: Seconds = 0.3
    unseen_s: Seconds = 1.0
    foot_inset: float = Field(0.0, ge=0, le=0.3)
    upright: bool = False


class Topics(Part):
    """Names of the topics."""

    tracks: str = "framewatch.tracks"
    counts: str = "framewatch.counts"
    alerts: str = "framewatch.alerts"
    health: str = "framewatch.health"
    dead_letter: str = "framewatch.dead_letter"


class KafkaSinkConfig(KafkaConnection):
    """Events to Kafka. While the broker is away they wait in a spool of at most ``spool_mib`` on disk."""

    type: Literal["kafka"]
    topics: Topics = Topics()
    linger_ms: int = Field(20, ge=0, le=10_000)
    compression: Literal["none", "gzip", "lz4", "zstd"] = "lz4"
    spool_mib: int = Field(1024, ge=1)


class JsonlSinkConfig(Part):
    """Events as JSON lines, appended to ``path`` (``-``: standard output)."""

    type: Literal["jsonl"]
    path: str
    events: list[Literal["tracks", "counts", "alerts", "health", "dead_letter"]] | None = None


SinkConfig = Annotated[KafkaSinkConfig | JsonlSinkConfig, Field(discriminator="type")]


class SloConfig(Part):
    """``objective`` of the analysed frames are acknowledged within ``latency_ms`` of capture, over ``window_s``."""

    latency_ms: float = Field(500, gt=0)
    objective: float = Field(0.99, gt=0, lt=1)
    window_s: float = Field(60, gt=0, le=86_400, description="window over which breach and recovery are judged")


class ServiceConfig(Part):
    """The Ray service."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)
    ingest_actors: Scaling = Field(Scaling(), description="a number, or a range in which it follows the CPU that they use")
    ingest_cpus: float = Field(0.5, ge=0, description="Ray CPUs that each ingest actor reserves")
    aggregators: int = Field(1, ge=1, le=1024)
    state_dir: Path = Path("framewatch-state")
    access: AccessConfig = AccessConfig()
    tls: TlsConfig | None = None
    log_format: LogFormat = "json"
    log_level: LogLevel = "info"

    @property
    def url(self) -> str:
        """Where it is reached."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    def check_tls(self) -> list[Fault]:
        """Why the certificate or its key cannot be used; looks at the files."""
        faults = self.tls.check() if self.tls else []
        return [Fault(f"service.tls.{fault.key}".rstrip("."), fault.reason) for fault in faults]

    @property
    def logs(self) -> LogSettings:
        """How every actor logs."""
        return LogSettings(self.log_format, self.log_level)

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if not self.access.enabled and not is_loopback(self.host):
            raise ValueError(f"access may be off only where the host is this machine alone, as 127.0.0.1, not {self.host}")
        return self

    @field_validator("ingest_actors", mode="before")
    @classmethod
    def _fixed(cls, actors: Any) -> Any:
        return {"min": actors, "max": actors} if isinstance(actors, int) else actors


class PipelineConfig(Part):
    """A whole config file."""

    detectors: dict[Name, DetectorConfig] = Field(min_length=1)
    sources: list[SourceConfig] = Field([])
    alerts: list[AlertRule] = Field([])
    sinks: list[SinkConfig] = Field([])
    kafka: KafkaConnection | None = Field(None, description="brokers of kafka:// sources that name none themselves")
    tracker: TrackerConfig = TrackerConfig()
    counting: CountingConfig = CountingConfig()
    slo: SloConfig = SloConfig()
    metrics: MetricsConfig = MetricsConfig()
    tracing: TracingConfig = TracingConfig()
    drift: DriftConfig = DriftConfig()
    service: ServiceConfig = ServiceConfig()
    evidence: EvidenceConfig | None = None

    def detector_of(self, source: SourceConfig) -> str:
        """Name of the source's detector: its own, else the first."""
        return source.detector or next(iter(self.detectors))

    def kafka_input(self, source: SourceConfig) -> KafkaInput | None:
        """Connection of a ``kafka://`` source: its own, else the config's ``kafka``, else the first Kafka sink's."""
        if source.kafka:
            return source.kafka
        shared = self.kafka or next((sink for sink in self.sinks if isinstance(sink, KafkaSinkConfig)), None)
        if shared is None:
            return None
        return KafkaInput(**{name: getattr(shared, name) for name in KafkaConnection.model_fields})

    def digest(self) -> str:
        """Changes with everything that actors are made with: not with sources and rules, which can be changed while
        running, nor with how the API is reached."""
        left_out: Any = {"sources": True, "alerts": True, "service": {"host", "port", "access", "tls"}}
        return hashlib.sha256(repr(self.model_dump(exclude=left_out)).encode()).hexdigest()

    def class_faults(self, classes: Mapping[str, Collection[str]]) -> list[Fault]:
        """Zones and lines that ask for a class that their source's detector does not know.

        Args:
            classes: class names by detector.
        """
        found = []
        for i, source in enumerate(self.sources):
            known = classes.get(self.detector_of(source))
            asked = [(f"zones.{j}", zone.classes) for j, zone in enumerate(source.zones)]
            asked += [(f"lines.{j}", line.classes) for j, line in enumerate(source.lines)]
            for key, names in asked:
                for name in names or []:
                    if known is not None and name not in known:
                        reason = f"detector {self.detector_of(source)!r} has no class {name!r}"
                        found.append(Fault(f"sources.{i}.{key}.classes", reason))
        return found

    def faults(self) -> list[Fault]:
        """What is wrong between the parts: duplicate ids and references that lead nowhere."""
        found = []
        ids = [source.id for source in self.sources]
        zones = {f"{s.id}/{z.name}" for s in self.sources for z in s.zones}
        lines = {f"{s.id}/{line.name}" for s in self.sources for line in s.lines}
        for i, source in enumerate(self.sources):
            if source.id in ids[:i]:
                found.append(Fault(f"sources.{i}.id", f"{source.id!r} is used twice"))
            if source.detector and source.detector not in self.detectors:
                found.append(Fault(f"sources.{i}.detector", f"no detector {source.detector!r}; there is {_names(self.detectors)}"))
            if source.scheme == "kafka" and self.kafka_input(source) is None:
                found.append(Fault(f"sources.{i}.kafka", "no brokers known: set bootstrap_servers here, or a top-level kafka:"))
        rules = [rule.name for rule in self.alerts]
        for i, rule in enumerate(self.alerts):
            if rule.name in rules[:i]:
                found.append(Fault(f"alerts.{i}.name", f"{rule.name!r} is used twice"))
            if rule.evidence is not None and self.evidence is None:
                found.append(Fault(f"alerts.{i}.evidence", "there is no place for it: set a top-level evidence: with its url"))
            if rule.evidence is not None and rule.evidence.clip:
                kafka = [source.id for source in self.sources if source.scheme == "kafka" and watches(rule, source.id)]
                if kafka:
                    reason = (
                        f"{_names(kafka)} is kafka://, whose records are no stream of packets to cut from; a picture can be had"
                    )
                    found.append(Fault(f"alerts.{i}.evidence.clip", reason))
            match rule:
                case CrowdRule():
                    for path in rule.zone_paths:
                        if path not in zones:
                            key = f"alerts.{i}.{'zone' if rule.zone else 'zones'}"
                            found.append(Fault(key, f"no zone {path!r}; there is {_names(zones)}"))
                case IntrusionRule() | LoiteringRule() if rule.zone not in zones:
                    found.append(Fault(f"alerts.{i}.zone", f"no zone {rule.zone!r}; there is {_names(zones)}"))
                case LineRule() if rule.line not in lines:
                    found.append(Fault(f"alerts.{i}.line", f"no line {rule.line!r}; there is {_names(lines)}"))
                case SourceRule() if rule.source != "*" and rule.source not in ids:
                    found.append(Fault(f"alerts.{i}.source", f"no source {rule.source!r}; there is {_names(ids)}"))
        return found


def _scheme(uri: str) -> str:
    """Everything without one of our schemes and without ``://`` is a path, ``C:`` and ``a:b.mp4`` included."""
    head, separator, _ = uri.partition(":")
    if not separator or "/" in head or ("://" not in uri and head.lower() not in SOURCE_SCHEMES):
        return "file"
    return head.lower()


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
