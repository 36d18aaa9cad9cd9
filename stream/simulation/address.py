"""SimulatedCamera: what a ``simulate://`` address asks for."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

SCENES = ("plaza", "corridor", "shop", "street", "station")
"""Scenes of simulated cameras. ``station`` is kept out of all training: it is the place that a model has never seen."""


ASPECT = (1.25, 2.4)
"""Least and most width of a picture by its height: from 5:4 to cinema."""


class SimulatedCamera(BaseModel):
    """A ``simulate://SCENE`` address and what its query says: the scene's ``seed``, how many ``people`` are in it at once,
    the picture's size, and after how many ``seconds`` the video ends (never, if unset)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    scene: str
    people: int = Field(20, ge=0, le=1000)
    seed: int = Field(1, ge=0, lt=2**32)
    width: int = Field(1280, ge=160, le=3840, multiple_of=2)
    height: int = Field(720, ge=120, le=2160, multiple_of=2)
    fps: float = Field(25, ge=1, le=120)
    seconds: float | None = Field(None, gt=0)

    @field_validator("scene")
    @classmethod
    def _known_scene(cls, scene: str) -> str:
        if scene not in SCENES:
            raise ValueError(f"no scene {scene!r}{_near(scene, SCENES)}; there is {', '.join(SCENES)}")
        return scene

    @model_validator(mode="after")
    def _known_shape(self) -> Self:
        if not ASPECT[0] <= self.width / self.height <= ASPECT[1]:
            raise ValueError(f"{self.width}x{self.height} is too tall or too wide: from 5:4 to 12:5")
        return self

    @classmethod
    def of(cls, uri: str) -> Self:
        """What an address asks for.

        Raises:
            ValueError: it names no known scene, or a key that is unknown, given twice or out of range; names it.
        """
        parts = urlsplit(uri)
        if parts.path.strip("/") or not uri.partition(":")[2].startswith("//"):
            raise ValueError("must be like simulate://plaza?people=40&seed=7")
        if "#" in uri:
            raise ValueError(f"#{parts.fragment} is not read; what is asked for stands behind a ?, as in simulate://plaza?seed=7")
        values: dict[str, str] = {"scene": parts.netloc}
        keys = [key for key in cls.model_fields if key != "scene"]
        for key, value in parse_qsl(parts.query, keep_blank_values=True):
            if key not in keys:
                raise ValueError(f"unknown key {key!r}{_near(key, keys)}; there is {', '.join(keys)}")
            if key in values:
                raise ValueError(f"{key} is given twice")
            values[key] = value
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key, message = str((*first["loc"], "scene")[0]), str(first["msg"]).removeprefix("Value error, ")
            raise ValueError(message if key == "scene" else f"{key}={values[key]}: {message}") from None


def _near(word: str, known: Iterable[str]) -> str:
    """A question that helps who has mistyped."""
    close = get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
