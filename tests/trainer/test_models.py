from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.models.deploy import PLAIN_DEPLOY, DeploySegmenter, DeploySettings, smoothed
from trainer.models.features import StudentFeatures
from trainer.models.linear_probe import LinearProbe
from trainer.models.masking import Visible, all_visible, drawn_visible, visible_from
from trainer.models.segmenter import PAPER_SEGMENTER, Segmenter, SegmenterSettings
from trainer.models.student import Attention, Student, StudentSettings
from trainer.models.tokens import grid_from_tokens, pool_tokens, tokens_from_grid
from trainer.models.upernet import DecoderSettings, UPerNet, adaptive_mean

TINY = StudentSettings(
    width=16, depth=2, heads=2, stem_widths=(4, 8, 8), stem_blocks=(1, 1), window=2, global_blocks=(2,),
    out_blocks=(1, 2), positions=8,
)  # fmt: skip


def multiply_adds(network: nn.Module, pixels: Tensor) -> int:
    """Of convolutions and linear layers in one forward pass; attention products and PPM means not counted."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features
        del inputs

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    network(pixels)
    for hook in hooks:
        hook.remove()
    return total


def test_the_papers_pair_has_its_parameters_and_multiply_adds() -> None:
    with torch.device("meta"):  # counts need shapes, not arithmetic
        network = Segmenter(PAPER_SEGMENTER).eval()
        parameters = sum(p.numel() for name, p in network.named_parameters() if not name.endswith("positions"))
        operations = multiply_adds(network, torch.empty(1, 3, 1024, 1024))
    assert parameters == pytest.approx(29.66e6, rel=1e-3)
    assert operations == pytest.approx(119.60e9, rel=1e-3)
    assert parameters + 64 * 64 * 384 == pytest.approx(31.23e6, rel=1e-3)


@pytest.mark.parametrize("window", [None, 2, 4])
def test_window_order_and_back_is_the_same_grid(window: int | None) -> None:
    grid = torch.arange(2 * 3 * 8 * 12.0).reshape(2, 3, 8, 12)
    assert torch.equal(grid_from_tokens(tokens_from_grid(grid, window), window, 8, 12), grid)


def test_tokens_of_a_window_are_neighbours() -> None:
    grid = torch.arange(8 * 12.0).reshape(1, 1, 8, 12)
    first, second = tokens_from_grid(grid, 4)[0, :, 0].reshape(-1, 4, 4)[:2]
    assert torch.equal(first, grid[0, 0, :4, :4])
    assert torch.equal(second, grid[0, 0, :4, 4:8])


def test_a_grid_that_windows_do_not_fill_is_refused() -> None:
    with pytest.raises(ValueError, match="not made of 4x4 windows"):
        tokens_from_grid(torch.zeros(1, 1, 8, 10), 4)


def test_pooled_tokens_are_means_of_two_by_two_neighbours() -> None:
    grid = torch.rand(2, 3, 8, 12)
    pooled = grid_from_tokens(pool_tokens(tokens_from_grid(grid, 4), 4, 2), 2, 4, 6)
    assert torch.allclose(pooled, nn.functional.avg_pool2d(grid, 2))


@pytest.mark.parametrize("is_global", [True, False])
def test_attention_written_out_equals_the_fused_one(is_global: bool) -> None:
    attention = Attention(TINY, is_global=is_global).eval()
    tokens = torch.rand(2, 64, 16)
    fused = attention(tokens)
    attention.explicit = True
    assert torch.allclose(attention(tokens), fused, atol=1e-6)


def test_a_windowed_block_sees_its_window_and_a_global_block_everything() -> None:
    grid = torch.rand(1, 16, 4, 4)
    changed = grid.clone()
    changed[..., 0, 0] += 1.0
    for is_global, reach in ((False, 4), (True, 16)):
        attention = Attention(TINY, is_global=is_global).eval()
        moved = attention(tokens_from_grid(grid, 2)) - attention(tokens_from_grid(changed, 2))
        assert int((moved.abs().amax(dim=-1) > 1e-7).sum()) == reach


@pytest.mark.parametrize("side", [64, 128, 160])
def test_any_size_of_whole_windows_gives_logits_at_stride_four(side: int) -> None:
    settings = SegmenterSettings(student=TINY, decoder=DecoderSettings(width=8, detail_widths=(8, 4)), classes=3)
    assert Segmenter(settings).eval()(torch.rand(1, 3, side, side)).shape == (1, 3, side // 4, side // 4)


def test_positions_of_a_small_crop_are_a_corner_of_the_table_not_a_shrunk_one() -> None:
    student = Student(TINY).eval()
    assert torch.equal(student.positions_for(4, 6), student.positions[:, :, :4, :6])
    assert student.positions_for(16, 16).shape == (1, 16, 16, 16)


@pytest.mark.parametrize("stem", ["conv", "linear"])
def test_a_hidden_pixel_changes_no_visible_token(stem: str) -> None:
    settings = TINY.model_copy(update={"stem": stem})
    student = Student(settings).train()  # where batch statistics would leak
    visible = torch.ones(2, 1, 4, 4)
    visible[:, :, 1, 2] = 0.0
    image = torch.rand(2, 3, 64, 64)
    changed = image.clone()
    changed[:, :, 16:32, 32:48] += 5.0
    grid, detail = student.stem(image, visible)
    other, other_detail = student.stem(changed, visible)
    assert torch.equal(grid, other)
    for stride, features in detail.items():
        assert torch.equal(features, other_detail[stride])
        patch = 16 // stride
        assert (features[:, :, patch : 2 * patch, 2 * patch : 3 * patch] == 0).all()  # nothing passes through it
    seen, _ = student.stem(changed, None)
    assert not torch.equal(student.stem(image, None)[0], seen)


def drawn(side: int, batch: int, seed: int = 0) -> Visible:
    rng = np.random.default_rng(seed)
    return visible_from(
        [drawn_visible(side, side, ratio=0.75, kind="stratified", rng=rng) for _ in range(batch)], side, side, 0.75
    )


@pytest.mark.parametrize("stem", ["conv", "linear"])
def test_hidden_pixels_change_no_feature_of_a_masked_student(stem: str) -> None:
    student = Student(TINY.model_copy(update={"stem": stem})).eval()
    image, visible = torch.rand(2, 3, 128, 128), drawn(8, 2)
    hidden = 1 - nn.functional.interpolate(visible.mask(), scale_factor=16)
    features = student(image, visible)
    assert [tuple(level.shape) for level in features.levels] == [(2, 16, 4, 4)] * 2
    other = student(image + 5 * hidden, visible)
    assert all(torch.equal(one, two) for one, two in zip(features.levels, other.levels, strict=True))
    moved = student(image + 5 * (1 - hidden), visible)
    assert not torch.allclose(features.levels[-1], moved.levels[-1])


def test_a_student_that_sees_all_tokens_by_mask_is_the_student_without_one() -> None:
    student = Student(TINY.model_copy(update={"stem": "linear"})).eval()
    image = torch.rand(2, 3, 96, 64)
    for one, two in zip(student(image).levels, student(image, all_visible(2, 6, 4)).levels, strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_a_visible_token_keeps_the_position_it_has_in_the_whole_grid() -> None:
    settings = TINY.model_copy(update={"stem": "linear", "depth": 1, "out_blocks": (1,), "global_blocks": (1,)})
    student = Student(settings).eval()
    nn.init.zeros_(student.blocks[0].attention.out.weight)  # type: ignore[union-attr, arg-type]
    nn.init.zeros_(student.blocks[0].mlp[2].weight)  # type: ignore[union-attr, index]
    student.norm = nn.LayerNorm(16, elementwise_affine=False)
    visible = drawn(8, 1)
    masked = student(torch.zeros(1, 3, 128, 128), visible).levels[0].flatten(2)[0].T
    places = student.positions_for(8, 8).flatten(2)[0].T[visible.index[0]]
    assert torch.allclose(masked, student.norm(places + student.stem.embed.bias), atol=1e-5)  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_adaptive_mean_is_torchs(bins: int) -> None:
    grid = torch.rand(2, 3, 16, 20)
    assert torch.allclose(adaptive_mean(grid, bins), nn.functional.adaptive_avg_pool2d(grid, bins), atol=1e-6)


def test_detail_without_a_convolutional_stem_is_refused() -> None:
    with pytest.raises(ValueError, match="linear one has no detail"):
        UPerNet(DecoderSettings(), TINY.model_copy(update={"stem": "linear"}), 3)


def test_a_linear_probe_says_of_a_token_what_one_matrix_makes_of_its_levels() -> None:
    probe = LinearProbe(TINY, 3)
    assert [tuple(one.shape) for one in probe.parameters()] == [(3, 2 * TINY.width, 1, 1), (3,)]
    levels = [torch.randn(2, TINY.width, 4, 5) * (level + 1) + level for level in range(2)]
    logits = probe(StudentFeatures(levels))  # in training: by the batch's own statistics
    tokens = torch.cat(levels, dim=1).permute(0, 2, 3, 1).reshape(-1, 2 * TINY.width)
    tokens = (tokens - tokens.mean(dim=0)) / tokens.var(dim=0, unbiased=False).sqrt()
    weight, bias = (one.flatten(1) if one.ndim > 1 else one for one in probe.parameters())
    expected = tokens @ weight.T + bias
    assert torch.allclose(logits.permute(0, 2, 3, 1).reshape(-1, 3), expected, atol=1e-3)


def test_a_network_can_have_a_linear_probe_as_its_decoder() -> None:
    settings = SegmenterSettings(student=TINY, decoder=DecoderSettings(kind="linear"), classes=3)
    logits = Segmenter(settings).eval()(torch.rand(1, 3, 64, 64) * 255)
    assert logits.shape == (1, 3, 64 // TINY.patch, 64 // TINY.patch)


def test_the_flight_form_gives_codes_from_one_and_the_probability_of_the_best() -> None:
    settings = SegmenterSettings(student=TINY, decoder=DecoderSettings(width=8, detail_widths=(8, 4)), classes=3)
    segmenter = Segmenter(settings).eval()
    tiles = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    classes, confidence = DeploySegmenter(segmenter, PLAIN_DEPLOY)(tiles)
    logits = nn.functional.interpolate(segmenter(tiles.float()), size=(64, 64), mode="bilinear")
    assert torch.equal(classes, logits.argmax(dim=1).to(torch.uint8) + 1)
    expected = logits.softmax(dim=1).amax(dim=1) * 255
    assert (confidence.float() - expected).abs().max() <= 0.51


def test_neighbours_are_heard_as_mean_field_says() -> None:
    logits = 3 * torch.randn(1, 3, 6, 7)
    settings = DeploySettings(prior=2.5, rounds=3, reach=3)
    field = logits.clone()
    for _ in range(settings.rounds):
        said, field = field.softmax(dim=1), logits.clone()
        for row in range(6):
            for column in range(7):
                near = said[:, :, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
                field[:, :, row, column] += 2.5 * near.mean(dim=(2, 3))
    assert torch.allclose(smoothed(logits, settings), field, atol=1e-5)


def test_a_class_holds_for_a_whole_cell_and_confidence_is_never_no_data() -> None:
    settings = SegmenterSettings(student=TINY, decoder=DecoderSettings(width=8, detail_widths=(8, 4)), classes=3)
    segmenter = Segmenter(settings).eval()
    with torch.no_grad():
        segmenter.decoder.classifier.weight.mul_(400)  # so sure that a class the neighbours chose has probability 0
    tiles = torch.randint(0, 64, (2, 3, 64, 64), dtype=torch.uint8)
    tiles[:, :, :, 32:] += 190  # a dark half and a bright one, and no class ahead of the others over both
    with torch.no_grad():
        assert segmenter.decoder.classifier.bias is not None
        segmenter.decoder.classifier.bias.sub_(segmenter(tiles).mean(dim=(0, 2, 3)))
    flight = DeploySegmenter(segmenter, DeploySettings(cell=4, prior=300.0, rounds=2, reach=5))
    classes, confidence = flight(tiles)
    assert classes.shape == confidence.shape == (2, 64, 64)
    cells = classes[:, ::4, ::4]
    assert torch.equal(classes, cells.repeat_interleave(4, 1).repeat_interleave(4, 2))
    assert len(cells.unique()) > 1
    assert int(confidence.min()) == 1
    with pytest.raises(ValueError, match="no whole cells of 3"):
        DeploySegmenter(segmenter, DeploySettings(cell=3))(tiles)
