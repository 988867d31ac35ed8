"""Graphs that take tiles of several sides: which networks have one, and what is exported of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from engines.graph_sides import has_open_sides, of_side, with_sides
from tests.tiny_convolutional import FLIES, SIDES, ground, network
from trainer.errors import ExportRefused
from trainer.export.onnx import ExportPrecision, Trial, deploy_form, onnx_from_segmenter
from trainer.models.deploy import DeploySegmenter, DeploySettings
from trainer.models.segmenter import Segmenter, SegmenterSettings
from trainer.models.student import StudentSettings
from trainer.models.upernet import DecoderSettings

SMALL = np.s_[:1, :, :128, :128]


def export(path: Path, segmenter: Segmenter | None = None, **changes: Any) -> Any:
    options: dict[str, Any] = {"trial": Trial(ground(0)[None]), "settings": FLIES, "sides": SIDES, **changes}
    return onnx_from_segmenter(segmenter or network(), path, **options)


@pytest.mark.parametrize(("stride", "cell"), [(4, 1), (4, 2), (4, 4), (8, 2), (8, 4)])
def test_tiles_of_any_side_get_what_pytorch_says(tmp_path: Path, stride: int, cell: int) -> None:
    settings = FLIES.model_copy(update={"cell": cell})
    exported = export(tmp_path / "model.onnx", network(stride=stride), settings=settings)
    assert exported.sides == SIDES
    model = onnx.load(exported.path)
    sizes = {port.name: [dim.dim_param for dim in port.type.tensor_type.shape.dim] for port in model.graph.output}
    assert sizes == {"classes": ["N", "H", "W"], "confidence": ["N", "H", "W"]}
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    deploy = deploy_form(network(stride=stride), settings)
    for height, width in ((512, 768), (1024, 512)):
        tile = np.ascontiguousarray(ground(3)[None, :, :height, :width])
        found, sure = session.run(None, {"tiles": tile})
        with torch.inference_mode():
            expected, _ = deploy(torch.from_numpy(tile))
        assert found.shape == sure.shape == (1, height, width)
        assert (found == expected.numpy()).mean() > 0.9999
        assert len(np.unique(found)) > 2


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8-fp16"])
@pytest.mark.filterwarnings("ignore")
def test_every_precision_leaves_the_sides_open(tmp_path: Path, precision: ExportPrecision) -> None:
    exported = export(tmp_path / "model.onnx", precision=precision, calibration=[ground(5)[None]])
    assert exported.sides == SIDES
    assert has_open_sides(onnx.load(exported.path))


def test_at_the_usual_size_the_map_is_that_of_a_graph_of_one_size(tmp_path: Path) -> None:
    answers = []
    for sides in (SIDES, None):
        path = export(tmp_path / f"{sides}.onnx", sides=sides).path
        assert has_open_sides(onnx.load(path)) == (sides is not None)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {"tiles": ground(4)[None]}))
    for first, second in zip(*answers, strict=True):
        assert np.array_equal(first, second)


def attention() -> Segmenter:
    torch.manual_seed(0)
    student = StudentSettings(
        width=16, depth=2, heads=2, stem_widths=(8, 8, 8), stem_blocks=(1, 0), window=2, global_blocks=(2,),
        out_blocks=(1, 2), positions=8,
    )  # fmt: skip
    return Segmenter(SegmenterSettings(student=student, decoder=DecoderSettings(width=8, detail_widths=(8, 8))))


@pytest.mark.parametrize(
    ("segmenter", "settings", "twin"),
    [
        (attention, FLIES, False),
        (network, DeploySettings(), False),  # smoothing by matrices of one size
        (network, FLIES.model_copy(update={"cell": 8}), False),  # logits resized to the cells of one tile
        (network, FLIES, True),
    ],
    ids=["attention", "smoothing", "coarse cells", "probabilities"],
)
def test_other_graphs_are_for_one_size_and_say_so(
    tmp_path: Path, segmenter: Any, settings: DeploySettings, twin: bool
) -> None:
    trial = Trial(ground(0)[None][SMALL])
    exported = export(tmp_path / "model.onnx", segmenter(), settings=settings, twin=twin, trial=trial)
    assert exported.sides is None
    model = onnx.load(exported.path)
    assert not has_open_sides(model)
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [0, 3, 128, 128]
    assert of_side(exported.path.read_bytes(), 128) == exported.path.read_bytes()


def test_a_size_that_is_left_in_the_graph_is_found_before_the_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DeploySegmenter, "takes_any_side", True)
    with pytest.raises(ExportRefused, match="was to take tiles of several sides, and fails at 512 x 768 pixels"):
        export(tmp_path / "model.onnx", settings=DeploySettings())
    assert list(tmp_path.iterdir()) == []


def test_a_graph_is_given_one_size_for_tools_that_need_numbers(tmp_path: Path) -> None:
    path = export(tmp_path / "model.onnx").path
    sized = with_sides(onnx.load(path), 1024)
    graph = onnx.shape_inference.infer_shapes(sized, strict_mode=True).graph
    shapes = {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in [*graph.value_info, *graph.output]
    }
    assert shapes["classes"] == [0, 1024, 1024]
    assert all(0 not in shape[1:] for shape in shapes.values())
    outputs = [
        onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"tiles": ground(6)[None]})
        for content in (path.read_bytes(), of_side(path.read_bytes(), 1024))
    ]
    assert all(np.array_equal(one, other) for one, other in zip(*outputs, strict=True))
