"""What a map depends on besides the scene's own bytes: the files beside it and the decoders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.crs import CRS

from engines.testing import ConstantEngine, IdentityEngine
from onboard.errors import OptionsRefused, SceneRefused
from onboard.mapping import job
from onboard.mapping.executors import LocalExecutor
from onboard.mapping.run import MapRequest, MapSummary, map_scene
from onboard.mapping.scene_files import digest_of_all, scene_digests
from onboard.scene.decoders import decoder_versions
from onboard.scene.mosaic import files_of
from onboard.scene.probe import probe_scene
from onboard.scene.reader import Scene, SceneOptions, open_source
from onboard.scene.resolution import resolution_of
from tests.onboard.scene.products import linear_rpcs, write_dimap

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
UTM = CRS.from_epsg(32640).to_wkt()
WORLD = "1\n0\n0\n-1\n330000.5\n2789999.5\n"


def write(path: Path, pixels: Any = None, **profile: Any) -> Path:
    pixels = np.random.default_rng(3).integers(8, 255, (3, 64, 64), dtype=np.uint8) if pixels is None else pixels
    keys = {"driver": "GTiff", "count": len(pixels), "height": 64, "width": 64, "dtype": pixels.dtype}
    with rasterio.open(path, "w", **(keys | profile)) as file:
        file.write(pixels)
    return path


def mapped(scene: Path, *, overwrite: bool = True, **options: Any) -> MapSummary:
    engine = ConstantEngine(tile_size=64)
    out = scene.parent.with_name(scene.parent.name + "-maps")
    request = MapRequest(scene, out, halo=8, overwrite=overwrite, **options)
    return map_scene(request, engine, judge=lambda *_: None)  # a process a scene: its own tests run it


def build_overviews(scene: Path) -> None:
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(scene, "r+") as source:
        source.build_overviews([2])


def item_of(summary: MapSummary) -> Any:
    return json.loads(summary.item_path.read_text(encoding="utf-8"))


def aux(**parts: str) -> str:
    return "<PAMDataset>" + "".join(parts.values()) + "</PAMDataset>"


def rpc_text(height: float) -> str:
    items = linear_rpcs(64, 64).to_gdal() | {"HEIGHT_OFF": str(height)}
    lines = []
    for key, value in items.items():
        numbers = str(value).split()
        lines += [f"{key}: {value}"] if len(numbers) == 1 else [f"{key}_{n}: {v}" for n, v in enumerate(numbers, 1)]
    return "\n".join([*lines, ""])


BESIDE = {
    "scene.tfw": (WORLD, WORLD.replace("330000.5", "330001.5")),
    "scene.prj": (UTM, CRS.from_epsg(32639).to_wkt()),
    "scene.tif.aux.xml": (
        aux(crs=f"<SRS>{UTM}</SRS>", place="<GeoTransform>330000,1,0,2790000,0,-1</GeoTransform>"),
        aux(crs=f"<SRS>{UTM}</SRS>", place="<GeoTransform>330001,1,0,2790000,0,-1</GeoTransform>"),
    ),
    "scene.RPB": ("a = 1;\n", "a = 2;\n"),
    "scene_RPC.TXT": (rpc_text(0), rpc_text(50)),
    "scene_rpc.txt": (rpc_text(0), rpc_text(50)),
    "scene.IMD": ("version = 1;\n", "version = 2;\n"),
    "scene.xml": ("<isd/>", "<isd a='1'/>"),
    "scene_metadata.txt": ("a", "b"),
    "scene_MTL.txt": ("a", "b"),
    "METADATA.DIM": ("<a/>", "<b/>"),
}


@pytest.mark.parametrize("name", BESIDE)
def test_a_file_beside_a_scene_that_comes_or_changes_or_goes_makes_another_scene(tmp_path: Path, name: str) -> None:
    scene = write(tmp_path / "scene.tif")
    beside = tmp_path / name
    assert not mapped(scene).already_mapped
    for content in BESIDE[name]:
        beside.write_text(content, encoding="utf-8")
        with pytest.raises(OptionsRefused, match="another scene"):
            mapped(scene, overwrite=False)
        assert not mapped(scene).already_mapped
        assert mapped(scene).already_mapped
    beside.unlink()
    assert not mapped(scene).already_mapped


def test_damaged_polynomials_beside_a_scene_are_refused_in_one_line(tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.tif")
    (tmp_path / "scene_RPC.TXT").write_text("LINE_OFF: 1\n")
    with pytest.raises(SceneRefused, match=r"RPC\.TXT file found, but missing"):
        probe_scene(scene)


def test_overviews_and_masks_beside_a_scene_make_another_scene(tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.tif")
    first = mapped(scene)
    build_overviews(scene)
    with_overviews = mapped(scene)
    half = np.zeros((1, 64, 64), np.uint8)
    half[:, :32] = 255
    write(tmp_path / "scene.tif.msk", half).write_bytes((tmp_path / "scene.tif.msk").read_bytes())
    with rasterio.open(tmp_path / "scene.tif.msk", "r+") as mask:
        mask.update_tags(INTERNAL_MASK_FLAGS_1="2", INTERNAL_MASK_FLAGS_2="2", INTERNAL_MASK_FLAGS_3="2")
    masked = mapped(scene)
    assert (tmp_path / "scene.tif.ovr").is_file()
    assert not with_overviews.already_mapped
    assert not masked.already_mapped
    assert (first.no_data_share, masked.no_data_share) == (0.0, 0.5)


def test_every_file_that_gdal_says_it_reads_is_among_the_scenes_files(tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.tif")
    for name, (content, _) in BESIDE.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    build_overviews(scene)
    with open_source(scene) as source:
        read = {Path(path) for path in source.files}
    assert len(read) >= 4
    assert read <= set(files_of(scene))
    product = write_dimap(tmp_path / "product", np.full((3, 64, 64), 9, np.uint8), 32, rpcs=linear_rpcs(64, 64))
    with open_source(product.parent / "IMG_PHR1A_MS_001_R1C2.TIF") as tile:
        read = {Path(path) for path in tile.files}
    assert read == {product, product.with_name("RPC_PHR1A_MS_001.XML"), Path(tile.name)}
    assert read <= set(files_of(Path(tile.name)))


def test_a_canvas_of_other_sidecars_or_decoders_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = write(tmp_path / "scene.tif")
    engine = IdentityEngine(tile_size=64)
    request = MapRequest(scene, tmp_path / "out", halo=8)

    def identity() -> dict[str, Any]:
        with Scene.open(scene, SceneOptions()) as opened:
            resolution = resolution_of(opened, engine.manifest, request.resolution)
            return job.Job.of(request, opened, LocalExecutor(engine), resolution).identity

    bare = identity()
    (tmp_path / "scene.prj").write_text(UTM)
    with_sidecar = identity()
    monkeypatch.setattr(job, "decoder_versions", lambda: {"gdal": "3.12.2", "jpeg": "another"})
    assert bare != with_sidecar != identity()
    assert bare["decoders"] == decoder_versions()


def test_a_map_made_by_other_decoders_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = write(tmp_path / "scene.tif")
    first = mapped(scene)
    assert item_of(first)["properties"]["onboard:decoders"] == decoder_versions()
    monkeypatch.setattr(job, "decoder_versions", lambda: decoder_versions() | {"jpeg": "another library's"})
    assert not mapped(scene).already_mapped


def test_the_item_names_each_file_of_the_scene_with_its_digest(tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.tif")
    alone = item_of(mapped(scene))["properties"]
    digest = hashlib.sha256(scene.read_bytes()).hexdigest()
    assert alone["onboard:scene_sha256"] == digest  # of one file: its own
    (tmp_path / "scene.tfw").write_text(WORLD)
    (tmp_path / "scene.prj").write_text(UTM)
    item = item_of(mapped(scene))
    files = item["properties"]["onboard:scene_files"]
    assert list(files) == ["scene.tif", "scene.prj", "scene.tfw"]
    assert files["scene.tif"] == digest
    assert item["properties"]["onboard:scene_sha256"] == digest_of_all(scene_digests(scene)) != digest
    assert item["links"][0]["file:checksum"] == "1220" + digest  # of the file that the link names


def test_crs_place_no_data_and_polynomials_in_aux_xml_are_read(tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(8, 255, (3, 64, 64), dtype=np.uint8)
    pixels[:, :16] = 7
    scene = write(tmp_path / "scene.tif", pixels)
    bands = "".join(f'<PAMRasterBand band="{n}"><NoDataValue>7</NoDataValue></PAMRasterBand>' for n in (1, 2, 3))
    place = "<GeoTransform>330000,1,0,2790000,0,-1</GeoTransform>"
    (tmp_path / "scene.tif.aux.xml").write_text(aux(crs=f"<SRS>{UTM}</SRS>", place=place, bands=bands))
    before = sorted(tmp_path.iterdir())
    summary = mapped(scene)
    properties = item_of(summary)["properties"]
    assert properties["proj:code"] == "EPSG:32640"
    assert summary.no_data_share == 0.25
    assert sorted(tmp_path.iterdir()) == before  # nothing is written beside a scene
    assert not list(summary.folder.glob("*.aux.xml"))

    items = "".join(f'<MDI key="{key}">{value}</MDI>' for key, value in linear_rpcs(64, 64).to_gdal().items())
    (tmp_path / "scene.tif.aux.xml").write_text(aux(rpc=f'<Metadata domain="RPC">{items}</Metadata>'))
    assert item_of(mapped(scene))["properties"]["onboard:georeferencing"] == "rpcs"


@pytest.mark.parametrize("wkt", ["WKT1_GDAL", "WKT1_ESRI"])
def test_a_prj_beside_a_world_file_is_its_crs(tmp_path: Path, wkt: str) -> None:
    scene = write(tmp_path / "scene.tif")
    (tmp_path / "scene.tfw").write_text(WORLD)
    assert item_of(mapped(scene))["properties"]["onboard:geometry_missing"] == "its transform names no CRS"
    projection = tmp_path / "scene.prj"
    projection.write_text(CRS.from_epsg(32640).to_wkt(version=wkt))
    item = item_of(mapped(scene))
    assert item["properties"]["proj:code"] == "EPSG:32640"
    assert item["geometry"] is not None
    for text in ("no CRS", "PROJCS[oops]"):
        projection.write_text(text)
        assert "scene.prj" in item_of(mapped(scene))["properties"]["onboard:geometry_missing"]


def test_aux_xml_that_names_another_file_for_overviews_is_refused(tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.tif")
    other = '<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">/etc/hostname</MDI></Metadata>'
    (tmp_path / "scene.tif.aux.xml").write_text(aux(other=other))
    with pytest.raises(SceneRefused, match="another file"):
        probe_scene(scene)


@pytest.mark.parametrize("crs", ["EPSG:4979", "EPSG:4978", "EPSG:9518", "EPSG:7415", "EPSG:9754", "EPSG:32640"])
@pytest.mark.parametrize("epoch", [None, 2021.5])
def test_the_crs_and_the_epoch_of_a_scene_are_those_of_its_map(tmp_path: Path, crs: str, epoch: float | None) -> None:
    described = tmp_path / "scene.vrt"
    degrees, metres = rasterio.Affine(1e-3, 0, 50, 0, -1e-3, 28), rasterio.Affine(1, 0, 5e5, 0, -1, 3e6)
    place = metres if crs == "EPSG:32640" else degrees
    write(tmp_path / "plain.tif", crs=crs, transform=place, GEOTIFF_VERSION="1.1")
    rasterio.shutil.copy(tmp_path / "plain.tif", described, driver="VRT")
    if epoch is not None:
        described.write_text(described.read_text().replace("<SRS ", f'<SRS coordinateEpoch="{epoch}" ', 1))
    scene = tmp_path / "scene.tif"
    rasterio.shutil.copy(described, scene, driver="GTiff", GEOTIFF_VERSION="1.1")
    described.unlink()
    summary = mapped(scene)
    with open_source(scene) as source, open_source(summary.map_path) as target:
        assert target.crs == source.crs
        assert target.crs.to_authority() == source.crs.to_authority()
    for path in (scene, summary.map_path):
        rasterio.shutil.copy(path, described, driver="VRT")
        assert (f'coordinateEpoch="{epoch}"' in described.read_text()) == (epoch is not None)


def test_a_crs_that_no_geotiff_holds_is_kept_without_its_heights(tmp_path: Path) -> None:
    flat = CRS.from_epsg(32640).to_wkt(version="WKT2_2019")
    tall = flat[: flat.index(",USAGE")].replace("CS[Cartesian,2]", "CS[Cartesian,3]")
    tall += ',AXIS["ellipsoidal height (h)",up,ORDER[3],LENGTHUNIT["metre",1]]]'
    scene = write(tmp_path / "scene.tif")
    place = "<GeoTransform>330000,1,0,2790000,0,-1</GeoTransform>"
    (tmp_path / "scene.tif.aux.xml").write_text(aux(crs=f"<SRS>{tall}</SRS>".replace('"', "&quot;"), place=place))
    with open_source(scene) as source:
        assert "CS[Cartesian,3]" in source.crs.to_wkt(version="WKT2_2019")
    summary = mapped(scene)
    with rasterio.open(summary.map_path) as target:
        assert target.crs == CRS.from_epsg(32640)
    assert item_of(summary)["geometry"] is not None
