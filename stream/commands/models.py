"""``framewatch models``: the models that are known by name."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stream.errors import ModelError
from stream.redact import redact

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from stream.models.registry import NamedModel, Registry

FAILED = 1

registry_option = click.option(
    "--registry",
    "own",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A registry of your own, before the packaged one (default: FRAMEWATCH_REGISTRY).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")


@click.group()
def models() -> None:
    """List, fetch and check the models that `model:` and `--model` know by name."""


@models.command("list")
@registry_option
@json_option
def list_models(own: Path | None, as_json: bool) -> None:
    """Every model: licence, size, whether it is here, measured figures."""
    known = _all(_registry(own))
    if as_json:
        click.echo(json.dumps([_described(model) for model in known], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    from stream.models.cache import cache_dir, is_there, transfer_bytes

    table = Table(caption=f"cache: {cache_dir()}", caption_justify="left")
    for column in ("name", "licence", "MB", "here", "figures"):
        table.add_column(column, justify="right" if column == "MB" else "left", overflow="fold")
    for model in known:
        figures = "\n".join(map(str, model.entry.kpis)) or "none measured"
        size = f"{transfer_bytes(model) / 1e6:.1f}"
        table.add_row(model.name, model.entry.licence.name, size, "yes" if is_there(model) else "no", figures)
    Console().print(table)


@models.command()
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "everything", is_flag=True, help="Every model of the registry.")
@registry_option
def pull(names: tuple[str, ...], everything: bool, own: Path | None) -> None:
    """Fetch models into the cache. What was broken off is gone on with."""
    if bool(names) == everything:
        raise click.UsageError("give either names of models or --all")
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from stream.models.cache import ensure

    registry = _registry(own)
    failed = False
    for model in _all(registry) if everything else [registry.named(name) for name in names]:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task(model.name, total=model.entry.bytes)
            try:
                path = ensure(model, _say, partial(_show, progress, task))
            except ModelError as error:
                failed = True
                _say(str(error))
                continue
        click.echo(f"{model.name}: {path}")
    if failed:
        sys.exit(FAILED)


@models.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@registry_option
def verify(names: tuple[str, ...], own: Path | None) -> None:
    """Compare cached models with their sha256. Exit 1 when one is damaged, or one that is named is not here."""
    from stream.models.cache import is_intact, path_of

    registry = _registry(own)
    failed = False
    for model in [registry.named(name) for name in names] or _all(registry):
        if is_intact(model):
            state = "intact"
        elif path_of(model).exists():
            state, failed = f"damaged: {path_of(model)}", True
        else:
            state, failed = "not here", failed or bool(names)
        click.echo(f"{model.name}: {state}")
    if failed:
        sys.exit(FAILED)


@models.command()
@click.argument("name")
@registry_option
@json_option
def show(name: str, own: Path | None, as_json: bool) -> None:
    """Everything known of a model, its path and its YAML included."""
    described = _described(_registry(own).named(name))
    if as_json:
        click.echo(json.dumps(described, indent=2))
        return
    import yaml

    click.echo(yaml.safe_dump(described, sort_keys=False, width=120, allow_unicode=True).rstrip())


def _registry(own: Path | None) -> Registry:
    from stream.models.registry import read_registry

    return read_registry(own)


def _all(registry: Registry) -> list[NamedModel]:
    return [registry.named(name) for name in registry.entries]


def _described(model: NamedModel) -> dict[str, Any]:
    """The entry and what is here of it; passwords in addresses are masked."""
    from stream.detectors.spec import CLASS_LISTS
    from stream.models.cache import is_there, path_of

    entry = model.entry.model_dump(mode="json", exclude={"spec"})
    entry["source"] = {key: redact(value) if key == "url" else value for key, value in entry["source"].items()}
    spec = model.entry.spec.model_dump(mode="json", exclude_unset=True)
    spec["classes"] = next((name for name, classes in CLASS_LISTS.items() if classes == model.entry.spec.classes), spec["classes"])
    return {"name": model.name, "path": str(path_of(model)), "here": is_there(model)} | entry | {"spec": spec}


def _show(progress: Progress, task: TaskID, there: int) -> None:
    progress.update(task, completed=there)


def _say(line: str) -> None:
    click.echo(f"framewatch: {redact(line)}", err=True)
