"""TrainingSettings: what ``framewatch train`` was asked for, checked; it is kept in the checkpoint and in the model card."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from stream.detectors.base import InputSpec

CELL_PX = 32  # the coarsest stride: width and height are multiples of it
PAD = 114


class TrainingSettings(BaseModel):
    """All that decides how training runs. Paths are absolute, so that a run can be resumed from another folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: tuple[Path, ...] = Field(min_length=1)
    val: tuple[Path, ...] = Field(min_length=1)
    out: Path
    name: str = Field("detector", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    epochs: int | None = Field(None, ge=1)
    minutes: float | None = Field(None, gt=0)
    width: int = Field(448, ge=64, le=2048)
    height: int = Field(256, ge=64, le=2048)
    start_from: Path | None = None
    freeze: Literal["backbone", "neck"] | None = None
    backbone: str = "csp"
    batch: int = Field(16, ge=1, le=1024)
    lr: float = Field(2e-3, gt=0)
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "f32", "bf16", "f16"] = "auto"
    min_visibility: float = Field(0.25, ge=0, le=1)
    mosaic: float = Field(0.6, ge=0, le=1)
    patience: int | None = Field(None, ge=1)
    val_every: int = Field(1, ge=1)
    cache_gb: float = Field(4.0, ge=0)
    threads: int = Field(0, ge=0, le=1024)
    note: str = ""
    command: str = ""

    @field_validator("width", "height")
    @classmethod
    def _whole_cells(cls, size: int) -> int:
        if size % CELL_PX:
            raise ValueError(f"must be a multiple of {CELL_PX}")
        return size

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.epochs is None and self.minutes is None:
            raise ValueError("give epochs or minutes")
        if self.freeze and not self.start_from and self.backbone == "csp":
            raise ValueError("there is nothing yet to freeze: start from a checkpoint or a pretrained backbone")
        return self

    @property
    def picture(self) -> InputSpec:
        """How pictures are placed in the input: as YOLOX does it."""
        return InputSpec(self.width, self.height, "BGR", "letterbox_top_left", PAD)
