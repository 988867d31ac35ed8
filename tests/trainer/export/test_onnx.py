from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from trainer.errors import ExportRefused
from trainer.export import onnx as export
from trainer.export import quantize
from trainer.export.half import HEADROOM, LARGEST, Ranges, half_from_onnx, measured_ranges
from trainer.export.onnx import Trial
from trainer.models.deploy import DeploySegmenter, DeploySettings
from trainer.models.lite_stem import LiteName, lite_stages
from trainer.models.plain import FpnSettings, LiteSettings
from trainer.models.segmenter import Segmenter, SegmenterSettings
from trainer.models.student import Attention, StudentSettings
from trainer.models.upernet import DecoderSettings
from trainer.profile.peak_memory import available_bytes, peak_bytes

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
    with torch.no_grad():
        network.decoder.classifier.weight *= 8  # as after training: some pixels are sure
    return network


def tiles(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 128, 128), dtype=np.uint8)


def labels(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 4, (count, 128, 128), dtype=np.uint8)


def opened(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_a_network_that_takes_more_memory_than_there_is_is_refused_before_it_runs(
    tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy = export.deploy_form(segmenter)
    needed = peak_bytes(deploy, (1, 3, 128, 128))
    pixels = np.float32(0).nbytes * 3 * 128 * 128  # the tile as numbers is alive at some time
    assert pixels < needed < 100 * pixels
    assert peak_bytes(deploy, (2, 3, 128, 128)) > 1.5 * needed
    monkeypatch.setattr(export, "available_bytes", lambda: needed - 1)
    with pytest.raises(ExportRefused, match="larger machine"):
        export.onnx_from_segmenter(segmenter, tmp_path / "model.onnx", trial=Trial(tiles(1)))
    assert list(tmp_path.iterdir()) == []
    assert (available_bytes() or 0) > needed  # what this machine says


def test_the_file_repeats_the_network_at_any_batch(tmp_path: Path, segmenter: Segmenter) -> None:
    exported = export.onnx_from_segmenter(segmenter, tmp_path / "model.onnx", trial=Trial(tiles(2)))
    assert exported.opset == 17
    assert exported.ir <= 10
    assert exported.agreement.same_class >= 0.999
    assert exported.agreement.miou is None
    session = opened(exported.path)
    (tensor,) = session.get_inputs()
    assert (tensor.name, tensor.type, tensor.shape) == ("tiles", "tensor(uint8)", ["N", 3, 128, 128])
    batch = tiles(3)
    classes, confidence = session.run(["classes", "confidence"], {"tiles": batch})
    assert classes.dtype == confidence.dtype == np.uint8
    assert classes.shape == confidence.shape == (3, 128, 128)
    expected, sure = export.deploy_form(segmenter)(torch.from_numpy(batch))
    assert (classes == expected.numpy()).mean() >= 0.999
    assert np.abs(confidence.astype(int) - sure.numpy().astype(int)).max() <= 1
    assert not any("BatchNorm" in node.op_type for node in onnx.load(exported.path).graph.node)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_tile_larger_than_the_table_of_positions_is_exported_with_a_table_of_its_own(
    tmp_path: Path, precision: export.ExportPrecision
) -> None:
    """Learnt on crops of 64 pixels, flown on tiles of 128: engines that have no bicubic resize need none."""
    student = STUDENT.model_copy(update={"positions": 4, "stem": "linear"})
    decoder = DecoderSettings(width=8, detail_widths=None)
    network = Segmenter(SegmenterSettings(student=student, decoder=decoder, classes=3))
    exported = export.onnx_from_segmenter(network, tmp_path / "model.onnx", trial=Trial(tiles(2)), precision=precision)
    assert exported.agreement.same_class >= 0.995
    assert network.student.positions.shape == (1, 16, 4, 4)
    graph = onnx.load(exported.path).graph
    assert not [node for node in graph.node if node.op_type == "Resize" and "student" in node.name]


def test_half_keeps_its_weights_in_half_and_says_nearly_the_same(tmp_path: Path, segmenter: Segmenter) -> None:
    trial = Trial(tiles(2), labels(2))
    whole = export.onnx_from_segmenter(segmenter, tmp_path / "whole.onnx", trial=trial)
    half = export.onnx_from_segmenter(segmenter, tmp_path / "half.onnx", trial=trial, precision="fp16")
    assert half.path.stat().st_size < 0.75 * whole.path.stat().st_size
    model = onnx.load(half.path)
    onnx.checker.check_model(model, full_check=True)
    kinds = {item.name: item.data_type for item in model.graph.initializer}
    assert kinds["segmenter.decoder.classifier.weight/half"] == onnx.TensorProto.FLOAT16
    assert half.ir <= 10
    assert half.opset == 17
    assert half.agreement.same_class >= 0.995
    assert half.agreement.reference_miou == whole.agreement.reference_miou
    assert half.agreement.miou == pytest.approx(half.agreement.reference_miou, abs=5e-4)
    (tensor,), outputs = opened(half.path).get_inputs(), opened(half.path).get_outputs()
    assert [tensor.type, *(output.type for output in outputs)] == ["tensor(uint8)"] * 3
    assert "FP16" in half.widths
    assert whole.widths == ""


def products(model: onnx.ModelProto, *, of: str, ending: str = "") -> set[int]:
    """Types of what the nodes of one kind inside the blocks give."""
    kinds = {
        item.name: item.type.tensor_type.elem_type for item in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    return {
        kinds[node.output[0]]
        for node in model.graph.node
        if node.op_type == of and "/blocks." in node.name and node.name.endswith(ending)
    }


@pytest.mark.parametrize(("ranges", "norm", "score"), [
    (Ranges(squares=1.0, score=1.0, activation=1.0), 10, 10),
    (Ranges(squares=LARGEST / HEADROOM + 1, score=1.0, activation=1.0), 1, 10),
    (Ranges(squares=1.0, score=65.0, activation=1.0), 10, 1),
])  # fmt: skip
def test_what_ranges_ask_for_stays_in_fp32(
    tmp_path: Path, segmenter: Segmenter, ranges: Ranges, norm: int, score: int
) -> None:
    path = export.onnx_from_segmenter(segmenter, tmp_path / "model.onnx", trial=Trial(tiles(1))).path
    model = half_from_onnx(onnx.load(path), ranges)
    onnx.checker.check_model(model, full_check=True)
    assert products(model, of="LayerNormalization") == {norm}
    assert products(model, of="Softmax") == {score}
    assert products(model, of="MatMul", ending="/attention/MatMul") == {score}
    assert products(model, of="MatMul", ending="/mlp.0/MatMul") == {10}
    assert ("LayerNorm in FP32" in ranges.described(), "softmax in FP32" in ranges.described()) == (
        norm == 1,
        score == 1,
    )


def test_measured_ranges_are_those_of_the_layers(segmenter: Segmenter) -> None:
    pixels = torch.from_numpy(tiles(2))
    seen: dict[str, list[float]] = {"squares": [], "score": []}

    def attend(q: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        seen["score"].append(float(torch.einsum("bhid,bhjd->bhij", q, key).abs().max()) / q.shape[-1] ** 0.5)
        return torch.nn.functional.scaled_dot_product_attention(q, key, value)

    network = export.deploy_form(segmenter).segmenter
    for module in network.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.register_forward_pre_hook(
                lambda _, inputs: seen["squares"].append(
                    float(((inputs[0] - inputs[0].mean(-1, keepdim=True)) ** 2).sum(-1).max())
                )
            )
        if isinstance(module, Attention):
            module._attend = attend  # type: ignore[method-assign]
    with torch.inference_mode():
        network(pixels.float())
    ranges = measured_ranges(segmenter, pixels)
    assert ranges.squares == pytest.approx(max(seen["squares"]), rel=1e-4)
    assert ranges.score == pytest.approx(max(seen["score"]), rel=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_twin_gives_the_probabilities_that_the_confidence_is_one_of(
    tmp_path: Path, segmenter: Segmenter, precision: export.ExportPrecision
) -> None:
    settings = DeploySettings(temperature=1.7)
    written = [
        export.onnx_from_segmenter(
            segmenter,
            tmp_path / f"{twin}.onnx",
            trial=Trial(tiles(1)),
            settings=settings,
            precision=precision,
            twin=twin,
        )
        for twin in (False, True)
    ]
    classes, confidence = opened(written[0].path).run(None, {"tiles": tiles(2)})
    session = opened(written[1].path)
    assert [(item.name, item.type) for item in session.get_outputs()] == [("probabilities", "tensor(float)")]
    (probabilities,) = session.run(None, {"tiles": tiles(2)})
    assert probabilities.shape == (2, 3, 128, 128)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones((2, 128, 128)), abs=1e-5)
    of_class_said = np.take_along_axis(probabilities, classes[:, None].astype(int) - 1, axis=1)[:, 0]
    assert np.abs(np.maximum(1, of_class_said * 255) - confidence).max() <= (0.51 if precision == "fp32" else 3)


def test_temperature_changes_confidence_and_no_class(segmenter: Segmenter) -> None:
    pixels = torch.from_numpy(tiles(1))
    classes, confidence = export.deploy_form(segmenter)(pixels)
    same, flatter = export.deploy_form(segmenter, DeploySettings(temperature=3.0))(pixels)
    assert torch.equal(classes, same)
    assert flatter.float().mean() < confidence.float().mean() - 1


def test_without_confidence_there_is_one_output(tmp_path: Path, segmenter: Segmenter) -> None:
    exported = export.onnx_from_segmenter(
        segmenter, tmp_path / "model.onnx", trial=Trial(tiles(1)), settings=DeploySettings(confidence=False)
    )
    assert [item.name for item in opened(exported.path).get_outputs()] == ["classes"]
    assert exported.agreement.probability_change is None


Weights = NDArray[np.float32]


def with_broken(monkeypatch: pytest.MonkeyPatch, weight: str, broken: Callable[[Weights], Weights]) -> None:
    """Let a weight break between the writing of a file and its check."""
    write = export._write

    def then_break(deploy: DeploySegmenter, path: Path, tile: torch.Tensor, *, is_open: bool) -> None:
        write(deploy, path, tile, is_open=is_open)
        model = onnx.load(path)
        (tensor,) = (item for item in model.graph.initializer if item.name == weight)
        values = np.array(onnx.numpy_helper.to_array(tensor))
        tensor.CopyFrom(onnx.numpy_helper.from_array(broken(values), weight))
        onnx.save(model, path)

    monkeypatch.setattr(export, "_write", then_break)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("twin", [False, True])
def test_a_file_with_a_broken_weight_is_refused_and_not_left_behind(
    tmp_path: Path,
    segmenter: Segmenter,
    monkeypatch: pytest.MonkeyPatch,
    precision: export.ExportPrecision,
    twin: bool,
) -> None:
    with_broken(monkeypatch, "segmenter.decoder.classifier.weight", lambda values: -values)
    with pytest.raises(ExportRefused, match=f"{precision.upper()} agree on"):
        export.onnx_from_segmenter(
            segmenter, tmp_path / "model.onnx", trial=Trial(tiles(1)), precision=precision, twin=twin
        )
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_changes_miou_but_few_pixels_is_refused_in_half(
    tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pixel in 300 changes class, and most labelled pixels are among these."""
    pixels = tiles(1)
    before = export.deploy_form(segmenter)(torch.from_numpy(pixels))[0].numpy()
    nudged = Segmenter(segmenter.settings)
    nudged.load_state_dict(segmenter.state_dict())
    bias, moved = segmenter.decoder.classifier.bias, nudged.decoder.classifier.bias
    assert bias is not None
    assert moved is not None
    for nudge in np.linspace(0.001, 1, 1000):
        with torch.no_grad():
            moved.copy_(bias + torch.tensor([nudge, 0, 0]))
        after = export.deploy_form(nudged)(torch.from_numpy(pixels))[0].numpy()
        if (changed := before != after).mean() > 0.002:
            break
    assert changed.mean() < 0.005
    true = np.where(changed | (np.random.default_rng(3).random(before.shape) < 0.05), before, 0)
    by = np.array([nudge, 0, 0], np.float32)
    with_broken(monkeypatch, "segmenter.decoder.classifier.bias", lambda values: values + by)
    with pytest.raises(ExportRefused, match=r"mIoU in FP16 is -.* points off"):
        export.onnx_from_segmenter(segmenter, tmp_path / "model.onnx", trial=Trial(pixels, true), precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_confidence_is_off_is_refused(
    tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export._write

    def colder(deploy: DeploySegmenter, path: Path, tile: torch.Tensor, *, is_open: bool) -> None:
        settings = deploy.settings
        deploy.settings = settings.model_copy(update={"temperature": 1.2})
        write(deploy, path, tile, is_open=is_open)
        deploy.settings = settings

    monkeypatch.setattr(export, "_write", colder)
    with pytest.raises(ExportRefused, match="probabilities in FP32 differ"):
        export.onnx_from_segmenter(segmenter, tmp_path / "model.onnx", trial=Trial(tiles(1)))
    assert list(tmp_path.iterdir()) == []


def test_exporting_leaves_the_network_as_it_was(tmp_path: Path, segmenter: Segmenter) -> None:
    weights = {name: value.clone() for name, value in segmenter.state_dict().items()}
    segmenter.train()
    export.onnx_from_segmenter(segmenter, tmp_path / "model.onnx", trial=Trial(tiles(1)), precision="fp16")
    assert segmenter.training
    assert not any(module.explicit for module in segmenter.modules() if isinstance(module, Attention))
    assert all(torch.equal(value, weights[name]) for name, value in segmenter.state_dict().items())


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def graph(
    request: pytest.FixtureRequest, segmenter: Segmenter, tmp_path_factory: pytest.TempPathFactory
) -> onnx.GraphProto:
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    export.onnx_from_segmenter(segmenter, path, trial=Trial(tiles(1)), precision=request.param)
    return onnx.load(path).graph


def test_nothing_is_worked_out_at_run_time_but_pixels(graph: onnx.GraphProto) -> None:
    kinds = {node.op_type for node in graph.node}
    assert kinds & {"Shape", "Gather", "GatherElements", "Slice", "ConstantOfShape", "Range", "If", "Loop"} == set()
    for output in graph.output:
        sides = output.type.tensor_type.shape.dim
        assert (sides[0].dim_param, [side.dim_value for side in sides[1:]]) == ("N", [128, 128])
    constants = {item.name for item in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    resizes = [node for node in graph.node if node.op_type == "Resize"]
    assert len(resizes) >= 4
    assert all(len(node.input) == 3 and node.input[2] in constants for node in resizes)
    assert all(node.input[1] in constants for node in graph.node if node.op_type == "Reshape")
    given = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    assert [node.name for node in graph.node if not given.intersection(node.output)] == []


def test_what_lies_around_the_network_is_in_kernels_that_engines_have(graph: onnx.GraphProto) -> None:
    """Each of these was measured to be run element by element, by ONNX Runtime or by OpenVINO."""
    outside = [node for node in graph.node if not node.name.startswith(("/segmenter/student/", "/segmenter/decoder/"))]
    kinds = {node.op_type for node in outside}
    assert kinds & {"ArgMax", "TopK", "Softmax", "Where", "Equal", "AveragePool", "Resize", "Squeeze"} == set()
    assert [node.op_type for node in _line_to_conv("tiles", graph)] in (["Cast", "Add"], ["Cast", "Add", "Cast"])
    made = {name: node.op_type for node in graph.node for name in node.output}
    assert [made[port.name] for port in graph.output] == ["Cast"] * 2  # bytes come last
    constants = [node.attribute[0].t.raw_data for node in graph.node if node.op_type == "Constant"]
    large = [data for data in constants if len(data) > 1000]
    assert len(set(large)) == len(large)  # none is written twice
    means = [node for node in graph.node if node.op_type == "ReduceMean"]
    assert means
    assert all(len(next(item.ints for item in node.attribute if item.name == "axes")) == 1 for node in means)


def _line_to_conv(name: str, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes from a tensor on to the first convolution, each the one reader of the one before."""
    line: list[onnx.NodeProto] = []
    while True:
        (reader,) = (node for node in graph.node if name in node.input)
        if reader.op_type == "Conv":
            return line
        line.append(reader)
        name = reader.output[0]


@pytest.mark.parametrize("classes", [2, 5, 16])
@pytest.mark.parametrize("settings", [DeploySettings(), DeploySettings(cell=1), DeploySettings(cell=8, reach=3)])
def test_any_number_of_classes_and_any_cell_flies_as_pytorch_says(
    tmp_path: Path, classes: int, settings: DeploySettings
) -> None:
    torch.manual_seed(classes)
    decoder = DecoderSettings(width=8, detail_widths=(8, 8))
    network = Segmenter(SegmenterSettings(student=STUDENT, decoder=decoder, classes=classes)).eval()
    with torch.no_grad():  # sure here and there, and no class ahead of the others everywhere
        network.decoder.classifier.weight *= 20
        assert network.decoder.classifier.bias is not None
        network.decoder.classifier.bias.sub_(network(torch.from_numpy(tiles(2)).float()).mean(dim=(0, 2, 3)))
    exported = export.onnx_from_segmenter(network, tmp_path / "model.onnx", trial=Trial(tiles(1)), settings=settings)
    classes_found, confidence = opened(exported.path).run(None, {"tiles": tiles(2)})
    expected, sure = export.deploy_form(network, settings)(torch.from_numpy(tiles(2)))
    assert len(np.unique(classes_found)) > 1
    assert (classes_found == expected.numpy()).mean() >= 0.9999
    same = classes_found == expected.numpy()
    assert np.abs(confidence.astype(int) - sure.numpy().astype(int))[same].max() <= 1


def test_attention_has_the_form_that_engines_fuse(graph: onnx.GraphProto) -> None:
    """Scale on the query before the product, nothing between product and softmax. Source: NVIDIA's list of fusions."""
    makers = {name: node for node in graph.node for name in node.output}
    softmaxes = [node for node in graph.node if node.op_type == "Softmax" and "/attention/" in node.name]
    assert len(softmaxes) == STUDENT.depth
    for softmax in softmaxes:
        product = makers[softmax.input[0]]
        assert product.op_type == "MatMul"
        query, key = (makers[name] for name in product.input)
        assert query.op_type == "Mul"  # by the scale
        assert key.op_type in ("Transpose", "Reshape")
        users = [node for node in graph.node if softmax.output[0] in node.input]
        assert [node.op_type for node in users] == ["MatMul"]


@pytest.fixture(scope="module")
def lite() -> Segmenter:
    torch.manual_seed(0)
    student = StudentSettings(
        width=16, depth=2, heads=2, stem="lite0", window=2, global_blocks=(2,), out_blocks=(1, 2), positions=8
    )
    network = Segmenter(
        SegmenterSettings(student=student, decoder=DecoderSettings(width=8, detail_widths=(8, 8)), classes=3)
    )
    return network.eval()


def calibration(count: int) -> list[NDArray[np.uint8]]:
    return [tile[None] for tile in np.random.default_rng(5).integers(0, 256, (count, 3, 128, 128), dtype=np.uint8)]


@pytest.mark.parametrize("precision", ["int8", "int8-fp16"])
def test_int8_has_pairs_at_layers_and_nowhere_else(
    tmp_path: Path, lite: Segmenter, precision: export.ExportPrecision
) -> None:
    exported = export.onnx_from_segmenter(
        lite, tmp_path / "int8.onnx", trial=Trial(tiles(1)), precision=precision, calibration=calibration(2)
    )
    model = onnx.load(exported.path)
    onnx.checker.check_model(model)
    assert exported.opset == (17 if precision == "int8" else 19)
    graph = model.graph
    values = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert all(values[node.input[2]].dtype == np.int8 for node in pairs)
    assert all((values[node.input[2]] == 0).all() for node in pairs)  # symmetric
    readers = {reader.op_type for node in pairs for reader in graph.node if node.output[0] in reader.input}
    assert readers == {"DequantizeLinear", "Conv", "MatMul"}
    layers = [node for node in graph.node if node.op_type == "Conv" and node.name.startswith("/segmenter/")]
    outside = [node for node in graph.node if node.op_type == "Conv" and node not in layers]
    assert not {name for node in outside for name in node.input if name in makers and makers[name] in pairs}
    for layer in layers:
        taken, weight = (makers[name] for name in layer.input[:2])
        assert taken.op_type == weight.op_type == "DequantizeLinear"
        assert values[weight.input[0]].dtype == np.int8
        assert values[weight.input[1]].shape == (values[weight.input[0]].shape[0],)  # by channel
        assert values[taken.input[1]].shape == ()  # by tensor
        if precision == "int8-fp16":
            assert values[weight.input[1]].dtype == np.float16
    scores = [node for node in graph.node if node.op_type == "Softmax" and "/attention/" in node.name]
    assert [makers[node.input[0]].op_type for node in scores] == ["MatMul"] * 2
    assert not {name for node in scores for name in makers[node.input[0]].input if makers[name] in pairs}
    assert sum(len(cost.layers) for cost in exported.costs) == len(layers) + 10  # and the linear ones of two blocks


def test_scales_that_half_precision_would_make_zero_stay_above_it() -> None:
    weights = np.array([[127, -127, 64], [127, 1, -3]], np.int8)
    scales = np.array([1e-3, 4e-10], np.float32)
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=0),
        onnx.helper.make_node("MatMul", ["d", "x"], ["y"]),
    ]
    info = onnx.helper.make_tensor_value_info
    arrays: dict[str, NDArray[Any]] = {"w": weights, "s": scales, "z": np.zeros(2, np.int8)}
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = onnx.helper.make_graph(nodes, "g", [info("x", 1, [3, 2])], [info("y", 1, [2, 2])], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    fitted = quantize.at_opset_of_half_pairs(model).graph
    found = {item.name: numpy_helper.to_array(item) for item in fitted.initializer}
    assert (found["s"].astype(np.float16) == found["s"]).all()  # nothing is rounded any more
    assert (found["s"] >= scales).all()
    assert found["s"][1] == np.finfo(np.float16).smallest_subnormal
    before, after = weights * scales[:, None], found["w"] * found["s"][:, None]
    assert np.abs(after - before).max(axis=1) == pytest.approx([0, 0], abs=0.51e-3)
    assert np.abs(after[0] - before[0]).max() < 1e-3
    assert (found["w"][1] == [1, 0, 0]).all()  # 127 x 4e-10 is nearest to one smallest number


def test_int8_without_tiles_is_refused(tmp_path: Path, lite: Segmenter) -> None:
    with pytest.raises(ExportRefused, match="tiles to take its ranges from"):
        export.onnx_from_segmenter(lite, tmp_path / "x.onnx", trial=Trial(tiles(1)), precision="int8")
    assert list(tmp_path.iterdir()) == []


class Named(nn.Module):
    """A network under the name that the exporter gives it."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.segmenter(image)
        return logits


@pytest.mark.parametrize("name", ["lite0", "lite1", "lite2"])
def test_layers_of_a_stem_of_any_size_are_grouped_by_their_stride(tmp_path: Path, name: LiteName) -> None:
    student, decoder = LiteSettings(kind="lite", stem=name), FpnSettings(kind="fpn", widths=(8, 8, 8, 8))
    network = Named(Segmenter(SegmenterSettings(student=student, decoder=decoder, classes=3))).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = (torch.zeros(1, 3, 64, 64),)
        torch.onnx.export(network, given, tmp_path / "stem.onnx", opset_version=17, dynamo=False)
    groups = quantize.groups_of(onnx.load(tmp_path / "stem.onnx").graph)
    found = {
        group: sorted({int(layer.split("blocks.")[1].split("/")[0]) for layer in layers if "blocks." in layer})
        for group, layers in groups.items() if group.startswith("stem")
    }  # fmt: skip
    repeats = [stage.repeats for stage in lite_stages(name)]
    ends = [0, *(sum(repeats[:stages]) for stages in (1, 2, 3, 5, 7))]  # stages up to the strides 2, 4, 8, 16 and 32
    wanted = [f"stem, stride {stride}" for stride in (2, 4, 8, 16, 32)]
    parts = {group: list(range(*part)) for group, part in zip(wanted, pairwise(ends), strict=True)}
    assert found == {"stem, first and last": [], **parts}


def test_the_dearest_groups_are_left_out_until_the_loss_is_allowed(
    tmp_path: Path, lite: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    export.onnx_from_segmenter(lite, tmp_path / "fp32.onnx", trial=Trial(tiles(1)))
    model = onnx.load(tmp_path / "fp32.onnx")
    groups = quantize.groups_of(model.graph)
    dear = ["decoder, refine", "perceptrons"]

    def cost(_: quantize._Judge, given: onnx.ModelProto) -> tuple[float, float]:
        """A point for each of two groups that has pairs."""
        paired = {node.name.rsplit("/", 1)[0] for node in given.graph.node if node.op_type == "DequantizeLinear"}
        return 0.996, -0.01 * sum(any(layer in paired for layer in groups[name]) for name in dear)

    monkeypatch.setattr(quantize._Judge, "cost", cost)

    def left_out(most_loss: float) -> tuple[str, ...]:
        given = calibration(1)
        return quantize.quantized(model, given, given, None, classes=3, most_loss=most_loss).left_out

    assert set(left_out(0.0)) == set(dear)
    assert len(left_out(0.01)) == 1
    assert left_out(0.02) == ()

    def changing(_: quantize._Judge, given: onnx.ModelProto) -> tuple[float, float]:
        """One group changes many pixels, and gains by it on these labels."""
        paired = {node.name.rsplit("/", 1)[0] for node in given.graph.node if node.op_type == "DequantizeLinear"}
        return (0.99, 0.02) if any(layer in paired for layer in groups["stem, stride 8"]) else (1.0, 0.0)

    monkeypatch.setattr(quantize._Judge, "cost", changing)
    assert left_out(0.0) == ("stem, stride 8",)
    monkeypatch.setattr(quantize._Judge, "cost", lambda *_: (1.0, -1.0))
    with pytest.raises(ExportRefused, match=r"more than 0\.50 points"):
        left_out(0.005)
    monkeypatch.setattr(quantize._Judge, "cost", lambda *_: (0.9, 0.0))
    with pytest.raises(ExportRefused, match=r"changes more than 0\.5 % of the pixels in every group"):
        left_out(0.005)
