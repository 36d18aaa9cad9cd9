"""``framewatch process``: what the command line asks for, turned into a config, run, and summed up."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from stream.annotate import SUFFIXES, Annotator, video_paths
from stream.clock import SystemClock
from stream.config import DetectorConfig, JsonlSinkConfig, PipelineConfig, SinkConfig, SourceConfig
from stream.config_file import load_config, parse_config
from stream.errors import ConfigError, Fault, SinkError, SourceError
from stream.files import is_any_of
from stream.models.registry import DEFAULT_MODEL
from stream.pipeline import Pipeline, SourceSummary
from stream.redact import redact
from stream.rules import AlertRule, CrowdRule, LineRule, SourceRule
from stream.sinks import open_sinks
from stream.sources.file import FileSource
from stream.worker import SourceStatus

FAILED, INTERRUPTED = 1, 130


@dataclass(frozen=True, slots=True)
class Request:
    """The command line of ``framewatch process``."""

    inputs: tuple[str, ...] = ()
    config_path: Path | None = None
    model: Path | None = None
    fps: float | None = None
    out: str | None = None
    annotate: Path | None = None
    realtime: bool = False


def build_config(request: Request) -> PipelineConfig:
    """The config to run: the file's, narrowed to the inputs; without a file, the default model's.

    Raises:
        ConfigError: bad usage, or the config file is wrong.
    """
    if request.config_path is not None:
        config = load_config(request.config_path)
    else:
        model = str(request.model or DEFAULT_MODEL)
        config = parse_config({"detectors": {"default": {"model": model}}}, "command line", Path.cwd())
    sources = [_source(text, config) for text in request.inputs] or [s for s in config.sources if s.recorded]
    if not sources:
        raise ConfigError("framewatch process", [Fault("", "give an INPUT; the config has no file and no simulated source")])
    sources = _with_distinct_ids(sources)
    update: dict[str, object] = {"realtime": True} if request.realtime else {}
    if request.fps is not None:
        update["fps"] = request.fps
    detectors = config.detectors
    if request.config_path is not None and request.model is not None:
        named = DetectorConfig(model=str(request.model)).model_name
        model = named or str(request.model.absolute())
        detectors = {name: detector.model_copy(update={"model": model}) for name, detector in detectors.items()}
    return config.model_copy(
        update={
            "detectors": detectors,
            "sources": [source.model_copy(update=update) for source in sources],
            "alerts": [rule for rule in config.alerts if _applies(rule, {source.id for source in sources})],
            "sinks": _sinks(request, config),
        }
    )


def _source(text: str, config: PipelineConfig) -> SourceConfig:
    """The source that one INPUT means."""
    source_id, equals, rest = text.partition("=")
    known = {source.id: source for source in config.sources}
    if equals and source_id in known:
        return known[source_id].model_copy(update={"uri": _checked(rest)})
    uri = _checked(text)
    for source in config.sources:
        if uri == source.uri:
            return source
    return SourceConfig(id=_id(uri), uri=uri)


def _id(uri: str) -> str:
    """The file's name, of an address the end of its path, else its host. It gets into every event: never the password."""
    if "://" in uri:
        try:
            address = urlsplit(redact(uri))
        except ValueError:  # a host like [::1
            return "input"
        name = Path(address.path).stem or address.hostname or ""
    else:
        name = Path(uri).stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:60] or "input"


def _checked(text: str) -> str:
    """The address that an INPUT means."""
    try:
        return SourceConfig(id="input", uri=_absolute(text)).uri
    except ValidationError as error:
        reason = str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")
        raise ConfigError("framewatch process", [Fault(redact(text), reason)]) from None


def _absolute(uri: str) -> str:
    if "://" in uri and not uri.startswith("file://"):
        return uri
    return str(Path(uri.removeprefix("file://").removeprefix("file:")).expanduser().absolute())


def _with_distinct_ids(sources: list[SourceConfig]) -> list[SourceConfig]:
    """Two files of one name in different folders get the ids ``name`` and ``name-2``."""
    seen: Counter[str] = Counter()
    distinct = []
    for source in sources:
        seen[source.id] += 1
        number = seen[source.id]
        distinct.append(source if number == 1 else source.model_copy(update={"id": f"{source.id}-{number}"}))
    return distinct


def _applies(rule: AlertRule, source_ids: set[str]) -> bool:
    if isinstance(rule, SourceRule):
        return rule.source == "*" or rule.source in source_ids
    paths = rule.zone_paths if isinstance(rule, CrowdRule) else [rule.line if isinstance(rule, LineRule) else rule.zone]
    return any(path.split("/", 1)[0] in source_ids for path in paths)


def _sinks(request: Request, config: PipelineConfig) -> list[SinkConfig]:
    if request.out is not None:
        return [JsonlSinkConfig(type="jsonl", path=request.out)]
    return [sink for sink in config.sinks if isinstance(sink, JsonlSinkConfig)]


def _check_outputs(config: PipelineConfig, out: Path | None, annotate: Path | None) -> None:
    """Refuse to write over what is to be read, and a video of no known kind.

    Raises:
        ConfigError: names the option.
    """
    outputs = [("--out", out)] if out else []
    if annotate:
        outputs += [("--annotate", path) for path in video_paths(annotate, config).values()]
    inputs = [source.path for source in config.sources if source.scheme == "file"]
    faults = [Fault(option, f"{path} is an input") for option, path in outputs if is_any_of(path, inputs)]
    if annotate and annotate.suffix.lower() not in SUFFIXES:
        faults.append(Fault("--annotate", f"{annotate} must end in one of {', '.join(SUFFIXES)}"))
    if faults:
        raise ConfigError("framewatch process", faults)


def run(request: Request, stop: threading.Event) -> int:
    """Run ``framewatch process`` and print its summary; returns the exit code.

    Raises:
        ConfigError: bad usage or config.
        ModelError: a model cannot be used.
        SinkError: an output cannot be written.
    """
    config = build_config(request)
    out = Path(request.out) if request.out not in (None, "-") else None
    _check_outputs(config, out, request.annotate)
    if out is not None and out.is_file():  # what is no file, as a FIFO or /dev/null, is written to as it is
        try:
            os.truncate(out, 0)
        except OSError as error:
            raise SinkError(f"cannot write to {out}: {error.strerror or error}") from error
    started_s, cpu_s = time.monotonic(), _cpu_s()
    annotator = Annotator(request.annotate, config) if request.annotate else None
    sink = open_sinks(config.sinks, None)
    console = Console(stderr=True)
    try:
        with Pipeline(config, sink, on_frame=annotator.add if annotator else None) as pipeline, _bar(console) as progress:
            tasks = {s.id: progress.add_task(s.id, total=_duration_s(s)) for s in config.sources}
            pipeline.run(stop, lambda statuses: _show(progress, tasks, statuses))
            _show(progress, tasks, [summary.status for summary in pipeline.summaries()])
    finally:
        if annotator:
            annotator.close()
    summaries = pipeline.summaries()
    stages = pipeline.cpu_s(_cpu_s() - cpu_s)
    _print_summary(console, summaries, stages, time.monotonic() - started_s)
    failed = [summary.status for summary in summaries if summary.status.state == "failed"]
    for status in failed:
        print(f"framewatch: source {status.source_id!r}: {status.reason}", file=sys.stderr)
    if stop.is_set():
        return INTERRUPTED
    return FAILED if failed else 0


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty())


def _duration_s(source: SourceConfig) -> float | None:
    """Announced length of an input, for the progress bar."""
    if source.scheme == "simulate":
        return source.simulated.seconds
    if source.scheme != "file" or source.loop:
        return None
    with contextlib.suppress(SourceError), FileSource(source, SystemClock()) as opened:
        return opened.duration_s
    return None


def _show(progress: Progress, tasks: dict[str, TaskID], statuses: list[SourceStatus]) -> None:
    for status in statuses:
        progress.update(tasks[status.source_id], completed=status.pts_s)


def _print_summary(console: Console, summaries: list[SourceSummary], stages: dict[str, float], wall_s: float) -> None:
    table = Table(title="framewatch process")
    table.add_column("source", overflow="fold")
    for column in ("frames", "analysed", "objects", "alerts", "frames/s"):
        table.add_column(column, justify="right")
    table.add_column("ended")
    for s in summaries:
        status = s.status
        rate = f"{status.frames / wall_s:.1f}"
        table.add_row(status.source_id, str(status.frames), str(s.analysed), str(s.objects), str(s.alerts), rate, status.state)
    console.print(table)
    analysed = max(1, sum(s.analysed for s in summaries))
    cpu = Table(title=f"CPU by stage ({wall_s:.1f} s wall time)")
    for column in ("stage", "CPU s", "ms per analysed frame"):
        cpu.add_column(column, justify="left" if column == "stage" else "right")
    for stage, seconds in stages.items():
        cpu.add_row(stage, f"{seconds:.2f}", f"{1e3 * seconds / analysed:.2f}")
    console.print(cpu)
