"""Tamper: does a camera still show what it was hung up to show?

Looks about once a second at the picture that the detector gets, and finds five faults of a view:

=========  =========================================================================================================
black      one dark tone all over: no light, or something over the lens
covered    one tone all over that is not dark
frozen     the same picture to the last bit; a sensor's noise never repeats itself
blurred    much less fine detail, for its contrast, than is usual here: out of focus, sprayed, fogged
moved      the edges are no longer where they usually are: turned away, or something large in front of it
=========  =========================================================================================================

What is usual is learned from the pictures themselves: the mean of their edges, and the median of how much each looks like that
mean and of its fine detail. So it is another for a dark corridor than for a busy square, and follows the day. People come and go
in front of the same edges; a fault must last for ``FAULT_S`` to count, and be over for ``CLEAR_S`` to be over. While there is
a fault nothing is learned, so a view that is put back is known again; one that stays as it is for ``RELEARN_S`` was
meant, and is learned as the view of this camera. A camera that turns by itself has no view of its own: switch this off for it.
"""

from __future__ import annotations

import zlib
from collections import deque
from statistics import median
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from stream.frame import Uint8Array

Fault = Literal["", "black", "covered", "frozen", "blurred", "moved"]

LOOK_S = 1.0  # between two looks
FAULT_S = 10.0
CLEAR_S = 5.0
RELEARN_S = 3600.0
LEARN = 20  # looks before blurred and moved are judged
USUAL = 60  # looks of which the median is what is usual: a minute, or four at the pace of a closed gate
MEAN_LOOKS = 120  # of the mean of the edges
FLAT = 4.0  # grey levels, standard deviation: a tone with the noise and the falling light of a covered lens
DARK = 40.0  # grey levels, mean
LEAST_DETAIL = 0.35  # of what is usual; out of focus by 0.7 % of the picture's width leaves 0.15 or less
LEAST_LIKENESS = 0.5  # of what is usual; turned by a tenth of the picture's width leaves 0.2 to 0.5, people 0.55 and more
CELLS = 88  # of the edges, each way
EDGE_BLUR = 1.5  # cells: so far a mast may sway
FINE_BLUR = 1.0  # pixels


class Tamper:
    """The view of one camera, over all its openings. Not thread-safe.

    Attributes:
        fault: what is wrong with the view; empty where nothing is. None until that is known for the first time.
    """

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self._looked_s = self._fault_since_s = float("-inf")
        self._forget()
        self.begin()

    def begin(self) -> None:
        """Another opening of the source: what was suspected before it is not held against it."""
        self._digest: int | None = None
        self._other_since_s: float | None = None  # since when looks say something else than ``fault``

    def _forget(self) -> None:
        self._mean: npt.NDArray[np.float32] | None = None
        self._looks = 0
        self._details: deque[float] = deque(maxlen=USUAL)
        self._likenesses: deque[float] = deque(maxlen=USUAL)

    def look(self, image: Uint8Array, t_s: float) -> bool:
        """Look at a picture, unless the last look was less than ``LOOK_S`` ago.

        Args:
            image: uint8 (H, W, 3), as for the detector, but without its padding: a black picture in a grey frame is black.
            t_s: monotonic seconds of its capture.

        Returns:
            True if ``fault`` has changed.
        """
        if t_s - self._looked_s < LOOK_S:
            return False
        self._looked_s = t_s
        found = self._find(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
        if self.fault and t_s - self._fault_since_s >= RELEARN_S:
            self._fault_since_s = t_s
            self._forget()
        return self._settle(found, t_s)

    def _settle(self, found: Fault | None, t_s: float) -> bool:
        """Let what was found become the fault once it has lasted."""
        if found is None or found == self.fault:
            self._other_since_s = None
            return False
        if self._other_since_s is None:
            self._other_since_s = t_s
        if t_s - self._other_since_s < (FAULT_S if found else CLEAR_S):
            return False
        self.fault, self._fault_since_s, self._other_since_s = found, t_s, None
        return True

    def _find(self, grey: npt.NDArray[np.uint8]) -> Fault | None:
        """What this picture looks like; None while too little is known."""
        before, self._digest = self._digest, zlib.crc32(grey.tobytes())
        contrast = float(grey.std())
        if contrast < FLAT:
            return "black" if grey.mean() < DARK else "covered"
        if self._digest == before:
            return "frozen"
        edges, detail = _edges(grey), _fine(grey) / contrast
        likeness = 1.0 if self._mean is None else _likeness(edges, self._mean)
        if self._looks >= LEARN:
            if detail < LEAST_DETAIL * median(self._details):
                return "blurred"
            if likeness < LEAST_LIKENESS * median(self._likenesses):
                return "moved"
        if self._mean is None:
            self._mean = np.zeros_like(edges)
        self._looks += 1
        self._mean += (edges - self._mean) / min(self._looks, MEAN_LOOKS)
        self._details.append(detail)
        self._likenesses.append(likeness)
        return "" if self._looks > LEARN else None


def _edges(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """How much of an edge is where: float32 (``CELLS``, ``CELLS``) of mean 0; strong ones do not outshout the others."""
    cells = cv2.resize(grey, (CELLS, CELLS), interpolation=cv2.INTER_AREA).astype(np.float32)
    steepness = cv2.magnitude(cv2.Sobel(cells, cv2.CV_32F, 1, 0), cv2.Sobel(cells, cv2.CV_32F, 0, 1))
    edges = cv2.GaussianBlur(np.sqrt(steepness), (0, 0), EDGE_BLUR)
    return np.asarray(edges - edges.mean(), np.float32)


def _fine(grey: npt.NDArray[np.uint8]) -> float:
    """Standard deviation of what a little blur takes away, in grey levels."""
    exact = grey.astype(np.float32)
    return float((exact - cv2.GaussianBlur(exact, (0, 0), FINE_BLUR)).std())


def _likeness(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Correlation coefficient of two maps of mean 0."""
    return float((a * b).sum() / max(float(np.sqrt((a * a).sum() * (b * b).sum())), 1e-9))
