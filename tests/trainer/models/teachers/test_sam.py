"""The SAM teacher against transformers' own, and the files its weights come from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import SamConfig, SamModel, SamVisionConfig, SamVisionModel

from trainer.errors import CheckpointRefused, SettingsRefused
from trainer.models.masking import visible_from
from trainer.models.mmoa import MMoASettings
from trainer.models.teachers.build import build_teacher
from trainer.models.teachers.sam import DEVIATION, MEAN, SamTeacher
from trainer.models.teachers.sam_weights import encoder_from
from trainer.models.teachers.settings import SAM_SHAPES, SamShape, TeacherSettings

PINNED = MMoASettings(pin_gate=True)


def _teacher(image: int, *, window: int = 7, mmoa: MMoASettings = PINNED) -> SamTeacher:
    shape = SamShape(width=32, depth=4, heads=2, window=window, global_blocks=(2, 4), image=image)
    teacher = build_teacher(TeacherSettings(shape=shape, levels=(1, 2, 3, 4), mmoa=mmoa))
    assert isinstance(teacher, SamTeacher)
    return teacher


def _reference(teacher: SamTeacher, pixels: Tensor) -> list[Tensor]:
    """Every block's output as transformers runs the same weights, (B, N, D) each."""
    model = SamVisionModel(teacher.encoder.config).train(False)
    model.vision_encoder.load_state_dict(teacher.encoder.state_dict())
    outputs: list[Tensor] = []
    for layer in model.vision_encoder.layers:
        layer.register_forward_hook(lambda _m, _i, out: outputs.append(out[0] if isinstance(out, tuple) else out))
    mean, deviation = (torch.tensor(value).reshape(1, 3, 1, 1) for value in (MEAN, DEVIATION))
    with torch.no_grad():
        model(pixel_values=(pixels - mean) / deviation)
    return [output.flatten(1, 2) for output in outputs]


def _relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().norm() / other.detach().norm())


# 7 windows of 7 divide neither 10 nor 13 tokens, so windows are padded; 14 they do, and 5 is less than one.
@pytest.mark.parametrize("side", [5, 10, 13, 14])
def test_unmasked_and_pinned_every_block_equals_transformers(side: int) -> None:
    teacher = _teacher(16 * side)
    pixels = torch.rand(2, 3, 16 * side, 16 * side) * 255
    with torch.no_grad():
        levels = teacher(pixels, None).levels
    for number, (level, reference) in enumerate(zip(levels, _reference(teacher, pixels), strict=True), start=1):
        assert _relative(level, reference) < 1e-5, f"block {number}"


def test_the_adapters_move_every_block_away_from_it() -> None:
    teacher = _teacher(96, mmoa=MMoASettings())
    pixels = torch.rand(1, 3, 96, 96) * 255
    for level, reference in zip(teacher(pixels, None).levels, _reference(teacher, pixels), strict=True):
        assert _relative(level, reference) > 1e-3


@pytest.mark.slow
def test_unmasked_and_pinned_every_block_equals_transformers_at_the_size_of_vit_l() -> None:
    """ViT-L's width, depth, heads and windows; a 352-pixel image (22 tokens: padded windows), not 1024, for time."""
    shape = SAM_SHAPES["vit-l"].model_copy(update={"image": 352})
    teacher = build_teacher(TeacherSettings(shape=shape, levels=tuple(range(1, 25)), mmoa=PINNED))
    assert isinstance(teacher, SamTeacher)
    pixels = torch.rand(1, 3, 352, 352) * 255
    with torch.no_grad():
        levels = teacher(pixels, None).levels
    for number, (level, reference) in enumerate(zip(levels, _reference(teacher, pixels), strict=True), start=1):
        assert _relative(level, reference) < 1e-5, f"block {number}"


def test_on_the_compact_grid_it_is_sam_on_an_image_of_the_seen_patches() -> None:
    """Seen patches laid side by side, each with its own position, and tables of relative positions interpolated."""
    teacher = _teacher(160)
    pixels = torch.rand(1, 3, 160, 160) * 255
    index = torch.tensor([[row * 10 + column for row in range(0, 10, 2) for column in range(1, 10, 2)]])
    visible = visible_from(index, 10, 10, 0.75)
    compact = torch.cat([torch.cat([pixels[..., 16 * r : 16 * r + 16, 16 * c : 16 * c + 16]
                                    for c in range(1, 10, 2)], dim=-1) for r in range(0, 10, 2)], dim=-2)  # fmt: skip
    small = _teacher(80)
    state = teacher.encoder.state_dict()
    state["pos_embed"] = state["pos_embed"][:, 0::2, 1::2]
    for name in ("rel_pos_h", "rel_pos_w"):
        for block in (1, 3):
            key = f"layers.{block}.attn.{name}"
            table = state[key].T[None]  # 19 entries for a side of 10, to 9 for a side of 5
            state[key] = torch.nn.functional.interpolate(table, size=9, mode="linear")[0].T
    small.encoder.load_state_dict(state)
    assert _relative(teacher(pixels, visible).last, small(compact, None).last) < 1e-5


def test_an_image_of_another_size_gets_interpolated_positions() -> None:
    teacher = _teacher(160)
    positions = teacher.encoder.pos_embed
    assert positions is not None
    assert teacher(torch.rand(1, 3, 96, 224) * 255, None).last.shape == (1, 6 * 14, 32)


def test_another_patch_than_the_weights_is_refused() -> None:
    shape = SamShape(width=8, depth=1, heads=2, window=2, global_blocks=(), image=64)
    with pytest.raises(SettingsRefused, match="8 given, and this SAM has patches of 16"):
        build_teacher(TeacherSettings(shape=shape, patch=8, levels=(1,)))


TINY = SamVisionConfig(
    hidden_size=24, num_hidden_layers=3, num_attention_heads=3, image_size=160, window_size=7, mlp_dim=56,
    global_attn_indexes=[1], output_channels=12, initializer_range=0.02,
)  # fmt: skip


def _drawn(model: torch.nn.Module) -> None:
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)


def _meta_state(model: SamVisionModel) -> dict[str, Tensor]:
    """The same weights under the names of Meta's files."""
    names = {"layer_norm1": "norm1", "layer_norm2": "norm2", "layers": "blocks"}
    neck = {"conv1": "0", "layer_norm1": "1", "conv2": "2", "layer_norm2": "3"}
    state = {}
    for key, value in model.vision_encoder.state_dict().items():
        parts = key.split(".")
        if parts[0] == "neck":
            parts[1] = neck[parts[1]]
        elif parts[0] == "patch_embed":
            parts[1] = "proj"
        else:
            parts = [names.get(part, part) for part in parts]
        state["image_encoder." + ".".join(parts)] = value
    return state


@pytest.fixture
def tiny() -> SamVisionModel:
    model = SamVisionModel(TINY)
    model.train(False)
    _drawn(model)
    return model


def _saved(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def _same_output(path: Path, model: SamVisionModel) -> None:
    encoder = encoder_from(path).train(False)
    image = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        ours = encoder(pixel_values=image).last_hidden_state
        theirs = model(pixel_values=image).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("prefix", ["image_encoder.", ""])
def test_metas_file_gives_the_same_outputs(tmp_path: Path, tiny: SamVisionModel, prefix: str) -> None:
    state = {key.replace("image_encoder.", prefix): value for key, value in _meta_state(tiny).items()}
    state |= {
        "prompt_encoder.not_a_point_embed.weight": torch.zeros(1, 4),
        "mask_decoder.iou_token.weight": torch.ones(1),
    }
    _same_output(_saved(tmp_path / "sam.pth", state), tiny)
    teacher = build_teacher(TeacherSettings(weights=tmp_path / "sam.pth", levels=(1, 3), mmoa=PINNED))
    pixels = torch.rand(1, 3, 160, 160) * 255
    assert isinstance(teacher, SamTeacher)
    assert _relative(teacher(pixels, None).last, _reference(teacher, pixels)[-1]) < 1e-5


def test_the_key_names_are_those_of_metas_published_files(tiny: SamVisionModel) -> None:
    keys = {re.sub(r"blocks\.\d+", "blocks.N", key) for key in _meta_state(tiny)}
    block = ["norm1.weight", "norm1.bias", "attn.rel_pos_h", "attn.rel_pos_w", "attn.qkv.weight", "attn.qkv.bias",
             "attn.proj.weight", "attn.proj.bias", "norm2.weight", "norm2.bias", "mlp.lin1.weight", "mlp.lin1.bias",
             "mlp.lin2.weight", "mlp.lin2.bias"]  # fmt: skip
    whole = ["pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "neck.0.weight", "neck.1.weight",
             "neck.1.bias", "neck.2.weight", "neck.3.weight", "neck.3.bias"]  # fmt: skip
    assert keys == {f"image_encoder.blocks.N.{name}" for name in block} | {f"image_encoder.{name}" for name in whole}


def test_a_folder_of_sam_vision_model_and_of_sam_model_give_the_same_outputs(
    tmp_path: Path, tiny: SamVisionModel, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny.save_pretrained(tmp_path / "vision")
    whole = SamModel(SamConfig(vision_config=TINY.to_dict()))
    whole.vision_encoder.load_state_dict(tiny.vision_encoder.state_dict())
    whole.save_pretrained(tmp_path / "whole")
    capfd.readouterr()
    _same_output(tmp_path / "vision", tiny)
    _same_output(tmp_path / "whole", tiny)
    assert capfd.readouterr().err == ""


def test_a_missing_or_damaged_file_is_refused_by_name(tmp_path: Path, tiny: SamVisionModel) -> None:
    with pytest.raises(CheckpointRefused, match=r"nowhere\.pth: there is no such file"):
        encoder_from(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointRefused, match="holds no config"):
        encoder_from(tmp_path)
    (tmp_path / "torn.pth").write_bytes(_saved(tmp_path / "sam.pth", _meta_state(tiny)).read_bytes()[:5000])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("<html>404</html>")
    for name in ("torn", "empty", "text"):
        with pytest.raises(CheckpointRefused, match="not a readable file of weights") as refused:
            encoder_from(tmp_path / f"{name}.pth")
        assert "\n" not in str(refused.value)
        assert "weights_only" not in str(refused.value)  # which torch advises to switch off
    with pytest.raises(CheckpointRefused, match="one flat table"):
        encoder_from(_saved(tmp_path / "nested.pth", {"model": _meta_state(tiny)}))
    with pytest.raises(CheckpointRefused, match="not a SAM image encoder: 'pos_embed'"):
        encoder_from(_saved(tmp_path / "other.pth", {"layer.weight": torch.zeros(3)}))


class _Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code of the file ran",))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _saved(tmp_path / "bad.pth", {"image_encoder.pos_embed": _Runs()})
    with pytest.raises(CheckpointRefused, match="not a readable file of weights"):
        encoder_from(path)
    assert capsys.readouterr().out == ""


def test_missing_unexpected_and_misshaped_keys_are_named(tmp_path: Path, tiny: SamVisionModel) -> None:
    state = _meta_state(tiny)
    del state["image_encoder.blocks.2.mlp.lin2.bias"]
    state["image_encoder.blocks.0.adapter.weight"] = torch.zeros(2)
    state["image_encoder.blocks.1.norm1.weight"] = torch.zeros(23)
    with pytest.raises(CheckpointRefused) as refused:
        encoder_from(_saved(tmp_path / "odd.pth", state))
    message = str(refused.value)
    assert "1 keys missing (layers.2.mlp.lin2.bias)" in message
    assert "1 keys unexpected (layers.0.adapter.weight)" in message
    assert "layers.1.layer_norm1.weight is (23,) and not (24,)" in message
    assert "sam_vit_l_0b3195.pth" in message


def test_a_folder_of_another_model_or_another_shape_is_refused(tmp_path: Path, tiny: SamVisionModel) -> None:
    from safetensors.torch import load_file, save_file

    tiny.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    good = load_file(path)
    bad = {**good, "vision_encoder.neck.conv1.weight": torch.zeros(5, 24, 1, 1), "vision_encoder.extra": torch.ones(1)}
    del bad["vision_encoder.pos_embed"]
    save_file(bad, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointRefused, match=r"missing \(vision_encoder.pos_embed\).*unexpected.*extra.*neck.conv1"):
        encoder_from(tmp_path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(CheckpointRefused, match="cannot read it"):
        encoder_from(tmp_path)
