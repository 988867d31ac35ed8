"""Settings of a teacher, and the published shapes of SAM's and DINOv2's encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer.models.mmoa import MMoASettings


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SamShape(_Settings):
    """Shape of a SAM image encoder. ``global_blocks`` are 1-based; ``image`` is the side trained at, in pixels."""

    width: int
    depth: int
    heads: int
    window: int
    global_blocks: tuple[int, ...]
    image: int = 1024
    patch: int = 16
    mlp_ratio: float = 4.0

    @model_validator(mode="after")
    def _consistent(self) -> SamShape:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.image % self.patch:
            raise ValueError(f"image {self.image} is not a multiple of patch {self.patch}")
        beyond = [block for block in self.global_blocks if not 1 <= block <= self.depth]
        if beyond:
            raise ValueError(f"global_blocks {beyond} do not exist: depth is {self.depth} and blocks count from 1")
        return self


class Dinov2Shape(_Settings):
    """Shape of a DINOv2 encoder; ``image`` is the side its table of positions is for, in pixels."""

    width: int
    depth: int
    heads: int
    image: int = 518
    patch: int = 14
    mlp_ratio: int = 4
    swiglu: bool = False


SAM_SHAPES = {
    "vit-b": SamShape(width=768, depth=12, heads=12, window=14, global_blocks=(3, 6, 9, 12)),
    "vit-l": SamShape(width=1024, depth=24, heads=16, window=14, global_blocks=(6, 12, 18, 24)),
    "vit-h": SamShape(width=1280, depth=32, heads=16, window=14, global_blocks=(8, 16, 24, 32)),
}
"""The published encoders. Source: Kirillov et al., "Segment Anything", ICCV 2023, and its ``build_sam.py``."""

DINOV2_SHAPES = {
    "vit-s": Dinov2Shape(width=384, depth=12, heads=6),
    "vit-b": Dinov2Shape(width=768, depth=12, heads=12),
    "vit-l": Dinov2Shape(width=1024, depth=24, heads=16),
    "vit-g": Dinov2Shape(width=1536, depth=40, heads=24, swiglu=True),
}
"""The published encoders. Source: Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", 2023."""


class TeacherSettings(_Settings):
    """One teacher.

    Attributes:
        kind: whose architecture.
        weights: a folder saved by transformers, or, for SAM, Meta's .pth file; None: random weights of ``shape``.
        shape: name of a published shape, or one written out; only without ``weights``, which say their own.
        levels: 1-based blocks whose features are given.
        patch: pixels of the image that one token stands for. SAM's own patch must be this; DINOv2 resizes to it.
        mmoa: the adapters of every block.
    """

    kind: Literal["sam", "dinov2"] = "sam"
    weights: Path | None = None
    shape: str | SamShape | Dinov2Shape | None = None
    levels: tuple[int, ...] = Field(default=(6, 12, 18), min_length=1)
    patch: int = Field(default=16, ge=1)
    mmoa: MMoASettings = MMoASettings()

    @model_validator(mode="after")
    def _consistent(self) -> TeacherSettings:
        if (self.weights is None) == (self.shape is None):
            raise ValueError("give weights, or a shape for random ones, and not both")
        known: dict[str, SamShape] | dict[str, Dinov2Shape] = SAM_SHAPES if self.kind == "sam" else DINOV2_SHAPES
        if isinstance(self.shape, str) and self.shape not in known:
            raise ValueError(f"shape {self.shape!r} of {self.kind} is not one of {', '.join(known)}")
        # The patch is not compared here: with weights it is known only
        # when they are read (SamTeacher refuses another one).
        right = SamShape if self.kind == "sam" else Dinov2Shape
        if not isinstance(self.shape, (right, str, type(None))):
            raise ValueError(f"the shape given is not one of {self.kind}")  # noqa: TRY004 -- pydantic wants ValueError
        if list(self.levels) != sorted(set(self.levels)) or self.levels[0] < 1:
            raise ValueError(f"levels must rise from 1, not {list(self.levels)}")
        return self
