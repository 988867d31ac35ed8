"""The familiarity of tiles of several sides: cells keep their size, and their number decides which one speaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from tests.trainer.test_familiarity import ground, write_trunk
from trainer.errors import ExportRefused
from trainer.familiarity.graph import carried_over, feature_names, with_familiarity
from trainer.familiarity.imagery import CellReader
from trainer.familiarity.statistics import Scale, Statistics, fitted, rank_of, rank_of_cells, scale_of

SHAPES = (
    (1024, 1024), (512, 512), (512, 768), (768, 512), (768, 768), (1024, 512), (1024, 768),
    (576, 960), (704, 832), (320, 1024),
)  # fmt: skip
"""Behind the last whole cell of the last three are pixels that no cell has."""
FEATURES = ("level_8", "level_16")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    path = tmp_path_factory.mktemp("open") / "model.onnx"
    write_trunk(path, sides=("H", "W"))
    return onnx.load(path)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    path = tmp_path_factory.mktemp("fixed") / "model.onnx"
    write_trunk(path, sides=(1024, 1024))
    return onnx.load(path)


@pytest.fixture(scope="module")
def known(opened: onnx.ModelProto) -> tuple[Statistics, Scale]:
    """Statistics of soft ground, and the scale of it."""
    reader = CellReader(opened, FEATURES, 1)
    cells = reader.read([ground(number, 1024) for number in range(4)])
    statistics = fitted([cells.reshape(-1, cells.shape[-1])])
    return statistics, scale_of(statistics.distances(reader.read([ground(50 + number, 1024) for number in range(3)])))


def patchy(seed: int) -> NDArray[np.uint8]:
    """A tile whose sixteen cells lie at distances of their own: soft ground under noise of sixteen strengths."""
    draw = np.random.default_rng(seed)
    strengths = draw.permutation(16).reshape(4, 4).repeat(256, 0).repeat(256, 1) * 6.0
    pixels = ground(seed, 1024) + draw.normal(0, 1, (3, 1024, 1024)) * strengths + strengths
    return pixels.clip(0, 255).astype(np.uint8)


def by_onnxruntime(model: onnx.ModelProto) -> Callable[[NDArray[np.uint8]], Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda tiles: session.run(["familiarity"], {"tiles": tiles})[0]


def by_openvino(model: onnx.ModelProto) -> Callable[[NDArray[np.uint8]], Any]:
    openvino = pytest.importorskip("openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(openvino.Core().read_model(model.SerializeToString()), "CPU", settings)
    return lambda tiles: np.array(request.create_infer_request().infer({"tiles": tiles})["familiarity"])


def test_the_rank_falls_with_the_number_of_cells() -> None:
    assert [rank_of(cells) for cells in (1, 2, 3, 4, 6, 8, 9, 12, 16)] == [1, 1, 1, 2, 2, 3, 3, 5, 6]
    values = np.arange(16, dtype=np.float32)[::-1]
    assert [float(rank_of_cells(values[None, :cells])[0]) for cells in (16, 12, 4)] == [5, 8, 13]


@pytest.mark.parametrize("run", [by_onnxruntime, by_openvino])
def test_the_graph_computes_what_numpy_does_at_every_size(
    opened: onnx.ModelProto, known: tuple[Statistics, Scale], run: Callable[[onnx.ModelProto], Any]
) -> None:
    statistics, scale = known
    infer, reader = run(with_familiarity(opened, FEATURES, statistics, scale)), CellReader(opened, FEATURES, 1)
    for height, width in SHAPES:
        tiles = np.stack([patchy(seed)[:, :height, :width] for seed in (1, 2)])
        cells = reader.read(list(tiles))
        assert cells.shape[1] == (height // 256) * (width // 256)
        # Far apart: another rank, or a cell of another size, would be another figure.
        ordered = np.sort(statistics.cell_distances(cells), axis=1)
        assert (np.diff(ordered, axis=1) > 0).all()
        expected = scale.familiarity(statistics.distances(cells))
        assert np.allclose(infer(tiles), expected, rtol=1e-3, atol=1e-6)


def test_at_the_usual_size_the_figure_is_that_of_a_graph_of_one_size(
    opened: onnx.ModelProto, fixed: onnx.ModelProto, known: tuple[Statistics, Scale]
) -> None:
    tiles = np.stack([patchy(seed) for seed in range(3)])
    figures = [by_onnxruntime(with_familiarity(model, FEATURES, *known))(tiles) for model in (opened, fixed)]
    assert np.array_equal(*figures)


def test_statistics_of_a_file_of_one_size_are_taken_over(
    opened: onnx.ModelProto, fixed: onnx.ModelProto, known: tuple[Statistics, Scale]
) -> None:
    donor = with_familiarity(fixed, FEATURES, *known)
    infer = by_onnxruntime(carried_over(opened, donor))
    assert np.array_equal(infer(patchy(1)[None]), by_onnxruntime(donor)(patchy(1)[None]))
    small = np.ascontiguousarray(patchy(1)[None, :, :512, :768])
    assert np.array_equal(infer(small), by_onnxruntime(with_familiarity(opened, FEATURES, *known))(small))
    # The other way: a file of one size takes over what was made for several.
    back = by_onnxruntime(carried_over(fixed, with_familiarity(opened, FEATURES, *known)))
    assert np.array_equal(back(patchy(1)[None]), by_onnxruntime(donor)(patchy(1)[None]))


def test_statistics_of_cells_of_another_size_are_not(
    opened: onnx.ModelProto, known: tuple[Statistics, Scale], tmp_path: Path
) -> None:
    write_trunk(tmp_path / "model.onnx", sides=(512, 512))
    donor = with_familiarity(onnx.load(tmp_path / "model.onnx"), FEATURES, *known)
    with pytest.raises(ExportRefused, match=r"tiles of 512 x 512 pixels and cells of a quarter of that, .* of 256"):
        carried_over(opened, donor)


def test_features_are_found_though_the_sides_are_open(opened: onnx.ModelProto) -> None:
    assert feature_names(opened, 1024) == FEATURES
