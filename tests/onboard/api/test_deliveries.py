"""Scenes of several files through a running service: archives, forms with sidecars, products in tiles, the inbox."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS

from tests.onboard.scene.products import linear_rpcs, write_dimap, write_maxar
from tests.onboard.service import Served, running, until, write_scene

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
SIDE = 70
WORLD = "2\n0\n0\n-2\n330001\n2789999\n"
ZIP, TAR = {"Content-Type": "application/zip"}, {"Content-Type": "application/x-tar"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deliveries")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    (folder / "inbox").mkdir()
    settings = {
        "ONBOARD_MAX_UPLOAD_BYTES": "500000", "ONBOARD_INBOX": str(folder / "inbox"), "ONBOARD_WATCH_INBOX": "true",
        "ONBOARD_KEEP_SCENES": "true",
    }  # fmt: skip
    with running(folder / "data", **settings) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


def write_plain(path: Path, seed: int) -> Path:
    """A scene that says nothing of its place."""
    pixels = np.random.default_rng(seed).integers(1, 256, (3, SIDE, SIDE), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", "GTiff", SIDE, SIDE, 3, dtype="uint8") as file:
        file.write(pixels)
    return path


def write_beside(scene: Path) -> list[Path]:
    """World file, projection and a mask over its right half."""
    world, projection = scene.with_suffix(".tfw"), scene.with_suffix(".prj")
    world.write_text(WORLD)
    projection.write_text(CRS.from_epsg(32640).to_wkt())
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(scene, "r+") as file:
        mask = np.full((SIDE, SIDE), 255, np.uint8)
        mask[:, SIDE // 2 :] = 0
        file.write_mask(mask)
    return [world, projection, scene.with_name(scene.name + ".msk")]


def zipped(files: dict[str, Path]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in files.items():
            archive.write(path, name)
    return target.getvalue()


def tarred(folder: Path) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.add(folder, folder.name)
    return target.getvalue()


def item_of(served: Served, answer: httpx.Response) -> dict[str, Any]:
    """Waits for the map of an accepted scene; gives its item's properties."""
    assert answer.status_code == 202, answer.text
    scene = answer.json()["id"]
    served.wait_for(scene, "mapped")
    with served.client() as client:
        properties: dict[str, Any] = client.get(f"/maps/{scene}").json()["properties"]
    return properties


def check_placed_and_masked(properties: dict[str, Any]) -> None:
    assert properties["proj:code"] == "EPSG:32640"
    assert properties["proj:transform"][:6] == [2, 0, 330000, 0, -2, 2790000]
    assert properties["onboard:no_data_pixels"] == SIDE * SIDE // 2
    assert len(properties["onboard:scene_files"]) == 4


def test_a_zip_of_a_scene_with_its_sidecars_is_one_scene(served: Served, client: httpx.Client, tmp_path: Path) -> None:
    scene = write_plain(tmp_path / "geo.tif", 1)
    files = {f"delivery/{path.name}": path for path in [scene, *write_beside(scene)]}
    body = zipped(files)
    first = client.post("/scenes", content=body, headers=ZIP, params={"name": "geo"})
    check_placed_and_masked(item_of(served, first))
    again = client.post("/scenes", content=body, headers=ZIP)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    (tmp_path / "geo.tfw").write_text(WORLD.replace("330001", "340001"))
    moved = client.post("/scenes", content=zipped(files), headers=ZIP)  # another place is another scene
    assert item_of(served, moved)["proj:transform"][2] == 340000


def test_form_fields_carry_the_files_beside_a_scene(served: Served, client: httpx.Client, tmp_path: Path) -> None:
    scene = write_plain(tmp_path / "form.tif", 2)
    beside = write_beside(scene)
    form: list[Any] = [("sidecar", (path.name, path.read_bytes())) for path in beside[:2]]
    form += [("scene", (scene.name, scene.read_bytes())), ("sidecar", (beside[2].name, beside[2].read_bytes()))]
    check_placed_and_masked(item_of(served, client.post("/scenes", files=form, data={"priority": "urgent"})))


@pytest.mark.parametrize("write", [write_dimap, write_maxar])
def test_a_product_in_tiles_is_one_scene(served: Served, client: httpx.Client, tmp_path: Path, write: Any) -> None:
    pixels = np.random.default_rng(3).integers(1, 256, (3, SIDE, SIDE + 30), dtype=np.uint8)
    product = write(tmp_path / write.__name__, pixels, 48, rpcs=linear_rpcs(SIDE + 30, SIDE))
    (product.parent / "PREVIEW.JPG").write_bytes(b"not needed")
    answer = client.post("/scenes", content=tarred(product.parent), headers=TAR)
    properties = item_of(served, answer)
    assert properties["proj:shape"] == [SIDE, SIDE + 30]
    assert properties["onboard:georeferencing"] == "rpcs"
    assert properties["datetime"] == "2021-03-04T07:08:09Z"
    kept = list((served.data / "scenes" / answer.json()["id"]).rglob("*"))
    assert product.name in {path.name for path in kept}
    assert "PREVIEW.JPG" not in {path.name for path in kept}


def test_a_form_may_have_more_sidecars_than_fields(client: httpx.Client, tmp_path: Path) -> None:
    scene = write_plain(tmp_path / "many.tif", 12)
    form: list[Any] = [("sidecar", (f"other_{number}.tfw", WORLD.encode())) for number in range(40)]
    answer = client.post("/scenes", files=[("scene", (scene.name, scene.read_bytes())), *form])
    assert (answer.status_code, answer.json()["bytes"]) == (202, scene.stat().st_size)


def test_one_file_in_an_archive_is_known_as_if_it_had_come_alone(
    served: Served, client: httpx.Client, tmp_path: Path
) -> None:
    scene = write_scene(tmp_path / "alone.tif", SIDE, seed=4)
    alone = served.post(scene)
    assert alone["sha256"] == hashlib.sha256(scene.read_bytes()).hexdigest()
    packed = client.post("/scenes", content=zipped({"alone.tif": scene}), headers=ZIP)
    assert (packed.status_code, packed.json()["id"]) == (200, alone["id"])
    beside = write_zeros(tmp_path / "._alone.tif", 200)
    from_macos = client.post(
        "/scenes", content=zipped({"alone.tif": scene, "__MACOSX/._alone.tif": beside}), headers=ZIP
    )
    assert (from_macos.status_code, from_macos.json()["id"]) == (200, alone["id"])


def problem(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["detail"])


def test_deliveries_that_are_no_scene_are_refused_and_leave_nothing(
    served: Served, client: httpx.Client, tmp_path: Path
) -> None:
    one, other = write_plain(tmp_path / "one.tif", 5), write_plain(tmp_path / "other.tif", 6)
    product = write_dimap(tmp_path / "product", np.full((3, 32, 32), 9, np.uint8), 16)
    next(product.parent.glob("*R2C2*")).unlink()
    post = {
        "holds 2 scenes": zipped({"one.tif": one, "other.tif": other}),
        "holds no GeoTIFF": zipped({"one.tfw": one}),
        "leads outside": zipped({"../one.tif": one}),
        "R2C2.TIF is not there": zipped({f"p/{path.name}": path for path in product.parent.iterdir()}),
        "more bytes than are taken": zipped({"one.tif": write_zeros(tmp_path / "zeros.ovr", 600_000)}),
        "damaged archive": b"PK\3\4" + bytes(500),
    }
    for said, body in post.items():
        assert said in problem(client.post("/scenes", content=body, headers=ZIP), 422), said
    assert "is not a TIFF" in problem(client.post("/scenes", content=b"x" * 600, headers=ZIP), 422)
    for name, status in (("../../a.tfw", 400), (".hidden.tfw", 400), ("a.exe", 400), ("one.tif", 422)):
        form: list[Any] = [("sidecar", (name, b"1")), ("scene", ("one.tif", one.read_bytes()))]
        problem(client.post("/scenes", files=form), status)
    assert "comes twice" in problem(
        client.post("/scenes", files=[("sidecar", ("a.tfw", b"1")), ("sidecar", ("a.tfw", b"1"))]), 400
    )
    until(lambda: not list((served.data / "scenes" / ".incoming").iterdir()), "incoming files stay")


def write_zeros(path: Path, size: int) -> Path:
    path.write_bytes(bytes(size))
    return path


def test_the_inbox_takes_a_scene_with_all_its_files(served: Served, folder: Path, tmp_path: Path) -> None:
    inbox = folder / "inbox"
    scene = write_plain(tmp_path / "in.tif", 7)
    moved = [*write_beside(scene), scene]
    product = write_dimap(tmp_path / "p", np.random.default_rng(8).integers(1, 256, (3, 40, 60), dtype=np.uint8), 32)
    archive = tmp_path / "packed.zip"
    archive.write_bytes(zipped({"a.tif": write_plain(tmp_path / "a.tif", 9)}))
    for path in [*moved, *sorted(product.parent.iterdir()), archive]:  # tiles come after their description
        path.rename(inbox / path.name)

    def names() -> dict[str, str] | None:
        with served.client() as client:
            rows = client.get("/scenes").json()["scenes"]
        found = {row["name"]: row["id"] for row in rows if row["name"] in ("in.tif", product.name, "packed.zip")}
        return found if len(found) == 3 else None

    found = until(names, "the inbox was not taken")
    for scene_id in found.values():
        served.wait_for(scene_id, "mapped")
    with served.client() as client:
        check_placed_and_masked(client.get(f"/maps/{found['in.tif']}").json()["properties"])
        assert client.get(f"/maps/{found[product.name]}").json()["properties"]["proj:shape"] == [40, 60]
        tiles = [row["name"] for row in client.get("/scenes").json()["scenes"] if row["name"].startswith("IMG_")]
    assert tiles == []
    until(lambda: not [path for path in inbox.iterdir() if path.name != "rejected"], "files stay in the inbox")


@pytest.mark.usefixtures("served")
def test_what_the_inbox_refuses_it_sets_aside_with_its_sidecars(folder: Path, tmp_path: Path) -> None:
    inbox = folder / "inbox"
    (inbox / "bad.tfw").write_text(WORLD)
    (tmp_path / "bad.tif").write_bytes(b"II*\0" + bytes(50))
    (tmp_path / "bad.tif").rename(inbox / "bad.tif")
    until((inbox / "rejected" / "bad.tif.txt").is_file, "it was not rejected")
    assert sorted(path.name for path in (inbox / "rejected").iterdir()) == ["bad.tfw", "bad.tif", "bad.tif.txt"]
    assert not (inbox / "bad.tfw").exists()


def test_a_product_whose_tiles_are_on_their_way_waits(served: Served, folder: Path, tmp_path: Path) -> None:
    inbox = folder / "inbox"
    pixels = np.random.default_rng(10).integers(1, 256, (3, 40, 60), dtype=np.uint8)
    product = write_maxar(tmp_path / "late", pixels, 32)
    files = sorted(product.parent.iterdir(), key=lambda path: "R2C2" in path.name)
    for path in files[:-1]:
        path.rename(inbox / path.name)
    until(lambda: "tiles that it names are not there yet" in served.log.read_text(), "it does not wait")
    files[-1].rename(inbox / files[-1].name)
    with served.client() as client:

        def names() -> list[str]:
            return [row["name"] for row in client.get("/scenes").json()["scenes"]]

        until(lambda: product.name in names(), "it was not taken")
        tiles = [name for name in names() if "R1C1" in name]
    assert tiles == []


def test_a_restart_knows_a_scene_of_several_files(tmp_path: Path) -> None:
    scene = write_plain(tmp_path / "files" / "geo.tif", 11)
    files = {path.name: path for path in [scene, *write_beside(scene)]}
    with running(tmp_path / "s" / "data", ONBOARD_KEEP_SCENES="true") as served, served.client() as client:
        first = client.post("/scenes", content=zipped(files), headers=ZIP).json()
        served.wait_for(first["id"], "mapped")
        served.stop()
        for path in served.data.glob("ledger.sqlite*"):
            path.unlink()  # the ledger is lost: folders tell
        served.start()
        served.wait_for(first["id"], "mapped")
        with served.client() as again:
            row = again.get(f"/scenes/{first['id']}").json()
            assert row["sha256"] == first["sha256"]
            assert again.post("/scenes", content=zipped(files), headers=ZIP).json()["id"] == first["id"]
