from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from trainer import export
from trainer.errors import ExportRefused
from trainer.models.segmenter import Segmenter, SegmenterSettings
from trainer.models.student import StudentSettings
from trainer.models.upernet import DecoderSettings

STUDENT = StudentSettings(
    width=16, depth=2, heads=2, stem_widths=(8, 8, 8), stem_blocks=(1, 0), window=2, global_blocks=(2,),
    out_blocks=(1, 2), positions=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    network = Segmenter(
        SegmenterSettings(student=STUDENT, decoder=DecoderSettings(width=8, detail_widths=(8, 8)), classes=3)
    )
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training, so that folding is put to the test
            assert module.running_mean is not None
            assert module.running_var is not None
            torch.nn.init.normal_(module.running_mean, std=0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network


def tiles(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 128, 128), dtype=np.uint8)


def test_the_file_repeats_the_network_at_any_batch(tmp_path: Path, segmenter: Segmenter) -> None:
    exported = export.onnx_from_segmenter(segmenter, tmp_path / "model.onnx", tiles=tiles(2))
    assert exported.opset == 17
    assert exported.ir <= 10
    assert exported.agreement >= 0.999
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    (tensor,) = session.get_inputs()
    assert (tensor.name, tensor.type, tensor.shape) == ("tiles", "tensor(uint8)", ["N", 3, 128, 128])
    batch = tiles(3)
    classes, confidence = session.run(["classes", "confidence"], {"tiles": batch})
    assert classes.dtype == confidence.dtype == np.uint8
    assert classes.shape == confidence.shape == (3, 128, 128)
    expected, sure = export.flight_form(segmenter)(torch.from_numpy(batch))
    assert (classes == expected.numpy()).mean() >= 0.999
    assert np.abs(confidence.astype(int) - sure.numpy().astype(int)).max() <= 1
    assert not any("BatchNorm" in node.op_type for node in onnx.load(exported.path).graph.node)


def test_a_file_that_disagrees_is_refused_and_not_left_behind(
    tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = export.agreement_of
    other = Segmenter(segmenter.settings)
    monkeypatch.setattr(export, "agreement_of", lambda _, path, pixels: real(export.flight_form(other), path, pixels))
    with pytest.raises(ExportRefused, match="agree on"):
        export.onnx_from_segmenter(segmenter, tmp_path / "model.onnx", tiles=tiles(1))
    assert list(tmp_path.iterdir()) == []


def test_exporting_leaves_the_network_as_it_was(tmp_path: Path, segmenter: Segmenter) -> None:
    segmenter.train()
    export.onnx_from_segmenter(segmenter, tmp_path / "model.onnx", tiles=tiles(1))
    assert segmenter.training
