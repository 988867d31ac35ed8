"""A station's folder made by hand: small maps of every kind of place, telemetry, events, passes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from rasterio.rpc import RPC

SIDE = 256
COLOURS = {1: "E2574C", 2: "6E6E6E", 3: "4C9F4C", 4: "3B82C4"}
TITLES = {1: "Building", 2: "Road", 3: "Vegetation", 4: "Water"}
WEST, NORTH, STEP = 55.0, 25.0, 1e-5
HOSTILE = "<img src=x onerror=\"document.title='broken in'\"><script>document.title='broken in'</script>"
BEGIN_S = 1_780_000_000.0
PALETTE = {
    0: (0, 0, 0, 0), **{code: (*bytes.fromhex(colour), 255) for code, colour in COLOURS.items()},
}  # fmt: skip


def quarters(order: tuple[int, int, int, int] = (1, 2, 3, 4)) -> NDArray[np.uint8]:
    """A class raster: one code a quarter, upper left, upper right, lower left, lower right."""
    codes = np.empty((SIDE, SIDE), np.uint8)
    half = SIDE // 2
    codes[:half, :half], codes[:half, half:], codes[half:, :half], codes[half:, half:] = order
    return codes


def write_made_map(
    station: Path,
    name: str,
    *,
    place: str = "grid",
    title: str | None = None,
    acquired: str = "2026-05-03T06:40:00Z",
    codes: NDArray[np.uint8] | None = None,
    confidence: int | None = None,
    shift: float = 0.0,
) -> Path:
    """Writes station/name/{map.tif, map.json, quicklook.webp}.

    Args:
        station: folder of all maps.
        name: of the map's folder.
        place: grid, gcps, rpcs or none: how it lies on Earth. All of them lie on the same quarter of a hundredth
            of a degree.
        title: of the item.
        acquired: its time.
        codes: (256, 256), the four quarters if None.
        confidence: value of a confidence raster, none if None.
        shift: degrees east of the usual place.
    """
    folder = station / name
    folder.mkdir(parents=True)
    data = quarters() if codes is None else codes
    _write_raster(folder / "map.tif", data, place, shift, PALETTE)
    if confidence is not None:
        _write_raster(folder / "confidence.tif", np.full_like(data, confidence), place, shift, None)
    (folder / "map.json").write_text(json.dumps(_item(name, data, place, title, acquired, shift)))
    colours = np.array([PALETTE[code][:3] for code in range(5)], np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(folder / "quicklook.webp", "w", "WEBP", SIDE, SIDE, 3, dtype="uint8") as picture:
            picture.write(np.moveaxis(colours[data], -1, 0))
    (folder / "receipt.json").write_text("{}")
    return folder


def add_head(folder: Path, first: str, name: str, codes: NDArray[np.uint8], confidence: int | None = None) -> None:
    """Adds a further head to a made map on the grid: two classes, Field (1) and Town (2), in colours of its own.

    Args:
        folder: of the map.
        first: name of the head that map.tif is of.
        name: of the further head.
        codes: (256, 256).
        confidence: value of its confidence raster, none if None.
    """
    shift = 0.0
    palette = {0: (0, 0, 0, 0), 1: (200, 180, 20, 255), 2: (150, 0, 150, 255)}
    _write_raster(folder / f"{name}.tif", codes, "grid", shift, palette)
    with rasterio.open(folder / f"{name}.tif", "r+") as file:
        file.update_tags(CLASS_0="no data", CLASS_1="Field", CLASS_2="Town")
    if confidence is not None:
        _write_raster(folder / f"{name}-confidence.tif", np.full_like(codes, confidence), "grid", shift, None)
    item = json.loads((folder / "map.json").read_text())
    item["assets"][name] = {
        "href": f"./{name}.tif",
        "classification:classes": [
            {"value": 0, "name": "no_data", "title": "no data", "nodata": True},
            {"value": 1, "name": "field", "title": "Field", "color_hint": "C8B414"},
            {"value": 2, "name": "town", "title": "Town", "color_hint": "960096"},
        ],
    }
    item["properties"]["onboard:model"]["heads"] = [first, name]
    valid = max(1, int((codes > 0).sum()))
    item["properties"]["onboard:heads"] = {
        name: {
            "class_cover": [
                {"value": code, "title": title, "pixels": int((codes == code).sum()),
                 "share": float((codes == code).sum() / valid), "area_m2": float((codes == code).sum()) * 120.0}
                for code, title in ((1, "Field"), (2, "Town"))
            ],
            "no_data_pixels": int((codes == 0).sum()),
            "mean_confidence": None if confidence is None else confidence / 255,
        }
    }  # fmt: skip
    (folder / "map.json").write_text(json.dumps(item))


def _write_raster(path: Path, data: NDArray[np.uint8], place: str, shift: float, palette: Any) -> None:
    west = WEST + shift
    profile: dict[str, Any] = {"dtype": "uint8", "nodata": 0}
    if place == "grid":
        profile |= {"crs": "EPSG:4326", "transform": rasterio.Affine(STEP, 0, west, 0, -STEP, NORTH)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", "GTiff", SIDE, SIDE, 1, **profile) as file:
            file.write(data, 1)
            if palette is not None:
                file.write_colormap(1, palette)
            if place == "gcps":
                corners = [(0, 0), (0, SIDE), (SIDE, 0), (SIDE, SIDE), (SIDE / 2, SIDE / 2)]
                points = [GroundControlPoint(row, col, west + STEP * col, NORTH - STEP * row) for row, col in corners]
                file.gcps = (points, "EPSG:4326")
            elif place == "rpcs":
                file.rpcs = _polynomials(west)


def _polynomials(west: float) -> RPC:
    half, span, zeros = SIDE / 2, STEP * SIDE / 2, [0.0] * 17
    return RPC(
        height_off=0, height_scale=500, lat_off=NORTH - span, lat_scale=span, long_off=west + span, long_scale=span,
        line_off=half, line_scale=half, samp_off=half, samp_scale=half, line_num_coeff=[0.0, 0.0, -1.0, *zeros],
        line_den_coeff=[1.0, 0.0, 0.0, *zeros], samp_num_coeff=[0.0, 1.0, 0.0, *zeros],
        samp_den_coeff=[1.0, 0.0, 0.0, *zeros],
    )  # fmt: skip


def _item(
    name: str, data: NDArray[np.uint8], place: str, title: str | None, acquired: str, shift: float
) -> dict[str, Any]:
    west, south = WEST + shift, NORTH - STEP * SIDE
    east = west + STEP * SIDE
    ring = [[west, south], [east, south], [east, NORTH], [west, NORTH], [west, south]]
    cover = [
        {
            "value": code, "title": words, "pixels": int((data == code).sum()), "share": float((data == code).mean()),
            **({"area_m2": float((data == code).sum()) * 120.0} if place == "grid" else {}),
        }
        for code, words in TITLES.items()
    ]  # fmt: skip
    kind = {"grid": "transform", "none": "none"}.get(place, place)
    properties = {
        "title": title or f"Land cover of {name}.tif", "datetime": acquired, "gsd": 1.1,
        "onboard:datetime_is": "acquisition", "onboard:georeferencing": kind, "onboard:class_cover": cover,
        "onboard:model": {"name": "tiny", "version": "1.0", "sha256": "0" * 64}, "onboard:mean_confidence": 0.8,
        **({"onboard:geometry_missing": "the scene has no georeferencing"} if place == "none" else {}),
    }  # fmt: skip
    classes = [{"value": 0, "name": "no_data", "title": "no data", "nodata": True}] + [
        {"value": code, "name": words.lower(), "title": words, "color_hint": COLOURS[code]}
        for code, words in TITLES.items()
    ]
    return {
        "type": "Feature", "stac_version": "1.1.0", "id": name, "properties": properties, "links": [],
        "geometry": None if place == "none" else {"type": "Polygon", "coordinates": [ring]},
        "assets": {"map": {"href": "./map.tif", "classification:classes": classes}},
    }  # fmt: skip


def write_telemetry(folder: Path, rows: int = 600) -> dict[str, NDArray[Any]]:
    """FOLDER/history of so many minutes, half of each hour at work, and three events; gives the columns."""
    history = folder / "history"
    history.mkdir(parents=True)
    seconds = 60.0 * np.arange(rows)
    busy = ((seconds % 3600) < 1800).astype(np.float64)
    watts = np.where(busy > 0, 19.0, 6.0)
    columns: dict[str, NDArray[Any]] = {
        "tick": (1000 * seconds).astype(np.int64), "utc_s": BEGIN_S + seconds, "samples": np.full(rows, 600),
        "power_w:VDD_IN.min": watts - 1, "power_w:VDD_IN.mean": watts, "power_w:VDD_IN.max": watts + 1,
        "power_w:VDD_SOC.mean": watts / 4, "power_w:VDD_SOC.max": watts / 4,
        "temperature_c:tj.max": 40 + watts, "temperature_c:tj.mean": 39 + watts,
        "work:busy.mean": busy, "work:tiles_per_s.mean": busy * 2,
    }  # fmt: skip
    pq.write_table(pa.table(columns), history / f"000-{0:015d}-{int(columns['tick'][-1]):015d}.parquet")
    at = {"utc": "2026-05-28T20:26:40.000Z", "boot_id": "x", "uptime_s": 1.0, "clock_synchronised": True}
    events = [
        {"sequence": 3, "severity": "info", "kind": "source-found", "about": None, "text": "all measures", "at": at},
        {"sequence": 5, "severity": "warning", "kind": "governor-hot", "about": None, "text": HOSTILE, "at": at},
        {"sequence": 9, "severity": "error", "kind": "engine-lost", "about": None, "text": "gone", "at": at},
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return columns


def write_station(folder: Path) -> Path:
    """maps/ with two dates of one place, control points, polynomials, a hostile title and no place; telemetry/."""
    maps = folder / "maps"
    write_made_map(maps, "before", acquired="2026-05-03T06:40:00Z", confidence=204)
    write_made_map(maps, "after", acquired="2026-11-02T06:40:00Z", codes=quarters((4, 2, 3, 4)))
    write_made_map(maps, "points", place="gcps", shift=0.01, acquired="2026-06-01T00:00:00Z")
    write_made_map(maps, "polynomials", place="rpcs", shift=0.02, acquired="2026-07-01T00:00:00Z")
    write_made_map(maps, "hostile", title=HOSTILE, shift=0.03, acquired="2026-08-01T00:00:00Z")
    write_made_map(maps, "nowhere", place="none", acquired="2026-09-01T00:00:00Z")
    passes = [
        {"began": "2026-11-02T08:00:00Z", "seconds": 480.0, "maps": 2, "files": 6, "received_bytes": 4_200_000,
         "left": 3, "window_closed": True},
        {"began": "2026-11-02T09:35:00Z", "seconds": 61.5, "maps": 4, "files": 12, "received_bytes": 900_000,
         "left": 0},
    ]  # fmt: skip
    (maps / "passes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in passes))
    write_telemetry(folder / "telemetry")
    return folder
