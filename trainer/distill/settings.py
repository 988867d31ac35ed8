"""Settings of a distillation. The defaults are the paper's; trainer/configs/mask_cdkd.yaml is its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from trainer.config import AugmentSettings, RunSettings
from trainer.distill.schedule import ScheduleSettings
from trainer.errors import SettingsRefused
from trainer.models.masking import MaskKind, fitting_cell
from trainer.models.reconstruction import HeadSettings, Target
from trainer.models.student import PAPER_STUDENT, StudentSettings
from trainer.models.teachers.settings import TeacherSettings

Alignment = Literal["mse", "fourier", "mutual_information"]
"""How the student's features are compared with a teacher's: by value, or by one of trainer/distill/separation.py."""


class MaskSettings(BaseModel):
    """Which tokens are hidden, see trainer/models/masking.py."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ratio: float = Field(default=0.75, ge=0, lt=1)
    kind: MaskKind = "stratified"


class WeightedTeacher(TeacherSettings):
    """A teacher, and the weight of its two losses beside other teachers'."""

    weight: float = Field(default=1.0, gt=0)


class DistillSettings(RunSettings):
    """One run.

    Attributes:
        tiles: folder of ``trainer tiles``; ``subset`` takes the first so many of a fixed random order.
        augment: changes of the crops; their ``scale`` is that of the windows cut from the tiles.
        student: the network to deploy; blocks ``student_levels`` (1-based) are aligned with the teachers' ``levels``.
        teachers: by name; without any, it is masked reconstruction alone.
        bidirectional: the alignment also trains the teachers' adapters; the paper's ablation switches it off.
        alignment: how features are compared; the two alternatives are those of the paper's domain-separation study.
        head: the reconstruction heads'.
    """

    tiles: Path | None = None
    subset: int | None = Field(default=None, ge=1)
    augment: AugmentSettings = AugmentSettings(scale=(1.0, 1.0))
    student: StudentSettings = PAPER_STUDENT
    student_levels: tuple[int, ...] = (3, 6, 9)
    teachers: dict[str, WeightedTeacher] = Field(default_factory=dict)
    mask: MaskSettings = MaskSettings()
    head: HeadSettings = HeadSettings()
    target: Target = "normalised"
    bidirectional: bool = True
    alignment: Alignment = "mse"
    schedule: ScheduleSettings = ScheduleSettings()

    @property
    def crop(self) -> int:
        """Side of the images learnt from, in pixels."""
        return self.stages[0].crop

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.stages) != 1:
            raise ValueError("a distillation has one stage: heads and positions are made for one size of crop")
        student = self.student
        if student.stem not in ("conv", "linear"):
            raise ValueError(f"student.stem {student.stem} cannot be masked: distil into stem conv or linear")
        if student.width % self.head.heads:
            raise ValueError(f"head.heads {self.head.heads} does not divide the student's width {student.width}")
        if self.crop % student.patch:
            raise ValueError(f"crops of {self.crop} pixels are not made of patches of {student.patch}")
        side = self.crop // student.patch
        try:
            # pydantic takes ValueError alone for a problem of the settings.
            cell = fitting_cell(side, side, self.mask.ratio)
        except SettingsRefused as error:
            raise ValueError(error.problem) from error
        # Windows lie on the compact grid of visible tokens, not on the whole one.
        seen = (side // cell.rows * cell.seen_rows, side // cell.columns * cell.seen_columns)
        if student.window is not None and any(part % student.window for part in seen):
            raise ValueError(
                f"{seen[0]}x{seen[1]} visible tokens are not made of windows of {student.window}: use crops of "
                f"{student.window * student.patch * cell.rows // cell.seen_rows} pixels, or another window or ratio"
            )
        missing = [block for block in (*self.student_levels, student.depth) if block not in student.out_blocks]
        if missing:
            raise ValueError(f"student.out_blocks lacks {missing}: student_levels and the last block are needed")
        return self

    @model_validator(mode="after")
    def _taught(self) -> Self:
        for name, teacher in self.teachers.items():
            # Names of teachers become names of modules and columns of the record, where `student` is taken.
            if not name.isidentifier() or name == "student":
                raise ValueError(f"teachers.{name}: a name is letters, digits and _, and not `student`")
            if len(teacher.levels) != len(self.student_levels):
                raise ValueError(f"teachers.{name}: {len(teacher.levels)} levels, student_levels {self.student_levels}")
            if teacher.patch != self.student.patch:
                raise ValueError(
                    f"teachers.{name}: patch {teacher.patch}, the student's is {self.student.patch}: they must see "
                    "the same tokens"
                )
        return self
