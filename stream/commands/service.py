"""``framewatch status``, ``top`` and ``sources``: a running service, seen and changed from the terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from stream.access import TOKEN_FILE, reaches_here
from stream.client import DEFAULT_URL, Client
from stream.commands.finite import Finite
from stream.config import PipelineConfig

DEFAULT_STATE_DIR = Path("framewatch-state")


def service_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--url``, ``--token-file``, ``--ca-file`` and ``-c``; the command gets a :class:`Client` first."""

    @wraps(command)
    def wrapped(
        url: str | None, token_file: Path | None, ca_file: Path | None, config_path: Path | None, *args: Any, **options: Any
    ) -> None:
        config = None
        if config_path is not None:
            from stream.config_file import load_config

            config = load_config(config_path)
        url = url or os.environ.get("FRAMEWATCH_URL") or (config.service.url if config else DEFAULT_URL)
        with Client(url, find_token(url, token_file, config), ca_file) as client:
            command(client, *args, **options)

    path = click.Path(path_type=Path, dir_okay=False)
    for option in (
        click.option("-c", "--config", "config_path", type=path, help="Config of the service: its address and token."),
        click.option("--ca-file", type=path, metavar="PEM", help="Authority of the service's certificate."),
        click.option(
            "--token-file",
            type=path,
            metavar="FILE",
            help="Holds the token.  [default: FRAMEWATCH_TOKEN, else that of a service on this machine]",
        ),
        click.option("--url", metavar="URL", help=f"Of the service.  [default: FRAMEWATCH_URL, else {DEFAULT_URL}]"),
    ):
        wrapped = option(wrapped)
    return wrapped


def find_token(url: str, token_file: Path | None, config: PipelineConfig | None) -> str | None:
    """The token to show: of the file, the environment, the config, or the one that a service on this machine keeps. The last
    two are shown to nobody but the service whose they are.

    Raises:
        OSError: the file cannot be read.
    """
    from urllib.parse import urlsplit

    if token_file is not None:
        return token_file.read_text(encoding="utf-8").strip()
    if token := os.environ.get("FRAMEWATCH_TOKEN"):
        return token
    if config is not None and url == config.service.url and config.service.access.tokens:
        tokens = config.service.access.tokens
        return next((one.token for one in tokens if one.role == "operator"), tokens[0].token)
    kept = (config.service.state_dir if config else DEFAULT_STATE_DIR) / TOKEN_FILE
    if reaches_here(urlsplit(url).hostname or "") and kept.is_file():
        return kept.read_text(encoding="utf-8").strip()
    return None


@click.command()
@service_options
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
def status(client: Client, as_json: bool) -> None:
    """How a running service is; exit code 1 where it is not ready."""
    from rich.console import Console

    from stream.screen import Snapshot, overview

    snapshot = Snapshot.take(client)
    if as_json:
        click.echo(json.dumps(snapshot.as_json(), indent=2))
    else:
        Console().print(overview(snapshot))
    if not snapshot.ready.ready:
        click.get_current_context().exit(1)


@click.command()
@service_options
@click.option("--interval", "interval_s", type=Finite(0.2, 60), default=1, metavar="SECONDS", help="[default: 1]")
@click.option("--once", is_flag=True, help="Print it once; so does a pipe.")
def top(client: Client, interval_s: float, once: bool) -> None:
    """The sources of a running service as they are now, over and over; q or Ctrl-C ends it."""
    from rich.console import Console

    from stream.screen import Snapshot, follow, table_of

    console = Console()
    if once or not console.is_terminal:
        console.print(table_of(Snapshot.take(client)))
    else:
        follow(client, console, interval_s)


@click.group()
def sources() -> None:
    """List, add and remove the sources of a running service."""


@sources.command("list")
@service_options
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
def list_sources(client: Client, as_json: bool) -> None:
    """Every source: state, where it is from, its address without the password."""
    found = client.sources()
    if as_json:
        click.echo(json.dumps([source.model_dump(mode="json") for source in found], indent=2))
        return
    from rich.console import Console

    from stream.screen import list_of

    Console().print(list_of(found))


@sources.command("add")
@service_options
@click.argument("source_id", metavar="ID")
@click.argument("uri")
@click.option("--fps", type=Finite(0, 1000, min_open=True), help="Analysed frames per second of media time.")
@click.option("--detector", metavar="NAME", help="[default: the first]")
@click.option("--decode", type=click.Choice(["auto", "full", "fast", "key"]))
@click.option("--gate", type=click.Choice(["auto", "on", "off"]))
@click.option("--realtime", is_flag=True, default=None, help="Files and simulations: at the speed of the media clock.")
@click.option("--loop", is_flag=True, default=None, help="Files: begin again at the end.")
def add_source(client: Client, source_id: str, uri: str, **settings: Any) -> None:
    """Add a source. `-` as URI reads it from standard input, so that a password is in no list of processes."""
    if uri == "-":
        uri = sys.stdin.readline().strip()
    given = {name: value for name, value in settings.items() if value is not None}
    added = client.add_source({"id": source_id, "uri": uri} | given)
    click.echo(f"{added.id}: {added.uri}, detector {added.detector}")


@sources.command("remove")
@service_options
@click.argument("source_id", metavar="ID")
@click.option("--cascade", is_flag=True, help="Remove the rules that name it as well.")
def remove_source(client: Client, source_id: str, cascade: bool) -> None:
    """Remove a source."""
    client.remove_source(source_id, cascade)
    click.echo(f"{source_id}: removed")
