"""Ground: how tall an object is in the picture, by where it stands.

A camera that does not lean sideways and looks down only a little sees an object of the height H, whose foot is v below the
horizon, v H / c tall, c being the camera's height above the ground (D. Hoiem, A. A. Efros, M. Hebert, Putting objects in
perspective, CVPR 2006). So two numbers are all that is needed: the horizon and c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from stream.synthesis.floor import Floor

Floats = npt.NDArray[np.float64]
Kind = Literal["given", "estimated", "assumed"]

USUAL_HORIZON = 0.27  # as a share of the picture's height: cameras are mostly turned down a little
ASSUMED_ABOVE = (0.03, 0.3)  # how far above the end of the floor the horizon is, as a share of the picture's height
LOWEST_HORIZON = 0.45
ASSUMED_NEAREST = (0.4, 1.0)  # how tall a person at the lower edge is, as a share of the picture's height
PERSON_M = 1.7
LEAST_BOXES, LEAST_SPREAD = 4, 0.08  # of a fit: boxes, and how far apart their feet are as a share of the picture's height
PAIRS, TOLERANCE = 1000, 0.1  # tried; of a height, people being of different statures
CAMERA_M = (0.3, 30.0)  # heights that are believed


@dataclass(frozen=True)
class Ground:
    """The ground of a picture.

    Attributes:
        kind: ``given`` by the user, ``estimated`` from boxes, or ``assumed``; of a mixed one the least certain.
        horizon_px: the row of the horizon; may lie outside the picture.
        camera_m: the camera's height above the ground.
    """

    kind: Kind
    horizon_px: float
    camera_m: float

    def height_px(self, foot_px: float, height_m: float) -> float:
        """How tall an object of ``height_m`` is whose foot is at the row ``foot_px``; 0 at the horizon and above."""
        return max(0.0, foot_px - self.horizon_px) * height_m / self.camera_m

    def foot_px(self, height_px: float, height_m: float) -> float:
        """The row at which an object of ``height_m`` stands that is ``height_px`` tall."""
        return self.horizon_px + height_px * self.camera_m / height_m

    def scaled(self, factor: float) -> Ground:
        """The same ground in a picture that was scaled by ``factor``."""
        return Ground(self.kind, self.horizon_px * factor, self.camera_m)


def estimate(feet_px: Floats, heights_px: Floats, heights_m: Floats, picture_px: int) -> Ground | None:
    """The ground of one camera from the boxes of objects that stand on it.

    From four boxes on, at different distances, a line of height over foot through those that agree best (M. A. Fischler,
    R. C. Bolles, Random sample consensus, CACM 24(6), 1981): people of whom only a half is seen are all too short, so no mean
    will do. From fewer boxes only the camera's height, under the usual horizon.

    Args:
        feet_px: lower edges of the boxes, (N,).
        heights_px: heights of the boxes, (N,); boxes cut by the picture's edge must be left out.
        heights_m: how tall those objects are, (N,).
        picture_px: height of the picture.

    Returns:
        None where there is no box, or what the boxes say cannot be believed.
    """
    if not len(feet_px):
        return None
    shares = heights_px / heights_m  # (foot - horizon) / camera
    if len(feet_px) >= LEAST_BOXES and np.ptp(feet_px) >= LEAST_SPREAD * picture_px:
        slope, intercept = _line(feet_px, shares)
        if slope > 0:
            ground = Ground("estimated", -intercept / slope, 1 / slope)
            if CAMERA_M[0] <= ground.camera_m <= CAMERA_M[1] and ground.horizon_px < feet_px.min():
                return ground
    horizon_px = USUAL_HORIZON * picture_px
    camera_m = float(np.median((feet_px - horizon_px) / shares))
    return Ground("estimated", horizon_px, camera_m) if CAMERA_M[0] <= camera_m <= CAMERA_M[1] else None


def _line(x: Floats, y: Floats) -> tuple[float, float]:
    """Slope and intercept of that line through two points with which most agree; zeros if all are at the same x."""
    pairs = np.random.default_rng(0).integers(len(x), size=(PAIRS, 2))
    pairs = pairs[x[pairs[:, 0]] != x[pairs[:, 1]]]
    if not len(pairs):
        return 0.0, 0.0
    one, other = pairs.T
    slopes = (y[other] - y[one]) / (x[other] - x[one])
    intercepts = y[one] - slopes * x[one]
    expected = slopes[:, None] * x + intercepts[:, None]
    agree = np.abs(y - expected) <= TOLERANCE * np.abs(expected)
    best = agree[np.argmax(agree.sum(axis=1))]
    slope, intercept = np.polyfit(x[best], y[best], 1)
    return float(slope), float(intercept)


def settle(known: Ground | None, horizon: float | None, camera_m: float | None, floor: Floor, rng: np.random.Generator) -> Ground:
    """The ground of a picture: what the user gave, what is known of it beside that, and of the rest what is plausible.

    Args:
        known: an estimate; its half is taken where the user gave only the other.
        horizon: given by the user, as a share of the picture's height.
        camera_m: given by the user.
        floor: the floor that can be seen: the horizon is assumed above its end.
        rng: for what has to be assumed.
    """
    above, nearest = rng.uniform(*ASSUMED_ABOVE), rng.uniform(*ASSUMED_NEAREST)
    if horizon is None and camera_m is None and known is not None:
        return known
    kind: Kind = "given"
    if known is not None and (horizon is None or camera_m is None):
        kind = known.kind
        horizon = known.horizon_px / floor.height if horizon is None else horizon
        camera_m = known.camera_m if camera_m is None else camera_m
    if horizon is None:
        kind, horizon = "assumed", min(LOWEST_HORIZON, floor.top_px / floor.height - above)
    if camera_m is None:
        kind, camera_m = "assumed", (1 - horizon) * PERSON_M / nearest
    return Ground(kind, horizon * floor.height, camera_m)
