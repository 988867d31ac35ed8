"""SAM's image encoder as a teacher, on the grid of visible tokens.

The layers are transformers' (SamVisionEncoder), called part by part, so that adapters can stand beside each perceptron.
With every token seen and the gate pinned to the frozen stream each block gives what transformers gives.

Source: Kirillov et al., "Segment Anything", ICCV 2023.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses
from transformers.models.sam.modeling_sam import SamVisionEncoder, SamVisionLayer

from trainer.errors import SettingsRefused
from trainer.models.masking import Visible
from trainer.models.teachers.sam_weights import encoder_from, random_encoder
from trainer.models.teachers.settings import SAM_SHAPES, SamShape, TeacherSettings
from trainer.models.teachers.teacher import Teacher, TeacherFeatures

MEAN = (123.675, 116.28, 103.53)
DEVIATION = (58.395, 57.12, 57.375)
"""SAM's normalisation of pixels of 0..255. Source: segment-anything, ``build_sam.py``."""


class SamTeacher(Teacher):
    """SAM with an MMoA in every block.

    The seen tokens lie on the compact grid and the blocks know no other. Windows are cut from it, padded where they do
    not fit, as SAM pads. The relative positions of a global block, 2 S - 1 entries for a grid of side S, are
    interpolated to the compact grid, as transformers' ``get_rel_pos`` does for any other size. Absolute positions are
    added before tokens are hidden, so that each keeps its own; where the image is of another size than the one trained
    at, their table is interpolated (bicubic).
    """

    name = "sam"
    mean: Tensor
    deviation: Tensor

    def __init__(self, encoder: SamVisionEncoder, settings: TeacherSettings) -> None:
        config = encoder.config
        if config.patch_size != settings.patch:
            raise SettingsRefused(
                "teacher.patch", f"{settings.patch} given, and this SAM has patches of {config.patch_size}"
            )
        super().__init__(encoder, settings, width=config.hidden_size, depth=config.num_hidden_layers)
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).reshape(1, 3, 1, 1), persistent=False)

    @property
    def encoder(self) -> SamVisionEncoder:
        """The backbone, by its type."""
        return cast(SamVisionEncoder, self.backbone)

    def forward(self, pixels: Tensor, visible: Visible | None) -> TeacherFeatures:
        """See :meth:`Teacher.forward`."""
        seen = self.seen_of(pixels, visible)
        tokens = self._embedded((pixels - self.mean) / self.deviation)
        tokens = seen.gather(tokens.flatten(1, 2))
        tokens = tokens.reshape(len(tokens), seen.compact_rows, seen.compact_columns, self.width)
        levels = []
        for number, (block, mmoa) in enumerate(zip(self.encoder.layers, self.mmoa, strict=True), start=1):
            layer = cast(SamVisionLayer, block)
            tokens = tokens + _attention(layer, tokens)
            normed = layer.layer_norm2(tokens)
            # The residual comes from X', not from X_n as in the article's listing, which would lose it.
            tokens = tokens + mmoa(normed, layer.mlp(normed))
            if number in self.levels:
                levels.append(tokens.flatten(1, 2))
        return TeacherFeatures(levels=levels, last=tokens.flatten(1, 2))

    def _embedded(self, image: Tensor) -> Tensor:
        """Patches and their positions, (B, rows, columns, D)."""
        tokens = self.encoder.patch_embed.projection(image).permute(0, 2, 3, 1)
        if self.encoder.pos_embed is None:
            return tokens  # type: ignore[no-any-return]
        positions: Tensor = self.encoder.pos_embed
        if positions.shape[1:3] != tokens.shape[1:3]:
            size = (tokens.shape[1], tokens.shape[2])
            table = F.interpolate(positions.permute(0, 3, 1, 2), size=size, mode="bicubic", align_corners=False)
            positions = table.permute(0, 2, 3, 1)
        return tokens + positions  # type: ignore[no-any-return]


def _attention(layer: SamVisionLayer, tokens: Tensor) -> Tensor:
    """MHSA(LN1(X)) of one block, windowed or global: (B, h, w, D) to the same shape."""
    normed = layer.layer_norm1(tokens)
    if layer.window_size == 0:
        return layer.attn(hidden_states=normed)[0]  # type: ignore[no-any-return]
    rows, columns = normed.shape[1:3]
    windows, padded = layer.window_partition(normed, layer.window_size)
    mixed = layer.attn(hidden_states=windows)[0]
    return layer.window_unpartition(mixed, layer.window_size, padded, (rows, columns))


def sam_teacher(settings: TeacherSettings) -> SamTeacher:
    """The SAM of ``settings``; see :func:`trainer.models.teachers.build.build_teacher`."""
    if settings.weights is not None:
        return SamTeacher(encoder_from(settings.weights), settings)
    shape = SAM_SHAPES[settings.shape] if isinstance(settings.shape, str) else settings.shape
    if not isinstance(shape, SamShape):
        raise TypeError(f"settings let {shape!r} through as a shape of SAM")
    return SamTeacher(random_encoder(shape), settings)
