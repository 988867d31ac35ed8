"""Random changes that keep the labels true: scale, flips, quarter turns, colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from trainer.config import ColourSettings

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue. Source: ITU-R BT.601."""


@dataclass(frozen=True)
class Crop:
    """A square window: ``pixels`` uint8 (3, E, E), ``labels`` uint8 (E, E). Views into a scene: do not write."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def resized_crop(crop: Crop, side: int) -> tuple[Tensor, Tensor]:
    """Pixels uint8 (3, side, side), bilinear with antialiasing; labels uint8 (side, side), nearest."""
    pixels = torch.from_numpy(np.ascontiguousarray(crop.pixels))[None]
    labels = torch.from_numpy(np.ascontiguousarray(crop.labels))[None, None]
    if crop.labels.shape != (side, side):
        pixels = F.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        labels = F.interpolate(labels, size=(side, side), mode="nearest-exact")
    return pixels[0], labels[0, 0]


def turned(pixels: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """One of the eight symmetries of the square, the same for both."""
    turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
    pixels, labels = torch.rot90(pixels, turns, (-2, -1)), torch.rot90(labels, turns, (-2, -1))
    return (pixels.flip(-1), labels.flip(-1)) if mirror else (pixels, labels)


def recoloured(pixels: Tensor, settings: ColourSettings, rng: np.random.Generator) -> Tensor:
    """Float pixels (3, H, W) of 0..255 under another light, haze or sensor.

    In this order: gamma, gain per band (tint), saturation about the luminance, contrast about the mean, brightness.
    """

    def about_one(width: float) -> float:
        return float(rng.uniform(1 - width, 1 + width))

    unit = pixels.float() / 255.0
    unit = unit.clamp_min(1e-4) ** float(np.exp(rng.uniform(-settings.gamma, settings.gamma)))
    unit = unit * torch.tensor([about_one(settings.tint) for _ in range(3)]).reshape(3, 1, 1)
    grey = (unit * torch.tensor(LUMINANCE).reshape(3, 1, 1)).sum(dim=0, keepdim=True)
    unit = grey + (unit - grey) * about_one(settings.saturation)
    mean = unit.mean()
    unit = mean + (unit - mean) * about_one(settings.contrast)
    return (unit * about_one(settings.brightness)).clamp(0, 1) * 255.0
