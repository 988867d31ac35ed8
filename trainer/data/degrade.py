"""Random degradation: haze, blur, noise, JPEG. Sensors and publishers differ more by these than places do."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses


class DegradeSettings(BaseModel):
    """Largest strength of each degradation; 0 switches one off.

    Attributes:
        share: probability of each degradation, drawn independently.
        haze: largest share of light that is not the ground's.
        blur: largest deviation of a Gaussian, pixels.
        noise: largest deviation of the noise, of 0..255.
        jpeg: lowest and highest quality of a JPEG made of the crop.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(default=0.25, ge=0, le=1)
    haze: float = Field(default=0.5, ge=0, lt=1)
    blur: float = Field(default=1.5, ge=0)
    noise: float = Field(default=8.0, ge=0)
    jpeg: tuple[int, int] | None = (30, 90)

    @model_validator(mode="after")
    def _jpeg_rises(self) -> DegradeSettings:
        if self.jpeg is not None and not 1 <= self.jpeg[0] <= self.jpeg[1] <= 100:
            raise ValueError(f"jpeg {self.jpeg} must be two qualities of 1 to 100, the lower one first")
        return self


def degraded(pixels: Tensor, settings: DegradeSettings, rng: np.random.Generator) -> Tensor:
    """Float pixels (3, H, W) of 0..255 after haze, blur, noise and JPEG, each by chance, in this order."""
    if settings.haze and rng.random() < settings.share:
        # The order of the light's way: the air, the optics, the sensor, the publisher's file.
        pixels = hazed(pixels, float(rng.uniform(0, settings.haze)), rng)
    if settings.blur and rng.random() < settings.share:
        pixels = blurred(pixels, float(rng.uniform(0.3, max(0.3, settings.blur))))
    if settings.noise and rng.random() < settings.share:
        deviation = float(rng.uniform(0, settings.noise))
        noise = rng.standard_normal(pixels.shape, dtype=np.float32)
        pixels = (pixels + deviation * torch.from_numpy(noise)).clamp(0, 255)
    if settings.jpeg is not None and rng.random() < settings.share:
        pixels = recompressed(pixels, int(rng.integers(settings.jpeg[0], settings.jpeg[1] + 1)))
    return pixels


def hazed(pixels: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Light of the air over the ground's: bright, bluish, the same over the crop."""
    air = torch.tensor(rng.uniform((170, 180, 190), (225, 235, 255)), dtype=torch.float32).reshape(3, 1, 1)
    return torch.lerp(pixels, air.expand_as(pixels), share)


def blurred(pixels: Tensor, deviation: float) -> Tensor:
    """Float pixels (3, H, W) after a Gaussian of ``deviation`` pixels, borders reflected."""
    # Beyond 2.5 deviations lies 1.2 % of a Gaussian, and a cut one is divided by its own sum below.
    reach = max(1, round(2.5 * deviation))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / deviation) ** 2)
    weights = (weights / weights.sum()).reshape(1, 1, 1, -1)
    bands = F.pad(pixels[:, None], (reach, reach, reach, reach), mode="reflect")
    return F.conv2d(F.conv2d(bands, weights), weights.transpose(2, 3))[:, 0]


def recompressed(pixels: Tensor, quality: int) -> Tensor:
    """Float pixels (3, H, W) of 0..255 after JPEG of ``quality``."""
    file = io.BytesIO()
    image = np.ascontiguousarray(pixels.clamp(0, 255).byte().permute(1, 2, 0).numpy())
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    with Image.open(file) as again:
        return torch.from_numpy(np.array(again)).permute(2, 0, 1).float()
