"""Checkpoints: ``last.pt`` to go on from, ``best.pt`` to export and to start other trainings from."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from stream.errors import ModelError
from stream.files import replacing
from stream.training.backbones import BACKBONES
from stream.training.settings import TrainingSettings

FORMAT = 1
LAST, BEST = "last.pt", "best.pt"
WEIGHTS = "weights"  # of the averaged network, in both files
KIND_ROWS = (".classes.weight", ".classes.bias")  # tensors with one row per class
CLASSES = TypeAdapter(tuple[str, ...])
STATE = TypeAdapter(dict[str, Any])


class Checkpoint(NamedTuple):
    """A file's content.

    Attributes:
        settings: of the training that wrote it.
        classes: by class id.
        state: tensors and numbers; ``weights`` is in every file.
    """

    settings: TrainingSettings
    classes: tuple[str, ...]
    state: dict[str, Any]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a file under another name, down to the disk, then rename it: a kill leaves the old one or the new one."""
    data = {"format": FORMAT, "settings": checkpoint.settings.model_dump(mode="json"), "classes": list(checkpoint.classes)}
    with replacing(path) as part, part.open("wb") as file:
        torch.save(data | {"state": checkpoint.state}, file)
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file; nothing in it is executed.

    Raises:
        ModelError: it is missing, or not one of ours.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such checkpoint")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
        if data["format"] != FORMAT:
            raise ModelError(f"{path}: is a checkpoint of format {data['format']}; this version reads {FORMAT}")
        settings = TrainingSettings.model_validate(data["settings"])
        if settings.backbone not in BACKBONES:
            raise ModelError(f"{path}: has backbone {settings.backbone!r}; known are {', '.join(BACKBONES)}")
        classes, state = CLASSES.validate_python(data["classes"]), STATE.validate_python(data["state"])
        STATE.validate_python(state[WEIGHTS])
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise ModelError(f"{path}: is not a checkpoint that can be read") from error
    except (KeyError, IndexError, TypeError, ValidationError) as error:
        raise ModelError(f"{path}: is not a checkpoint of framewatch train") from error
    return Checkpoint(settings, classes, state)


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """For taking over what ``read_checkpoint`` read from a file: another version may have written it for another network.

    Raises:
        ModelError: something is missing or of another size; names the file.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else "".join(str(error).splitlines()[-1:]).strip()
        raise ModelError(f"{path}: does not fit this version of framewatch train: {reason}") from error


def transfer(network: nn.Module, classes: tuple[str, ...], checkpoint: Checkpoint) -> tuple[str, ...]:
    """Take over a checkpoint's weights.

    Where the classes differ, the layers that tell them apart are made anew, but for the classes that the checkpoint knows
    by name: theirs are taken over too.

    Args:
        network: with the checkpoint's backbone.
        classes: of the network.
        checkpoint: from ``read_checkpoint``.

    Returns:
        The classes that have to be learned from nothing.
    """
    own, theirs = network.state_dict(), checkpoint.state[WEIGHTS]
    known = [(row, checkpoint.classes.index(name)) for row, name in enumerate(classes) if name in checkpoint.classes]
    for key, value in theirs.items():
        if key.endswith(KIND_ROWS):
            for row, their_row in known:
                own[key][row] = value[their_row]
        else:
            own[key] = value
    network.load_state_dict(own)
    return tuple(name for name in classes if name not in checkpoint.classes)
