from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from trainer.config import AugmentSettings, ColourSettings, JitterSettings
from trainer.data.augment import augmented, augmented_image, hue_shifted, jittered, recoloured, rotated, turned

RECIPE = AugmentSettings(rotation=10, colour=None, jitter=JitterSettings())
STILL = AugmentSettings(turns=False, rotation=0, colour=None, jitter=None)


def image(height: int = 20, width: int = 26, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, height, width)).astype(np.uint8))


def reflected(place: float, length: int) -> float:
    """Mirrored at the outer edges of the outermost pixels, -0.5 and length - 0.5."""
    while not -0.5 <= place <= length - 0.5:
        place = -1 - place if place < -0.5 else 2 * length - 1 - place
    return min(max(place, 0.0), length - 1.0)


def slowly_rotated(
    pixels: NDArray[np.float64], labels: NDArray[np.uint8], degrees: float
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Pixel by pixel: where it comes from, the four pixels around that, or the nearest label."""
    _, height, width = pixels.shape
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    out, codes = np.zeros_like(pixels), np.zeros_like(labels)
    for row in range(height):
        for column in range(width):
            right, down = column - (width - 1) / 2, row - (height - 1) / 2
            x = right * cosine - down * sine + (width - 1) / 2
            y = right * sine + down * cosine + (height - 1) / 2
            if 0 <= round(x) < width and 0 <= round(y) < height:
                codes[row, column] = labels[round(y), round(x)]
            x, y = reflected(x, width), reflected(y, height)
            left, top = min(int(x), width - 2), min(int(y), height - 2)
            for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
                share = (1 - abs(y - top - dy)) * (1 - abs(x - left - dx))
                out[:, row, column] += share * pixels[:, top + dy, left + dx]
    return out, codes


@pytest.mark.parametrize("degrees", [-10.0, 3.7, 10.0, 44.3])
def test_rotation_equals_a_loop_over_pixels(degrees: float) -> None:
    pixels = image()
    labels = torch.from_numpy(np.random.default_rng(1).integers(1, 6, (20, 26)).astype(np.uint8))
    turned_pixels, turned_labels = rotated(pixels.float(), labels, degrees)
    expected_pixels, expected_labels = slowly_rotated(pixels.double().numpy(), labels.numpy(), degrees)
    assert np.abs(turned_pixels.numpy() - expected_pixels).max() < 0.02
    assert turned_labels.dtype == torch.uint8
    assert np.array_equal(turned_labels.numpy(), expected_labels)
    assert (turned_labels == 0).any()  # corners from outside are not labelled


def test_rotation_is_counter_clockwise_as_seen() -> None:
    pixels = torch.zeros(3, 41, 41)
    pixels[:, 20, 38] = 255  # to the right of the centre
    turned_pixels, _ = rotated(pixels, torch.ones(41, 41, dtype=torch.uint8), 45)
    row, column = divmod(int(turned_pixels[0].argmax()), 41)
    assert row < 10  # now up
    assert column > 30


@pytest.mark.parametrize("shift", [-0.5, -0.05, 0.03, 0.31])
def test_hue_equals_colorsys(shift: float) -> None:
    unit = image(12, 12).double() / 255
    unit[:, 0, :4] = torch.tensor([0.0, 1.0, 0.5, 0.2], dtype=torch.float64)  # greys
    unit[:, 1, 0] = torch.tensor([0.7, 0.7, 0.1])  # two bands alike
    shifted = hue_shifted(unit, shift)
    for row in range(12):
        for column in range(12):
            hue, saturation, value = colorsys.rgb_to_hsv(*unit[:, row, column].tolist())
            expected = colorsys.hsv_to_rgb((hue + shift) % 1.0, saturation, value)
            assert shifted[:, row, column].tolist() == pytest.approx(expected, abs=1e-6)


def test_jitter_equals_its_steps_one_by_one() -> None:
    settings = JitterSettings(brightness=0.4, contrast=0.5, saturation=0.6, hue=0.1)
    for seed in range(12):  # several orders
        pixels = image(6, 7, seed)
        rng = np.random.default_rng(seed)
        rgb = pixels.double().numpy() / 255
        for change in rng.permutation(4):
            grey = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
            if change == 0:
                rgb = rgb * rng.uniform(0.6, 1.4)
            elif change == 1:
                factor = rng.uniform(0.5, 1.5)
                rgb = factor * rgb + (1 - factor) * grey.mean()
            elif change == 2:
                factor = rng.uniform(0.4, 1.6)
                rgb = factor * rgb + (1 - factor) * grey
            else:
                shift = rng.uniform(-0.1, 0.1)
                for row, column in np.ndindex(6, 7):
                    hue, saturation, value = colorsys.rgb_to_hsv(*rgb[:, row, column])
                    rgb[:, row, column] = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
            rgb = rgb.clip(0, 1)
        found = jittered(pixels, settings, np.random.default_rng(seed)).numpy()
        assert np.abs(found - 255 * rgb).max() < 0.01


def test_jitter_stays_within_its_widths() -> None:
    grey = torch.full((3, 4, 4), 100.0)
    only = JitterSettings(brightness=0.2, contrast=0, saturation=0, hue=0)
    factors = [float(jittered(grey, only, np.random.default_rng(seed))[0, 0, 0]) / 100 for seed in range(200)]
    assert 0.8 <= min(factors) < 0.83
    assert 1.17 < max(factors) <= 1.2


def test_the_recipe_moves_pixels_and_labels_alike() -> None:
    labels = torch.ones(64, 64, dtype=torch.uint8)
    labels[8:40, 30:60] = 2
    pixels = torch.where(labels == 2, 200, 50).to(torch.uint8).expand(3, 64, 64)
    moved = set()
    for seed in range(20):
        found, codes = augmented(pixels, labels, RECIPE, np.random.default_rng(seed))
        bright = found[0] > (found[0].max() + found[0].min()) / 2
        known = codes > 0
        assert ((codes == 2) == bright)[known].float().mean() > 0.995  # but for edges, half way
        moved.add(codes.numpy().tobytes())
    assert len(moved) == 20


def test_an_image_without_labels_is_changed_as_one_with_labels() -> None:
    pixels, labels = image(32, 32), torch.ones(32, 32, dtype=torch.uint8)
    alone = augmented_image(pixels, RECIPE, np.random.default_rng([3, 9]))
    assert torch.equal(alone, augmented(pixels, labels, RECIPE, np.random.default_rng([3, 9]))[0])
    assert not torch.equal(alone, augmented_image(pixels, RECIPE, np.random.default_rng([3, 10])))
    assert float(alone.min()) >= 0
    assert float(alone.max()) <= 255


def test_what_is_switched_off_changes_nothing_and_draws_nothing() -> None:
    pixels, labels = image(16, 16), torch.ones(16, 16, dtype=torch.uint8)
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    found, codes = augmented(pixels, labels, STILL, rng)
    assert torch.equal(found, pixels.float())
    assert torch.equal(codes, labels)
    assert rng.bit_generator.state == before


def test_turns_move_pixels_and_labels_alike_and_reach_all_eight() -> None:
    plane = torch.arange(9, dtype=torch.uint8).reshape(3, 3)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(100):
        pixels, labels = turned(plane.expand(3, 3, 3), plane, rng)
        assert torch.equal(pixels[0], labels)
        seen.add(tuple(labels.flatten().tolist()))
    assert len(seen) == 8


def test_colour_changes_stay_in_range_and_can_be_switched_off() -> None:
    pixels = image(8, 8)
    rng = np.random.default_rng(0)
    changed = [recoloured(pixels, ColourSettings(), rng) for _ in range(20)]
    assert all(float(one.min()) >= 0 and float(one.max()) <= 255 for one in changed)
    assert any((one - pixels).abs().max() > 20 for one in changed)
    still = ColourSettings(brightness=0, contrast=0, saturation=0, tint=0, gamma=0)
    assert (recoloured(pixels, still, rng) - pixels).abs().max() < 0.1


@pytest.mark.parametrize("scale", [(2.0, 0.5), (0.0, 1.0)])
def test_a_scale_that_cannot_be_is_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="smaller one first"):
        AugmentSettings(scale=scale)
