"""What a teacher is: a frozen backbone, trainable adapters, features of the visible tokens at a few depths.

Two kinds are here, SAM (trainer/models/teachers/sam.py) and DINOv2 (trainer/models/teachers/dinov2.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from trainer.errors import SettingsRefused
from trainer.models.masking import Visible, all_visible
from trainer.models.mmoa import MMoA
from trainer.models.teachers.settings import TeacherSettings


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
        # Frozen before the adapters are made, so that these alone remain to learn.
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
        # torch's train() has just reached the backbone as well; its dropout must stay off.
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
