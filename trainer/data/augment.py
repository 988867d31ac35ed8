"""Random augmentation that keeps labels valid: scale, flips, quarter turns, rotation, colour, degradation.

All random numbers come from the caller's generator, so that a sample is reproducible in any process.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from trainer.config import AugmentSettings, ColourSettings, JitterSettings
from trainer.data.degrade import degraded

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue. Source: ITU-R BT.601."""


@dataclass(frozen=True)
class Crop:
    """A square window: ``pixels`` uint8 (3, E, E), ``labels`` uint8 (E, E). Views into a scene: do not write."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def augmented(
    pixels: Tensor, labels: Tensor, settings: AugmentSettings, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """All changes except the scale, which is applied when the crop is drawn.

    Args:
        pixels: (3, S, S) of 0..255, uint8 or float.
        labels: uint8 (S, S).
        settings: which, and how far.
        rng: of this sample.

    Returns:
        Float pixels (3, S, S) of 0..255 and labels uint8 (S, S), 0 where a rotated corner left the image.
    """
    # Turns first, while pixels are bytes; they move whole pixels and need no interpolation.
    if settings.turns:
        pixels, labels = turned(pixels, labels, rng)
    pixels = pixels.float()
    if settings.rotation:
        angle = float(rng.uniform(-settings.rotation, settings.rotation))
        pixels, labels = rotated(pixels, labels, angle)
    if settings.colour is not None:
        pixels = recoloured(pixels, settings.colour, rng)
    if settings.jitter is not None:
        pixels = jittered(pixels, settings.jitter, rng)
    if settings.degrade is not None:
        pixels = degraded(pixels, settings.degrade, rng)
    return pixels, labels


def augmented_image(pixels: Tensor, settings: AugmentSettings, rng: np.random.Generator) -> Tensor:
    """As :func:`augmented`, for images without labels; a rotated corner is filled by reflection."""
    # The same calls of the generator as with labels: an image alone is changed as it would be with its label.
    return augmented(pixels, torch.zeros(pixels.shape[-2:], dtype=torch.uint8), settings, rng)[0]


def resized_crop(crop: Crop, side: int) -> tuple[Tensor, Tensor]:
    """Pixels uint8 (3, side, side), bilinear with antialiasing; labels uint8 (side, side), nearest."""
    pixels = torch.from_numpy(np.ascontiguousarray(crop.pixels))[None]
    labels = torch.from_numpy(np.ascontiguousarray(crop.labels))[None, None]
    if crop.labels.shape != (side, side):
        pixels = F.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        # torch's "nearest" takes the pixel at the corner of each cell, half a pixel off the bilinear pixels above.
        labels = F.interpolate(labels, size=(side, side), mode="nearest-exact")
    return pixels[0], labels[0, 0]


def turned(pixels: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """One of the eight symmetries of the square, the same for both."""
    pixels, labels = turned_alike((pixels, labels), rng)
    return pixels, labels


def turned_alike(grids: Sequence[Tensor], rng: np.random.Generator) -> list[Tensor]:
    """One of the eight symmetries of the square, the same for all grids (..., S, S), whatever their S."""
    turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
    grids = [torch.rot90(grid, turns, (-2, -1)) for grid in grids]
    return [grid.flip(-1) for grid in grids] if mirror else grids


def rotated(pixels: Tensor, labels: Tensor, degrees: float) -> tuple[Tensor, Tensor]:
    """Both turned about the image's centre, counter-clockwise as seen, on the same grid.

    Pixels float (3, H, W) are bilinear, labels uint8 (H, W) nearest. Corners that come from outside: pixels are
    reflected at the outermost pixels' edges, so that no black wedge teaches the network our rotation; labels are 0.
    """
    height, width = labels.shape
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # Where each output pixel comes from, in the units of `grid_sample`: -1..1 over each axis, edge to edge.
    # The sides' ratio keeps the turn a turn where the image is not square.
    back = torch.tensor([[[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]]])
    grid = F.affine_grid(back, [1, 1, height, width], align_corners=False)
    turned_pixels = F.grid_sample(pixels[None], grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    # grid_sample takes floats alone; codes up to 255 are exact in them.
    turned_labels = F.grid_sample(
        labels[None, None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False
    )
    return turned_pixels[0], turned_labels[0, 0].to(labels.dtype)


def recoloured(pixels: Tensor, settings: ColourSettings, rng: np.random.Generator) -> Tensor:
    """Float pixels (3, H, W) of 0..255 under another light, haze or sensor.

    In this order: gamma, gain per band (tint), saturation about the luminance, contrast about the mean, brightness.
    """
    unit = pixels.float() / 255.0
    unit = unit.clamp_min(1e-4) ** float(np.exp(rng.uniform(-settings.gamma, settings.gamma)))
    unit = unit * torch.tensor([_about_one(settings.tint, rng) for _ in range(3)]).reshape(3, 1, 1)
    unit = blended(unit, luminance(unit), _about_one(settings.saturation, rng))
    unit = blended(unit, unit.mean(), _about_one(settings.contrast, rng))
    return (unit * _about_one(settings.brightness, rng)).clamp(0, 1) * 255.0


def jittered(pixels: Tensor, settings: JitterSettings, rng: np.random.Generator) -> Tensor:
    """Float pixels (3, H, W) of 0..255 after the usual colour jitter.

    Brightness, contrast, saturation (each a factor drawn from 1 - width to 1 + width) and hue (a shift drawn from
    -width to width of the whole circle) in random order, clipped after each. Contrast is about the mean luminance.
    Source: Mask-CDKD's recipe, 0.2/0.2/0.2/0.05, in the meaning that the field gives these numbers after Howard, "Some
    improvements on deep convolutional neural network based image classification", 2013.
    """
    unit = pixels.float() / 255.0
    for change in rng.permutation(4):
        if change == 0:
            unit = unit * _about_one(settings.brightness, rng)
        elif change == 1:
            unit = blended(unit, luminance(unit).mean(), _about_one(settings.contrast, rng))
        elif change == 2:
            unit = blended(unit, luminance(unit), _about_one(settings.saturation, rng))
        else:
            unit = hue_shifted(unit, float(rng.uniform(-settings.hue, settings.hue)))
        # After each change, as the usual jitter does: the order of the changes makes a difference.
        unit = unit.clamp(0, 1)
    return unit * 255.0


def luminance(unit: Tensor) -> Tensor:
    """(1, H, W) of (3, H, W)."""
    return torch.einsum("c,chw->hw", torch.tensor(LUMINANCE), unit)[None]


def blended(unit: Tensor, anchor: Tensor, factor: float) -> Tensor:
    """The anchor at factor 0, ``unit`` at 1, beyond it above 1."""
    return torch.lerp(anchor.expand_as(unit), unit, factor)


def hue_shifted(unit: Tensor, shift: float) -> Tensor:
    """(3, H, W) of 0..1 with the hue turned by ``shift`` of the circle; lightest and darkest band keep their values.

    Source: Smith, "Color gamut transform pairs", SIGGRAPH 1978 (HSV), without leaving RGB: a band's value depends on
    how far its own hue is away.
    """
    if shift == 0:
        return unit
    value, chroma = unit.amax(dim=0), unit.amax(dim=0) - unit.amin(dim=0)
    red, green, blue = unit
    safe = chroma.clamp_min(1e-12)  # grey has no hue, and chroma 0 undoes whatever is made of it
    hue = torch.where(
        # Of equal bands the first counts; any choice gives the same colour.
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * shift
    sector = torch.stack([(hue + start) % 6 for start in (5, 3, 1)])  # of red, green and blue: 0..6
    return value - chroma * torch.minimum(sector, 4 - sector).clamp(0, 1)


def _about_one(width: float, rng: np.random.Generator) -> float:
    return float(rng.uniform(1 - width, 1 + width))
