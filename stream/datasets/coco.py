"""COCO label files: boxes, masks and classes of pictures.

The format is that of https://cocodataset.org/#format-data. framewatch adds two optional keys that other readers ignore: a
picture's ``frame_index`` (``file_name`` is then a video and the picture is that frame of it, in presentation order), and
a box's ``visibility``, the visible share of the object from 0 to 1.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import av
import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from stream.errors import DatasetError
from stream.files import write_text

Box = tuple[float, float, float, float]


class Part(BaseModel):
    """Base of every part: frozen; keys that framewatch does not use are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)


class CocoImage(Part):
    """A picture; ``file_name`` is relative to the label file."""

    id: int
    file_name: str
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    frame_index: int | None = Field(None, ge=0)


class CocoAnnotation(Part):
    """One object; ``bbox`` is x, y, width, height in pixels. ``iscrowd`` marks what is neither right nor wrong to find."""

    id: int
    image_id: int
    category_id: int
    bbox: Box
    area: float = Field(ge=0, allow_inf_nan=False)
    iscrowd: Literal[0, 1] = 0
    segmentation: Any = None
    visibility: float | None = Field(None, ge=0, le=1)

    @field_validator("bbox")
    @classmethod
    def _possible(cls, bbox: Box) -> Box:
        if not all(map(math.isfinite, bbox)) or bbox[2] < 0 or bbox[3] < 0:
            raise ValueError(f"{list(bbox)} is no box: x, y, width and height, neither of these below 0")
        return bbox

    @property
    def xyxy(self) -> Box:
        """The box as left, top, right, bottom."""
        x, y, width, height = self.bbox
        return x, y, x + width, y + height


class CocoCategory(Part):
    """A class; ids need not be dense."""

    id: int
    name: str


class CocoDataset(Part):
    """A whole label file."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        images, categories = {image.id for image in self.images}, {category.id for category in self.categories}
        if len(images) != len(self.images):
            raise ValueError("two images have the same id")
        if len(categories) != len(self.categories):
            raise ValueError("two categories have the same id")
        names = [category.name for category in self.categories]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two categories have the name {twice[0]!r}")
        for annotation in self.annotations:
            if annotation.image_id not in images:
                raise ValueError(f"annotation {annotation.id} is of image {annotation.image_id}, which is not listed")
            if annotation.category_id not in categories:
                raise ValueError(f"annotation {annotation.id} has category {annotation.category_id}, which is not listed")
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by dense class id, in the order of the category ids."""
        return tuple(category.name for category in sorted(self.categories, key=lambda category: category.id))

    def by_image(self) -> dict[int, list[CocoAnnotation]]:
        """Annotations by image id; images without any are in it too."""
        found: dict[int, list[CocoAnnotation]] = defaultdict(list)
        for annotation in self.annotations:
            found[annotation.image_id].append(annotation)
        return {image.id: found[image.id] for image in self.images}


def read_coco(path: Path) -> CocoDataset:
    """Read a label file.

    Raises:
        DatasetError: it is missing, not JSON, or not COCO; names the file and the first key at fault.
    """
    try:
        return CocoDataset.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: is not valid JSON: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise DatasetError(f"{path}: {key + ': ' if key else ''}{first['msg'].removeprefix('Value error, ')}") from None


def write_coco(path: Path, dataset: CocoDataset) -> None:
    """Write a label file; optional keys that are unset are left out."""
    write_text(path, dataset.model_dump_json(exclude_none=True))


class Picture(NamedTuple):
    """A picture of a dataset.

    Attributes:
        image: what the label file says of it.
        bgr: uint8 (height, width, 3).
    """

    image: CocoImage
    bgr: npt.NDArray[np.uint8]


def pictures(dataset: CocoDataset, folder: Path, only: Iterable[int] | None = None) -> Iterator[Picture]:
    """The pictures of a dataset, read one at a time: files in their order, then videos frame by frame.

    Args:
        dataset: the labels.
        folder: the label file's folder.
        only: image ids to read; all if None.

    Raises:
        DatasetError: a picture is missing, unreadable, or of another size than the labels say.
    """
    wanted = None if only is None else set(only)
    videos: dict[str, dict[int, list[CocoImage]]] = defaultdict(lambda: defaultdict(list))
    for image in dataset.images:
        if wanted is not None and image.id not in wanted:
            continue
        if image.frame_index is not None:
            videos[image.file_name][image.frame_index].append(image)
            continue
        data = cv2.imread(str(folder / image.file_name), cv2.IMREAD_COLOR)
        if data is None:
            raise DatasetError(f"{folder / image.file_name}: no such file, or not a picture that can be read")
        yield _checked(image, np.asarray(data, np.uint8), folder)
    for name, frames in videos.items():
        yield from _frames(folder / name, frames, folder)


def _frames(path: Path, wanted: dict[int, list[CocoImage]], folder: Path) -> Iterator[Picture]:
    left = len(wanted)
    try:
        with av.open(str(path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index in wanted:
                    bgr = np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)
                    yield from (_checked(image, bgr, folder) for image in wanted[index])
                    left -= 1
                    if not left:
                        return
    except (OSError, av.FFmpegError) as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    raise DatasetError(f"{path}: ends before frame {max(wanted)}, which the labels speak of")


def _checked(image: CocoImage, bgr: npt.NDArray[np.uint8], folder: Path) -> Picture:
    height, width = bgr.shape[:2]
    if (width, height) != (image.width, image.height):
        raise DatasetError(f"{folder / image.file_name}: is {width}x{height}; its labels say {image.width}x{image.height}")
    return Picture(image, bgr)
