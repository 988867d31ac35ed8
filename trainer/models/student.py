"""The student: a plain ViT, or a ViT on a convolutional stem, with window attention where it saves time.

Tokens are kept window-major inside the network: one permutation on the way in and one on the way out, so that a
windowed block is a reshape. With ``window=None`` the order is row-major and every block is global.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from trainer.models.features import StudentFeatures
from trainer.models.lite_stem import LiteName, LiteStem, lite_detail
from trainer.models.masking import Visible
from trainer.models.normalisation import DEVIATION, MEAN
from trainer.models.stem import ConvStem, LinearStem
from trainer.models.tokens import PATCH, grid_from_tokens, pool_tokens, static_sizes, tokens_from_grid


class StudentSettings(BaseModel):
    """What decides the shape of the student. Defaults are the shipped small model; see ``PAPER_STUDENT``.

    ``window`` is a side in tokens; ``global_blocks`` and ``out_blocks`` are 1-based. ``stem_widths`` are the channels
    at strides 2, 4 and 8 (stride 16 is ``width``), ``stem_blocks`` the residual blocks after the strides 4 and 8; both
    belong to the ``conv`` stem. A ``lite`` stem is EfficientNet-Lite, which brings its own widths.
    ``patch`` is the pixels a side of a token; the convolutional stem has 16.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(default=192, ge=1)
    depth: int = Field(default=12, ge=1)
    heads: int = Field(default=3, ge=1)
    mlp_ratio: float = 4.0
    patch: int = Field(default=PATCH, ge=1)
    stem: Literal["linear", "conv"] | LiteName = "conv"
    stem_widths: tuple[int, int, int] = (32, 64, 128)
    stem_blocks: tuple[int, int] = (0, 0)
    window: int | None = 16
    global_blocks: tuple[int, ...] = (3, 6, 9, 12)
    kv_pool: int = Field(default=2, ge=1)
    out_blocks: tuple[int, ...] = (3, 6, 9, 12)
    positions: int = Field(default=64, description="side of the table of learned positions, in tokens")

    @model_validator(mode="after")
    def _consistent(self) -> StudentSettings:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        beyond = [block for block in (*self.global_blocks, *self.out_blocks) if not 1 <= block <= self.depth]
        if beyond:
            raise ValueError(f"blocks {beyond} do not exist: depth is {self.depth} and blocks count from 1")
        if self.stem != "linear" and self.patch != PATCH:
            raise ValueError(f"a convolutional stem makes tokens of {PATCH} pixels, not {self.patch}; use stem: linear")
        # Cells of the pooling must not lie across two windows: tokens stand window after window.
        if self.window is not None and self.window % self.kv_pool:
            raise ValueError(f"window {self.window} is not a multiple of kv_pool {self.kv_pool}")
        if self.window is None and self.kv_pool != 1:
            raise ValueError("kv_pool needs windows: pooling happens inside them; set kv_pool to 1")
        return self

    @property
    def grain(self) -> int:
        """Pixels that an image's sides must be multiples of."""
        return self.patch * (self.window or 1)

    @property
    def detail_channels(self) -> tuple[int, int] | None:
        """Channels of the detail at strides 8 and 4; a linear stem has none."""
        if self.stem == "linear":
            return None
        return self.stem_widths[:0:-1] if self.stem == "conv" else lite_detail(self.stem)


PAPER_STUDENT = StudentSettings(
    width=384, depth=12, heads=6, stem="linear", window=None, global_blocks=tuple(range(1, 13)), kv_pool=1
)
"""The student of the paper: ViT-S/16, linear patch embedding, attention over all tokens in every block."""


class Attention(nn.Module):
    """Multi-head attention over all tokens, or inside each window.

    Keys and values of a global block may be averaged over ``kv_pool`` x ``kv_pool`` cells. The mean is taken before
    their projection: the same result, since it is linear, for a quarter of the multiplications.
    """

    def __init__(self, settings: StudentSettings, *, is_global: bool) -> None:
        super().__init__()
        self.heads = settings.heads
        self.window = settings.window
        self.is_global = is_global
        self.pool = settings.kv_pool if is_global else 1
        self.explicit = False
        self.q = nn.Linear(settings.width, settings.width)
        self.kv = nn.Linear(settings.width, 2 * settings.width)
        self.out = nn.Linear(settings.width, settings.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        count, width = static_sizes(tokens)
        source = tokens if self.pool == 1 or self.window is None else pool_tokens(tokens, self.window, self.pool)
        group = count if self.is_global or self.window is None else self.window**2
        q = self._heads_first(self.q(tokens), group)
        key, value = self.kv(source).split(width, dim=-1)
        key_group = group // self.pool**2
        mixed = self._attend(q, self._heads_first(key, key_group), self._heads_first(value, key_group))
        return self.out(mixed.transpose(1, 2).reshape(-1, count, width))  # type: ignore[no-any-return]

    def _heads_first(self, tokens: Tensor, group: int) -> Tensor:
        _, width = static_sizes(tokens)
        # Tokens of a window stand together, so a reshape puts the windows into the batch.
        return tokens.reshape(-1, group, self.heads, width // self.heads).transpose(1, 2)

    def _attend(self, q: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # Training takes torch's fused attention, which never writes the scores; export writes them out.
        if not self.explicit:
            return F.scaled_dot_product_attention(q, key, value)
        # The scale goes on q: with it after the product, FP16 engines overflow in it.
        scale: float = static_sizes(q)[-1] ** -0.5
        scores = (q * scale) @ key.transpose(-2, -1)
        return scores.softmax(dim=-1) @ value


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a two-layer perceptron with GELU."""

    def __init__(self, settings: StudentSettings, *, is_global: bool) -> None:
        super().__init__()
        hidden = int(settings.width * settings.mlp_ratio)
        self.norm1 = nn.LayerNorm(settings.width)
        self.attention = Attention(settings, is_global=is_global)
        self.norm2 = nn.LayerNorm(settings.width)
        self.mlp = nn.Sequential(nn.Linear(settings.width, hidden), nn.GELU(), nn.Linear(hidden, settings.width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))  # type: ignore[no-any-return]


class Student(nn.Module):
    """The ViT that flies. Input: normalised (B, 3, H, W), sides multiples of patch x window.

    ``learning_rate_share``: see :class:`trainer.models.lite_stem.LiteStem`.
    """

    learning_rate_share = 1.0

    def __init__(self, settings: StudentSettings) -> None:
        super().__init__()
        self.settings = settings
        self.stem = _stem(settings)
        self.positions = nn.Parameter(sincos_positions(settings.width, settings.positions))
        self.blocks = nn.ModuleList(
            Block(settings, is_global=settings.window is None or index in settings.global_blocks)
            for index in range(1, settings.depth + 1)
        )
        self.norm = nn.LayerNorm(settings.width)
        # After all parts are made, the stem's too. Convolutions keep torch's own start.
        self.apply(_init_linear)

    def forward(self, image: Tensor, visible: Visible | None = None) -> StudentFeatures:
        """Features of the image; with ``visible`` only those tokens go through the blocks, on their compact grid.

        Nothing of a hidden patch gets in, through a stem whose convolutions overlap patches neither. Windows lie on
        the compact grid, as the teacher's do.

        Raises:
            ValueError: the grid of tokens is not made of whole windows.
        """
        settings = self.settings
        grid, detail = self.stem(image, None if visible is None else visible.mask())
        _, rows, columns = static_sizes(grid)
        # Before tokens are hidden: a visible token keeps the position that it has in the whole image.
        grid = grid + self.positions_for(rows, columns)
        if visible is not None:
            rows, columns = visible.compact_rows, visible.compact_columns
            grid = grid_from_tokens(visible.gather(tokens_from_grid(grid, None)), None, rows, columns)
        tokens = tokens_from_grid(grid, settings.window)
        levels = []
        for index, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            if index in settings.out_blocks:
                # Only the last block's output is normalised, as in ViT; earlier
                # levels are taken as they run on to the next block.
                last = self.norm(tokens) if index == settings.depth else tokens
                levels.append(grid_from_tokens(last, settings.window, rows, columns))
        return StudentFeatures(levels=levels, detail=detail)

    @torch.no_grad()
    def settle_norms(self, image: Tensor) -> None:
        """Set the stem's running statistics from one normalised batch seen whole: while masked they stand still."""
        norms = [module for module in self.stem.modules() if isinstance(module, nn.BatchNorm2d)]
        momentum = [norm.momentum for norm in norms]
        for norm in norms:
            # With momentum 1 the running statistics become those of this one batch.
            norm.momentum = 1.0
        training = self.training
        self.train()
        self.stem(image)
        self.train(training)
        for norm, original in zip(norms, momentum, strict=True):
            norm.momentum = original

    def positions_for(self, rows: int, columns: int) -> Tensor:
        """Positions (1, width, rows, columns): the table's corner where it suffices, interpolated beyond it.

        A corner and not a shrunk table: the distance between two neighbours means the same at every crop size. While
        training, the corner is drawn at random so that the whole table is trained by small crops.
        """
        side = self.settings.positions
        if rows > side or columns > side:
            return F.interpolate(self.positions, size=(rows, columns), mode="bicubic", align_corners=False)
        top = left = 0
        if self.training:
            # From torch's generator, which the loop seeds by the step: a resumed run draws the same corner.
            top = int(torch.randint(side - rows + 1, ()))
            left = int(torch.randint(side - columns + 1, ()))
        return self.positions[:, :, top : top + rows, left : left + columns]

    @torch.no_grad()
    def fit_positions(self, rows: int, columns: int) -> None:
        """Make a smaller table as large as a grid of ``rows`` x ``columns`` tokens.

        What infers on one size then interpolates nothing at run time.
        """
        side = max(rows, columns)
        if side > self.settings.positions:
            self.positions = nn.Parameter(self.positions_for(side, side))
            self.settings = self.settings.model_copy(update={"positions": side})


def _stem(settings: StudentSettings) -> ConvStem | LinearStem | LiteStem:
    if settings.stem == "linear":
        return LinearStem(settings.width, settings.patch)
    if settings.stem == "conv":
        return ConvStem(settings.width, settings.stem_widths, settings.stem_blocks)
    return LiteStem(settings.stem, settings.width, MEAN, DEVIATION)


def sincos_positions(width: int, side: int) -> Tensor:
    """Sine-cosine table (1, width, side, side) the learned positions start from: half for rows, half for columns.

    Source: Chen, Xie, He, "An Empirical Study of Training Self-Supervised Vision Transformers", 2021 (MoCo v3).
    """
    quarter = width // 4
    frequency = 100.0 ** -(torch.arange(quarter) / quarter)
    phase = torch.arange(side)[:, None] * frequency
    wave = torch.cat([phase.sin(), phase.cos()], dim=1)
    rows = wave[:, None, :].expand(side, side, -1)
    columns = wave[None, :, :].expand(side, side, -1)
    # Widths that four does not divide get zeros for the rest.
    table = torch.cat([rows, columns, torch.zeros(side, side, width - 4 * quarter)], dim=-1)
    return 0.5 * table.permute(2, 0, 1)[None].contiguous()


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
