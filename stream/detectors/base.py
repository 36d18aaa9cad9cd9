"""The Detector protocol, and what a detector wants its pictures to look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from stream.detections import Detections
from stream.frame import FrameBatch, Uint8Array


@dataclass(frozen=True, slots=True)
class InputSpec:
    """The picture that a model takes, as uint8 (height, width, 3) before anything compiled into its graph.

    Attributes:
        width, height: pixels.
        color: order of the channels.
        resize: ``stretch`` to the size, or keep the aspect ratio and pad the rest with ``pad``.
        pad: value of the padding.
    """

    width: int
    height: int
    color: Literal["BGR", "RGB"] = "BGR"
    resize: Literal["stretch", "letterbox_top_left", "letterbox_center"] = "stretch"
    pad: int = 0

    def placement(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Where a source picture of ``width`` x ``height`` lies in the input: left, top, width, height in pixels."""
        if self.resize == "stretch":
            return 0, 0, self.width, self.height
        scale = min(self.width / width, self.height / height)
        w, h = max(1, round(width * scale)), max(1, round(height * scale))
        if self.resize == "letterbox_top_left":
            return 0, 0, w, h
        return (self.width - w) // 2, (self.height - h) // 2, w, h

    def without_padding(self, image: Uint8Array, width: int, height: int) -> Uint8Array:
        """The part of a scaled image, (H, W, 3), that shows the source picture of ``width`` x ``height``; not copied."""
        left, top, w, h = self.placement(width, height)
        return image[top : top + h, left : left + w]


class Detector(Protocol):
    """A compiled model. ``detect`` may be called from several threads.

    Attributes:
        input: what the pictures must look like.
        classes: names by class id.
        model_id: ``name@sha256:<first 12 hex digits>``.
    """

    input: InputSpec
    classes: tuple[str, ...]
    model_id: str

    def detect(self, batch: FrameBatch) -> tuple[Detections, ...]:
        """Objects in each frame of the batch, best first, in pixels of the source frames, clipped to them; only the
        wanted classes, suppressed class by class, down to the tracker's low confidence.

        Raises:
            DetectorError: the model failed, or ``images`` is not of the size in ``input``.
        """

    def close(self) -> None:
        """Give back memory and threads."""
