"""What a run of the synthesis is asked to make."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from stream.errors import ConfigError, Fault

# How tall things are, in metres; COCO's names.
HEIGHTS_M: Mapping[str, float] = {
    "person": 1.7,
    "bicycle": 1.05,
    "car": 1.5,
    "motorcycle": 1.2,
    "bus": 3.1,
    "truck": 3.0,
    "cat": 0.3,
    "dog": 0.55,
    "horse": 1.6,
    "sheep": 0.9,
    "cow": 1.5,
    "backpack": 0.45,
    "suitcase": 0.65,
    "bench": 0.85,
    "chair": 0.9,
    "potted plant": 0.6,
    "fire hydrant": 0.75,
    "stop sign": 2.4,
    "parking meter": 1.3,
}


@dataclass(frozen=True)
class Settings:
    """The choices of a run. The same settings and folders give the same files.

    Attributes:
        seed: of everything that is drawn by lot.
        classes: of the cut-outs that are used; all if empty.
        objects: least and greatest number of objects pasted into a picture.
        horizon: where the horizon is, as a share of the picture's height from the top (below 0: above the picture); None
            if it is to be estimated or assumed.
        camera_height_m: of the camera above the ground; None as above.
        heights_m: how tall the objects of a class are.
        negatives: share of the pictures that get things which are no objects and have no label.
        min_visible: objects of which less is visible are marked ``iscrowd``: neither right nor wrong to find.
        min_height_px: of a pasted object.
        val_share: share of the pictures, of the cut-outs' sources and of the backgrounds' that is kept for validation.
        frames: taken from a video without labels.
        max_side_px: larger backgrounds are scaled down.

    Raises:
        ConfigError: a value makes no sense.
    """

    seed: int = 0
    classes: tuple[str, ...] = ()
    objects: tuple[int, int] = (1, 8)
    horizon: float | None = None
    camera_height_m: float | None = None
    heights_m: Mapping[str, float] = field(default_factory=lambda: dict(HEIGHTS_M))
    negatives: float = 0.2
    min_visible: float = 0.25
    min_height_px: int = 24
    val_share: float = 0.0
    frames: int = 20
    max_side_px: int = 1280

    def __post_init__(self) -> None:
        least, most = self.objects
        wrong = {
            "--seed": self.seed < 0 and f"must not be negative, not {self.seed}",
            "--objects": not 0 <= least <= most and f"must be a range such as 1:8, not {least}:{most}",
            "--horizon": self.horizon is not None and not -20 < self.horizon < 0.95 and f"{self.horizon} leaves no ground",
            "--camera-height": not (self.camera_height_m is None or 0 < self.camera_height_m < math.inf)
            and f"must be above 0, not {self.camera_height_m}",
            "--height": any(not 0 < height < math.inf for height in self.heights_m.values()) and "must be above 0",
            "--negatives": not 0 <= self.negatives <= 1 and f"must be 0 to 1, not {self.negatives}",
            "--min-visible": not 0 <= self.min_visible <= 1 and f"must be 0 to 1, not {self.min_visible}",
            "--min-height": self.min_height_px < 4 and f"must be at least 4, not {self.min_height_px}",
            "--val-share": not 0 <= self.val_share < 1 and f"must be 0 or more and below 1, not {self.val_share}",
            "--frames": self.frames < 1 and f"must be at least 1, not {self.frames}",
            "--max-side": self.max_side_px < 64 and f"must be at least 64, not {self.max_side_px}",
        }
        faults = [Fault(key, reason) for key, reason in wrong.items() if reason]
        if faults:
            raise ConfigError("synthesize", faults)

    def check_heights(self, classes: Iterable[str]) -> None:
        """Whether it is known how tall each class is.

        Raises:
            ConfigError: it is not.
        """
        unknown = sorted(set(classes) - self.heights_m.keys())
        if unknown:
            faults = [Fault("--height", f"how tall is {name!r}? Say so, as in --height '{name}=1.2'") for name in unknown]
            raise ConfigError("synthesize", faults)
