from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from engines.manifest import ModelFile
from engines.testing import manifest_for_testing
from trainer.cli import main
from trainer.errors import SettingsRefused
from trainer.export.onnx import ExportPrecision, Trial, onnx_from_segmenter
from trainer.models.plain import FpnSettings, LiteSettings
from trainer.models.segmenter import PAPER_SEGMENTER, Segmenter, SegmenterSettings
from trainer.models.student import StudentSettings
from trainer.models.upernet import DecoderSettings
from trainer.profile.network import LiveBytes, Profile, profile_of, settings_from_yaml
from trainer.profile.onnx_graph import profile_of_folder
from trainer.profile.table import PUBLISHED

CONFIGS = Path(__file__).parents[3] / "trainer" / "configs"
STUDENT = StudentSettings(
    width=16, depth=3, heads=2, mlp_ratio=3, stem_widths=(4, 8, 12), stem_blocks=(1, 0), window=4, kv_pool=2,
    global_blocks=(2,), out_blocks=(1, 2, 3), positions=8,
)  # fmt: skip
SMALL = SegmenterSettings(student=STUDENT, decoder=DecoderSettings(width=10, detail_widths=(6, 4)), classes=3)
PLAIN = SegmenterSettings(
    student=STUDENT.model_copy(update={"stem": "linear", "window": None, "kv_pool": 1, "global_blocks": (1, 2, 3)}),
    decoder=DecoderSettings(width=10, detail_widths=None), classes=3,
)  # fmt: skip
LITE = SegmenterSettings(
    student=LiteSettings(kind="lite", fused=True), decoder=FpnSettings(kind="fpn", widths=(8, 8, 8, 8)), classes=3
)


def whole_by_torch(settings: SegmenterSettings, tile: int) -> int:
    with torch.device("meta"):
        network = Segmenter(settings).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.empty(1, 3, tile, tile, device="meta"))
    return int(counter.get_total_flops())


def test_the_published_figures_are_reproduced_by_the_counters_of_their_names() -> None:
    found = profile_of(PAPER_SEGMENTER, name="paper")
    assert found.parameters_without_positions == pytest.approx(PUBLISHED["parameters_without_positions"], rel=0.002)
    assert found.multiply_adds == pytest.approx(PUBLISHED["multiply_adds"], rel=0.002)
    assert found.parameters == found.parameters_without_positions + 384 * 64 * 64
    assert found.flops == pytest.approx(548e9, rel=0.002)


def test_the_papers_parts_are_those_of_hand_formulas() -> None:
    """ViT-S/16 on 4,096 tokens."""
    tokens, width = 4096, 384
    parts = profile_of(PAPER_SEGMENTER, name="paper").flops_by_part
    assert parts["stem"] == 2 * tokens * (16 * 16 * 3) * width
    assert parts["linear"] == 2 * 12 * tokens * (4 * width**2 + 8 * width**2)
    assert parts["attention"] == 2 * 12 * 2 * tokens**2 * width
    d, grid = 256, 64 * 64
    convolutions = (
        grid * ((width + 4 * d) * d * 9 + 3 * width * d + 3 * d * d * 9 + 4 * d * d * 9 + 7 * d)
        + (1 + 4 + 9 + 36) * width * d
    )
    means = sum(width * bins * 64 * 64 + width * bins * bins * 64 for bins in (1, 2, 3, 6))
    assert parts["decoder"] == 2 * (convolutions + means)


def test_windows_and_pooled_keys_are_counted_as_what_they_are() -> None:
    """64 tokens in windows of 16: blocks 1 and 3 within windows, block 2 over all of 16 pooled keys."""
    parts = profile_of(SMALL, name="small", tile=128).flops_by_part
    assert parts["attention"] == 2 * 2 * 64 * 16 * (16 + 16 + 16)
    one = 2 * 16 * 16 + 2 * 16 * 48  # q and out, MLP
    assert parts["linear"] == 2 * (64 * 3 * one + (64 + 16 + 64) * 16 * 32)
    stem = 64**2 * 27 * 4 + 32**2 * 36 * 8 + 32**2 * 72 * 8 + 16**2 * 72 * 12 + 8**2 * 108 * 16
    assert parts["stem"] == 2 * stem


@pytest.mark.parametrize(("settings", "tile"), [(SMALL, 128), (PLAIN, 128), (PAPER_SEGMENTER, 1024)])
def test_the_whole_count_is_that_of_torch(settings: SegmenterSettings, tile: int) -> None:
    assert profile_of(settings, name="x", tile=tile).flops == whole_by_torch(settings, tile)


def test_bytes_moved_are_inputs_weights_and_outputs() -> None:
    """Of a linear stem's one convolution, and of one block's attention, by hand."""
    layers = profile_of(PLAIN, name="x", tile=128).layers
    (stem,) = (layer for layer in layers if layer.part == "stem")
    assert stem.moved == 3 * 128 * 128 + (768 * 16 + 16) + 64 * 16
    attention = [layer for layer in layers if layer.part == "attention"]
    assert [layer.moved for layer in attention] == [4 * 64 * 16] * 3


def test_live_bytes_are_those_of_tensors_still_held() -> None:
    with LiveBytes() as live:
        first = torch.zeros(100)
        second = first.reshape(10, 10) + 1  # a view is no memory
        del first
        third = torch.cat([second, second])
        del second
        fourth = torch.zeros(10)
    assert live.live == 4 * (200 + 10)
    assert live.peak == 4 * 300
    del third, fourth
    assert live.live == 0


def test_scores_written_out_take_their_memory() -> None:
    """Two heads' scores of 256 tokens, and their softmax beside them, dwarf all else."""
    found = profile_of(PLAIN, name="x", tile=256)
    scores = 2 * 256 * 256 * 2
    assert found.peak_bytes >= 2 * scores
    assert found.peak_bytes_fused < found.peak_bytes
    assert found.peak_bytes_fused >= 2 * 3 * 256 * 256  # the pixels


def exported(folder: Path, settings: SegmenterSettings, precision: ExportPrecision) -> Profile:
    tiles = np.random.default_rng(0).integers(0, 256, (1, 3, 128, 128), dtype=np.uint8)
    network = Segmenter(settings)
    made = onnx_from_segmenter(network, folder / "model.onnx", trial=Trial(tiles), precision=precision)
    manifest = manifest_for_testing(tile_size=128, classes=3, confidence=True)
    manifest.model_copy(update={"model": ModelFile.of(made.path), "total_parameters": made.parameters}).save(folder)
    return profile_of_folder(folder)


@pytest.mark.parametrize("settings", [SMALL, PLAIN, LITE], ids=["small", "plain", "lite"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_graph_that_flies_counts_as_the_network_does(
    tmp_path: Path, settings: SegmenterSettings, precision: ExportPrecision
) -> None:
    graph, network = exported(tmp_path, settings, precision), profile_of(settings, name="x", tile=128)
    assert graph.flops_by_part == network.flops_by_part
    assert graph.multiply_adds == network.multiply_adds
    assert (graph.parameters, graph.positions) == (network.parameters, network.positions)
    assert graph.bytes_moved == pytest.approx(network.bytes_moved, rel=0.03)  # norms folded, means in two steps
    assert graph.peak_bytes >= graph.peak_bytes_fused


def test_the_command_prints_both_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = ["--model", "dubai-lite"]
    files = ["--json", str(tmp_path / "a.json"), "--markdown", str(tmp_path / "a.md")]
    assert main(["profile", "--paper", *shipped, "--config", str(CONFIGS / "lite.yaml"), *files]) == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "a.md").read_text()
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in printed.splitlines() if " | " in line}
    assert [cell.strip(" |") for cell in rows["multiply-adds, G (convolutions and linear layers)"]] == [
        "119.76", "119.60", "29.01", "29.01",
    ]  # fmt: skip
    assert "Peak of paper, rebuilt, lite: live tensors" in printed
    assert rows["parameters, M (positions not counted)"][:2] == ["29.65", "29.66"]
    facts = json.loads((tmp_path / "a.json").read_text())
    assert [one["flops"] for one in facts["profiles"]][1] == facts["profiles"][2]["flops"]


def test_what_cannot_be_counted_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text("model: {student: {depth: none}}\n")
    assert main(["profile"]) == 2
    assert main(["profile", "--config", str(tmp_path / "x.yaml")]) == 2
    assert main(["profile", "--config", str(CONFIGS / "small.yaml"), "--tile", "1000"]) == 2
    assert main(["profile", "--model", "nonesuch"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "dubai-lite" in lines[3]  # what there is
    assert "depth" in lines[1]
    assert "1000" in lines[2]
    with pytest.raises(SettingsRefused, match="no network"):
        settings_from_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize("option", ["--markdown", "--json"])
def test_a_folder_that_is_not_there_is_told_before_anything_is_counted(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "--paper", option, str(tmp_path / "nope" / "x")]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == f"trainer: {tmp_path}/nope: no such folder\n"
