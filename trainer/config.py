"""Configuration files of the trainer: YAML, checked before anything is read or allocated."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trainer.errors import SettingsRefused
from trainer.models.segmenter import SegmenterSettings


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ColourSettings(_Settings):
    """Widths of the random colour changes; each 0 switches one off. See trainer/data/augment.py."""

    brightness: float = Field(default=0.25, ge=0, lt=1)
    contrast: float = Field(default=0.3, ge=0, lt=1)
    saturation: float = Field(default=0.4, ge=0, le=1)
    tint: float = Field(default=0.1, ge=0, lt=1)
    gamma: float = Field(default=0.3, ge=0, lt=1)


class DataSettings(_Settings):
    """Which labelled scenes, and how crops are drawn from them.

    ``balanced`` is the share of crops centred on a pixel of a class drawn evenly; the others lie anywhere.
    ``landscape_share`` is the share of crops from made landscapes of ``landscape_seeds``; figures are of real scenes.
    """

    dataset: str = "dubai"
    scenes: tuple[int, ...] = (3, 4, 5, 6, 7, 8)
    balanced: float = Field(default=0.5, ge=0, le=1)
    scale: tuple[float, float] = (0.5, 2.0)
    colour: ColourSettings = ColourSettings()
    root: Path | None = None
    landscape_share: float = Field(default=0.0, ge=0, le=0.5)
    landscape_seeds: tuple[int, ...] = (1001, 1002)


class Stage(_Settings):
    """A stretch of the fit: up to ``until`` (share of the whole), crops of ``crop`` pixels in batches of ``batch``."""

    until: float = Field(gt=0, le=1)
    crop: int = Field(gt=0)
    batch: int = Field(gt=0)


class RunSettings(_Settings):
    """What the loop needs of any run. Either ``max_minutes`` or ``max_steps`` ends it, whichever share is further.

    The schedule runs on the elapsed share, so the learning rate has always come down when the run ends.
    """

    name: str
    model: SegmenterSettings = SegmenterSettings()
    stages: tuple[Stage, ...] = (Stage(until=1.0, crop=512, batch=4),)
    max_minutes: float | None = None
    max_steps: int | None = None
    learning_rate: float = Field(default=1e-3, gt=0)
    final_learning_rate: float = Field(default=1e-6, ge=0)
    warmup: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=0.05, ge=0)
    gradient_norm: float = Field(default=1.0, gt=0)
    average: float = Field(default=0.998, ge=0, lt=1)
    bfloat16: bool = True
    seed: int = 0
    threads: int | None = None
    checkpoint_minutes: float = Field(default=3.0, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> RunSettings:
        if self.max_minutes is None and self.max_steps is None:
            raise ValueError("give max_minutes or max_steps: a run must end")
        ends = [stage.until for stage in self.stages]
        if ends != sorted(set(ends)) or ends[-1] != 1.0:
            raise ValueError(f"stages must end at rising shares, the last at 1.0, not {ends}")
        grain = 16 * (self.model.student.window or 1)
        odd = [stage.crop for stage in self.stages if stage.crop % grain]
        if odd:
            raise ValueError(f"crops {odd} are not multiples of {grain} (16-pixel patches x attention window)")
        return self


class FitSettings(RunSettings):
    """A supervised fit.

    ``start_from`` is the run folder of an earlier fit of the same network; ``pretrained`` that of a pre-training, of
    which only the student is taken. At most one of them.
    """

    data: DataSettings = DataSettings()
    class_weight_power: float = Field(default=0.5, ge=0, le=1)
    dice: float = Field(default=0.5, ge=0)
    start_from: Path | None = None
    pretrained: Path | None = None

    @model_validator(mode="after")
    def _one_start(self) -> FitSettings:
        if self.start_from is not None and self.pretrained is not None:
            raise ValueError("give start_from or pretrained, not both")
        return self


class PretrainSettings(RunSettings):
    """Masked reconstruction on unlabelled imagery: ``scenes`` of ``dataset`` (labels unread) and ``folders`` of JPEG.

    ``hidden`` is the share of patches hidden, in cells of ``cell`` x ``cell`` tokens. Sources: He et al., "Masked
    Autoencoders Are Scalable Vision Learners", CVPR 2022; Xie et al., "SimMIM", CVPR 2022 (0.6 of 32-pixel cells).
    """

    root: Path | None = None
    dataset: str = "dubai"
    scenes: tuple[int, ...] = (3, 4, 5, 6, 7, 8)
    folders: tuple[str, ...] = ("ucmerced",)
    scale: tuple[float, float] = (0.5, 2.0)
    hidden: float = Field(default=0.6, gt=0, lt=1)
    cell: int = Field(default=2, ge=1)


AnySettings = TypeVar("AnySettings", bound=BaseModel)


def read_settings(path: Path, kind: type[AnySettings]) -> AnySettings:
    """The YAML file at ``path`` as ``kind``.

    Raises:
        SettingsRefused: not readable, not YAML, unknown keys, or values that do not hold together.
    """
    try:
        return kind.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise SettingsRefused(str(path), str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsRefused(str(path), f"{where or 'settings'}: {first['msg']}") from error
