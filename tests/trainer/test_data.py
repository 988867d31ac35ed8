from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.config import DataSettings
from trainer.data.augment import Crop, resized_crop
from trainer.data.batches import draw_crop
from trainer.data.labelled import CropSampler, LabelledScene, MixedSampler, class_shares, made_scenes


def scene(height: int = 80, width: int = 120) -> LabelledScene:
    """Pixel values say where they come from; one rare class in one corner."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    labels = np.ones((height, width), dtype=np.uint8)
    labels[:4, :4] = 2
    return LabelledScene("made", np.stack([rows, columns, rows]), labels)


def test_crops_keep_labels_over_their_pixels() -> None:
    made = scene()
    sampler = CropSampler([made], classes=2, balanced=0.5, seed=0)
    rng = np.random.default_rng(1)
    for _ in range(50):
        crop = sampler.draw(32, (0.5, 2.0), rng)
        assert crop.pixels.shape[1:] == crop.labels.shape
        top, left = int(crop.pixels[0, 0, 0]), int(crop.pixels[1, 0, 0])
        side = crop.labels.shape[0]
        assert np.array_equal(crop.labels, made.labels[top : top + side, left : left + side])
        assert 16 <= side <= 64


def test_balanced_sampling_finds_the_rare_class() -> None:
    rng = np.random.default_rng(0)
    seen = {}
    for balanced in (0.0, 1.0):
        sampler = CropSampler([scene()], classes=2, balanced=balanced, seed=0)
        seen[balanced] = np.mean([(sampler.draw(16, (1, 1), rng).labels == 2).any() for _ in range(200)])
    assert seen[1.0] > 0.45
    assert seen[0.0] < 0.1


def test_a_scene_smaller_than_the_crop_is_enlarged() -> None:
    sampler = CropSampler([scene(40, 50)], classes=2, balanced=0.0, seed=0)
    crop = sampler.draw(128, (1.0, 1.0), np.random.default_rng(0))
    pixels, labels = resized_crop(crop, 128)
    assert pixels.shape == (3, 128, 128)
    assert labels.shape == (128, 128)
    assert pixels.dtype == labels.dtype == torch.uint8


def test_resizing_invents_no_class() -> None:
    labels = np.random.default_rng(0).choice([0, 2, 5], (37, 37)).astype(np.uint8)
    _, resized = resized_crop(Crop(np.zeros((3, 37, 37), np.uint8), labels), 64)
    assert set(resized.flatten().tolist()) == {0, 2, 5}


def test_the_same_chance_draws_the_same_crop_again() -> None:
    sampler = CropSampler([scene()], classes=2, balanced=0.5, seed=0)
    first, again = (draw_crop(sampler, DataSettings(), 32, np.random.default_rng([0, 7])) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert first[0].shape == (3, 32, 32)
    assert first[1].dtype == torch.uint8


def test_class_shares_leave_unlabelled_pixels_out() -> None:
    labels = np.array([[0, 0, 1, 2, 2, 2]], dtype=np.uint8)
    made = LabelledScene("made", np.zeros((3, 1, 6), np.uint8), labels)
    assert class_shares([made], 3) == pytest.approx([0.25, 0.75, 0.0])


def test_made_landscapes_take_the_share_they_are_given() -> None:
    (landscape,) = made_scenes([5], side=64)
    marked = LabelledScene("landscape", np.zeros_like(landscape.pixels), landscape.labels)
    real = LabelledScene("real", np.full((3, 64, 64), 200, np.uint8), np.ones((64, 64), np.uint8))
    samplers = [CropSampler([one], classes=5, balanced=0.0, seed=0) for one in (real, marked)]
    mixed = MixedSampler(*samplers, share=0.2)
    rng = np.random.default_rng(0)
    share = np.mean([mixed.draw(16, (1, 1), rng).pixels.max() == 0 for _ in range(500)])
    assert 0.14 < share < 0.26
