"""The published product, read back by tools that are not ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC
from rio_cogeo.cogeo import cog_validate

from engines.testing import IdentityEngine, manifest_for_testing
from onboard.mapping.canvas import Layer
from onboard.mapping.product import write_map
from onboard.mapping.quicklook import Kind
from onboard.mapping.run import MapRequest, MapSummary, map_scene
from onboard.scene.georeference import Georeference
from onboard.scene.reader import SceneOptions
from products.map_blocks import overview_factors

# Scenes without georeferencing are written and read here on purpose; so are pictures.
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

WIDTH, HEIGHT = 700, 600
GCPS = [
    GroundControlPoint(row, col, 55 + col / 1e4, 25 - row / 1e4, 7.0, id=str(number))
    for number, (row, col) in enumerate([(0, 0), (0, WIDTH), (HEIGHT, 0), (HEIGHT, WIDTH)])
]
NUMBERS = [1.0] + [0.0] * 19
RPCS = RPC(
    height_off=20.0, height_scale=100.0, lat_off=25.0, lat_scale=0.05, line_den_coeff=NUMBERS,
    line_num_coeff=[0.0, 0.0, -1.0] + [0.0] * 17, line_off=300.0, line_scale=300.0, long_off=55.0, long_scale=0.05,
    samp_den_coeff=NUMBERS, samp_num_coeff=[0.0, 1.0] + [0.0] * 18, samp_off=350.0, samp_scale=350.0,
)  # fmt: skip
GEOREFERENCES: dict[str, dict[str, Any]] = {
    "north-up": {"crs": "EPSG:32640", "transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 2.8e6)},
    "rotated": {"crs": "EPSG:32640", "transform": rasterio.Affine(0.4, 0.3, 5e5, 0.3, -0.4, 2.8e6)},
    "south-up": {"crs": "EPSG:32640", "transform": rasterio.Affine(0.5, 0, 5e5, 0, 0.5, 2.8e6)},
    "geographic": {"crs": "EPSG:4326", "transform": rasterio.Affine(1e-5, 0, 55, 0, -1e-5, 25)},
    "transform without CRS": {"transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 2.8e6)},
    "GCPs": {"gcps": GCPS, "crs": "EPSG:4326"},
    "GCPs on two rows": {
        "gcps": [
            GroundControlPoint(row, col, 55 + col / 1e4, 25 - row / 1e4, 7.0)
            for row in (0, HEIGHT)
            for col in (0, WIDTH / 2, WIDTH)
        ],
        "crs": "EPSG:4326",
    },
    "RPCs": {"rpcs": RPCS},
    "nothing": {},
}
# Read and written like any other, but no place on Earth follows from them.
UNLOCATED: dict[str, dict[str, Any]] = {
    "an engineering CRS": {
        "crs": CRS.from_wkt('LOCAL_CS["site grid",UNIT["metre",1]]'), "transform": rasterio.Affine(1, 0, 0, 0, -1, 100),
    },
    "a geocentric CRS": {"crs": "EPSG:4978", "transform": rasterio.Affine(1, 0, 0, 0, -1, 100)},
    "one GCP": {"gcps": GCPS[:1], "crs": "EPSG:4326"},
    "GCPs in a line": {
        "gcps": [GroundControlPoint(10 * i, 10 * i, 55 + i / 10, 25 - i / 10, 0.0) for i in range(5)],
        "crs": "EPSG:4326",
    },
    "GCPs in one place": {"gcps": [GroundControlPoint(5, 5, 55, 25, 0.0)] * 5, "crs": "EPSG:4326"},
}  # fmt: skip
GEOREFERENCES |= UNLOCATED


def make(folder: Path, *, confidence: bool = True, quicklook: Kind = "side", **profile: Any) -> MapSummary:
    pixels = np.repeat(np.repeat(np.random.default_rng(1).integers(1, 6, (3, 30, 35), dtype=np.uint8), 20, 1), 20, 2)
    keys = {"driver": "GTiff", "width": WIDTH, "height": HEIGHT, "count": 3, "dtype": "uint8"}
    with rasterio.open(folder / "scene.tif", "w", **keys, **profile) as target:
        target.write(pixels)
    options = SceneOptions(collar=False)
    request = MapRequest(
        folder / "scene.tif", folder / "out", halo=8, scene_options=options, confidence=confidence, quicklook=quicklook
    )
    return map_scene(request, IdentityEngine(tile_size=256, confidence=True))


@pytest.mark.parametrize("kind", GEOREFERENCES)
def test_georeferencing_passes_through_untouched_and_the_item_is_valid(
    kind: str, tmp_path: Path, validate_item: Callable[[dict[str, Any]], None]
) -> None:
    summary = make(tmp_path, **GEOREFERENCES[kind])
    with rasterio.open(tmp_path / "scene.tif") as scene, rasterio.open(summary.map_path) as mapped:
        assert mapped.crs == scene.crs
        assert mapped.transform == scene.transform
        (points, crs), (expected, expected_crs) = mapped.gcps, scene.gcps
        assert [point.asdict() | {"id": 0} for point in points] == [point.asdict() | {"id": 0} for point in expected]
        assert crs == expected_crs
        assert (mapped.rpcs is None) == (scene.rpcs is None)
        if scene.rpcs is not None:
            assert mapped.rpcs.to_dict() == scene.rpcs.to_dict()
    item = json.loads(summary.item_path.read_text())
    validate_item(item)
    located = kind in {"north-up", "rotated", "south-up", "geographic", "GCPs", "GCPs on two rows", "RPCs"}
    assert ("bbox" in item) == (item["geometry"] is not None)
    if located and kind != "RPCs":
        west, south, east, north = item["bbox"]
        assert 54 < west < east < 58
        assert 24 < south < north < 26
    assert (item["geometry"] is None) == (not located)
    assert ("onboard:geometry_missing" in item["properties"]) == (not located)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("transform without CRS", "its transform names no CRS"),
        ("nothing", "it has no georeferencing"),
        ("an engineering CRS", "no way leads from its CRS to longitude and latitude"),
        ("a geocentric CRS", "its CRS is geocentric"),
        ("one GCP", "its ground control points (1) fix no place"),
        ("GCPs in a line", "its ground control points (5) fix no place"),
        ("GCPs in one place", "its ground control points (5) fix no place"),
    ],
)
def test_the_item_says_why_it_has_no_geometry(kind: str, why: str, tmp_path: Path) -> None:
    item = json.loads(make(tmp_path, **GEOREFERENCES[kind]).item_path.read_text())
    assert item["geometry"] is None
    assert item["properties"]["onboard:geometry_missing"] == why


def test_an_item_without_confidence_is_valid_too(
    tmp_path: Path, validate_item: Callable[[dict[str, Any]], None]
) -> None:
    summary = make(tmp_path, confidence=False, **GEOREFERENCES["north-up"])
    item = json.loads(summary.item_path.read_text())
    assert set(item["assets"]) == {"map", "quicklook"}
    validate_item(item)


def test_the_map_is_a_valid_cog_with_palette_names_overviews_and_provenance(tmp_path: Path) -> None:
    summary = make(tmp_path, **GEOREFERENCES["north-up"])
    for path in (summary.map_path, summary.confidence_path):
        assert path is not None
        valid, errors, warnings = cog_validate(path, strict=True)
        assert valid, (errors, warnings)
    with rasterio.open(summary.map_path) as mapped:
        assert mapped.dtypes == ("uint8",)
        assert mapped.nodata == 0
        assert mapped.overviews(1)
        assert mapped.colormap(1)[0][3] == 0
        tags = mapped.tags()
        assert tags["CLASS_0"] == "no data"
        assert tags["CLASS_1"]
        assert tags["ONBOARD_SCENE_SHA256"] == hashlib.sha256((tmp_path / "scene.tif").read_bytes()).hexdigest()
        # The scene is blocks of 20 pixels, so the majority of 2 x 2 is exact where NEAREST and AVERAGE would be too;
        # a class that AVERAGE would invent shows at odd positions of the next level.
        codes = set(np.unique(mapped.read(1)))
        assert set(np.unique(mapped.read(1, out_shape=(75, 88)))) <= codes


def test_checksums_and_sizes_in_the_item_are_those_of_the_files(tmp_path: Path) -> None:
    summary = make(tmp_path, **GEOREFERENCES["north-up"])
    assets = json.loads(summary.item_path.read_text())["assets"]
    assert set(assets) == {"map", "quicklook", "confidence"}
    for asset in assets.values():
        raw = (summary.folder / asset["href"]).read_bytes()
        assert asset["file:size"] == len(raw)
        assert asset["file:checksum"] == "1220" + hashlib.sha256(raw).hexdigest()


def test_without_an_acquisition_time_the_item_says_that_it_gives_the_reception(tmp_path: Path) -> None:
    properties = json.loads(make(tmp_path).item_path.read_text())["properties"]
    assert properties["onboard:datetime_is"].startswith("reception")


def test_the_quicklook_of_the_map_alone_shows_the_class_colours(tmp_path: Path) -> None:
    summary = make(tmp_path, quicklook="map", **GEOREFERENCES["north-up"])
    assert summary.quicklook_path is not None
    with rasterio.open(summary.quicklook_path) as picture, rasterio.open(summary.map_path) as mapped:
        assert max(picture.shape) <= 1024
        rgba = picture.read()
        palette = mapped.colormap(1)
        codes = mapped.read(1, out_shape=picture.shape)
    expected = np.array([palette[code] for code in codes.ravel()], np.uint8).T.reshape(4, *codes.shape)
    # WebP drops an alpha channel that is opaque everywhere.
    assert np.array_equal(rgba, expected[: len(rgba)])


def test_a_map_of_few_classes_is_packed_and_its_overviews_are_majorities(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    codes = np.repeat(np.repeat(generator.integers(0, 6, (80, 75), dtype=np.uint8), 16, 0), 16, 1)
    noisy = np.where(generator.random(codes.shape) < 0.2, generator.integers(0, 6, codes.shape), codes).astype(np.uint8)
    layer = Layer(tmp_path / "classes.raw", width=noisy.shape[1], height=noisy.shape[0])
    layer.write_rows(0, noisy)
    classes = tuple(manifest_for_testing().classes)
    write_map(layer, tmp_path / "map.tif", georeference=Georeference(), classes=classes, tags={})
    with rasterio.open(tmp_path / "map.tif") as mapped:
        assert np.array_equal(mapped.read(1), noisy)
        assert mapped.tags(1, ns="IMAGE_STRUCTURE")["NBITS"] == "4"
        assert mapped.overviews(1) == [8]
        assert mapped.colormap(1)[5][:3] == tuple(bytes.fromhex(classes[4].color[1:]))
        seen = mapped.read(1, out_shape=(160, 150))
    truth = codes[4::8, 4::8]
    assert np.array_equal(seen[truth != 0], truth[truth != 0])  # no data has no vote


@pytest.mark.parametrize(
    ("width", "height", "levels"),
    [(512, 512, []), (513, 1, [8]), (4096, 4096, [8]), (4097, 9, [8, 32]), (24_000, 24_000, [8, 32, 128])],
)
def test_overviews_go_down_to_one_block(width: int, height: int, levels: list[int]) -> None:
    assert overview_factors(width, height) == levels


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 9), (40, 3), (70, 50)])
@pytest.mark.parametrize("sieve_px", [1, 9, 10, 100_000])
def test_patches_may_be_sieved_that_are_larger_than_the_map(
    tmp_path: Path, width: int, height: int, sieve_px: int
) -> None:
    pixels = np.random.default_rng(width).integers(1, 4, (3, height, width), dtype=np.uint8)
    keys: dict[str, Any] = {"width": width, "height": height, "count": 3, "dtype": "uint8", "crs": "EPSG:32640"}
    with rasterio.open(
        tmp_path / "scene.tif", "w", "GTiff", transform=rasterio.Affine(1, 0, 5e5, 0, -1, 2e6), **keys
    ) as f:
        f.write(pixels)
    request = MapRequest(
        tmp_path / "scene.tif", tmp_path / "out", halo=8, scene_options=SceneOptions(collar=False), sieve_px=sieve_px
    )
    summary = map_scene(request, IdentityEngine(tile_size=64), judge=lambda *_: None)
    with rasterio.open(summary.map_path) as source:
        sieved = source.read(1)
    assert set(np.unique(sieved)) <= set(np.unique(pixels[0]))
    # Nothing is merged into a patch that is itself too small, so a limit beyond all of them changes nothing.
    if sieve_px in (1, 100_000):
        assert np.array_equal(sieved, pixels[0])
