"""DINOv2 as a teacher, on the grid of visible tokens.

The layers are transformers' (Dinov2Model), called part by part. Source: Oquab et al., "DINOv2: Learning Robust Visual
Features without Supervision", TMLR 2024.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses
from transformers import Dinov2Config, Dinov2Model
from transformers.models.dinov2.modeling_dinov2 import Dinov2Layer

from trainer.models.masking import Visible
from trainer.models.mmoa import MMoA
from trainer.models.teachers.pretrained import pretrained
from trainer.models.teachers.settings import DINOV2_SHAPES, Dinov2Shape, TeacherSettings
from trainer.models.teachers.teacher import Teacher, TeacherFeatures

MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
DEVIATION = (0.229 * 255, 0.224 * 255, 0.225 * 255)
"""ImageNet's, for pixels of 0..255. Source: facebook/dinov2, ``preprocessor_config.json``."""


class Dinov2Teacher(Teacher):
    """DINOv2 with an MMoA in every block.

    A token must stand for the same ground as the student's, so every patch of ``patch`` pixels is resized to the
    backbone's own (16 to 14). Each patch by itself: a filter over its border would carry hidden pixels into a seen
    token. The class token takes part in attention and is left out of the features; it lies nowhere on the grid, so it
    gets the frozen stream alone. The frozen stream is the perceptron behind its layer scale; the adapters' streams are
    not scaled. Features are the blocks' outputs, before DINOv2's last norm. Positions are interpolated (bicubic) to the
    whole grid by transformers' own method, and added before tokens are hidden.
    """

    name = "dinov2"
    mean: Tensor
    deviation: Tensor

    def __init__(self, model: Dinov2Model, settings: TeacherSettings) -> None:
        config = model.config
        super().__init__(model, settings, width=config.hidden_size, depth=config.num_hidden_layers)
        self.own_patch = cast(int, config.patch_size)
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).reshape(1, 3, 1, 1), persistent=False)

    @property
    def model(self) -> Dinov2Model:
        """The backbone, by its type."""
        return cast(Dinov2Model, self.backbone)

    def forward(self, pixels: Tensor, visible: Visible | None) -> TeacherFeatures:
        """See :meth:`Teacher.forward`."""
        seen = self.seen_of(pixels, visible)
        tokens = self._embedded((pixels - self.mean) / self.deviation, seen)
        levels = []
        for number, (block, mmoa) in enumerate(zip(self.model.encoder.layer, self.mmoa, strict=True), start=1):
            layer = cast(Dinov2Layer, block)
            mixed = layer.attention(layer.norm1(tokens))
            # Releases of transformers differ in whether attention weights come with it.
            tokens = tokens + layer.layer_scale1(mixed[0] if isinstance(mixed, tuple) else mixed)
            tokens = tokens + _streams(layer, cast(MMoA, mmoa), layer.norm2(tokens), seen)
            if number in self.levels:
                levels.append(tokens[:, 1:])
        return TeacherFeatures(levels=levels, last=tokens[:, 1:])

    def _embedded(self, image: Tensor, seen: Visible) -> Tensor:
        """Class token and seen tokens with their positions, (B, 1 + N_v, D)."""
        embeddings = self.model.embeddings
        # All patches are embedded and the hidden ones dropped: a patch's embedding sees no other patch.
        tokens = embeddings.patch_embeddings(resized_patches(image, self.patch, self.own_patch))
        first = embeddings.cls_token.expand(len(tokens), -1, -1)
        # Of the whole grid, so that a visible token keeps its place; the class token has one of its own.
        positions = embeddings.interpolate_pos_encoding(
            torch.cat([first, tokens], dim=1), seen.rows * self.own_patch, seen.columns * self.own_patch
        )
        return torch.cat([first + positions[:, :1], seen.gather(tokens + positions[:, 1:])], dim=1)


def resized_patches(image: Tensor, given: int, wanted: int) -> Tensor:
    """Every patch of ``given`` pixels a side resized to ``wanted``, nothing of its neighbours mixed in (bilinear).

    (B, 3, rows * given, columns * given) to (B, 3, rows * wanted, columns * wanted).
    """
    if given == wanted:
        return image
    batch, bands, height, width = image.shape
    rows, columns = height // given, width // given
    patches = image.reshape(batch, bands, rows, given, columns, given).permute(0, 2, 4, 1, 3, 5)
    # Each patch is an image of the batch here, so that no filter reaches over its border.
    patches = F.interpolate(
        patches.reshape(-1, bands, given, given), size=(wanted, wanted), mode="bilinear", antialias=given > wanted
    )
    patches = patches.reshape(batch, rows, columns, bands, wanted, wanted).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, bands, rows * wanted, columns * wanted)


def dinov2_teacher(settings: TeacherSettings) -> Dinov2Teacher:
    """The DINOv2 of ``settings``; see :func:`trainer.models.teachers.build.build_teacher`."""
    if settings.weights is not None:
        return Dinov2Teacher(pretrained(settings.weights, Dinov2Model), settings)
    shape = DINOV2_SHAPES[settings.shape] if isinstance(settings.shape, str) else settings.shape
    if not isinstance(shape, Dinov2Shape):
        raise TypeError(f"settings let {shape!r} through as a shape of DINOv2")
    config = Dinov2Config(
        hidden_size=shape.width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        image_size=shape.image,
        patch_size=shape.patch,
        mlp_ratio=shape.mlp_ratio,
        use_swiglu_ffn=shape.swiglu,
    )
    return Dinov2Teacher(Dinov2Model(config), settings)


def _streams(layer: Dinov2Layer, mmoa: MMoA, normed: Tensor, seen: Visible) -> Tensor:
    """What the perceptron's half of a block adds: the frozen stream for the class token, all streams for the others."""
    frozen = layer.layer_scale2(layer.mlp(normed))
    grid = (len(normed), seen.compact_rows, seen.compact_columns, normed.shape[-1])
    mixed = mmoa(normed[:, 1:].reshape(grid), frozen[:, 1:].reshape(grid))
    return torch.cat([frozen[:, :1], mixed.flatten(1, 2)], dim=1)
