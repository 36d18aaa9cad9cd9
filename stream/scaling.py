"""Scaling: the part of the config that says how many of something there are."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Scaling(BaseModel):
    """As many as are needed, from ``min`` to ``max``: more once that was so for ``up_after_s``, fewer after ``down_after_s``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    min: int = Field(1, ge=1, le=1024)
    max: int = Field(1, ge=1, le=1024)
    up_after_s: float = Field(10, ge=0, le=86_400)
    down_after_s: float = Field(120, ge=0, le=86_400)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is below min ({self.min})")
        return self


class Replicas(Scaling):
    """Detector replicas under Ray Serve. Those of which there may be more are measured every ``interval_s``."""

    cpus: float = Field(0.5, ge=0)
    gpus: float = Field(0, ge=0)
    interval_s: float = Field(10, gt=0, le=3600)
