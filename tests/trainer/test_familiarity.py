"""The familiarity output: fitted on imagery, added to a graph, carried over; a tiny trunk with the exporter's names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from engines.manifest import Manifest
from engines.open import open_engine
from engines.verify import write_golden
from tests.tiny_model import manifest_of
from trainer.cli import main
from trainer.errors import ExportRefused, SettingsRefused
from trainer.export.card import CARD
from trainer.familiarity.corruptions import (
    CORRUPTIONS,
    HeldOut,
    ImageCells,
    coarser,
    corruption_odds,
    finer,
    log_odds,
)
from trainer.familiarity.fit import FamiliarityRequest, add_familiarity, carry_over, held_out_in_turn
from trainer.familiarity.graph import (
    carried_over,
    feature_names,
    scale_in,
    with_cells,
    with_familiarity,
    without_familiarity,
)
from trainer.familiarity.imagery import CellReader, Images, tiles_of_images
from trainer.familiarity.statistics import THRESHOLD, auroc, fitted, scale_of

SIDE = 64
BLOCK = "/segmenter/student/stem/trunk/blocks.{}/project/project.0/Conv"


def write_trunk(
    path: Path,
    *,
    half: bool = False,
    widths: tuple[int, int] = (3, 5),
    seed: int = 0,
    sides: tuple[int | str, int | str] = (SIDE, SIDE),
) -> None:
    """Classes and confidence of a trunk with two levels, at strides 8 and 16, in FP32 or FP16."""
    draw = np.random.default_rng(seed)
    kind, number = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    first, second = widths
    constants = {
        "first": draw.normal(0, 0.01, (first, 3, 8, 8)).astype(number),
        "second": draw.normal(0, 0.5, (second, first, 2, 2)).astype(number),
        "to_classes": draw.normal(0, 1, (4, second, 1, 1)).astype(number),
        "scales": np.array([1, 1, 16, 16], np.float32), "one": np.int64(1),
    }  # fmt: skip
    make = helper.make_node
    nodes = [
        make("Cast", ["tiles"], ["real"], to=kind),
        make("Conv", ["real", "first"], ["level_8"], name=BLOCK.format(0), strides=[8, 8]),
        make("Conv", ["level_8", "second"], ["level_16"], name=BLOCK.format(1), strides=[2, 2]),
        make("Conv", ["level_16", "to_classes"], ["logits"]),
        make("Resize", ["logits", "", "scales"], ["fine"], mode="nearest"),
        make("ArgMax", ["fine"], ["index"], axis=1, keepdims=0),
        make("Add", ["index", "one"], ["code"]),
        make("Cast", ["code"], ["classes"], to=TensorProto.UINT8),
        make("Identity", ["classes"], ["confidence"]),
    ]
    value = helper.make_tensor_value_info
    shape: list[str | int | None] = ["N", *sides]
    graph = helper.make_graph(
        nodes, "trunk", [value("tiles", TensorProto.UINT8, ["N", 3, *sides])],
        [value("classes", TensorProto.UINT8, shape), value("confidence", TensorProto.UINT8, shape)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def write_folder(folder: Path, *, half: bool = False, parameters: int = 100, **trunk: object) -> Path:
    folder.mkdir()
    write_trunk(folder / "model.onnx", half=half, **trunk)  # type: ignore[arg-type]
    tile = ground(7)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    classes = session.run(["classes"], {"tiles": tile[None]})[0][0]
    golden = write_golden(folder, tile=tile, classes=classes, least_agreement={"fp32": 0.9, "fp16": 0.9, "bf16": 0.9})
    manifest = manifest_of(folder, golden=golden, precision="fp16" if half else "fp32", total_parameters=parameters)
    shapes = manifest.input.model_copy(update={"tile_size": SIDE})
    manifest.model_copy(update={"input": shapes, "halo": 0}).save(folder)
    return folder


def ground(seed: int, side: int = SIDE) -> NDArray[np.uint8]:
    """Soft shapes, (3, side, side): what the model is said to know."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(60, 200, (side // 8, side // 8, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


@pytest.fixture
def imagery(tmp_path: Path) -> str:
    """A set of eight pictures of 128 x 128, four tiles each; its YAML."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(8):
        Image.fromarray(ground(100 + number, 2 * SIDE).transpose(1, 2, 0)).save(folder / f"p{number}.png")
    text = (
        "name: pictures\ntitle: made\nsource: made\nlicence: none\nfolder: pictures\nimages: '{name}.png'\n"
        "labels: null\nsplits: {all: {names: ['*']}}\n"
    )
    (tmp_path / "pictures.yaml").write_text(text)
    return str(tmp_path / "pictures.yaml")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model")


def request(model: Path, imagery: str) -> FamiliarityRequest:
    return FamiliarityRequest(
        model, (Images.parsed(f"{imagery}:p[0-4]"),), (Images.parsed(f"{imagery}:p5,p6,p7"),), threads=1
    )


def figures(folder: Path, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    with open_engine(folder, backend="onnxruntime", threads=1) as engine:
        found = engine.infer(tiles).familiarity
    assert found is not None
    return found


def test_noise_is_unfamiliar_and_ground_that_was_not_fitted_is_not(model: Path, imagery: str) -> None:
    facts = add_familiarity(request(model, imagery)).familiarity
    assert facts is not None
    assert (facts.held_out_tiles, facts.threshold) == (12, THRESHOLD)
    assert facts.wrongly_unfamiliar <= 0.02
    assert facts.fitted_on.endswith("5 images, p0 to p4; 20 tiles") or "p0, p1, p2, p3, p4" in facts.fitted_on
    noise = np.random.default_rng(0).integers(0, 256, (6, 3, SIDE, SIDE), dtype=np.uint8)
    assert (figures(model, noise) < THRESHOLD).all()
    known = figures(model, np.stack([ground(300 + number) for number in range(8)]))
    assert np.median(known) > 0.2
    assert "When it does not know" in (model / CARD).read_text()


def test_what_fills_pictures_without_data_is_not_learned(model: Path, imagery: str, tmp_path: Path) -> None:
    """Half of each picture white, as JPEG leaves it: white stays unfamiliar, and so do snow and cloud."""
    for number in range(5):
        path = tmp_path / "pictures" / f"p{number}.png"
        pixels = np.array(Image.open(path))
        pixels[:, SIDE:] = 255 - np.random.default_rng(number).integers(0, 6, pixels[:, SIDE:].shape, dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    fitted_on = tiles_of_images(Images.parsed(f"{imagery}:p[0-4]"), side=SIDE, halo=0, most=20)
    assert len(list(fitted_on)) == 10
    facts = add_familiarity(request(model, imagery)).familiarity
    assert facts is not None
    assert facts.fitted_on.endswith("; 10 tiles")
    assert (figures(model, np.full((1, 3, SIDE, SIDE), 252, np.uint8)) < THRESHOLD).all()


def test_classes_and_confidence_stay_byte_for_byte(model: Path, imagery: str) -> None:
    tiles = np.stack([ground(number) for number in range(4)])
    with open_engine(model, backend="onnxruntime", threads=1) as engine:
        before = engine.infer(tiles)
    manifest = add_familiarity(request(model, imagery))
    assert manifest == Manifest.load(model)
    with open_engine(model, backend="onnxruntime", threads=1) as engine:
        after = engine.infer(tiles)
    assert before.familiarity is None
    assert np.array_equal(before.classes, after.classes)
    assert before.confidence is not None
    assert after.confidence is not None
    assert np.array_equal(before.confidence, after.confidence)
    again = without_familiarity(onnx.load(model / "model.onnx"))
    assert "familiarity" not in [port.name for port in again.graph.output]


def cells_of(reader: CellReader, tiles: Sequence[NDArray[np.uint8]]) -> ImageCells:
    return ImageCells(reader.read(tiles), tuple(reader.read(corruption(tiles)) for corruption in CORRUPTIONS))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_graph_computes_what_numpy_does(model: Path, imagery: str, backend: str) -> None:
    pytest.importorskip(backend)
    graph = onnx.load(model / "model.onnx")
    features = feature_names(graph, SIDE)
    assert features == ("level_8", "level_16")
    reader = CellReader(graph, features, 1)
    sets = [cells_of(reader, [coloured(seed + number) for number in range(6)]) for seed in (20, 40)]
    statistics = fitted([cells.clean.reshape(-1, cells.clean.shape[-1]) for cells in sets])
    directions = [log_odds(sets, group) for group in range(len(CORRUPTIONS))]
    held_out = [coloured(60 + number) for number in range(9)]
    cells = cells_of(reader, held_out)
    told = HeldOut.of(cells, statistics.cell_distances(cells.clean), directions)
    statistics = replace(statistics, corruptions=corruption_odds(directions, told.telling()))
    assert statistics.prototypes.shape == (2, 8)
    assert statistics.corruptions is not None
    assert np.allclose(statistics.distances(cells.clean), told.tile_distances(), rtol=1e-4)
    scale = scale_of(statistics.distances(reader.read(held_out)))
    manifest = add_familiarity(request(model, imagery))  # for its manifest; then the graph with two prototypes
    onnx.save(with_familiarity(graph, features, statistics, scale), model / "model.onnx")
    facts = manifest.familiarity
    assert facts is not None
    entry = type(manifest.model).of(model / "model.onnx")
    loose = facts.model_copy(update={"golden": None})
    manifest.model_copy(update={"model": entry, "familiarity": loose}).save(model)
    tiles = np.stack([*held_out[:3], *CORRUPTIONS[0](held_out[:4]), np.zeros((3, SIDE, SIDE), np.uint8)])
    with open_engine(model, backend=backend, threads=1) as engine:
        found = engine.infer(tiles).familiarity
    expected = scale.familiarity(statistics.distances(reader.read(tiles)))
    assert found is not None
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert np.allclose(scale_in(onnx.load(model / "model.onnx")).values, scale.values, atol=1e-6)


def coloured(seed: int, side: int = SIDE) -> NDArray[np.uint8]:
    """Soil that is red and plants that are green, of every brightness; blue is least: (3, side, side)."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(60, 200, (side // 8, side // 8, 1)) * draw.choice([[1.0, 0.7, 0.4], [0.5, 0.8, 0.3]], (8, 8))
    picture = Image.fromarray(coarse.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
# Red and green exchanged make of this soil something like these plants: no order to tell here.
@pytest.mark.parametrize("order", [(2, 1, 0), (0, 2, 1), (1, 2, 0), (2, 0, 1)])
def test_exchanged_bands_are_unfamiliar(
    model: Path, tmp_path: Path, imagery: str, order: tuple[int, int, int], backend: str
) -> None:
    pytest.importorskip(backend)
    for number in range(8):
        path = tmp_path / "pictures" / f"p{number}.png"
        quarters = [[coloured(40 * number + 2 * row + column) for column in range(2)] for row in range(2)]
        Image.fromarray(np.concatenate([np.concatenate(row, 2) for row in quarters], 1).transpose(1, 2, 0)).save(path)
    add_familiarity(request(model, imagery))
    tiles = np.stack([coloured(1000 + number) for number in range(8)])
    with open_engine(model, backend=backend, threads=1) as engine:
        right, wrong = (engine.infer(given).familiarity for given in (tiles, tiles[:, list(order)].copy()))
    assert right is not None
    assert wrong is not None
    assert (right >= THRESHOLD).sum() >= 7
    assert (wrong < THRESHOLD).sum() >= 6


def test_tiles_take_the_versions_of_a_corruption_in_turn() -> None:
    tile = np.arange(3, dtype=np.uint8)[:, None, None] + np.zeros((3, 2, 2), np.uint8)
    seen = [[tuple(int(band[0, 0]) for band in got) for got in CORRUPTIONS[number]([tile] * 6)] for number in range(3)]
    assert seen == [[(2, 1, 0)] * 6, [(1, 0, 2)] * 6, [(0, 2, 1), (1, 2, 0), (2, 0, 1)] * 2]


def test_another_scale_keeps_the_tile_as_a_picture_of_other_pixels() -> None:
    tile = ground(3, 96)
    assert {kind.name: kind.versions for kind in CORRUPTIONS[3:]} == {
        "three times finer": (finer,), "three times coarser": (coarser,),
    }  # fmt: skip
    assert finer(tile).shape == coarser(tile).shape == tile.shape
    mean = tile[:, :32, :32].mean()
    assert abs(finer(tile).mean() - mean) < 2
    blocks = tile.reshape(3, 32, 3, 32, 3).mean(axis=(2, 4))
    assert np.abs(coarser(tile)[:, :32, :32] - blocks).max() <= 1


def image_of(draw: np.random.Generator, shift: float) -> ImageCells:
    """Cells of 12 tiles with 40 features, each tile of its own spread; spoilt, one feature differs by so much."""
    spread = draw.uniform(0.5, 1.5, (12, 1, 1))
    kinds = len(CORRUPTIONS)
    clean, *others = ((draw.normal(0, 1, (12, 16, 40)) * spread).astype(np.float32) for _ in range(1 + kinds))
    for cells in others:
        cells[..., 0] += shift
    return ImageCells(clean, tuple(others))


def test_directions_tell_what_no_distance_does() -> None:
    draw = np.random.default_rng(0)
    images = [image_of(draw, 2.5) for _ in range(6)]
    told = held_out_in_turn([images])
    assert [number for number, _, _ in told.telling()] == list(range(len(CORRUPTIONS)))
    scale = scale_of(told.tile_distances())
    plain = fitted([cells.clean.reshape(-1, 40) for cells in images])
    directions = [log_odds(images, group) for group in range(len(CORRUPTIONS))]
    with_odds = replace(plain, corruptions=corruption_odds(directions, told.telling()))
    new = image_of(draw, 2.5)
    assert auroc(-plain.distances(new.corrupted[0]), -plain.distances(new.clean)) < 0.75
    for wrong in new.corrupted:
        assert (scale.familiarity(with_odds.distances(wrong)) < THRESHOLD).sum() >= 10
    assert (scale.familiarity(with_odds.distances(new.clean)) >= THRESHOLD).sum() >= 11


def test_a_direction_that_tells_nothing_is_left_out() -> None:
    draw = np.random.default_rng(1)
    told = held_out_in_turn([[image_of(draw, 0.0) for _ in range(6)]])
    assert told.odds.std() > 0.1
    assert told.telling() == []
    assert np.array_equal(told.tile_distances(), np.sort(told.distances, axis=1)[:, 5])


def test_grey_imagery_has_no_order_of_bands(
    model: Path, imagery: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be told is left out and said, not guessed."""
    for number in range(8):
        path = tmp_path / "pictures" / f"p{number}.png"
        Image.open(path).convert("L").convert("RGB").save(path)
    assert main(["familiarity", str(model), "--fit", f"{imagery}:p[0-4]", "--holdout", f"{imagery}:p[5-7]"]) == 0
    assert "bands in the order BGR: not told apart, left out" in capsys.readouterr().out
    constants = {item.name: item for item in onnx.load(model / "model.onnx").graph.initializer}
    told = constants.get("/familiarity/offsets")
    assert told is None or told.dims[0] <= len(CORRUPTIONS) - 3  # another scale may be told, no order is


def test_images_without_a_usable_tile_are_named(model: Path, imagery: str, tmp_path: Path) -> None:
    Image.new("RGB", (2 * SIDE, 2 * SIDE), "white").save(tmp_path / "pictures" / "p0.png")
    fit = (Images.parsed(f"{imagery}:p[1-4]"), Images.parsed(f"{imagery}:p0"))
    with pytest.raises(SettingsRefused, match="pictures: p0: no tile of these can be used: each is pure white or bl"):
        add_familiarity(FamiliarityRequest(model, fit, (Images.parsed(f"{imagery}:p5,p6,p7"),), threads=1))


def test_most_strange_cells_are_needed_to_make_a_tile_strange(model: Path, imagery: str) -> None:
    """A quarter of black, as a collar has it, is not yet strange; all of noise but a quarter is."""
    add_familiarity(request(model, imagery))
    tiles = np.stack([ground(400 + number) for number in range(6)])
    collar, noise = tiles.copy(), tiles.copy()
    collar[:, :, :, : SIDE // 4] = 0
    noise[:, :, :, : 3 * SIDE // 4] = np.random.default_rng(1).integers(0, 256, noise[:, :, :, : 3 * SIDE // 4].shape)
    assert (figures(model, collar) >= THRESHOLD).all()
    assert (figures(model, noise) < THRESHOLD).all()


def test_another_precision_takes_the_statistics_over(model: Path, imagery: str, tmp_path: Path) -> None:
    manifest = add_familiarity(request(model, imagery))
    half = write_folder(tmp_path / "half", half=True)
    carried = carry_over(half, model, version="1.1")
    assert carried.version == "1.1"
    assert carried.familiarity == manifest.familiarity
    tiles = np.stack([ground(500 + number) for number in range(4)])
    assert np.allclose(figures(half, tiles), figures(model, tiles), rtol=0.1)


@pytest.mark.parametrize(("owner", "step"), [(Manifest, "save"), (Path, "replace")])
def test_a_fit_killed_while_it_writes_is_finished_by_the_next(
    model: Path, imagery: str, monkeypatch: pytest.MonkeyPatch, owner: type, step: str
) -> None:
    real = getattr(owner, step)

    def killed(self: Path | Manifest, place: Path) -> object:
        # The manifest itself is written by a rename too; that one is let be.
        if isinstance(self, Manifest) or self.suffix == ".part":
            raise KeyboardInterrupt
        return real(self, place)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, step, killed)
        add_familiarity(request(model, imagery))
    add_familiarity(request(model, imagery))
    assert figures(model, ground(7)[None]) > THRESHOLD
    assert not list(model.glob("*.part"))


def test_statistics_of_another_network_are_refused(model: Path, imagery: str, tmp_path: Path) -> None:
    plain = write_folder(tmp_path / "plain")
    with pytest.raises(ExportRefused, match="tiny has no familiarity to take over: fit it there first"):
        carry_over(model, plain)
    add_familiarity(request(model, imagery))
    wider = write_folder(tmp_path / "wider", widths=(3, 6))
    with pytest.raises(ExportRefused, match="of another network: this one has no such tensor as level_16"):
        carry_over(wider, model)
    larger = write_folder(tmp_path / "larger", parameters=101)
    with pytest.raises(ExportRefused, match="of another network: tiny has other parameters or classes"):
        carry_over(larger, model)
    other_weights = write_folder(tmp_path / "other", seed=9)
    before = (other_weights / "model.onnx").read_bytes()
    with pytest.raises(ExportRefused, match="statistics are of another network, or this precision needs a fit"):
        carry_over(other_weights, model)
    assert (other_weights / "model.onnx").read_bytes() == before
    assert {path.name for path in other_weights.iterdir()} == {"model.onnx", "manifest.json", "golden.npz"}
    with pytest.raises(ExportRefused, match="has no familiarity: fit it there first"):
        carried_over(onnx.load(plain / "model.onnx"), onnx.load(plain / "model.onnx"))


def test_a_graph_without_a_trunk_asks_for_names(model: Path, imagery: str) -> None:
    graph = onnx.load(model / "model.onnx")
    for node in graph.graph.node:
        node.name = ""
    with pytest.raises(ExportRefused, match=r"no EfficientNet-Lite trunk at stride 8: name two tensors .* --features"):
        feature_names(graph, SIDE)
    assert feature_names(graph, SIDE, ["level_8"]) == ("level_8",)
    with pytest.raises(ExportRefused, match="the graph has no tensor level_9"):
        feature_names(graph, SIDE, ["level_9"])
    assert imagery


def test_held_out_in_turn_is_farther_than_what_was_fitted() -> None:
    draw = np.random.default_rng(0)
    images = [draw.normal(place, 1, (5, 16, 4)).astype(np.float32) for place in (0, 0.5, 3)]
    distances = held_out_in_turn(
        [[ImageCells(cells, (cells,) * len(CORRUPTIONS)) for cells in images]]
    ).tile_distances()
    assert distances.shape == (15,)
    whole = fitted([np.concatenate(images).reshape(-1, 4)]).distances(np.concatenate(images))
    assert distances[10:].mean() > 1.5 * whole[10:].mean()


def test_at_most_two_per_cent_of_held_out_tiles_are_below_the_threshold() -> None:
    for count in (3, 49, 50, 51, 1000):
        distances = np.random.default_rng(count).gamma(4, 1, count).astype(np.float32)
        familiarity = scale_of(distances).familiarity(distances)
        assert (familiarity < THRESHOLD).mean() <= 0.02
        assert familiarity.max() == 1
        order = np.argsort(distances)
        assert (np.diff(familiarity[order]) <= 0).all(), "farther is never more familiar"
    same = np.ones(5, np.float32)
    assert (scale_of(same).familiarity(same) >= THRESHOLD).all()
    assert scale_of(same).familiarity(np.array([100.0], np.float32))[0] < THRESHOLD


def test_auroc_counts_ties_half() -> None:
    low, high = np.array([0.1, 0.2], np.float32), np.array([0.2, 0.9], np.float32)
    assert auroc(low, high) == pytest.approx(0.875)


def test_a_request_without_a_held_out_place_is_refused(model: Path, imagery: str) -> None:
    fit = (Images.parsed(f"{imagery}:p0,p1"),)
    with pytest.raises(SettingsRefused, match="no held-out place: give SET:NAME,NAME, or --in-turn"):
        FamiliarityRequest(model, fit)
    with pytest.raises(SettingsRefused, match="p1 is also fitted on: a held-out place is another one"):
        FamiliarityRequest(model, fit, (Images.parsed(f"{imagery}:p1,p2"),))
    with pytest.raises(SettingsRefused, match="one image cannot be left out of itself"):
        FamiliarityRequest(model, (Images.parsed(f"{imagery}:p0"),), in_turn=True)
    with pytest.raises(SettingsRefused, match="2 tiles of held-out places are too few, give 3"):
        add_familiarity(
            FamiliarityRequest(model, (Images.parsed(f"{imagery}:p[0-4]"),), (Images.parsed(f"{imagery}:p5"),), most=2)
        )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fit", "atlantis:a"], "atlantis"),
        (["--fit", "pictures"], "give a labelled set and names of its images as SET:NAME,NAME"),
        (["--in-turn"], "no imagery to fit on"),
        (["--like", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_gets_one_line(model: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["familiarity", str(model), *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_command_fits_and_says_how_much_is_wrong(
    model: Path, imagery: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["familiarity", str(model), "--fit", f"{imagery}:p*", "--in-turn", "--threads", "1"]) == 0
    assert "of 32 held-out tiles below 0.02; sha256" in capsys.readouterr().out
    assert Manifest.load(model).familiarity is not None


def test_in_an_int8_graph_features_are_read_behind_their_pair(model: Path) -> None:
    """As the next layer reads them: a tensor kept in floats for us alone made OpenVINO round elsewhere."""
    graph = onnx.load(model / "model.onnx")
    scale, zero = (
        numpy_helper.from_array(np.asarray(value), name)
        for value, name in ((np.float32(0.1), "step"), (np.int8(0), "zero"))
    )
    graph.graph.initializer.extend([scale, zero])
    pair = [
        helper.make_node("QuantizeLinear", ["level_8", "step", "zero"], ["level_8_int8"]),
        helper.make_node("DequantizeLinear", ["level_8_int8", "step", "zero"], ["level_8_read"]),
    ]
    second = next(node for node in graph.graph.node if node.output[0] == "level_16")
    second.input[0] = "level_8_read"
    place = list(graph.graph.node).index(second)
    for number, node in enumerate(pair):
        graph.graph.node.insert(place + number, node)
    fitted_to = fitted([np.random.default_rng(0).normal(0, 1, (40, 8)).astype(np.float32)])
    changed = with_familiarity(graph, ("level_8", "level_16"), fitted_to, scale_of(np.ones(5, np.float32)))
    assert [node.input[0] for node in changed.graph.node if node.name.startswith("/familiarity/feature_")] == [
        "level_8_read",
        "level_16",
    ]


@pytest.mark.parametrize(("rows", "columns"), [(8, 12), (9, 14), (8, 14)])
def test_a_cell_is_the_mean_of_its_part_also_where_sides_do_not_divide(rows: int, columns: int) -> None:
    """Levels whose sides are multiples of four are pooled, others are multiplied."""
    taken, given = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, rows, columns]) for name in ("level", "feature")
    )
    graph = helper.make_graph([helper.make_node("Identity", ["level"], ["feature"])], "level", [taken], [given])
    model = with_cells(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), ["feature"])
    level = np.random.default_rng(0).normal(0, 1, (2, 3, rows, columns)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    means = [
        part.mean(axis=(2, 3)) for row in np.array_split(level, 4, axis=2) for part in np.array_split(row, 4, axis=3)
    ]
    assert np.allclose(session.run(None, {"level": level})[0], np.stack(means, axis=1), atol=1e-5)
