"""The ``framewatch`` command. Exit codes: 0 success, 1 an input, broker or service failed, 2 bad usage or config."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from stream.access import TOKEN_FILE
from stream.commands.capacity import capacity
from stream.commands.evaluate import evaluate
from stream.commands.finite import Finite
from stream.commands.label import label
from stream.commands.models import models
from stream.commands.quantize import quantize
from stream.commands.service import sources, status, top
from stream.commands.simulate import simulate
from stream.commands.synthesize import synthesize
from stream.commands.train import train
from stream.commands.tune import tune
from stream.config import KafkaConnection, Topics
from stream.errors import ConfigError, FramewatchError, ModelError
from stream.logs import LogFormat, LogSettings, configure, log_uncaught
from stream.redact import redact

FAILED, USAGE = 1, 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="framewatch")
@click.option("-v", "--verbose", is_flag=True, help="Log state changes to stderr.")
@click.option(
    "--log-format", type=click.Choice(["console", "json"]), default="console", show_default=True, help="How log lines look."
)
def cli(verbose: bool, log_format: LogFormat) -> None:
    """Streaming video analytics: camera streams in; tracks, counts and alerts out."""
    configure(LogSettings(log_format, "info" if verbose else "warning"))


def main() -> None:
    """Entry point: turns framewatch's own errors into one clear message and an exit code."""
    log_uncaught()
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(USAGE)
    except (ConfigError, ModelError) as error:
        click.echo(f"framewatch: {redact(error)}", err=True)
        sys.exit(USAGE)
    except FramewatchError as error:
        click.echo(f"framewatch: {redact(error)}", err=True)
        sys.exit(FAILED)
    except OSError as error:  # of an output that cannot be written, mostly: inputs have errors of their own
        place = f"{error.filename}: " if error.filename is not None else ""
        click.echo(f"framewatch: {redact(f'{place}{error.strerror or error}')}", err=True)
        sys.exit(FAILED)


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second signal ends the process at once."""
    stop = threading.Event()

    def handle(number: int, _frame: object) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop_after(stop: threading.Event, seconds: float | None) -> None:
    if seconds is not None:
        timer = threading.Timer(seconds, stop.set)
        timer.daemon = True
        timer.start()


config_option = click.option("-c", "--config", "config_path", type=click.Path(path_type=Path), help="Config file (YAML).")
needed_config_option = click.option(
    "-c", "--config", "config_path", type=click.Path(path_type=Path), required=True, help="Config file (YAML)."
)


def broker_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--bootstrap`` and what a secured broker needs; the password comes from the environment."""
    for option in reversed(
        [
            click.option("--bootstrap", required=True, metavar="HOST:PORT[,...]", help="Kafka brokers."),
            click.option(
                "--security-protocol",
                type=click.Choice(["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]),
                default="PLAINTEXT",
                show_default=True,
            ),
            click.option("--sasl-mechanism", type=click.Choice(["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]), default="PLAIN"),
            click.option("--username", help="SASL user; the password is read from KAFKA_PASSWORD."),
            click.option("--ca-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="CA certificate (PEM)."),
        ]
    ):
        command = option(command)
    return command


def _connection(
    bootstrap: str, security_protocol: str, sasl_mechanism: str, username: str | None, ca_file: Path | None
) -> KafkaConnection:
    import os

    return KafkaConnection.model_validate(
        {
            "bootstrap_servers": [server.strip() for server in bootstrap.split(",")],
            "security_protocol": security_protocol,
            "sasl_mechanism": sasl_mechanism if security_protocol.startswith("SASL") else None,
            "username": username,
            "password": os.environ.get("KAFKA_PASSWORD"),
            "ssl_cafile": ca_file,
        }
    )


@cli.command()
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@config_option
@click.option(
    "--model", type=click.Path(path_type=Path), help="Model file, or a name of `framewatch models list`.  [default: person]"
)
@click.option("--fps", type=Finite(min=0, min_open=True), help="Analysed frames per second of media time.")
@click.option("--out", metavar="FILE.jsonl|-", help="Write all events as JSON lines.")
@click.option(
    "--annotate", type=click.Path(path_type=Path, dir_okay=False), metavar="OUT.mp4", help="Write the analysed frames with boxes."
)
@click.option("--realtime", is_flag=True, help="Play files at the speed of their clock, as a camera would.")
def process(
    inputs: tuple[str, ...],
    config_path: Path | None,
    model: Path | None,
    fps: float | None,
    out: str | None,
    annotate: Path | None,
    realtime: bool,
) -> None:
    """Analyse video files (or cameras) in this process: no Ray, no Kafka.

    INPUT is a file, an rtsp:// address, or ID=INPUT to run it with the settings of source ID in the config.
    """
    from stream.models.cache import fetch_models
    from stream.process import Request, build_config, run

    request = Request(inputs, config_path, model, fps, out, annotate, realtime)
    fetch_models(build_config(request))  # before Ctrl-C is caught, so that it ends a download at once
    with stop_on_signal() as stop:
        sys.exit(run(request, stop))


@cli.command()
@needed_config_option
def validate(config_path: Path) -> None:
    """Check a config and its models; exit 2 with file, key and reason for every fault."""
    from stream.config_file import load_config
    from stream.detectors.registry import describe_model
    from stream.errors import Fault
    from stream.models.cache import is_intact
    from stream.models.registry import read_registry

    config = load_config(config_path)
    faults = []
    classes: dict[str, tuple[str, ...]] = {}
    for name, detector in config.detectors.items():
        try:
            _, classes[name], _ = describe_model(detector, name, fetch=False)
        except ModelError as error:
            faults.append(Fault(f"detectors.{name}", str(error)))
    faults += config.class_faults(classes) + config.service.check_tls()
    if faults:
        raise ConfigError(str(config_path), faults)
    for model in sorted({detector.model_name for detector in config.detectors.values() if detector.model_name}):
        if not is_intact(read_registry().named(model)):
            click.echo(f"model {model!r} is not in the cache; it is fetched on first use")
    click.echo(f"{config_path}: {len(config.sources)} sources, {len(config.detectors)} detectors, {len(config.alerts)} alerts: ok")


@cli.command()
@needed_config_option
@click.option("--for", "seconds", type=Finite(min=0), metavar="SECONDS", help="Stop by itself after so long.")
@click.option("--address", help="Join this Ray cluster (default: RAY_ADDRESS, else a cluster of its own).")
@click.option("--dashboard/--no-dashboard", default=True, show_default=True, help="Ray dashboard of an own cluster.")
def up(config_path: Path, seconds: float | None, address: str | None, dashboard: bool) -> None:
    """Run the Ray service; Ctrl-C stops all of it."""
    from actors.up import up as run_service
    from stream.config_file import load_config
    from stream.models.cache import fetch_models
    from stream.sinks import check_sinks

    config = load_config(config_path)
    fetch_models(config)
    check_sinks(config.sinks)

    def ready(url: str) -> None:
        click.echo(f"framewatch is up: {url} (the console; also {url}/metrics, readiness {url}/readyz, API {url}/docs)", err=True)
        access = config.service.access
        if access.enabled and not access.tokens:
            click.echo(f"its token is in {config.service.state_dir / TOKEN_FILE}", err=True)
        _stop_after(stop, seconds)

    with stop_on_signal() as stop:
        run_service(config, stop, address=address, dashboard=dashboard, on_ready=ready)
    click.echo("framewatch has stopped", err=True)


@cli.command()
@click.option(
    "--for",
    "seconds",
    type=Finite(10, 3600),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Stop after so long.",
)
def demo(seconds: float) -> None:
    """Show the main job: simulated RTSP cameras, Ray, Serve, a Kafka broker, all on this machine.

    Exit code 0 only if the counts are within the promised error of the truth.
    """
    from actors.demo import demo as run_demo

    with stop_on_signal() as stop:
        sys.exit(run_demo(stop, seconds))


@cli.command()
@click.argument("path", metavar="INPUT", type=click.Path(path_type=Path))
@click.option("--topic", required=True)
@click.option("--source-id", required=True, help="Key of the records: the id of the source that will read them.")
@click.option("--format", "payload", type=click.Choice(["jpeg", "h264"]), default="jpeg", show_default=True)
@click.option("--realtime", is_flag=True, help="Send at the speed of the video's clock.")
@broker_options
def publish(path: Path, topic: str, source_id: str, payload: str, realtime: bool, **broker: object) -> None:
    """Send a video file to a Kafka topic, a picture or an encoded access unit a record."""
    from stream.publish import publish as send

    report = send(path, topic, source_id, _connection(**broker), payload, realtime)  # type: ignore[arg-type]
    click.echo(f"{report.records} records, {report.bytes / 1e6:.1f} MB to {topic}", err=True)


@cli.command()
@click.argument("topic", type=click.Choice(["tracks", "counts", "alerts", "health", "dead_letter"]))
@click.option("--json", "as_json", is_flag=True, help="The records as they are, one a line.")
@click.option("--from-beginning", is_flag=True, help="From the oldest record on, not only new ones.")
@click.option("--max", "max_records", type=click.IntRange(min=1), metavar="N", help="Stop after N records.")
@click.option("--topic-name", help="The topic's name, where it is not framewatch.TOPIC.")
@broker_options
def tail(
    topic: str, as_json: bool, from_beginning: bool, max_records: int | None, topic_name: str | None, **broker: object
) -> None:
    """Print events from Kafka as they come."""
    from stream.tail import render
    from stream.tail import tail as follow

    topics = Topics(**{topic: topic_name}) if topic_name else Topics()
    for record in follow(topic, _connection(**broker), from_beginning, max_records, topics):  # type: ignore[arg-type]
        click.echo(record.json() if as_json else render(record))


for command in (status, top, sources, capacity, models, simulate, synthesize, label, train, evaluate, quantize, tune):
    cli.add_command(command)

if __name__ == "__main__":
    main()
