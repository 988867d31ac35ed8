"""The map's description: a STAC 1.1 Item (map.json) that a ground archive can index without opening the raster.

Sources: STAC 1.1.0; extensions projection 2.0.0, classification 2.0.0, processing 1.2.0, raster 2.0.0, file 2.1.0.
Fields of our own carry the prefix `onboard:`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from engines.manifest import ClassInfo, Head, Manifest
from onboard.files import sha256_file
from onboard.mapping.quicklook import QUICKLOOK, quicklook_name
from onboard.scene.footprint import bbox_of
from onboard.scene.georeference import Georeference

_EXTENSIONS = (
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
)
VECTOR_TYPES = {
    ".parquet": "application/vnd.apache.parquet",
    ".fgb": "application/vnd.flatgeobuf",
    ".gpkg": "application/geopackage+sqlite3",
}
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"


@dataclass(frozen=True)
class HeadFacts:
    """The map of a head beside the first.

    Attributes:
        head: as the manifest describes it.
        class_pixels: pixels of each code 0..K.
        mean_confidence: 0..1; None where the head gives none.
    """

    head: Head
    class_pixels: Sequence[int]
    mean_confidence: float | None


@dataclass(frozen=True)
class ItemFacts:
    """Everything the item says that is not read from the product's own files.

    Attributes:
        name: the item's id and the folder's name.
        scene_name: file name of the scene; scene_sha256: digest of that file's bytes.
        acquired: RFC 3339 time of acquisition, None where the scene does not say.
        unread_time: what the scene says of that time, if it cannot be read as one.
        received: when the scene was received here.
        georeference: of the scene and so of the map.
        width: pixels; height: pixels.
        manifest: of the model.
        class_pixels: pixels of each code 0..K.
        pixel_area_m2: mean area of a pixel, None where the CRS does not allow one.
        gsd_m: ground size of a pixel where the georeferencing tells no area: as it was given.
        processed: when the map was made.
        software: name to version.
        published: the folder in which the item will lie.
        scene_path, model_path: files that stay where they are beside the published map, so that links may lead to them;
            None where they do not stay (a service erases scenes) or the item leaves this machine.
        further: maps of heads beside the first, which the other fields describe.
        changes: names, without their ending, of rasters of changes, each with its title.
        polygons: files of polygons.
        own: further `onboard:` properties (stretch, bands, valid-data rule, timings).
    """

    name: str
    scene_name: str
    scene_sha256: str
    acquired: str | None
    received: datetime
    georeference: Georeference
    width: int
    height: int
    manifest: Manifest
    class_pixels: Sequence[int]
    pixel_area_m2: float | None
    processed: datetime
    software: Mapping[str, str]
    published: Path
    scene_path: Path | None = None
    model_path: Path | None = None
    own: Mapping[str, Any] = field(default_factory=dict)
    unread_time: str = ""
    gsd_m: float | None = None
    further: tuple[HeadFacts, ...] = ()
    changes: Mapping[str, str] = field(default_factory=dict)
    polygons: Sequence[str] = ()


def write_item(facts: ItemFacts, folder: Path) -> Path:
    """Writes map.json for the files in `folder`; returns its path."""
    path = folder / "map.json"
    path.write_text(json.dumps(_item(facts, folder), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def rfc3339(time: datetime, timespec: str = "seconds") -> str:
    """UTC time in RFC 3339; ``timespec`` is that of :meth:`datetime.isoformat`."""
    return time.astimezone(timezone.utc).isoformat(timespec=timespec).replace("+00:00", "Z")


def _item(facts: ItemFacts, folder: Path) -> dict[str, Any]:
    footprint, missing = facts.georeference.footprint_or_reason(facts.width, facts.height)
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": list(_EXTENSIONS),
        "id": facts.name,
        "geometry": footprint,
    }
    # STAC 1.1: a bbox is required beside a geometry and prohibited without one.
    if footprint is not None:
        item["bbox"] = bbox_of(footprint)
    return item | {
        "properties": _properties(facts) | ({"onboard:geometry_missing": missing} if missing else {}),
        "links": _links(facts),
        "assets": _assets(facts, folder),
    }


def _properties(facts: ItemFacts) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "title": f"Land cover of {facts.scene_name}",
        # STAC wants a time. Where the scene names none, its reception stands here, and the next property says so.
        "datetime": facts.acquired or rfc3339(facts.received),
        "onboard:datetime_is": _datetime_is(facts),
        "created": rfc3339(facts.processed, "milliseconds"),  # tells a scene's map from one made again at once
        "processing:level": "L3",
        "processing:datetime": rfc3339(facts.processed),
        "processing:software": dict(facts.software),
        "processing:lineage": (
            f"Land-cover classes of {facts.scene_name} (sha256 {facts.scene_sha256}) by model "
            f"{facts.manifest.name} {facts.manifest.version} (sha256 {facts.manifest.model.sha256})"
        ),
        "proj:shape": [facts.height, facts.width],
    }
    properties |= _projection(facts.georeference)
    gsd_m = facts.gsd_m if facts.pixel_area_m2 is None else math.sqrt(facts.pixel_area_m2)
    if gsd_m is not None:
        properties["gsd"] = round(gsd_m, 4)
    return properties | {
        "onboard:georeferencing": facts.georeference.kind,
        "onboard:class_cover": _cover(facts.manifest.classes, facts.class_pixels, facts.pixel_area_m2),
        **_heads(facts),
        "onboard:model": {
            "name": facts.manifest.name,
            "version": facts.manifest.version,
            "sha256": facts.manifest.model.sha256,
            **({"terms": facts.manifest.terms} if facts.manifest.terms else {}),
            **({"heads": [head.name for head in heads]} if (heads := facts.manifest.opened_heads) else {}),
        },
        **{f"onboard:{key}": value for key, value in facts.own.items()},
    }


def _datetime_is(facts: ItemFacts) -> str:
    if facts.acquired:
        return "acquisition"
    if facts.unread_time:
        return f"reception: the scene's time cannot be read: {facts.unread_time[:60]!r}"
    return "reception: the scene names no acquisition time"


def _projection(georeference: Georeference) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    crs = georeference.crs or georeference.gcp_crs
    if crs is not None:
        code = crs.to_authority()
        # projection 2.0.0: null where the CRS has no code; WKT2 then describes it.
        properties["proj:code"] = f"{code[0]}:{code[1]}" if code else None
        if code is None:
            properties["proj:wkt2"] = crs.to_wkt(version="WKT2_2019")
    if georeference.transform is not None:
        properties["proj:transform"] = list(georeference.transform)[:9]
    return properties


def _heads(facts: ItemFacts) -> dict[str, Any]:
    """The property `onboard:heads`: of each head beside the first what the other properties say of the first."""
    if not facts.further:
        return {}
    return {
        "onboard:heads": {
            item.head.name: {
                "class_cover": _cover(item.head.classes, item.class_pixels, facts.pixel_area_m2),
                "no_data_pixels": int(item.class_pixels[0]),
                "mean_confidence": None if item.mean_confidence is None else round(item.mean_confidence, 4),
            }
            for item in facts.further
        }
    }


def _cover(
    classes: Sequence[ClassInfo], class_pixels: Sequence[int], pixel_area_m2: float | None
) -> list[dict[str, Any]]:
    """Pixels, share of the valid pixels and, where the CRS allows, area of each class.

    The shares of all classes add up to 1; `onboard:no_data_pixels` are no part of them.
    """
    # A map without any data has shares of 0.
    valid = max(1, sum(class_pixels[1:]))
    rows: list[dict[str, Any]] = []
    for item in classes:
        pixels = int(class_pixels[item.code])
        row = {"value": item.code, "title": item.title, "pixels": pixels, "share": round(pixels / valid, 6)}
        if pixel_area_m2 is not None:
            row["area_m2"] = round(pixels * pixel_area_m2, 1)
        rows.append(row)
    return rows


def _links(facts: ItemFacts) -> list[dict[str, Any]]:
    """Links to what the map was made of, each to a file that is there; digests are in the properties either way."""
    model = facts.manifest
    sources = (
        (facts.scene_path, "image/tiff; application=geotiff", "the scene", facts.scene_sha256),
        (facts.model_path, "application/octet-stream; application=onnx", f"the model {model.name} {model.version}",
         model.model.sha256),
    )  # fmt: skip
    return [
        {
            "rel": "derived_from",
            "href": _relative(path, facts.published),
            "type": media_type,
            "title": title,
            "file:checksum": multihash(sha256),
        }
        for path, media_type, title, sha256 in sources
        if path is not None and path.is_file()
    ]


def _relative(path: Path, folder: Path) -> str:
    """URL of a file from the item's folder. Symbolic links are resolved: `..` is of the real folder."""
    return quote(os.path.relpath(path.resolve(), folder.resolve()))


def _assets(facts: ItemFacts, folder: Path) -> dict[str, Any]:
    assets: dict[str, Any] = {"map": _map_asset("map", "land-cover classes", facts.manifest.classes)}
    if (folder / QUICKLOOK).exists():
        assets["quicklook"] = _picture_asset(QUICKLOOK, "a picture for people")
    for item in facts.further:
        title = f"classes of the head {item.head.name}"
        assets[item.head.name] = _map_asset(item.head.name, title, item.head.classes)
        if (folder / (name := quicklook_name(item.head.name))).exists():
            # No thumbnail: of an item that is one picture, the first head's.
            title = f"a picture for people, of the head {item.head.name}"
            assets[Path(name).stem] = _picture_asset(name, title, roles=("overview",))
    for name in ("confidence", *(f"{item.head.name}-confidence" for item in facts.further)):
        # Assets are what lies in the folder: confidence and pictures depend on options.
        if (folder / f"{name}.tif").exists():
            assets[name] = {
                "href": f"./{name}.tif",
                "type": _COG,
                "title": "the model's confidence: largest class probability x 255",
                "roles": ["data", "confidence"],
                "bands": [{"name": "confidence", "data_type": "uint8", "nodata": 0, "raster:scale": 1 / 255}],
            }
    for name, title in facts.changes.items():
        assets[name] = {
            "href": f"./{name}.tif", "type": _COG, "title": title, "roles": ["data", "changes"],
            "bands": [{"name": "change", "data_type": "uint8", "nodata": 0}],
        }  # fmt: skip
    for file in facts.polygons:
        key, _, ending = file.partition(".")
        assets[key if ending == "parquet" else f"{key}-{ending}"] = {
            "href": f"./{file}", "type": VECTOR_TYPES[f".{ending}"], "title": "the map's patches as polygons",
            "roles": ["data"],
        }  # fmt: skip
    # Last: each file of the folder is whole by now.
    for asset in assets.values():
        path = folder / asset["href"]
        asset["file:size"] = path.stat().st_size
        asset["file:checksum"] = multihash(sha256_file(path))
    return assets


def _picture_asset(file: str, title: str, roles: Sequence[str] = ("overview", "thumbnail")) -> dict[str, Any]:
    return {"href": f"./{file}", "type": "image/webp", "title": title, "roles": list(roles)}


def _map_asset(name: str, title: str, classes: Sequence[ClassInfo]) -> dict[str, Any]:
    return {
        "href": f"./{name}.tif",
        "type": _COG,
        "title": title,
        "roles": ["data"],
        "bands": [{"name": "class", "data_type": "uint8", "nodata": 0, "raster:sampling": "area"}],
        "classification:classes": _classes(classes),
    }


def _classes(classes: Sequence[ClassInfo]) -> list[dict[str, Any]]:
    no_data = {"value": 0, "name": "no_data", "title": "no data", "nodata": True}
    return [no_data] + [
        {
            "value": item.code,
            "name": item.name,
            "title": item.title,
            # classification 2.0.0: six hex digits without "#".
            "color_hint": item.color.removeprefix("#").upper(),
            "nodata": False,
        }
        for item in classes
    ]


def multihash(sha256_hex: str) -> str:
    """SHA-256 as a multihash in hex, as the file extension wants it (0x12 sha2-256, 0x20 bytes)."""
    return "1220" + sha256_hex
