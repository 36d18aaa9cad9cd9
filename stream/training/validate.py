"""Validation: the torch network through the service's own decoder and suppression, measured as COCO does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stream.datasets.coco import CocoDataset
from stream.detectors.decoders import build_decoder
from stream.detectors.ports import Port
from stream.detectors.postprocess import Postprocess
from stream.detectors.spec import ModelInput, ModelSpec, YoloxOutput
from stream.evaluation.detections import DetectionReport, evaluate_detections
from stream.evaluation.predictions import Prediction
from stream.training.data import Cache
from stream.training.model import STRIDES, Scored
from stream.training.settings import TrainingSettings

LEAST_SCORE = 0.01  # far below any operating point, so that the precision-recall curves are whole
NMS_IOU = 0.65  # as YOLOX is evaluated; at 0.5 people who hide each other cannot both be found
PICTURES = 16  # a forward pass


def model_spec(settings: TrainingSettings, classes: tuple[str, ...]) -> ModelSpec:
    """What the YAML beside the exported model says."""
    picture = settings.picture
    return ModelSpec(
        input=ModelInput(width=picture.width, height=picture.height, color=picture.color, resize=picture.resize, pad=picture.pad),
        output=YoloxOutput(family="yolox", strides=list(STRIDES)),
        classes=classes,
    )


@dataclass(frozen=True)
class Validation:
    """Pictures with truth, to measure networks on.

    Attributes:
        cache: the pictures.
        truth: their labels; category ``i + 1`` is class ``i``.
        spec: of the network.
        min_visibility: objects less visible are neither right nor wrong to find.
    """

    cache: Cache
    truth: CocoDataset
    spec: ModelSpec
    min_visibility: float

    def measure(self, network: Any, device: torch.device) -> DetectionReport:
        """Evaluate a network, which must be in evaluation mode."""
        return evaluate_detections(self.truth, self.predictions(network, device), min_visibility=self.min_visibility)

    def predictions(self, network: Any, device: torch.device) -> list[Prediction]:
        """What the network finds, in pixels of the source pictures."""
        classes = len(self.spec.classes)
        anchors = sum((self.spec.input.width // s) * (self.spec.input.height // s) for s in STRIDES)
        port = Port(frozenset({"output"}), (None, anchors, 5 + classes), False)
        decoder = build_decoder(self.spec, [port])
        postprocess = Postprocess(decoder, self.spec.input.picture, np.ones(classes, np.bool_), LEAST_SCORE, NMS_IOU)
        images = {image.id: image for image in self.truth.images}
        scored, found = Scored(network), []
        for start in range(0, len(self.cache), PICTURES):
            pixels = to_pixels(self.cache.images[start : start + PICTURES], device)
            with torch.inference_mode():
                outputs = scored(pixels).cpu().numpy()
            for image_id, output in zip(self.cache.ids[start : start + PICTURES], outputs, strict=True):
                image = images[image_id]
                detections = postprocess([output[None]], image.width, image.height)
                for xyxy, score, class_id in zip(detections.xyxy, detections.confidence, detections.class_id, strict=True):
                    left, top, right, bottom = map(float, xyxy)
                    box = (left, top, right - left, bottom - top)
                    found.append(Prediction(image_id, int(class_id) + 1, box, float(score)))
        return found


def to_pixels(images: Any, device: torch.device) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W) on the device, in channels-last order, which convolutions run fastest in."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device, non_blocking=True)
    return pixels.permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
