"""The student's first layers: a convolutional stem, or the ViT's own patch embedding."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from trainer.models.tokens import PATCH


class ConvNorm(nn.Module):
    """3x3 convolution, batch norm, GELU. With a mask, hidden positions are zero on the way out.

    While masked, the norm uses its running statistics: batch statistics would carry the share of zeros into every
    visible position.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, grid: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, C, h, w) to (B, C', h/stride, w/stride); ``visible`` is (B, 1, h', w') with True where seen."""
        grid = self.conv(grid)
        if visible is None:
            return F.gelu(self.norm(grid))
        norm = self.norm
        # By hand, since a module in training mode would use the statistics of this batch.
        grid = F.batch_norm(grid, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
        # After the norm, whose shift makes zeros something else.
        return F.gelu(grid) * visible


class Residual(nn.Module):
    """x + ConvNorm(x): one convolution, because at stride 4 each costs 2.4 G multiply-adds a tile."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = ConvNorm(width, width)

    def forward(self, grid: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, C, h, w) to the same shape."""
        return grid + self.body(grid, visible)  # type: ignore[no-any-return]


class ConvStem(nn.Module):
    """Convolutions at strides 2, 4, 8 and 16; the features at 4 and 8 also go to the decoder.

    Masking follows SparK: a hidden position is zero again after every convolution, so no visible token depends on a
    hidden pixel. ``widths`` are the channels at strides 2, 4 and 8, ``blocks`` the residual blocks at 4 and 8,
    ``width`` the channels out. Source: Tian et al., "Designing BERT for Convolutional Networks", ICLR 2023.
    """

    def __init__(self, width: int, widths: tuple[int, int, int], blocks: tuple[int, int]) -> None:
        super().__init__()
        w2, w4, w8 = widths
        self.to2 = ConvNorm(3, w2, stride=2)
        self.to4 = ConvNorm(w2, w4, stride=2)
        self.blocks4 = nn.ModuleList(Residual(w4) for _ in range(blocks[0]))
        self.to8 = ConvNorm(w4, w8, stride=2)
        self.blocks8 = nn.ModuleList(Residual(w8) for _ in range(blocks[1]))
        self.to16 = nn.Conv2d(w8, width, 3, stride=2, padding=1)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> tuple[Tensor, dict[int, Tensor]]:
        """(B, 3, H, W) to (B, width, H/16, W/16) and the detail at strides 4 and 8.

        ``visible`` is (B, 1, H/16, W/16), 1 where a token is seen, or None: everything is.
        """

        def at(stride: int) -> Tensor | None:
            # Nearest: every pixel of a hidden patch is hidden at every stride.
            return None if visible is None else F.interpolate(visible, scale_factor=PATCH // stride, mode="nearest")

        seen = at(1)
        if seen is not None:
            # The convolutions overlap patches, so hidden pixels have to be gone before the first.
            image = image * seen
        grid = self.to2(image, at(2))
        detail4 = self.to4(grid, at(4))
        for block in self.blocks4:
            detail4 = block(detail4, at(4))
        detail8 = self.to8(detail4, at(8))
        for block in self.blocks8:
            detail8 = block(detail8, at(8))
        grid = self.to16(detail8)
        if visible is not None:
            grid = grid * visible
        return grid, {4: detail4, 8: detail8}


class LinearStem(nn.Module):
    """The ViT's own patch embedding: each patch of ``patch`` pixels a side to one token, no detail."""

    def __init__(self, width: int, patch: int = PATCH) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> tuple[Tensor, dict[int, Tensor]]:
        """As :meth:`ConvStem.forward`, without detail."""
        grid = self.embed(image)
        return (grid if visible is None else grid * visible), {}
