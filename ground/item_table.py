"""The station's items as tables: GeoParquet of maps that have a place, plain Parquet of those that have none.

Columns are those of STAC's items in GeoParquet: properties stand beside id and geometry, assets are a struct whose
paths begin at the table's folder. Tools that refuse a null geometry meet none.
Sources: GeoParquet 1.1.0; STAC GeoParquet specification 1.0; OGC Simple Feature Access, 8.2 (WKB).
"""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from ground.folders import LONGEST_ITEM, time_of
from ground.transfer import read_small, write_changed

SUFFIX: Final = ".parquet"
_ASSETS: Final = ("map", "quicklook", "confidence")
_MOST_POINTS = 100_000
Ring = list[tuple[float, float]]
Polygons = list[list[Ring]]


def write_item_table(root: Path, name: str, items: Sequence[Path], *, located: bool) -> None:
    """Writes ROOT/NAME.parquet from items (map.json files below ROOT), whole; it stays where nothing changed.

    Without the package pyarrow nothing is written, and a table that is there goes: it would not tell what is here.

    Raises:
        OSError: the disk is full or failed.
    """
    path = root / f"{name}{SUFFIX}"
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError:
        path.unlink(missing_ok=True)
        return
    if not items and not path.exists():
        return
    # Made in memory, to be compared with what is there and to be written in one step; a row is some hundred bytes.
    write_changed(path, _table_bytes(list(_rows(root, name, items, located)), located=located))


def _table_bytes(rows: list[dict[str, Any]], *, located: bool) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = {b"geo": json.dumps(_geo(rows)).encode()} if located else {}
    table = pa.Table.from_pylist(rows, _schema(located=located).with_metadata(metadata))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _schema(*, located: bool) -> Any:
    import pyarrow as pa

    # Named and not inferred: inferred types would depend on which maps are here and what their items leave out.
    texts = pa.list_(pa.string())
    asset = pa.struct(
        {"href": pa.string(), "type": pa.string(), "title": pa.string(), "roles": texts, "file:size": pa.int64(),
         "file:checksum": pa.string()}
    )  # fmt: skip
    cover = pa.struct(
        {"value": pa.int64(), "title": pa.string(), "pixels": pa.int64(), "share": pa.float64(),
         "area_m2": pa.float64()}
    )  # fmt: skip
    corner = {key: pa.float64() for key in ("xmin", "ymin", "xmax", "ymax")}
    place = [("geometry", pa.binary()), ("bbox", pa.struct(corner))] if located else []
    return pa.schema(
        [
            ("type", pa.string()), ("stac_version", pa.string()), ("stac_extensions", texts), ("id", pa.string()),
            *place,
            ("links", pa.list_(pa.struct({key: pa.string() for key in ("rel", "href", "type", "title")}))),
            ("assets", pa.struct(dict.fromkeys(_ASSETS, asset))), ("collection", pa.string()),
            ("datetime", pa.timestamp("us", tz="UTC")), ("created", pa.timestamp("us", tz="UTC")),
            ("title", pa.string()), ("gsd", pa.float64()), ("proj:code", pa.string()),
            ("proj:shape", pa.list_(pa.int64())), ("onboard:datetime_is", pa.string()),
            ("onboard:model", pa.struct({"name": pa.string(), "version": pa.string(), "sha256": pa.string()})),
            ("onboard:class_cover", pa.list_(cover)), ("onboard:mean_confidence", pa.float64()),
            ("onboard:share_unfamiliar", pa.float64()), ("onboard:scene_sha256", pa.string()),
            ("onboard:energy_j", pa.float64()), ("onboard:geometry_missing", pa.string()),
        ]
    )  # fmt: skip


def _rows(root: Path, collection: str, items: Sequence[Path], located: bool) -> Iterator[dict[str, Any]]:
    for path in items:
        with suppress(OSError, ValueError, RecursionError):
            item = json.loads(read_small(path, LONGEST_ITEM))
            if isinstance(item, dict) and isinstance(item.get("properties"), dict):
                folder = quote(path.parent.relative_to(root).as_posix())
                row = _row(item, item["properties"], f"./{folder}") | {"collection": collection}
                if located:
                    polygons = _polygons(item.get("geometry"))
                    row |= {"geometry": _wkb(polygons), "bbox": _bounds(polygons)}
                yield row


def _row(item: Mapping[str, Any], properties: Mapping[str, Any], folder: str) -> dict[str, Any]:
    # Items are text of others: a property of another type counts as missing, and costs no row.
    def part(key: str, kind: type) -> Any:
        return properties[key] if isinstance(properties.get(key), kind) else kind()

    return {
        "type": "Feature", "stac_version": _text(item.get("stac_version")), "id": _text(item.get("id")),
        "stac_extensions": _list(item.get("stac_extensions"), _text), "links": _links(item.get("links"), folder),
        "assets": _assets(item.get("assets"), folder),
        "datetime": _time(properties.get("datetime")), "created": _time(properties.get("created")),
        "title": _text(properties.get("title")), "gsd": _number(properties.get("gsd")),
        "proj:code": _text(properties.get("proj:code")), "proj:shape": _list(properties.get("proj:shape"), _whole),
        "onboard:datetime_is": _text(properties.get("onboard:datetime_is")),
        "onboard:model": {key: _text(part("onboard:model", dict).get(key)) for key in ("name", "version", "sha256")},
        "onboard:class_cover": [
            {"value": _whole(row.get("value")), "title": _text(row.get("title")), "pixels": _whole(row.get("pixels")),
             "share": _number(row.get("share")), "area_m2": _number(row.get("area_m2"))}
            for row in part("onboard:class_cover", list) if isinstance(row, dict)
        ],
        "onboard:mean_confidence": _number(properties.get("onboard:mean_confidence")),
        "onboard:share_unfamiliar": _number(part("onboard:familiarity", dict).get("share_unfamiliar")),
        "onboard:scene_sha256": _text(properties.get("onboard:scene_sha256")),
        "onboard:energy_j": _number(properties.get("onboard:energy_j")),
        "onboard:geometry_missing": _text(properties.get("onboard:geometry_missing")),
    }  # fmt: skip


def _assets(assets: object, folder: str) -> dict[str, Any]:
    known = assets if isinstance(assets, dict) else {}
    return {
        key: {
            "href": _href(asset.get("href"), folder), "type": _text(asset.get("type")),
            "title": _text(asset.get("title")), "roles": _list(asset.get("roles"), _text),
            "file:size": _whole(asset.get("file:size")), "file:checksum": _text(asset.get("file:checksum")),
        }
        for key in _ASSETS
        if isinstance(asset := known.get(key), dict)
    }  # fmt: skip


def _links(links: object, folder: str) -> list[dict[str, Any]]:
    """Links of the item, and one to the item itself."""
    own = {"rel": "self", "href": f"{folder}/map.json", "type": "application/geo+json"}
    given = [link for link in links if isinstance(link, dict)] if isinstance(links, list) else []
    return [own] + [
        {key: _text(link.get(key)) for key in ("rel", "type", "title")} | {"href": _href(link.get("href"), folder)}
        for link in given
    ]


def _href(value: object, folder: str) -> str | None:
    text = _text(value)
    return f"{folder}/{text[2:]}" if text is not None and text.startswith("./") else text


def _text(value: object) -> str | None:
    # JSON may spell half of a surrogate pair, which Arrow does not take.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _number(value: object) -> float | None:
    try:
        # An integer of JSON may have any number of digits: float() of a long one overflows.
        number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _whole(value: object) -> int | None:
    # True is an int, too. The bound is within the int64 of Arrow.
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**62 else None


def _time(value: object) -> datetime | None:
    return time_of(value) if isinstance(value, str) else None


def _list(value: object, kind: Callable[[object], Any]) -> list[Any] | None:
    return [kind(part) for part in value] if isinstance(value, list) else None


def _polygons(geometry: object) -> Polygons:
    """Polygons of a GeoJSON geometry: rings of (longitude, latitude), outer rings counter-clockwise.

    Raises:
        ValueError: it is no polygon, or several, on Earth.
    """
    try:
        kind, coordinates = geometry["type"], geometry["coordinates"]  # type: ignore[index]
        parts = {"Polygon": [coordinates], "MultiPolygon": coordinates}[kind]
        polygons = [
            [_wound([(float(x), float(y)) for x, y, *_ in ring], at == 0) for at, ring in enumerate(part)]
            for part in parts
        ]
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError(f"no polygon: {error}") from error
    points = [point for polygon in polygons for ring in polygon for point in ring]
    # 540: footprints across the antimeridian may run on by a turn beyond 180 degrees.
    is_good = all(abs(x) <= 540 and abs(y) <= 90 for x, y in points)  # NaN compares false
    if not (is_good and 0 < len(points) <= _MOST_POINTS and all(polygons)):
        raise ValueError("no polygon on Earth")
    return polygons


def _wound(ring: Ring, is_outer: bool) -> Ring:
    # The file's metadata says counterclockwise, while RFC 7946 asks readers to take either. Twice the signed area.
    area = sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise([*ring, ring[0]]))
    return ring if (area >= 0) == is_outer else ring[::-1]


def _wkb(polygons: Polygons) -> bytes:
    """Little-endian well-known binary: a Polygon, or a MultiPolygon of several."""
    # WKB: 1 is little-endian, then the type: 3 a Polygon, 6 a MultiPolygon.
    parts = [
        struct.pack("<BII", 1, 3, len(polygon))
        + b"".join(struct.pack("<I", len(ring)) + b"".join(struct.pack("<dd", *p) for p in ring) for ring in polygon)
        for polygon in polygons
    ]
    return parts[0] if len(parts) == 1 else struct.pack("<BII", 1, 6, len(parts)) + b"".join(parts)


def _bounds(polygons: Polygons) -> dict[str, float]:
    """As plotted by longitude and latitude: a map across the antimeridian reaches from -180 to 180."""
    x, y = zip(*(point for polygon in polygons for point in polygon[0]), strict=True)
    return {"xmin": min(x), "ymin": min(y), "xmax": max(x), "ymax": max(y)}


def _geo(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The file's metadata; without a CRS it is OGC:CRS84."""
    # The type follows the byte of the byte order.
    kinds = {struct.unpack_from("<I", row["geometry"], 1)[0] for row in rows}
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": [name for number, name in ((3, "Polygon"), (6, "MultiPolygon")) if number in kinds],
        "orientation": "counterclockwise",
        "covering": {"bbox": {key: ["bbox", key] for key in ("xmin", "ymin", "xmax", "ymax")}},
    }
    if rows:
        boxes = [row["bbox"] for row in rows]
        west, south = (min(box[key] for box in boxes) for key in ("xmin", "ymin"))
        column["bbox"] = [west, south, *(max(box[key] for box in boxes) for key in ("xmax", "ymax"))]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
