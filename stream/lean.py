"""Lean: which way upright objects lean in the picture of a camera that looks down, learned from their boxes.

Verticals of the world meet in one point of the picture, the nadir, which lies below its middle for a camera that is not rolled
(Hartley and Zisserman, "Multiple View Geometry", section 8.6). So who stands far left or right of the middle leans outwards:
the box is wider than the body, and the feet are not below its middle but towards the nadir. With the body as a line of the
thickness b and the slope t, that of the ray from the nadir through the box's middle, a box has

    w = b + (h - b) t,  and with b = B h:  w / h = B + (1 - B) t

and the feet are (h - b) t / 2 beside its middle. B is fitted for each of a few heights of the nadir by least squares, as boxes
come; the nadir that fits best is used. The one infinitely far down, where nobody leans, is believed until others fit better.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stream.zones import Float64Array, drawn_in

NADIRS = np.linspace(0.0, 0.96, 25)
"""What is tried: the picture's height by the nadir's distance from its upper edge; 0 is infinitely far down."""
EDGE = 0.01  # of the picture: boxes that come nearer to its edges may be cut off, and tell nothing
WIDEST = 1.5  # of the height: what is wider does not stand upright
DOUBT = 0.1  # squares of w / h by which a nadir must fit better than none; 10 boxes that are off by 0.1
THICKNESS, TRUST = 0.36, 100.0  # of a walking person's box in its height, and the boxes that this guess is worth
MOST = 20_000.0  # boxes remembered; then the oldest count less and less, in case the camera is turned


class Lean:
    """What one camera's boxes have told so far. Not thread-safe."""

    def __init__(self) -> None:
        # Of (1-t)^2, (w/h-t)(1-t) and (w/h-t)^2, for each nadir.
        self._sums = np.outer(TRUST * THICKNESS ** np.arange(3), np.ones(len(NADIRS)))
        self._boxes = 0.0
        self._choose()

    def learn(self, xyxy: npt.NDArray[np.floating], width: int, height: int) -> None:
        """Take in the boxes (N, 4) of upright objects in a picture of this size, in pixels."""
        boxes = xyxy.astype(np.float64)
        margin = EDGE * np.array((width, height))
        sides = boxes[:, 2:] - boxes[:, :2]
        whole = (boxes[:, :2] > margin).all(1) & (boxes[:, 2:] < (width, height) - margin).all(1)
        whole &= (sides > 0).all(1) & (sides[:, 0] < WIDEST * sides[:, 1])
        if not whole.any():
            return
        slope = _slopes(boxes[whole], width, height, NADIRS[:, None])
        ratio = sides[whole, 0] / sides[whole, 1]
        a, b = 1 - slope, ratio - slope
        self._sums += np.stack(((a * a).sum(1), (a * b).sum(1), (b * b).sum(1)))
        self._boxes += len(ratio)
        if self._boxes > MOST:
            self._sums *= 0.5
            self._boxes *= 0.5
        self._choose()

    def feet(self, xyxy: npt.NDArray[np.floating], width: int, height: int, foot_inset: float) -> Float64Array:
        """Where the feet are, float64 (N, 2), of the boxes (N, 4) of upright objects; drawn into the picture.

        ``foot_inset`` holds at the lower edge of the picture and falls to 0 at the upper: the lower, the steeper one looks down.
        """
        boxes = xyxy.astype(np.float64)
        left, right, lower = boxes[:, 0], boxes[:, 2], boxes[:, 3]
        tall = lower - boxes[:, 1]
        thick = self._thickness * tall
        inwards = np.sign(width - left - right)
        x = (left + right + inwards * (tall - thick) * _slopes(boxes, width, height, np.array(self._nadir))) / 2
        # Of a box that the picture's side cuts off only the inner edge can be trusted.
        x = np.where(left <= EDGE * width, right - thick / 2, np.where(right >= (1 - EDGE) * width, left + thick / 2, x))
        y = lower - np.where(lower < (1 - EDGE) * height, foot_inset * tall * lower / height, 0)
        return drawn_in(np.stack((x, y), axis=1), width, height)

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs, as JSON types; floats survive exactly."""
        return {"sums": self._sums.tolist(), "boxes": self._boxes}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where the one that wrote ``state`` stood."""
        self._sums, self._boxes = np.array(state["sums"], np.float64), state["boxes"]
        self._choose()

    def _choose(self) -> None:
        """The nadir and the thickness that fit best."""
        aa, ab, bb = self._sums
        thickness = ab / aa
        squares = bb - thickness * ab
        squares[1:] += DOUBT
        best = int(squares.argmin())
        self._nadir, self._thickness = float(NADIRS[best]), min(1.0, max(0.0, float(thickness[best])))


def _slopes(boxes: Float64Array, width: int, height: int, nadir: Float64Array) -> Float64Array:
    """Horizontal by vertical distance of the boxes' middles from the nadir; ``nadir`` as in ``NADIRS``."""
    beside = np.abs(boxes[:, 0] + boxes[:, 2] - width) / 2
    return np.asarray(beside * nadir / (height - nadir * (boxes[:, 1] + boxes[:, 3]) / 2))
