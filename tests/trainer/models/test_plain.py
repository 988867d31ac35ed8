"""Convolutional encoders with a feature pyramid: shapes, and blocks that were fused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.models.lite_stem import LiteTrunk, _narrowed, _widened, fused_early_blocks
from trainer.models.normalisation import DEVIATION, MEAN
from trainer.models.plain import (
    Fpn,
    FpnSettings,
    LiteEncoder,
    LiteSettings,
    NeckSettings,
    PlainEncoder,
    PlainSettings,
    Residual,
)  # fmt: skip
from trainer.models.segmenter import HeadShape, Segmenter, SegmenterSettings, SeveralHeads
from trainer.models.student import StudentSettings
from trainer.models.upernet import DecoderSettings

PLAIN = PlainSettings(kind="plain", widths=(4, 8, 8, 8, 8), blocks=(0, 1, 0, 1))
FPN = FpnSettings(kind="fpn", widths=(8, 8, 8, 8))
LITE = LiteSettings(kind="lite")
NECK = LiteSettings(kind="lite", neck=NeckSettings(widths=(8, 8), blocks=(1, 0)))


@pytest.mark.parametrize("encoder", [PLAIN, LITE, LiteSettings(kind="lite", fused=True), NECK])
@pytest.mark.parametrize("stride", [4, 8])
def test_logits_are_at_the_stride_of_the_decoder(encoder: PlainSettings | LiteSettings, stride: int) -> None:
    decoder = FPN.model_copy(update={"stride": stride})
    network = Segmenter(SegmenterSettings(student=encoder, decoder=decoder, classes=3)).eval()
    assert network(torch.rand(2, 3, 64, 96) * 255).shape == (2, 3, 64 // stride, 96 // stride)


def test_the_encoder_runs_once_for_all_heads() -> None:
    settings = SegmenterSettings(student=PLAIN, decoder=FPN, classes=3, heads={"b": HeadShape(decoder=FPN, classes=2)})
    network = SeveralHeads(settings).eval()
    runs: list[int] = []
    network.student.register_forward_hook(lambda *_: runs.append(1))
    first, second = network(torch.rand(1, 3, 32, 32))
    assert (first.shape[1], second.shape[1], len(runs)) == (3, 2, 1)


def test_a_residual_block_starts_as_nothing_added() -> None:
    grid = torch.rand(1, 8, 6, 6)
    assert torch.equal(Residual(8).eval()(grid), grid)


def test_a_deeper_decoder_begins_as_the_light_one_whose_weights_it_takes() -> None:
    light = Segmenter(SegmenterSettings(student=PLAIN, decoder=FPN, classes=3)).eval()
    settings = FPN.model_copy(update={"blocks": (2, 1, 0, 1)})
    deep = Segmenter(SegmenterSettings(student=PLAIN, decoder=settings, classes=3)).eval()
    added = deep.load_state_dict(light.state_dict(), strict=False)
    assert added.unexpected_keys == []
    assert sum(isinstance(module, Residual) for module in deep.decoder.modules()) == 4
    image = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        assert torch.equal(deep(image), light(image))
        for module in deep.modules():
            if isinstance(module, Residual):
                nn.init.ones_(module.norm.weight)
        assert not torch.equal(deep(image), light(image)), "the blocks are used"


def test_on_a_neck_a_decoder_begins_at_stride_16() -> None:
    maps = LiteEncoder(NECK).eval()(torch.rand(1, 3, 64, 64))
    assert [tuple(level.shape[1:]) for level in maps.levels] == [(8, 4, 4)]
    assert {stride: grid.shape[1] for stride, grid in {16: maps.levels[0], **maps.detail}.items()} == NECK.channels
    light = Fpn(FPN, NECK, classes=3)
    assert not list(light.top), "nothing is left to do at stride 32"
    assert list(light.steps) == ["8", "4"]
    deeper = Fpn(FPN.model_copy(update={"blocks": (0, 2, 0, 1)}), NECK, classes=3)
    assert (len(deeper.top), sum(isinstance(module, Residual) for module in deeper.modules())) == (2, 3)


def test_the_neck_joins_both_of_the_deepest_maps() -> None:
    neck = LiteEncoder(NECK).eval().neck
    assert neck is not None
    deep, lateral = torch.rand(1, 320, 2, 2), torch.rand(1, 112, 4, 4)
    with torch.no_grad():
        joined = neck(deep, lateral)
        assert not torch.equal(joined, neck(deep + 1, lateral))
        assert not torch.equal(joined, neck(deep, lateral + 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [({"widths": (8, 16, 8, 8)}, "widths"), ({"blocks": (1, 0, 0, 0)}, "the encoder's neck has those at stride 32")],
)
def test_a_decoder_that_does_not_fit_the_neck_is_refused(change: dict[str, tuple[int, ...]], said: str) -> None:
    other = FPN.model_copy(update=change)
    with pytest.raises(ValueError, match=said):
        SegmenterSettings(student=NECK, decoder=other)
    with pytest.raises(ValueError, match=said):
        SegmenterSettings(student=NECK, decoder=FPN, heads={"b": HeadShape(decoder=other, classes=2)})


@pytest.mark.parametrize("given", [{"widths": (0, 8)}, {"blocks": (0, -1)}])
def test_a_neck_that_cannot_be_is_refused(given: dict[str, tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        NeckSettings(**given)


@pytest.mark.parametrize(("blocks", "stride"), [((0, 0, 0, -1), 4), ((0, 0, 0, 1), 8)])
def test_blocks_that_cannot_be_are_refused(blocks: tuple[int, ...], stride: int) -> None:
    with pytest.raises(ValueError, match="blocks"):
        FpnSettings(kind="fpn", widths=(8, 8, 8, 8), stride=stride, blocks=blocks)


def _normed(conv: nn.Conv2d) -> nn.Sequential:
    """With a norm whose numbers are not trivial."""
    norm = nn.BatchNorm2d(conv.out_channels, eps=1e-3)
    for value in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(value)  # type: ignore[arg-type]
    nn.init.uniform_(norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return nn.Sequential(conv, norm).eval()


@pytest.mark.parametrize("stride", [1, 2])
def test_a_fused_convolution_is_the_two_it_stands_for_but_for_the_activation_between(stride: int) -> None:
    torch.manual_seed(0)
    wide = _normed(nn.Conv2d(5, 12, 1, bias=False))
    depthwise = _normed(nn.Conv2d(12, 12, 3, stride=stride, padding=1, groups=12, bias=False))
    narrow = _normed(nn.Conv2d(12, 7, 1, bias=False))
    grid = torch.randn(2, 5, 9, 9)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # at the border the bias of the first is padded by 0
    with torch.no_grad():
        assert torch.allclose(_widened(wide, depthwise)(grid)[inner], depthwise(wide(grid))[inner], atol=1e-5)
        deep = torch.randn(2, 12, 9, 9)
        assert torch.allclose(_narrowed(depthwise, narrow)(deep), narrow(depthwise(deep)), atol=1e-5)


def test_a_fused_trunk_has_no_depthwise_convolution_at_half_the_resolution() -> None:
    trunk = LiteTrunk("lite0", MEAN, DEVIATION, fused=True).trunk
    convs = [module for block in list(trunk.blocks)[:2] for module in block.modules() if isinstance(module, nn.Conv2d)]
    assert convs
    assert all(conv.groups == 1 for conv in convs)


def test_a_fused_trunk_takes_the_weights_of_one_that_is_not() -> None:
    plain = LiteTrunk("lite0", MEAN, DEVIATION)
    fused = LiteTrunk("lite0", MEAN, DEVIATION, fused=True)
    fused_early_blocks(plain.trunk)
    fused.trunk.load_state_dict(plain.trunk.state_dict())
    image = torch.rand(1, 3, 64, 64)
    plain.eval()
    fused.eval()
    with torch.no_grad():
        for stride, grid in fused(image).items():
            assert torch.equal(grid, plain(image)[stride])


def test_an_encoder_and_a_decoder_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="kind fpn"):
        SegmenterSettings(student=PLAIN, decoder=DecoderSettings())
    with pytest.raises(ValueError, match="kind fpn"):
        SegmenterSettings(student=StudentSettings(), decoder=FPN)


def test_the_encoder_s_grain_is_its_deepest_stride() -> None:
    assert PLAIN.grain == LITE.grain == 32
    with torch.no_grad():
        maps = PlainEncoder(PLAIN).eval()(torch.rand(1, 3, 64, 64))
    assert [maps.levels[0].shape[-1], *(maps.detail[stride].shape[-1] for stride in (16, 8, 4))] == [2, 4, 8, 16]
