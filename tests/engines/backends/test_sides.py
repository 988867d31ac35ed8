"""Tiles of several sides: what manifest and graph must say, and that a smaller tile gets the map of a larger one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from engines.backends.onnxruntime import OnnxRuntimeEngine
from engines.engine import Engine, EngineOptions, checked_tiles
from engines.errors import ModelMismatch, TilesRefused
from engines.integrity.redundant import RedundantEngine
from engines.manifest import Manifest, ModelFile
from tests.tiny_convolutional import SIDES, ground, write_convolutional
from tests.tiny_model import familiarity_facts, manifest_of, write_onnx

OPTIONS = EngineOptions(threads=1, max_batch=2)
HALO = 256
"""Pixels. The tiny network sees under 200 in each direction."""


def openvino(manifest: Manifest, folder: Path, options: EngineOptions) -> Engine:
    pytest.importorskip("openvino")
    from engines.backends.openvino import OpenVinoEngine

    return OpenVinoEngine(manifest, folder, options)


Make = Callable[[Manifest, Path, EngineOptions], Engine]
both = pytest.mark.parametrize("make", [OnnxRuntimeEngine, openvino], ids=["onnxruntime", "openvino"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sides") / "model"
    write_convolutional(place)
    return place


def with_input(manifest: Manifest, **changes: object) -> Manifest:
    return manifest.model_copy(update={"input": manifest.input.model_copy(update=changes)})


def opened_sides(path: Path) -> None:
    """Leaves height and width of the tiny model's input and outputs open: it is one convolution of one pixel."""
    model = onnx.load(path)
    for port in [*model.graph.input, *model.graph.output]:
        for name, dim in zip(("W", "H"), reversed(port.type.tensor_type.shape.dim), strict=False):
            dim.dim_param = name
    onnx.save(model, path)


@both
def test_a_smaller_tile_gets_the_classes_of_a_larger_one_away_from_its_edge(folder: Path, make: Make) -> None:
    whole = ground(1)[None]
    with make(Manifest.load(folder), folder, OPTIONS) as engine:
        assert engine.tile_sides == SIDES
        expected = engine.infer(whole)
        assert len(np.unique(expected.classes)) > 2
        for height, width in ((512, 768), (768, 512), (1024, 512), (512, 512)):
            part = engine.infer(np.ascontiguousarray(whole[:, :, :height, :width]))
            assert part.classes.shape == (1, height, width)
            assert part.confidence is not None
            assert expected.confidence is not None
            kept = np.s_[:, : height - HALO, : width - HALO]
            assert (part.classes[kept] == expected.classes[kept]).mean() > 0.9999
            assert np.abs(part.confidence[kept].astype(int) - expected.confidence[kept]).max() <= 1
        # Shapes in between leave nothing behind in the runtime.
        assert np.array_equal(engine.infer(whole).classes, expected.classes)


@both
def test_sides_may_be_any_multiples_of_64(folder: Path, make: Make) -> None:
    fine = tuple(range(256, 1025, 64))
    whole = ground(1)[None]
    with make(with_input(Manifest.load(folder), tile_sides=fine), folder, OPTIONS) as engine:
        assert engine.tile_sides == fine
        expected = engine.infer(whole)
        for height, width in ((576, 960), (704, 832), (832, 704), (320, 640)):
            part = engine.infer(np.ascontiguousarray(whole[:, :, :height, :width]))
            assert part.classes.shape == (1, height, width)
            kept = np.s_[:, : height - HALO, : width - HALO]
            assert (part.classes[kept] == expected.classes[kept]).mean() > 0.9999


@both
def test_tiles_of_other_sides_are_refused_and_the_engine_stays_usable(folder: Path, make: Make) -> None:
    with make(Manifest.load(folder), folder, OPTIONS) as engine:
        for shape in ((1, 3, 512, 640), (1, 3, 256, 512), (1, 3, 1024, 2048), (3, 512, 512), (1, 4, 512, 512)):
            with pytest.raises(
                TilesRefused,
                match=r"uint8 \(N, 3, h, w\) with N from 1 to 2, h and w of 512, 768, 1024",
            ):
                engine.infer(np.zeros(shape, np.uint8))
        assert engine.infer(np.zeros((2, 3, 512, 768), np.uint8)).classes.shape == (2, 512, 768)


@both
def test_sides_that_the_manifest_does_not_name_are_refused(folder: Path, make: Make) -> None:
    """An open graph is no permission: it may have sizes inside."""
    manifest = with_input(Manifest.load(folder), tile_sides=None)
    with make(manifest, folder, OPTIONS) as engine:
        assert engine.tile_sides == (1024,)
        with pytest.raises(TilesRefused, match=r"\(N, 3, 1024, 1024\) with N"):
            engine.infer(np.zeros((1, 3, 768, 768), np.uint8))
        assert engine.infer(ground(1)[None]).classes.shape == (1, 1024, 1024)


@both
def test_a_manifest_that_names_sides_for_a_graph_of_one_size_is_refused(tmp_path: Path, make: Make) -> None:
    write_onnx(tmp_path / "model.onnx", size=1024)
    manifest = with_input(manifest_of(tmp_path), tile_size=1024, tile_sides=SIDES)
    with pytest.raises(ModelMismatch) as refused:
        make(manifest, tmp_path, OPTIONS)
    assert "tile sides of tiles" in str(refused.value)
    assert "1024 x 1024 in the graph" in str(refused.value)
    assert "open, for input.tile_sides [512, 768, 1024] of the manifest" in str(refused.value)


@both
def test_an_output_of_one_size_is_refused_too(tmp_path: Path, make: Make) -> None:
    write_onnx(tmp_path / "model.onnx", size=1024)
    opened_sides(tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    # A size inside the graph, as a reshape to pixels has it: what comes out is one size, whatever goes in.
    (cast,) = [node for node in model.graph.node if node.output[0] == "classes"]
    cast.output[0] = "wide"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 1024, 1024], np.int64), "pixels"))
    model.graph.node.append(onnx.helper.make_node("Reshape", ["wide", "pixels"], ["classes"]))
    for dim in model.graph.output[0].type.tensor_type.shape.dim[1:]:
        dim.dim_value = 1024
    onnx.save(model, tmp_path / "model.onnx")
    manifest = with_input(manifest_of(tmp_path), tile_size=1024, tile_sides=SIDES)
    with pytest.raises(ModelMismatch, match="tile sides of classes"):
        make(manifest, tmp_path, OPTIONS)


@both
def test_familiarity_is_one_number_a_tile_of_any_sides(tmp_path: Path, make: Make) -> None:
    write_onnx(tmp_path / "model.onnx", size=1024, familiarity=True)
    opened_sides(tmp_path / "model.onnx")
    manifest = with_input(
        manifest_of(tmp_path, familiarity=familiarity_facts()), tile_size=1024, tile_sides=SIDES
    ).model_copy(update={"model": ModelFile.of(tmp_path / "model.onnx")})
    tiles = np.random.default_rng(0).integers(0, 256, (2, 3, 512, 768), dtype=np.uint8)
    with make(manifest, tmp_path, OPTIONS) as engine:
        found = engine.infer(tiles).familiarity
    assert found is not None
    assert np.allclose(found, tiles.mean(axis=(1, 2, 3)) / 255, atol=1e-5)


def test_a_wrapped_engine_passes_the_sides_on(folder: Path) -> None:
    with OnnxRuntimeEngine(Manifest.load(folder), folder, OPTIONS) as engine:
        assert RedundantEngine(engine, 0.5, print).tile_sides == SIDES


def test_a_model_of_one_size_has_its_size_as_the_only_side(tiny_model: Path) -> None:
    with OnnxRuntimeEngine(Manifest.load(tiny_model), tiny_model, OPTIONS) as engine:
        assert engine.tile_sides == (32,)


def test_a_backend_that_says_no_sides_takes_the_usual_size_alone(folder: Path) -> None:
    """TensorRT's engines are built for it, whatever sides the manifest names."""
    manifest = Manifest.load(folder)
    assert checked_tiles(ground(1)[None], manifest, max_batch=1).shape == (1, 3, 1024, 1024)
    with pytest.raises(TilesRefused):
        checked_tiles(np.zeros((1, 3, 768, 768), np.uint8), manifest, max_batch=1)
