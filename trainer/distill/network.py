"""All parts that learn together: student, teachers' adapters, reconstruction heads and projectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from trainer.distill.losses import alignment_loss, explained_variance
from trainer.distill.separation import build_separation
from trainer.distill.settings import DistillSettings
from trainer.models.masking import Visible, visible_from
from trainer.models.reconstruction import (
    ReconstructionHead,
    image_of,
    patches_of,
    pixels_of,
    reconstruction_loss,
    target_of,
)
from trainer.models.student import Student
from trainer.models.teachers.teacher import Teacher


class MaskCDKD(nn.Module):
    """A student and its teachers, all with the same visible tokens of the same tiles.

    Without teachers it is masked reconstruction alone. The result of a run is the averaged ``student.`` weights.

    Args:
        settings: of the run.
        teachers: by name; each gives features at as many depths as ``settings.student_levels`` has.
    """

    def __init__(self, settings: DistillSettings, teachers: Mapping[str, Teacher]) -> None:
        super().__init__()
        student = settings.student
        side = settings.crop // student.patch
        self.settings = settings
        self.student = Student(student)
        self.student_head = ReconstructionHead(settings.head, width=student.width, patch=student.patch, side=side)
        self.teachers = nn.ModuleDict(teachers)
        self.teacher_heads = nn.ModuleDict(
            {
                name: ReconstructionHead(settings.head, width=teacher.width, patch=student.patch, side=side)
                for name, teacher in teachers.items()
            }
        )
        self.projectors = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    nn.Linear(student.width, teacher.width, bias=False) for _ in settings.student_levels
                )
                for name, teacher in teachers.items()
            }
        )

        self.separations = nn.ModuleDict()
        if settings.alignment != "mse":
            for name, teacher in teachers.items():
                pairs = (build_separation(settings.alignment, teacher.width) for _ in settings.student_levels)
                self.separations[name] = nn.ModuleList(pairs)

    def forward(self, pixels: Tensor, index: Tensor) -> dict[str, Tensor]:
        """Scalars by name: "reconstruction_student", and for each teacher "reconstruction_", "alignment_" and "r2_".

        Args:
            pixels: (B, 3, S, S), 0..255, float.
            index: int64 (B, N_v), the visible tokens of each image, see :class:`Visible`.
        """
        visible = self._visible(index)
        # The target of the reconstruction; student and teachers normalise their own input.
        image = target_of(pixels, self.settings.target)
        patch = self.settings.student.patch
        levels, last = self._student_features(pixels, visible)
        losses = {
            "reconstruction_student": reconstruction_loss(self.student_head(last, visible), image, visible, patch)
        }
        for name, teacher in self.teachers.items():
            # The same visible tokens as the student's, or the features would be of other places.
            seen = teacher(pixels, visible)
            guess = self.teacher_heads[name](seen.last, visible)
            losses[f"reconstruction_{name}"] = reconstruction_loss(guess, image, visible, patch)
            projected = self._projected(name, levels)
            # Not detached: the adapters follow the student's needs. Detached is the ablation.
            followed = seen.levels if self.settings.bidirectional else [level.detach() for level in seen.levels]
            losses[f"alignment_{name}"] = self._alignment(name, projected, followed, visible)
            losses[f"r2_{name}"] = explained_variance(projected, followed)
        return losses

    @torch.no_grad()
    def reconstructed(self, pixels: Tensor, index: Tensor) -> Reconstructed:
        """Reconstructions of the hidden patches by student and teachers, for pictures."""
        visible = self._visible(index)
        _, last = self._student_features(pixels, visible)
        guesses = {"student": self.student_head(last, visible)}
        for name, teacher in self.teachers.items():
            guesses[name] = self.teacher_heads[name](teacher(pixels, visible).last, visible)
        patch = self.settings.student.patch
        shown = {name: self._filled(pixels, guess, visible) for name, guess in guesses.items()}
        masked = pixels * torch.nn.functional.interpolate(visible.mask(), scale_factor=float(patch))
        return Reconstructed(pixels, masked, shown)

    def _filled(self, pixels: Tensor, guess: Tensor, visible: Visible) -> Tensor:
        """The image with its hidden patches replaced by the guess."""
        patch, target = self.settings.student.patch, self.settings.target
        patches = patches_of(target_of(pixels, target), patch)
        hidden = visible.hidden_index()[..., None].expand(-1, -1, patches.shape[-1])
        whole = patches.scatter(1, hidden, guess.to(patches.dtype))
        return pixels_of(image_of(whole, patch, visible.rows, visible.columns), target).clamp(0, 255)

    def _alignment(self, teacher: str, projected: list[Tensor], followed: list[Tensor], visible: Visible) -> Tensor:
        if teacher not in self.separations:
            return alignment_loss(projected, followed)
        grid = (visible.compact_rows, visible.compact_columns)
        pairs = zip(cast("nn.ModuleList", self.separations[teacher]), followed, projected, strict=True)
        return torch.stack([compare(theirs, ours, grid) for compare, theirs, ours in pairs]).mean()

    def _projected(self, teacher: str, levels: list[Tensor]) -> list[Tensor]:
        projectors = cast("nn.ModuleList", self.projectors[teacher])
        return [project(level) for project, level in zip(projectors, levels, strict=True)]

    def _visible(self, index: Tensor) -> Visible:
        side = self.settings.crop // self.settings.student.patch
        return visible_from(index, side, side, self.settings.mask.ratio)

    def _student_features(self, pixels: Tensor, visible: Visible) -> tuple[list[Tensor], Tensor]:
        """(B, N_v, D_s) at each of ``student_levels``, and of the last block."""
        features = self.student(target_of(pixels, "normalised"), visible)
        by_block = dict(zip(self.settings.student.out_blocks, features.levels, strict=True))
        rows = {block: level.flatten(2).transpose(1, 2) for block, level in by_block.items()}
        return [rows[block] for block in self.settings.student_levels], rows[self.settings.student.depth]


@dataclass(frozen=True)
class Reconstructed:
    """Images (B, 3, S, S), 0..255: whole, masked, and filled in by each side, by name."""

    whole: Tensor
    masked: Tensor
    filled: dict[str, Tensor]
