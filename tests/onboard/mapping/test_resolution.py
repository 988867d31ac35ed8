"""Scenes mapped at the model's ground resolution: place, size, words and resumption of their maps."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import GCPTransformer, RPCTransformer

import engines.open
from engines.testing import IdentityEngine
from onboard import cli
from onboard.errors import OptionsRefused
from onboard.mapping import executors, job, run
from onboard.mapping.canvas import Canvas, Layer
from onboard.mapping.dask_executor import Part, map_part
from onboard.mapping.enlarge import enlarge
from onboard.mapping.familiarity import MapFamiliarity
from onboard.mapping.pipeline import Pipeline
from onboard.mapping.run import MapRequest, MapSummary, map_scene
from onboard.scene.reader import Scene, SceneOptions
from onboard.scene.resolution import ResolutionOptions
from tests.onboard.mapping.test_product import GEOREFERENCES, HEIGHT, WIDTH

PLAIN = SceneOptions(collar=False)
NORTH_UP = GEOREFERENCES["north-up"]
MAPPER = Path(__file__).with_name("mapper.py")

# Scenes without georeferencing are written and read here on purpose; so are pictures.
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture(autouse=True)
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process a scene: its own tests run it."""
    monkeypatch.setattr(run, "probe_scene", lambda *_: None)


class NoProbes:
    """Takes every scene for sound."""

    def __enter__(self) -> NoProbes:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def judge(self, *_: object) -> int:
        return 0


def engine_for(gsd_m: float | None = 1.0, *, confidence: bool = False, tile_size: int = 256) -> IdentityEngine:
    engine = IdentityEngine(tile_size=tile_size, halo=8, confidence=confidence)
    engine.manifest = engine.manifest.model_copy(update={"gsd_m": gsd_m})
    return engine


def write(path: Path, width: int = WIDTH, height: int = HEIGHT, **profile: Any) -> Path:
    coarse = np.random.default_rng(1).integers(1, 250, (3, -(-height // 20), -(-width // 20)), dtype=np.uint8)
    pixels = np.repeat(np.repeat(coarse, 20, 1), 20, 2)[:, :height, :width]
    keys: dict[str, Any] = {"driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", **keys, **profile) as target:
        target.write(pixels)
    return path


def mapped(scene: Path, out: Path, engine: IdentityEngine | None = None, **options: Any) -> MapSummary:
    request = MapRequest(
        scene, out, scene_options=PLAIN, confidence=options.pop("confidence", False),
        sieve_px=options.pop("sieve_px", 0), resolution=ResolutionOptions(**options),
    )  # fmt: skip
    return map_scene(request, engine or engine_for())


def read(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as source:
        pixels: NDArray[np.uint8] = source.read(1)
    return pixels


def item_of(summary: MapSummary) -> dict[str, Any]:
    properties: dict[str, Any] = json.loads(summary.item_path.read_text())["properties"]
    return properties


def ground_of(path: Path, columns: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where places in pixels, counted from the corner of the first one, lie: rasterio's answer, (2, n)."""
    with rasterio.open(path) as source:
        if source.rpcs is not None:
            with RPCTransformer(source.rpcs, RPC_HEIGHT=str(source.rpcs.height_off)) as transformer:
                return np.array(transformer.xy(rows.tolist(), columns.tolist(), offset="ul"))
        if source.gcps[0]:
            with GCPTransformer(source.gcps[0]) as transformer:
                return np.array(transformer.xy(rows.tolist(), columns.tolist(), offset="ul"))
        t = source.transform
        return np.array([t.a * columns + t.b * rows + t.c, t.d * columns + t.e * rows + t.f])


@pytest.mark.parametrize("kind", ["north-up", "rotated", "south-up", "geographic", "GCPs", "RPCs"])
@pytest.mark.parametrize("factor", [2.3, 0.61])
def test_the_map_keeps_its_place(
    kind: str, factor: float, tmp_path: Path, validate_item: Callable[[dict[str, Any]], None]
) -> None:
    """Centres of the map's pixels lie on the ground where the scene's grid has them, to a tenth of a scene's pixel."""
    scene = write(tmp_path / "scene.tif", **GEOREFERENCES[kind])
    with Scene.open(scene, PLAIN) as opened:
        gsd_m = opened.georeference.gsd_m(WIDTH, HEIGHT)
    assert gsd_m is not None
    summary = mapped(scene, tmp_path / "out", engine_for(gsd_m * factor))
    with rasterio.open(summary.map_path) as source:
        width, height = source.width, source.height
        assert width * height == pytest.approx(WIDTH * HEIGHT / factor**2, rel=0.01)
    centres = np.array([(c + 0.5, r + 0.5) for c in (0, width // 3, width - 1) for r in (0, height // 2, height - 1)]).T
    here = ground_of(summary.map_path, *centres)
    on_scene = centres * [[WIDTH / width], [HEIGHT / height]]
    pixel = np.abs(ground_of(scene, *(on_scene + 1)) - ground_of(scene, *on_scene))  # one across and one down
    assert (np.abs(here - ground_of(scene, *on_scene)) <= 0.1 * pixel).all()
    item = json.loads(summary.item_path.read_text())
    validate_item(item)
    assert item["properties"]["proj:shape"] == [height, width]
    assert item["properties"]["gsd"] == pytest.approx(gsd_m * factor, rel=0.01)


def test_the_map_shows_the_same_ground(tmp_path: Path) -> None:
    """Each of the map's pixels has the value of the scene's under it, however many tiles either takes."""
    scene = write(tmp_path / "scene.tif", **NORTH_UP)
    summary = mapped(scene, tmp_path / "out", engine_for(tile_size=64))
    assert (summary.tiles, summary.scene_pixels) == (42, WIDTH * HEIGHT)
    expected = read(scene)[::2, ::2]
    assert np.array_equal(read(summary.map_path), expected)
    assert sum(summary.class_shares.values()) == pytest.approx(1)
    area = sum(row["area_m2"] for row in item_of(summary)["onboard:class_cover"])
    assert area == pytest.approx(WIDTH * HEIGHT * 0.5**2, rel=1e-3)
    fine = mapped(scene, tmp_path / "fine", engine_for(0.25))
    assert fine.notices == ("ground resolution 0.5 m, the model is made for 0.25 m: enlarged, read at 0.25 m",)
    assert np.array_equal(read(fine.map_path)[10::40, 10::40], read(scene)[5::20, 5::20])


def test_the_map_is_on_the_scenes_grid_where_that_is_asked_for(
    tmp_path: Path, validate_item: Callable[[dict[str, Any]], None]
) -> None:
    scene = write(tmp_path / "scene.tif", 333, 271, **NORTH_UP)
    for gsd_m in (1.15, 0.33):
        out = tmp_path / str(gsd_m)
        coarse = mapped(scene, out / "model", engine_for(gsd_m, confidence=True), confidence=True)
        summary = mapped(scene, out / "scene", engine_for(gsd_m, confidence=True), confidence=True, grid="scene")
        codes, rows, cols = read(coarse.map_path), np.arange(271), np.arange(333)
        near = ((rows + 0.5) * codes.shape[0] / 271).astype(int), ((cols + 0.5) * codes.shape[1] / 333).astype(int)
        assert np.array_equal(read(summary.map_path), codes[np.ix_(*near)])
        assert summary.confidence_path is not None
        assert read(summary.confidence_path).shape == (271, 333)
        with rasterio.open(summary.map_path) as one, rasterio.open(scene) as other:
            assert (one.shape, one.transform, one.crs) == (other.shape, other.transform, other.crs)
        item = json.loads(summary.item_path.read_text())
        validate_item(item)
        assert item["properties"]["proj:shape"] == [271, 333]
        facts = item["properties"]["onboard:ground_resolution"]
        assert (facts["grid"], facts["read_shape"]) == ("scene", list(codes.shape))
        assert facts["map_gsd_m"] == facts["scene_gsd_m"] == pytest.approx(0.5, rel=1e-3)
        assert sum(summary.class_shares.values()) == pytest.approx(1)


def test_what_was_decided_stands_in_the_item_the_map_and_the_summary(tmp_path: Path) -> None:
    summary = mapped(write(tmp_path / "scene.tif", **NORTH_UP), tmp_path / "out")
    facts = item_of(summary)["onboard:ground_resolution"]
    assert facts == summary.resolution
    assert facts["text"] == summary.notices[0] == ("ground resolution 0.5 m, the model is made for 1 m: read at 1 m")
    assert facts["rule"] == "reduced"
    assert facts["scene_gsd_from"] == "georeferencing"
    assert (facts["scene_shape"], facts["read_shape"]) == ([HEIGHT, WIDTH], [HEIGHT // 2, WIDTH // 2])
    assert (facts["model_gsd_m"], facts["model_range_m"]) == (1.0, None)
    assert [facts[name] for name in ("scene_gsd_m", "read_gsd_m", "map_gsd_m")] == pytest.approx([0.5, 1, 1], rel=1e-3)
    with rasterio.open(summary.map_path) as source:
        assert json.loads(source.tags()["ONBOARD_OPTIONS"])["ground_resolution"] == facts


def test_a_size_that_is_given_is_the_items(tmp_path: Path) -> None:
    summary = mapped(write(tmp_path / "scene.tif"), tmp_path / "out", gsd_m=0.25)
    assert read(summary.map_path).shape == (HEIGHT // 4, WIDTH // 4)
    assert item_of(summary)["gsd"] == 1


def test_maps_of_another_resolution_or_grid_are_other_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, out = write(tmp_path / "scene.tif", **NORTH_UP), tmp_path / "out"
    first = mapped(scene, out)
    assert mapped(scene, out).already_mapped
    one = first.map_path.read_bytes()
    assert not mapped(scene, out, engine_for(2.0)).already_mapped
    assert not mapped(scene, out, grid="scene").already_mapped
    assert not mapped(scene, out).already_mapped
    assert first.map_path.read_bytes() == one
    monkeypatch.setattr(job, "RESAMPLING_VERSION", 0)
    assert not mapped(scene, out).already_mapped
    # Without another resolution the grid is the same, and so is the map.
    mapped(scene, out, engine_for(0.5))
    again = mapped(scene, out, engine_for(0.5), grid="scene")
    assert again.already_mapped
    assert again.notices == ()


def test_small_patches_are_merged_on_the_maps_own_grid(tmp_path: Path) -> None:
    """A pixel of the model is four of the scene's: a sieve of 3 keeps them on the scene's grid."""
    pixels = np.full((3, 128, 128), 9, np.uint8)
    pixels[:, 40:42, 40:42] = 200
    with rasterio.open(
        tmp_path / "scene.tif", "w", driver="GTiff", width=128, height=128, count=3, dtype="uint8", **NORTH_UP
    ) as file:
        file.write(pixels)
    on_scene = mapped(tmp_path / "scene.tif", tmp_path / "scene", grid="scene", sieve_px=3)
    assert (read(on_scene.map_path)[40:42, 40:42] == 200).all()
    on_model = mapped(tmp_path / "scene.tif", tmp_path / "model", sieve_px=3)
    assert (read(on_model.map_path) == 9).all()


def test_no_data_stays_no_data(tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.tif", nodata=255, **NORTH_UP)
    with rasterio.open(scene, "r+") as file:
        pixels = file.read()
        pixels[:, :, :301] = 255
        file.write(pixels)
    codes = read(mapped(scene, tmp_path / "out").map_path)
    assert (codes[:, :150] == 0).all()
    assert (codes[:, 150:] > 0).all(), "half of column 150 is valid"
    assert np.array_equal(codes[:, 151:], pixels[0, ::2, 302::2])


def test_a_killed_run_continues_to_the_same_bytes(tmp_path: Path) -> None:
    """On the scene's grid, which is made between canvas and map."""
    scene = write(tmp_path / "scene.tif", 330, 260, **NORTH_UP)

    def start(out: Path, die_at: int) -> tuple[int, str]:
        command = [sys.executable, str(MAPPER), str(scene), str(out), str(die_at), "0.9"]
        process = subprocess.run(
            command, cwd=MAPPER.parents[3], capture_output=True, text=True, timeout=60, check=False
        )
        return process.returncode, process.stdout

    alone = mapped(scene, tmp_path / "alone", engine_for(0.9, tile_size=64), grid="scene")
    out = tmp_path / "killed"
    for die_at in (16, 12):
        assert start(out, die_at)[0] == -signal.SIGKILL
    code, said = start(out, -1)
    assert code == 0
    assert int(said.split()[0]) < alone.tiles, "what was committed is not done again"
    assert (out / "scene" / "map.tif").read_bytes() == alone.map_path.read_bytes()
    assert read(out / "scene" / "map.tif").shape == (260, 330)


def test_a_cluster_worker_reads_the_scene_at_the_same_resolution(tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.tif", **NORTH_UP)
    expected = read(mapped(scene, tmp_path / "out").map_path)
    height, width = expected.shape
    opener = partial(engine_for)
    with (
        Scene.open(scene, PLAIN) as plain,
        Canvas(tmp_path / "canvas", {"a": 1}, width=width, height=height) as canvas,
    ):
        part = Part(
            opener, engine_for().digest, scene, PLAIN, plain.decisions, (width, height), (256, 256), 8, 1, 30.0,
            canvas.folder, {"a": 1}, confidence=False, further={}, tiles=(),
        )  # fmt: skip
        finished = map_part(part, tuple(range(4)))
        assert finished.failure is None
        assert np.array_equal(canvas.classes.read(0, height), expected)


def test_an_enlarged_layer_is_written_strip_by_strip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onboard.mapping.enlarge._STRIP_PIXELS", 100)
    source = Layer(tmp_path / "a.raw", width=7, height=5)
    codes = np.arange(35, dtype=np.uint8).reshape(5, 7)
    source.write_rows(0, codes)
    target = Layer(tmp_path / "b.raw", width=31, height=17)
    enlarge(source, target)
    rows, cols = (np.arange(17) + 0.5) * 5 / 17, (np.arange(31) + 0.5) * 7 / 31
    assert np.array_equal(target.read(0, 17), codes[np.ix_(rows.astype(int), cols.astype(int))])
    source.close()
    target.close()


@pytest.mark.parametrize("words", [["--gsd", "0"], ["--gsd", "-2"], ["--gsd", "nan"]])
def test_the_command_refuses_a_size_that_is_none(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["process", str(tmp_path / "scene.tif"), *words]) == 2
    assert "give the ground size of a pixel in metres, such as 0.5" in capsys.readouterr().err


def test_the_commands_say_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines.open, "open_engine", lambda *_, **__: engine_for())
    monkeypatch.setattr("onboard.scene.probe.Probes", NoProbes)
    scene, out = write(tmp_path / "scene.tif", 200, 100, **NORTH_UP), str(tmp_path / "out")
    assert cli.main(["process", str(scene), "--out", out]) == 0
    said = capsys.readouterr().err
    assert "onboard: ground resolution 0.5 m, the model is made for 1 m: read at 1 m\n" in said
    assert cli.main(["process", str(scene), "--out", out, "--gsd", "1"]) == 0
    assert "(--gsd is taken, though the scene's georeferencing says 0.5 m)" in capsys.readouterr().err
    assert cli.main(["process", str(scene), "--out", out, "--resolution", "scene", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert read(Path(told["map_path"])).shape == (100, 200)
    assert told["resolution"]["rule"] == "reduced"
    assert cli.main(["batch", str(scene), "--out", str(tmp_path / "many")]) == 0
    assert "scene.tif  ground resolution 0.5 m, the model is made for 1 m: read at 1 m\n" in capsys.readouterr().err
    assert cli.main(["process", str(write(tmp_path / "nowhere.tif", 90, 90)), "--out", out, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["resolution"]["text"]
    assert said.startswith("the scene does not say how large its pixels are")


def test_a_given_size_that_leaves_less_than_a_pixel_leaves_nothing_behind(tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.tif", **NORTH_UP)
    with pytest.raises(OptionsRefused, match="leaves a map of"):
        mapped(scene, tmp_path / "out", gsd_m=1e-5)
    assert not (tmp_path / "out").exists()


def test_a_tile_of_many_pixels_may_take_longer_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []

    def pipeline(*words: Any, **options: Any) -> Pipeline:
        waits.append(options["read_timeout_s"])
        return Pipeline(*words, **options)

    monkeypatch.setattr(executors, "Pipeline", pipeline)
    scene = write(tmp_path / "scene.tif", **NORTH_UP)
    mapped(scene, tmp_path / "a", engine_for(2.0))
    mapped(scene, tmp_path / "b", engine_for(0.3))
    assert waits == pytest.approx([16 * 120, 120])


def test_strict_counts_a_scene_too_coarse_for_the_model(tmp_path: Path) -> None:
    """Its line calls the map a guess; so does the exit code, whatever the model says of the ground."""
    coarse = mapped(write(tmp_path / "scene.tif", **NORTH_UP), tmp_path / "out", engine_for(0.1))
    assert coarse.resolution["rule"] == "enlarged_twofold"
    known = replace(coarse, familiarity=MapFamiliarity(tiles=4, unfamiliar=0, median=0.5))
    assert (known.exit_code(strict=True), known.exit_code(strict=False)) == (3, 0)
    fine = replace(known, resolution={"rule": "in_range"})
    assert fine.exit_code(strict=True) == 0
