"""The DINOv2 teacher against transformers' own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import Dinov2Config, Dinov2Model

from trainer.errors import CheckpointRefused
from trainer.models.masking import visible_from
from trainer.models.mmoa import MMoASettings
from trainer.models.teachers.build import build_teacher
from trainer.models.teachers.dinov2 import DEVIATION, MEAN, Dinov2Teacher, resized_patches
from trainer.models.teachers.settings import Dinov2Shape, TeacherSettings

PINNED = MMoASettings(pin_gate=True)


def _teacher(*, patch: int = 14, image: int = 70, swiglu: bool = False, mmoa: MMoASettings = PINNED) -> Dinov2Teacher:
    shape = Dinov2Shape(width=32, depth=3, heads=2, image=image, swiglu=swiglu)
    settings = TeacherSettings(kind="dinov2", shape=shape, patch=patch, levels=(1, 2, 3), mmoa=mmoa)
    teacher = build_teacher(settings)
    assert isinstance(teacher, Dinov2Teacher)
    for parameter in teacher.backbone.parameters():  # layer scales and norms of one tell nothing of their use
        torch.nn.init.normal_(parameter, mean=0.1, std=0.2)
    return teacher


def _normalised(pixels: Tensor) -> Tensor:
    mean, deviation = (torch.tensor(value).reshape(1, 3, 1, 1) for value in (MEAN, DEVIATION))
    return (pixels - mean) / deviation


def _reference(teacher: Dinov2Teacher, image: Tensor) -> list[Tensor]:
    """Every block's output as transformers runs the same weights, without the class token."""
    model = Dinov2Model(teacher.model.config).train(False)
    model.load_state_dict(teacher.model.state_dict())
    outputs: list[Tensor] = []
    for layer in model.encoder.layer:
        layer.register_forward_hook(lambda _m, _i, out: outputs.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        model(pixel_values=image)
    return [output[:, 1:] for output in outputs]


def _relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().norm() / other.detach().norm())


@pytest.mark.parametrize("swiglu", [False, True])
@pytest.mark.parametrize("size", [(70, 70), (84, 42)])
def test_unmasked_and_pinned_every_block_equals_transformers(size: tuple[int, int], swiglu: bool) -> None:
    teacher = _teacher(swiglu=swiglu)
    pixels = torch.rand(2, 3, *size) * 255
    reference = _reference(teacher, _normalised(pixels))
    for number, (level, expected) in enumerate(zip(teacher(pixels, None).levels, reference, strict=True), start=1):
        assert _relative(level, expected) < 1e-5, f"block {number}"


def test_patches_of_16_pixels_are_resized_to_the_same_grid_of_14() -> None:
    teacher = _teacher(patch=16)
    pixels = torch.rand(1, 3, 80, 64) * 255
    image = torch.zeros(1, 3, 70, 56)
    for row in range(5):
        for column in range(4):
            patch = pixels[..., 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            small = F.interpolate(patch, size=(14, 14), mode="bilinear", antialias=True)
            image[..., 14 * row : 14 * row + 14, 14 * column : 14 * column + 14] = small
    features = teacher(pixels, None)
    assert features.last.shape == (1, 20, 32)
    assert _relative(features.last, _reference(teacher, _normalised(image))[-1]) < 1e-5


def test_a_patch_is_resized_without_its_neighbours() -> None:
    for given in (8, 14, 16, 20):
        image = torch.rand(1, 3, 3 * given, 3 * given)
        other = image.clone()
        other[..., given : 2 * given, given : 2 * given] = 0
        changed = (resized_patches(image, given, 14) != resized_patches(other, given, 14)).any(dim=1)[0]
        assert changed[14:28, 14:28].all()
        assert changed.sum() == 14 * 14


def test_masked_it_is_the_transformer_over_the_class_token_and_the_seen_tokens() -> None:
    teacher = _teacher()
    pixels = torch.rand(1, 3, 84, 84) * 255
    index = torch.tensor([[row * 6 + column for row in range(1, 6, 2) for column in range(0, 6, 2)]])
    visible = visible_from(index, 6, 6, 0.75)
    model = teacher.model
    with torch.no_grad():
        tokens = model.embeddings(_normalised(pixels))[:, [0, *(1 + index[0]).tolist()]]
        for layer in model.encoder.layer:
            out = layer(tokens)
            tokens = out[0] if isinstance(out, tuple) else out
    assert _relative(teacher(pixels, visible).last, tokens[:, 1:]) < 1e-5


def test_adapters_act_on_the_grid_beside_the_scaled_perceptron_and_can_be_left_out() -> None:
    settings = MMoASettings(fusion="additive", adapters="single")
    teacher = _teacher(mmoa=settings)
    pixels = torch.rand(1, 3, 70, 70) * 255
    plain = _teacher(mmoa=MMoASettings(adapters="none"))
    plain.backbone.load_state_dict(teacher.backbone.state_dict())
    assert not list(plain.trainable())
    first = teacher.model.encoder.layer[0]
    with torch.no_grad():
        tokens = teacher.model.embeddings(_normalised(pixels))
        mixed = first.attention(first.norm1(tokens))  # type: ignore[operator]
        half = tokens + first.layer_scale1(mixed[0] if isinstance(mixed, tuple) else mixed)  # type: ignore[operator]
        grid = first.norm2(half)[:, 1:].reshape(1, 5, 5, 32)  # type: ignore[operator]
        added = teacher.mmoa[0].adapters[0](grid).flatten(1, 2)  # type: ignore[index, operator]
    expected = plain(pixels, None).levels[0] + added
    assert _relative(teacher(pixels, None).levels[0], expected) < 1e-5


def test_a_local_folder_gives_its_weights(tmp_path: Path) -> None:
    model = Dinov2Model(Dinov2Config(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=70)).train(
        False
    )
    model.save_pretrained(tmp_path)
    teacher = build_teacher(
        TeacherSettings(kind="dinov2", weights=tmp_path, levels=(1, 3), patch=14, mmoa=MMoASettings(pin_gate=True))
    )
    pixels = torch.rand(1, 3, 70, 70) * 255
    with torch.no_grad():
        whole = model(pixel_values=_normalised(pixels)).last_hidden_state[:, 1:]
        ours = model.layernorm(teacher(pixels, None).last)
    assert _relative(ours, whole) < 1e-5


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    from transformers import SamVisionConfig, SamVisionModel

    SamVisionModel(
        SamVisionConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=32)
    ).save_pretrained(tmp_path)
    with pytest.raises(CheckpointRefused):
        build_teacher(TeacherSettings(kind="dinov2", weights=tmp_path, levels=(1,)))
