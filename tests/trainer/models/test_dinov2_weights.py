"""DINOv2's weights in a plain ViT of this project, and out of an ONNX file."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from tests.trainer.tiny_sets import many_sets_settings
from trainer.cli import main
from trainer.config import checked_settings
from trainer.errors import CheckpointRefused, SettingsRefused
from trainer.finetune.many_sets import ManySetsTask, mixture_of
from trainer.models.dinov2_onnx import folder_from_onnx
from trainer.models.dinov2_weights import load_dinov2
from trainer.models.student import Student, StudentSettings
from trainer.training.loop import _groups

SHAPE = {
    "width": 128, "depth": 2, "heads": 2, "patch": 14, "stem": "linear", "window": None, "kv_pool": 1,
    "positions": 3, "global_blocks": [1, 2], "out_blocks": [1, 2],
}  # fmt: skip


def _model() -> Dinov2Model:
    torch.manual_seed(0)
    model = Dinov2Model(
        Dinov2Config(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=42, patch_size=14)
    )
    for name, parameter in model.named_parameters():  # scales and norms of one tell nothing of their use
        nn.init.normal_(parameter, mean=0.1, std=0.0 if name.endswith("mask_token") else 0.2)
    model.train(False)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _model().save_pretrained(tmp_path / "published")
    return tmp_path / "published"


class _WithHead(nn.Module):
    """As packages export it: a backbone, and a head of their own."""

    def __init__(self, model: Dinov2Model) -> None:
        super().__init__()
        self.backbone = model
        self.head = nn.Linear(128, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.backbone(image).last_hidden_state)  # type: ignore[no-any-return]


def _exported(path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the older exporter, whose names are those of the files that there are
        _export(path)
    return path


def _export(path: Path) -> None:
    torch.onnx.export(
        _WithHead(_model()), (torch.rand(1, 3, 42, 42),), path, dynamo=False, opset_version=17, input_names=["image"],
        dynamic_axes={"image": {0: "n"}},
    )  # fmt: skip


def _student(**other: object) -> Student:
    return Student(StudentSettings.model_validate({**SHAPE, **other})).train(False)


def _without_class_token(model: Dinov2Model, image: Tensor) -> Tensor:
    """Transformers' own blocks on the tokens of patches alone."""
    embeddings = model.embeddings
    tokens = embeddings.patch_embeddings(image) + embeddings.position_embeddings[:, 1:]
    for layer in model.encoder.layer:
        out = layer(tokens)
        tokens = out[0] if isinstance(out, tuple) else out
    return model.layernorm(tokens)  # type: ignore[no-any-return]


def test_the_encoder_gives_what_transformers_blocks_give_without_the_class_token(folder: Path) -> None:
    student = _student()
    load_dinov2(student, folder)
    image = torch.randn(2, 3, 42, 42)
    with torch.no_grad():
        found = student(image).levels[-1].flatten(2).transpose(1, 2)
        expected = _without_class_token(_model(), image)
    assert float((found - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ({"heads": 4}, "2 blocks of 2 heads, the encoder here 2 of 4.*set model.student to the shape"),
        ({"depth": 3, "global_blocks": [1], "out_blocks": [1]}, "2 blocks of 2 heads, the encoder here 3 of 2"),
        ({"positions": 5}, "positions"),
    ],
)
def test_another_shape_is_refused(folder: Path, other: dict[str, object], problem: str) -> None:
    with pytest.raises(CheckpointRefused, match=problem):
        load_dinov2(_student(**other), folder)


def test_windows_and_folders_without_a_backbone_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused, match="`window: null` alone"):
        load_dinov2(_student(window=3), folder)
    with pytest.raises(CheckpointRefused, match=r"holds no config\.json"):
        load_dinov2(_student(), tmp_path / "none")


@pytest.mark.parametrize("other", [{"qkv_bias": False}, {"hidden_act": "relu"}], ids=["no biases", "relu"])
def test_a_backbone_of_other_blocks_is_refused(tmp_path: Path, other: dict[str, object]) -> None:
    shape = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 42, "patch_size": 14}
    Dinov2Model(Dinov2Config.from_dict({**shape, **other})).save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointRefused, match="no published DINOv2 is so; take weights of DINOv2"):
        load_dinov2(_student(), tmp_path / "other")


def test_perceptrons_of_vit_g_are_refused(tmp_path: Path) -> None:
    config = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 42, "patch_size": 14}
    Dinov2Model(Dinov2Config.from_dict({**config, "use_swiglu_ffn": True})).save_pretrained(tmp_path / "g")
    with pytest.raises(CheckpointRefused, match="its perceptrons are SwiGLU, of ViT-g; take ViT-S, ViT-B or ViT-L"):
        load_dinov2(_student(), tmp_path / "g")


def test_weights_in_several_files_are_refused_with_what_to_do(tmp_path: Path) -> None:
    _model().save_pretrained(tmp_path / "parts", max_shard_size="300KB")
    with pytest.raises(CheckpointRefused, match=r"several files, not in model\.safetensors; save it again in one"):
        load_dinov2(_student(), tmp_path / "parts")


def test_a_run_starts_from_them_at_a_rate_of_their_own(folder: Path, tmp_path: Path) -> None:
    base = many_sets_settings(tmp_path).model_dump(mode="json")
    decoder = {"kind": "upernet", "width": 8, "detail_widths": None}
    model = {
        "classes": 3, "student": SHAPE, "decoder": decoder, "heads": {"coarse": {"classes": 2, "decoder": decoder}},
    }  # fmt: skip
    settings = checked_settings(
        {
            **base, "model": model, "stem_weights": str(folder), "stem_learning_rate": 0.1,
            "stages": [{"until": 1.0, "crop": 42, "batch": 2}],
        },
        type(many_sets_settings(tmp_path / "other")), "made",
    )  # fmt: skip
    task = ManySetsTask(settings, mixture_of(settings))
    student = task.segmenter.student
    image = torch.randn(1, 3, 42, 42)
    with torch.no_grad():
        found = student.train(False)(image).levels[-1].flatten(2).transpose(1, 2)
        assert float((found - _without_class_token(_model(), image)).norm() / found.norm()) < 1e-4
    shares = {id(parameter): group["share"] for group in _groups(task.network, 0.05) for parameter in group["params"]}
    assert {shares[id(parameter)] for parameter in student.parameters()} == {0.1}
    assert {shares[id(parameter)] for parameter in task.segmenter.decoder.parameters()} == {1.0}


def test_an_onnx_file_gives_the_folder_it_was_made_of(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dinov2", str(_exported(tmp_path / "packed.onnx")), "--out", str(tmp_path / "out")]) == 0
    assert "2 blocks, width 128, 2 heads, patches of 14 pixels, positions for 42 pixels" in capsys.readouterr().out
    found, expected = (Dinov2Model.from_pretrained(path).state_dict() for path in (tmp_path / "out", folder))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if not name.endswith("mask_token"):
            assert torch.equal(found[name], tensor), name
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "dinov2"


def test_what_is_no_such_graph_is_refused_and_leaves_no_folder(tmp_path: Path) -> None:
    path = _exported(tmp_path / "whole.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    graph = onnx.load(path)
    kept = [item for item in graph.graph.initializer if not item.name.endswith("encoder.layer.1.norm2.bias")]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
    onnx.save(graph, tmp_path / "short.onnx")
    shutil.copy("engines/shipped/dubai-lite/model.onnx", tmp_path / "other.onnx")
    for name, problem in (
        ("text.onnx", "cannot be read"), ("none.onnx", "cannot be read"), ("other.onnx", "holds no"),
        ("short.onnx", "1 keys? missing"),
    ):  # fmt: skip
        with pytest.raises(CheckpointRefused, match=problem):
            folder_from_onnx(tmp_path / name, tmp_path / "out")
    with pytest.raises(CheckpointRefused, match="exists already"):
        folder_from_onnx(path, tmp_path)
    assert sorted(each.suffix for each in tmp_path.iterdir()) == [".onnx"] * 4
