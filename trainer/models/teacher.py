"""What a teacher is: a frozen backbone, trainable adapters, features of the seen tokens at a few depths.

Two kinds are here, SAM (trainer/models/sam.py) and DINOv2 (trainer/models/dinov2.py); a third one is a subclass of
:class:`Teacher` and an entry in :func:`build_teacher`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from trainer.errors import SettingsRefused
from trainer.models.masking import Visible, all_visible
from trainer.models.mmoa import MMoA, MMoASettings


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
        right = SamShape if self.kind == "sam" else Dinov2Shape
        if not isinstance(self.shape, (right, str, type(None))):
            raise ValueError(f"the shape given is not one of {self.kind}")  # noqa: TRY004 -- pydantic wants ValueError
        if list(self.levels) != sorted(set(self.levels)) or self.levels[0] < 1:
            raise ValueError(f"levels must rise from 1, not {list(self.levels)}")
        return self


@dataclass(frozen=True)
class TeacherFeatures:
    """``levels``: each (B, N_v, D_t), after the blocks asked for; ``last``: (B, N_v, D_t), after the last block."""

    levels: list[Tensor]
    last: Tensor


class Teacher(nn.Module, ABC):
    """A frozen ``backbone``, one :class:`MMoA` a block, and the normalisation that is the backbone's own.

    Frozen means: no gradient is kept for the backbone's weights, and it is in eval mode even inside ``train()``, so
    neither an optimiser nor dropout touches it. Gradients do pass through it to the adapters of earlier blocks.

    Attributes:
        name: what logs and tables call it.
        width: D_t. patch: pixels of the image a token stands for. levels: 1-based blocks whose features are given.
    """

    name: str
    backbone: nn.Module
    mmoa: nn.ModuleList

    def __init__(self, backbone: nn.Module, settings: TeacherSettings, *, width: int, depth: int) -> None:
        super().__init__()
        if settings.levels[-1] > depth:
            raise SettingsRefused(
                "teacher.levels", f"block {settings.levels[-1]} does not exist: this teacher has {depth} blocks"
            )
        self.width, self.patch, self.levels = width, settings.patch, settings.levels
        self.backbone = backbone.requires_grad_(False).eval()
        self.mmoa = nn.ModuleList(MMoA(width, settings.mmoa) for _ in range(depth))

    @abstractmethod
    def forward(self, pixels: Tensor, visible: Visible | None) -> TeacherFeatures:
        """Features of the seen tokens, in compact order.

        Args:
            pixels: float (B, 3, H, W) of 0..255, sides multiples of ``patch``.
            visible: on the grid of H / ``patch`` by W / ``patch`` tokens; None: all are seen.
        """

    def train(self, mode: bool = True) -> Teacher:
        """Adapters follow ``mode``; the backbone stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the adapters: what an optimiser gets and a checkpoint keeps."""
        return ((name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad)

    def seen_of(self, pixels: Tensor, visible: Visible | None) -> Visible:
        """``visible``, checked against the image; all tokens where it is None.

        Raises:
            ValueError: the image is not made of whole patches, or ``visible`` is of another grid.
        """
        batch, _, height, width = pixels.shape
        rows, columns = height // self.patch, width // self.patch
        if height % self.patch or width % self.patch:
            raise ValueError(f"{height}x{width} pixels are not made of patches of {self.patch}")
        if visible is None:
            return all_visible(batch, rows, columns).to(pixels.device)
        if (visible.rows, visible.columns) != (rows, columns):
            raise ValueError(f"the mask is of {visible.rows}x{visible.columns} tokens, the image of {rows}x{columns}")
        return visible


def build_teacher(settings: TeacherSettings) -> Teacher:
    """The teacher of ``settings``, its adapters (and backbone, without weights) drawn from torch's generator.

    Raises:
        CheckpointRefused: the weights are missing, damaged or of another architecture.
        SettingsRefused: levels or patch do not suit the backbone.
    """
    # transformers takes seconds to import: only who builds a teacher pays.
    if settings.kind == "sam":
        from trainer.models.sam import sam_teacher

        return sam_teacher(settings)
    from trainer.models.dinov2 import dinov2_teacher

    return dinov2_teacher(settings)
