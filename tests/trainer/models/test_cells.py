from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from trainer.models.cells import box_means, in_phases, phases_in_pixels
from trainer.models.deploy import DeploySettings, chosen, smoothed


@pytest.mark.parametrize("side", [1, 2, 3, 4])
@pytest.mark.parametrize("sides", [(1, 1), (2, 3), (5, 4)])
def test_phases_are_the_bilinear_resize(side: int, sides: tuple[int, int]) -> None:
    grid = torch.randn(2, 3, *sides)
    finer = F.pixel_shuffle(in_phases(grid, side), side)
    expected = F.interpolate(grid, scale_factor=side, mode="bilinear", align_corners=False)
    assert torch.allclose(finer, expected, atol=1e-6)


@pytest.mark.parametrize(("side", "reach"), [(1, 3), (2, 3), (2, 7), (3, 5), (4, 7)])
def test_a_logit_hears_what_its_cells_would_hear_in_the_mean(side: int, reach: int) -> None:
    """Judged by hearing on the finer grid, as every cell's own average, and taking the mean afterwards."""
    grid = torch.rand(1, 2, 6, 5)
    finer = grid.repeat_interleave(side, 2).repeat_interleave(side, 3)
    each = F.avg_pool2d(finer, reach, stride=1, padding=reach // 2, count_include_pad=False)
    heard = box_means(6, side, reach) @ grid @ box_means(5, side, reach).T
    assert torch.allclose(heard, F.avg_pool2d(each, side), atol=1e-6)


@pytest.mark.parametrize("classes", [1, 2, 5, 16])
def test_chosen_is_the_first_largest_and_its_probability(classes: int) -> None:
    side = 2
    field = torch.randint(-3, 3, (2, classes * side**2, 4, 5)).float()  # whole numbers: many are equal
    logits = 5 * torch.randn(field.shape)
    codes, sure = chosen(field, logits, side)
    by_class = field.reshape(2, classes, side**2, 4, 5)
    index = by_class.argmax(dim=1)
    assert torch.equal(codes, index + 1.0)
    assert sure is not None
    probability = logits.reshape(by_class.shape).softmax(dim=1)
    assert torch.allclose(sure, probability.gather(1, index[:, None])[:, 0], atol=1e-6)
    alone, none = chosen(field, None, side)
    assert torch.equal(alone, codes)
    assert none is None


def test_a_class_that_the_network_rules_out_has_probability_zero_and_not_nan() -> None:
    field = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)
    _, sure = chosen(field, torch.tensor([300.0, 0.0]).reshape(1, 2, 1, 1), 1)
    assert sure is not None
    assert float(sure) == 0.0


@pytest.mark.parametrize(("side", "cell"), [(1, 1), (1, 3), (2, 1), (2, 2), (2, 3)])
def test_cells_are_repeated_over_their_pixels(side: int, cell: int) -> None:
    phases = torch.randint(0, 256, (2, side**2, 3, 4)).float()
    cells = F.pixel_shuffle(phases, side)[:, 0]
    expected = cells.repeat_interleave(cell, 1).repeat_interleave(cell, 2).to(torch.uint8)
    assert torch.equal(phases_in_pixels(phases, side, cell), expected)


def test_hearing_on_the_grid_of_the_logits_hardly_differs_from_hearing_by_cell() -> None:
    torch.manual_seed(0)
    logits = 3 * F.interpolate(torch.randn(1, 5, 8, 8), size=(64, 64), mode="bicubic")  # as smooth as a network's
    settings = DeploySettings()
    coarse = F.pixel_shuffle(in_phases(smoothed(logits, settings, 2), 2), 2)
    fine = smoothed(F.interpolate(logits, scale_factor=2, mode="bilinear"), settings)
    assert (coarse.argmax(dim=1) == fine.argmax(dim=1)).float().mean() > 0.99
