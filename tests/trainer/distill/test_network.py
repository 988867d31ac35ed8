from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from trainer.distill.losses import alignment_loss, explained_variance
from trainer.distill.network import MaskCDKD
from trainer.distill.settings import DistillSettings
from trainer.models.masking import drawn_visible
from trainer.models.teachers.build import build_teacher

Made = Callable[..., DistillSettings]


def network_of(settings: DistillSettings) -> MaskCDKD:
    return MaskCDKD(settings, {name: build_teacher(teacher) for name, teacher in settings.teachers.items()})


def batch(count: int = 2) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    index = [drawn_visible(8, 8, ratio=0.75, kind="stratified", rng=rng) for _ in range(count)]
    return 255 * torch.rand(count, 3, 64, 64), torch.from_numpy(np.stack(index))


def has_gradient(parameters: Mapping[str, nn.Parameter]) -> dict[str, bool]:
    return {name: value.grad is not None and bool(value.grad.abs().max() > 0) for name, value in parameters.items()}


def adapters(network: MaskCDKD) -> dict[str, nn.Parameter]:
    """First and last layers and gates of the teacher's adapters, up to its deepest aligned block."""
    named = network.teachers["sam"].named_parameters()
    ends = ("down.weight", "up.weight", "q.weight", "k.weight", "v.weight")
    return {name: value for name, value in named if name[:6] in {"mmoa.0", "mmoa.1", "mmoa.2"} and name.endswith(ends)}


def test_the_alignment_moves_the_teachers_adapters(settings_with: Made) -> None:
    network = network_of(settings_with())
    network(*batch())["alignment_sam"].backward()
    assert all(has_gradient(adapters(network)).values())
    assert all(value.grad is None for name, value in network.named_parameters() if "backbone" in name)


def test_a_unidirectional_alignment_does_not(settings_with: Made) -> None:
    network = network_of(settings_with(bidirectional=False))
    told = network(*batch())
    told["alignment_sam"].backward(retain_graph=True)
    assert not any(has_gradient(adapters(network)).values())
    assert network.projectors["sam"][0].weight.grad is not None  # type: ignore[index]
    told["reconstruction_sam"].backward()
    assert all(has_gradient(adapters(network)).values())


def test_both_directions_have_the_same_value(settings_with: Made) -> None:
    torch.manual_seed(1)
    one = network_of(settings_with())
    other = network_of(settings_with(bidirectional=False))
    other.load_state_dict(one.state_dict())
    pixels, index = batch()
    one.eval(), other.eval()
    told = [network(pixels, index) for network in (one, other)]
    assert all(torch.equal(told[0][name], told[1][name]) for name in told[0])


def test_the_alignment_is_the_mean_over_pairs_of_mean_squared_errors() -> None:
    student, teacher = ([torch.rand(2, 3, 4) for _ in range(2)] for _ in range(2))
    total = 0.0
    for pair in range(2):
        for image in range(2):
            for token in range(3):
                for channel in range(4):
                    difference = student[pair][image, token, channel] - teacher[pair][image, token, channel]
                    total += float(difference) ** 2
    assert float(alignment_loss(student, teacher)) == pytest.approx(total / (2 * 2 * 3 * 4), rel=1e-6)


def test_explained_variance_is_one_for_all_of_it_and_none_for_the_mean() -> None:
    teacher = torch.rand(2, 30, 4) * torch.tensor([1.0, 5.0, 0.1, 2.0]) + 7
    mean = teacher.mean(dim=(0, 1)).expand(2, 30, 4)
    assert float(explained_variance([teacher], [teacher])) == 1.0
    assert float(explained_variance([mean], [teacher])) == pytest.approx(0.0, abs=1e-5)
    half = mean + 0.5 * (teacher - mean)
    assert float(explained_variance([half, teacher], [teacher, teacher])) == pytest.approx((0.75 + 1) / 2, abs=1e-5)


def test_each_side_sees_only_what_is_visible(settings_with: Made) -> None:
    network = network_of(settings_with()).eval()
    pixels, index = batch()
    shown = network.reconstructed(pixels, index)
    hidden = shown.masked == 0
    assert float(hidden.float().mean()) == pytest.approx(0.75, abs=0.01)
    other = network.reconstructed(torch.where(hidden, 255 - pixels, pixels), index)
    assert set(shown.filled) == {"student", "sam"}
    for name, image in shown.filled.items():
        assert torch.allclose(image, other.filled[name], atol=1e-3), name
        assert torch.allclose(image[~hidden], pixels[~hidden], atol=1e-3), name


def test_two_teachers_teach_side_by_side(settings_with: Made, tiny: dict[str, Any]) -> None:
    dino = {
        "kind": "dinov2", "levels": [1, 2, 3], "patch": 8,
        "shape": {"width": 12, "depth": 3, "heads": 2, "image": 28, "patch": 14}, "mmoa": {"fine": [1], "coarse": [2]},
    }  # fmt: skip
    network = network_of(settings_with(teachers=tiny["teachers"] | {"dino": dino}))
    told = network(*batch())
    assert {"alignment_sam", "alignment_dino", "reconstruction_dino", "reconstruction_student"} <= set(told)
    sum(told.values()).backward()
    assert all(value.grad is not None for value in network.projectors.parameters())


@pytest.mark.parametrize("alignment", ["fourier", "mutual_information"])
def test_a_rival_compares_features_its_own_way_and_learns_too(settings_with: Made, alignment: str) -> None:
    network = network_of(settings_with(alignment=alignment))
    told = network(*batch())
    rival = network.separations["sam"]
    assert len(list(rival.children())) == 3
    plain = network_of(settings_with())
    plain.load_state_dict(network.state_dict(), strict=False)
    assert not torch.isclose(told["alignment_sam"], plain(*batch())["alignment_sam"])
    told["alignment_sam"].backward()
    assert all(value.grad is not None for value in rival.parameters())
    assert all(has_gradient(adapters(network)).values())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"mask": {"ratio": 0.71}}, "0.71 cannot be met"),
        ({"stages": [{"until": 1.0, "crop": 72, "batch": 2}]}, "a grid of 9x9 tokens is not made of them"),
        ({"stages": [{"until": 0.5, "crop": 64, "batch": 2}, {"until": 1.0, "crop": 64, "batch": 2}]}, "one stage"),
        ({"student_levels": [1, 2]}, "teachers.sam: 3 levels, student_levels"),
        ({"teachers": {"sam": {"patch": 16}}}, "must see the same tokens"),
        ({"teachers": {"student": {}}}, "a name is letters"),
        ({"student": {"out_blocks": [1, 2, 3]}}, "out_blocks lacks"),
        ({"student": {"window": 8}}, "not made of windows of 8: use crops of 128"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    settings_with: Made, tiny: dict[str, Any], changes: dict[str, Any], problem: str
) -> None:
    for name, given in changes.get("teachers", {}).items():
        changes = {"teachers": {name: tiny["teachers"]["sam"] | given}}
    if "student" in changes:
        changes = {"student": tiny["student"] | changes["student"]}
    with pytest.raises(ValidationError, match=problem):
        settings_with(**changes)
