"""What holds of every teacher, whichever its backbone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from trainer.errors import SettingsRefused
from trainer.models.masking import Visible, drawn_visible, visible_from
from trainer.models.mmoa import MMoASettings
from trainer.models.teachers.build import build_teacher
from trainer.models.teachers.settings import DINOV2_SHAPES, SAM_SHAPES, Dinov2Shape, SamShape, TeacherSettings
from trainer.models.teachers.teacher import Teacher

SETTINGS = {
    "sam": TeacherSettings(
        shape=SamShape(width=16, depth=4, heads=2, window=3, global_blocks=(2, 4), image=128),
        levels=(1, 3),
        mmoa=MMoASettings(grid=8),
    ),
    "dinov2": TeacherSettings(
        kind="dinov2",
        shape=Dinov2Shape(width=16, depth=4, heads=2, image=112),
        levels=(1, 3),
        mmoa=MMoASettings(grid=8),
    ),
}


@pytest.fixture(params=sorted(SETTINGS))
def teacher(request: pytest.FixtureRequest) -> Teacher:
    return build_teacher(SETTINGS[request.param])


@pytest.fixture
def visible() -> Visible:
    rng = np.random.default_rng(3)
    draws = [drawn_visible(8, 8, ratio=0.75, kind="stratified", rng=rng) for _ in range(2)]
    return visible_from(draws, 8, 8, 0.75)


def _pixels() -> torch.Tensor:
    return torch.rand(2, 3, 128, 128) * 255


def test_features_are_of_the_seen_tokens_at_the_levels_asked_for(teacher: Teacher, visible: Visible) -> None:
    features = teacher(_pixels(), visible)
    assert [tuple(level.shape) for level in features.levels] == [(2, 16, 16), (2, 16, 16)]
    assert features.last.shape == (2, 16, 16)
    assert (teacher.width, teacher.patch, teacher.levels) == (16, 16, (1, 3))
    assert teacher(_pixels(), None).last.shape == (2, 64, 16)


def test_the_backbone_is_bit_identical_after_training_and_the_adapters_are_not(
    teacher: Teacher, visible: Visible
) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    optimiser = torch.optim.AdamW(teacher.parameters(), lr=1e-2, weight_decay=0.1)
    teacher.train()
    for _ in range(3):
        optimiser.zero_grad()
        features = teacher(_pixels(), visible)
        (features.last**2).mean().backward()
        optimiser.step()
    after = teacher.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in changed if name.startswith("backbone.")]
    assert changed == {name for name, _ in teacher.trainable()}


def test_the_backbone_is_in_eval_mode_even_inside_train(teacher: Teacher) -> None:
    outer = torch.nn.ModuleDict({"teacher": teacher}).train()
    assert teacher.training
    assert teacher.mmoa.training
    assert not [module for module in teacher.backbone.modules() if module.training]
    assert not [p for p in teacher.backbone.parameters() if p.requires_grad]
    outer.eval()
    assert not teacher.mmoa.training


def test_gradients_of_a_level_reach_the_adapters_up_to_it_through_the_frozen_blocks(
    teacher: Teacher, visible: Visible
) -> None:
    teacher(_pixels(), visible).levels[-1].square().mean().backward()
    reached = {int(name.split(".")[1]) for name, p in teacher.trainable() if p.grad is not None}
    assert reached == {0, 1, 2}
    assert all(p.grad is None for p in teacher.backbone.parameters())


def test_a_hidden_pixel_changes_no_feature(teacher: Teacher, visible: Visible) -> None:
    pixels = _pixels()
    seen = torch.nn.functional.interpolate(visible.mask(), scale_factor=16).bool()
    other = torch.where(seen, pixels, _pixels())
    one, two = teacher(pixels, visible), teacher(other, visible)
    assert torch.equal(one.last, two.last)
    assert not torch.equal(one.last, teacher(torch.where(seen, _pixels(), pixels), visible).last)


def test_a_token_keeps_its_own_position_when_others_are_hidden(teacher: Teacher) -> None:
    """One grey image: the seen tokens differ by their positions alone."""
    rng = np.random.default_rng(9)
    pixels = torch.full((1, 3, 128, 128), 99.0)
    corners = [visible_from([drawn_visible(8, 8, ratio=0.75, kind="grid", rng=rng)], 8, 8, 0.75) for _ in range(8)]
    distinct = {tuple(c.index[0].tolist()): teacher(pixels, c).last for c in corners}
    assert len(distinct) > 1
    first, second = list(distinct.values())[:2]
    assert not torch.allclose(first, second, atol=1e-5)


def test_an_image_or_a_mask_that_does_not_fit_is_refused(teacher: Teacher, visible: Visible) -> None:
    with pytest.raises(ValueError, match="not made of patches of 16"):
        teacher(torch.zeros(1, 3, 120, 128), None)
    with pytest.raises(ValueError, match="mask is of 8x8 tokens, the image of 4x8"):
        teacher(torch.zeros(2, 3, 64, 128), visible)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({}, "give weights, or a shape"),
        ({"shape": "vit-b", "weights": "x"}, "not both"),
        ({"shape": "vit-s"}, "vit-b, vit-l, vit-h"),
        ({"shape": DINOV2_SHAPES["vit-s"]}, "not one of sam"),
        ({"shape": "vit-b", "levels": (3, 2)}, "levels must rise"),
        ({"shape": {"width": 10, "depth": 2, "heads": 3, "window": 2, "global_blocks": [1]}}, "multiple of heads"),
        ({"shape": {"width": 9, "depth": 2, "heads": 3, "window": 2, "global_blocks": [3]}}, "do not exist"),
    ],
)
def test_settings_that_do_not_hold_together_are_refused(wrong: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        TeacherSettings.model_validate(wrong)


def test_a_level_beyond_the_last_block_is_refused() -> None:
    settings = SETTINGS["sam"].model_copy(update={"levels": (1, 5)})
    with pytest.raises(SettingsRefused, match="block 5 does not exist: this teacher has 4 blocks"):
        build_teacher(settings)


def test_published_shapes_have_their_published_sizes() -> None:
    """Parameters of one block, times the depth: 86 M, 304 M and 632 M within the parts left out."""
    for name, millions in (("vit-b", 86), ("vit-l", 304), ("vit-h", 632)):
        shape = SAM_SHAPES[name]
        per_block = (4 + 2 * shape.mlp_ratio) * shape.width**2
        assert abs(shape.depth * per_block / 1e6 - millions) / millions < 0.02
        assert len(shape.global_blocks) == 4
        assert shape.global_blocks[-1] == shape.depth
