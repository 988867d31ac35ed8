"""Settings of the trainer: YAML files that are validated before any data is read or memory allocated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from typing_extensions import Self

from trainer.data.degrade import DegradeSettings
from trainer.errors import SettingsRefused
from trainer.models.segmenter import TAGS, SegmenterSettings
from trainer.models.teachers.settings import TeacherSettings


class _Settings(BaseModel):
    # Forbidden and not ignored: a misspelt key would train with the default, and nobody would see it.
    # Infinite minutes would be a run without end, whose rate never comes down.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ColourSettings(_Settings):
    """Widths of the random colour changes; each 0 switches one off. See trainer/data/augment.py."""

    brightness: float = Field(default=0.25, ge=0, lt=1)
    contrast: float = Field(default=0.3, ge=0, lt=1)
    saturation: float = Field(default=0.4, ge=0, le=1)
    tint: float = Field(default=0.1, ge=0, lt=1)
    gamma: float = Field(default=0.3, ge=0, lt=1)


class JitterSettings(_Settings):
    """Widths of the usual colour jitter, as Mask-CDKD uses it; each 0 switches one off. See trainer/data/augment.py."""

    brightness: float = Field(default=0.2, ge=0, le=1)
    contrast: float = Field(default=0.2, ge=0, le=1)
    saturation: float = Field(default=0.2, ge=0, le=1)
    hue: float = Field(default=0.05, ge=0, le=0.5)


class AugmentSettings(_Settings):
    """Random changes of a crop that keep its labels true.

    ``scale`` is the range of enlargement, ``turns`` the eight symmetries of the square, ``rotation`` the largest angle
    in degrees, to either side. ``colour`` and ``jitter`` are two ways to change colours, ``degrade`` are losses of
    quality (haze, blur, noise, JPEG); None switches one off.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    turns: bool = True
    rotation: float = Field(default=0.0, ge=0, le=45)
    colour: ColourSettings | None = ColourSettings()
    jitter: JitterSettings | None = None
    degrade: DegradeSettings | None = None

    @model_validator(mode="after")
    def _scale_rises(self) -> AugmentSettings:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale {self.scale} must be two positive numbers, the smaller one first")
        return self


class SetSettings(_Settings):
    """One of several labelled sets, see :class:`DataSettings`.

    Attributes:
        set, split, names, root, balanced: as in :class:`DataSettings`.
        weight: its share of the crops, beside the other sets' weights.
        gsd_m: metres a pixel, in place of the set's own.
        heads: which heads its labels teach; nothing: every head that they mean something to.
        soft: folder of a teacher's soft labels for its images, as `trainer soften` writes it.
    """

    set: str
    split: str = "train"
    names: tuple[str, ...] = ()
    root: Path | None = None
    weight: float = Field(default=1.0, gt=0)
    gsd_m: float | None = Field(default=None, gt=0)
    balanced: float = Field(default=0.5, ge=0, le=1)
    heads: tuple[str, ...] = ()
    soft: Path | None = None


class DataSettings(_Settings):
    """Which labelled images, and how crops are drawn from them.

    ``set`` is the name of a labelled set (trainer/sets) or the path of the YAML of one; ``names`` of its images, globs
    allowed, stand in place of ``split``. ``memory_mb`` is the budget for decoded scenes, of each process. ``balanced``
    is the share of crops centred on a pixel of a class drawn evenly; the others lie anywhere. ``landscape_share`` is
    the share of crops from made landscapes of ``landscape_seeds``, for a set of their classes alone
    (trainer/data/landscape.py); figures are of real scenes.

    ``sets`` are several sets at once, in place of ``set``; their crops are drawn at ``gsd_m`` metres a pixel, the
    resolution the model is made for, times the scale of the augmentation, and enlarged by ``largest_enlargement`` at
    most.
    """

    set: str = "dubai"
    split: str = "train"
    names: tuple[str, ...] = ()
    root: Path | None = None
    memory_mb: float = Field(default=2000, gt=0)
    balanced: float = Field(default=0.5, ge=0, le=1)
    augment: AugmentSettings = AugmentSettings()
    landscape_share: float = Field(default=0.0, ge=0, le=0.5)
    landscape_seeds: tuple[int, ...] = (1001, 1002)
    sets: tuple[SetSettings, ...] = ()
    gsd_m: float | None = Field(default=None, gt=0)
    largest_enlargement: float = Field(default=1.6, ge=1)

    @model_validator(mode="after")
    def _one_way_to_name_sets(self) -> DataSettings:
        # Turns by 90 degrees keep the cells of soft labels whole; a free angle does not.
        if self.augment.rotation and any(item.soft for item in self.sets):
            raise ValueError("augment.rotation: soft labels lie on the image's grid and are not rotated; set it to 0")
        if self.sets and (self.names or self.landscape_share):
            raise ValueError("`sets` names images set by set: give no `names` or `landscape_share` beside it")
        return self


class Stage(_Settings):
    """A stretch of the fit: up to ``until`` (share of the whole), crops of ``crop`` pixels in batches of ``batch``."""

    until: float = Field(gt=0, le=1)
    crop: int = Field(gt=0)
    batch: int = Field(gt=0)


class MachineSettings(_Settings):
    """Where a run runs: what Lightning Fabric is told, which also finds torchrun's and SLURM's processes by itself.

    ``devices`` counts a node's processes; ``precision: auto`` is bfloat16 where the machine has instructions for it and
    32 bits elsewhere; ``accumulate`` micro-batches make a step on each; ``workers`` are processes that draw
    batches ahead, 0: none; ``threads`` are the CPU's, None: torch's choice.
    """

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int | Literal["auto"] = 1
    nodes: int = Field(default=1, ge=1)
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    accumulate: int = Field(default=1, ge=1)
    workers: int = Field(default=0, ge=0)
    threads: int | None = Field(default=None, ge=1)

    @field_validator("devices")
    @classmethod
    def _at_least_one_device(cls, devices: int | Literal["auto"]) -> int | Literal["auto"]:
        # By hand: of a bound within the union, pydantic would tell the names of both its types.
        if devices != "auto" and devices < 1:
            raise ValueError(f"{devices} is less than 1; give a number from 1 on, or auto")
        return devices


class RunSettings(_Settings):
    """What the loop needs of any run. The first of ``max_minutes``, ``max_steps`` and ``max_epochs`` ends it.

    The schedule runs on the elapsed share, so the learning rate has always come down when the run ends. A stage's
    ``batch`` is the images of an optimiser step, over all processes and micro-batches.
    """

    name: str
    stages: tuple[Stage, ...] = (Stage(until=1.0, crop=512, batch=4),)
    max_minutes: float | None = Field(default=None, gt=0)
    max_steps: int | None = Field(default=None, gt=0)
    max_epochs: float | None = Field(default=None, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    final_learning_rate: float = Field(default=1e-6, ge=0)
    warmup: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    gradient_norm: float = Field(default=1.0, gt=0)
    average: float = Field(default=0.998, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)
    checkpoint_minutes: float = Field(default=3.0, gt=0, description="with one process")
    checkpoint_steps: int = Field(default=1000, gt=0)
    picture_steps: int = Field(default=0, ge=0, description="0: none")
    log_steps: int = Field(default=20, gt=0)
    machine: MachineSettings = MachineSettings()

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.max_minutes is None and self.max_steps is None and self.max_epochs is None:
            raise ValueError("give max_minutes, max_steps or max_epochs: a run must end")
        ends = [stage.until for stage in self.stages]
        # A last stage that ended early would leave a part of the run without one.
        if ends != sorted(set(ends)) or ends[-1] != 1.0:
            raise ValueError(f"stages must end at rising shares, the last at 1.0, not {ends}")
        # Epochs become a number of steps, which needs one batch for all of them.
        if self.max_epochs is not None and len({stage.batch for stage in self.stages}) > 1:
            raise ValueError("max_epochs needs the same batch in every stage")
        return self


class HeadSettings(_Settings):
    """One head of several.

    Attributes:
        classes_of: the labelled set whose class table the head has.
        weight: of its loss; 0: it stays as it was loaded, and needs no labels.
    """

    classes_of: str
    weight: float = Field(default=1.0, ge=0)


class FinetuneSettings(RunSettings):
    """A supervised fit of the decoder on a frozen encoder, or of both.

    ``encoder`` is the run folder of a distillation or of a finetuning, whose averaged encoder is taken, and a new
    decoder; ``start_from`` that of an earlier finetuning of the same network, whose decoders may have fewer residual
    blocks, and whose heads named in ``fresh_heads`` are not taken; ``teacher`` stands in the student's place, whose
    settings then are its shape; at most one of the three. ``frozen_encoder`` learns the decoder alone: not a bit of the
    encoder changes. ``stem_weights`` are published ones: "imagenet" or a file for a stem of EfficientNet-Lite, a folder
    of DINOv2 for a plain ViT; what they started learns at ``stem_learning_rate`` times the run's rate.

    ``heads`` with ``data.sets``: several sets teach several heads over one encoder; the first head is the model's own,
    the others are those of ``model.heads``. The loss is taken at every ``label_stride``-th pixel. ``frozen_depthwise``
    leaves depthwise kernels as they were loaded: on CPUs their gradient takes most of a step of such a stem.
    ``soft_weight`` is the share of the loss that a teacher's soft labels have, where a set has them.
    """

    model: SegmenterSettings = SegmenterSettings()
    data: DataSettings = DataSettings()
    frozen_encoder: bool = True
    class_weight_power: float = Field(default=0.5, ge=0, le=1)
    dice: float = Field(default=0.5, ge=0)
    start_from: Path | None = None
    fresh_heads: tuple[str, ...] = ()
    encoder: Path | None = None
    teacher: TeacherSettings | None = None
    stem_weights: str | None = None
    stem_learning_rate: float = Field(default=0.2, gt=0, le=1)
    heads: dict[str, HeadSettings] = Field(default_factory=dict)
    label_stride: int = Field(default=1, ge=1)
    frozen_depthwise: bool = False
    soft_weight: float = Field(default=0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _labels_are_no_coarser_than_soft_ones(self) -> Self:
        # Soft labels lie on every 4th pixel, where the labels are looked up that they are held to.
        if any(item.soft for item in self.data.sets) and 4 % self.label_stride:
            raise ValueError(f"label_stride {self.label_stride}: with soft labels it has to be 1, 2 or 4")
        return self

    @model_validator(mode="after")
    def _heads_are_the_model_s(self) -> Self:
        if bool(self.heads) != bool(self.data.sets):
            raise ValueError("`heads` and `data.sets` go together: several sets need to know which head they teach")
        others = list(self.heads)[1:]
        if self.heads and others != list(self.model.heads):
            raise ValueError(
                f"the first of `heads` is the model's own, the others are `model.heads`; these are {others} and "
                f"{list(self.model.heads)}"
            )
        return self

    @model_validator(mode="after")
    def _fresh_heads_are_further_ones(self) -> Self:
        if strange := sorted(set(self.fresh_heads) - set(self.model.heads)):
            raise ValueError(f"fresh_heads {strange}: the further heads are {list(self.model.heads)}")
        if self.fresh_heads and self.start_from is None:
            raise ValueError("fresh_heads go with start_from: without it all heads are new")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        student = self.model.student
        stem = getattr(student, "stem", "plain")
        if self.stem_weights is not None and stem in ("conv", "plain"):
            raise ValueError(f"stem_weights: there are none for stem {stem}; take lite0 to lite2, or linear")
        if sum(given is not None for given in (self.start_from, self.encoder, self.teacher)) > 1:
            raise ValueError("give one of start_from, encoder and teacher")
        # Refused here: the first crop of a late stage would fail in the middle of a run.
        odd = [stage.crop for stage in self.stages if stage.crop % student.grain]
        if odd:
            raise ValueError(f"crops {odd} are not multiples of {student.grain}, the encoder's stride x window")
        return self


AnySettings = TypeVar("AnySettings", bound=BaseModel)


def read_settings(path: Path, kind: type[AnySettings], instead: Mapping[str, Any] | None = None) -> AnySettings:
    """The YAML file at ``path`` as ``kind``; ``instead`` are values, nested ones too, that go before the file's.

    Raises:
        SettingsRefused: not readable, not YAML, unknown keys, or values that do not hold together.
    """
    try:
        document = yaml.load(path.read_text(), _EachKeyOnce)  # noqa: S506 -- a safe loader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        # YAML tells problems in several lines.
        raise SettingsRefused(str(path), " ".join(str(error).split())) from error
    if not isinstance(document, dict):
        raise SettingsRefused(str(path), "no settings in it: `name: value` lines are wanted")
    return checked_settings(merged(document, instead or {}), kind, str(path))


class _EachKeyOnce(yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which no key stands twice: the last one would count, and nobody would see that the first does not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As in YAML's own loader; merge keys (``<<``) may be repeated by what they are merged with."""
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        seen: set[str] = set()
        for key in keys:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.constructor.ConstructorError(problem=f"line {line}: {key.value!r} stands there once more")
            seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def checked_settings(document: Mapping[str, Any], kind: type[AnySettings], source: str) -> AnySettings:
    """Values as ``kind``.

    Raises:
        SettingsRefused: unknown keys, or values that do not hold together.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        # The first problem alone: pydantic lists consequences as well, and a configuration is mended one key at a time.
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in TAGS)
        problem = first["msg"].removeprefix("Value error, ")
        raise SettingsRefused(source, f"{where}: {problem}" if where else problem) from error


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``, key by key down through nested mappings."""
    result = dict(base)
    for name, value in over.items():
        below = result.get(name)
        result[name] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result
