"""Port: one input or output of a model, as its file declares it, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stream.detectors.spec import ModelInput


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output.

    Attributes:
        names: what it is called; some models give several names to one.
        shape: sizes of the axes, None where the size is free.
        is_integer: True for integers, False for floating point.
    """

    names: frozenset[str]
    shape: tuple[int | None, ...]
    is_integer: bool = False

    def __str__(self) -> str:
        axes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{' = '.join(sorted(self.names, key=len)) or '(no name)'} [{axes}]"


def listed(ports: Sequence[Port]) -> str:
    """Ports for a message."""
    return ", ".join(map(str, ports)) or "none"


def agrees(size: int | None, expected: int) -> bool:
    """Whether an axis may have the size ``expected``."""
    return size is None or size == expected


def find_named(ports: Sequence[Port], name: str) -> int:
    """Index of the port called ``name``.

    Raises:
        ValueError: there is none.
    """
    for i, port in enumerate(ports):
        if name in port.names or f"{name}:0" in port.names:  # TensorFlow's names end in the number of the tensor
            return i
    raise ValueError(f"has no output {name!r}; its outputs are {listed(ports)}")


def check_input(spec: ModelInput, ports: Sequence[Port]) -> int | None:
    """Size of the batch axis that the model takes, None where it is free.

    Raises:
        ValueError: the model's input is not what ``spec`` says.
    """
    if len(ports) != 1:
        raise ValueError(f"has {len(ports)} inputs ({listed(ports)}); only models with one, the picture, can be run")
    shape = ports[0].shape
    if len(shape) != 4:
        raise ValueError(f"its input {ports[0]} has {len(shape)} axes, not the 4 of a batch of pictures")
    layouts = {"NCHW": (3, spec.height, spec.width), "NHWC": (spec.height, spec.width, 3)}
    fits = {layout for layout, sizes in layouts.items() if all(map(agrees, shape[1:], sizes))}
    if spec.layout not in fits:
        hint = f"; the layout looks like {min(fits)}" if fits else ""
        raise ValueError(f"its input is {ports[0]}, not {spec.layout} of width {spec.width} and height {spec.height}{hint}")
    if ports[0].is_integer and not spec.raw:
        raise ValueError("takes integer pixels, so scale, mean and std must be left out")
    return shape[0]
