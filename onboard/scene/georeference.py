"""A scene's georeferencing: as its file says it, and as a footprint on Earth where that can be computed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

# Private, but GDAL's errors come raw through it from what fits control points and what turns coordinates.
from rasterio._err import CPLE_BaseError
from rasterio.errors import CRSError, RasterioError
from rasterio.transform import RPCTransformer

from onboard.scene.ellipsoid import area_m2, mean_steps_m
from onboard.scene.footprint import Unlocated, geojson_of
from onboard.scene.grid import Window
from onboard.scene.sidecars import lacks_offset
from products.control_points import transformer_of, without_jump

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.control import GroundControlPoint
    from rasterio.crs import CRS
    from rasterio.io import DatasetReader
    from rasterio.rpc import RPC

    Points = NDArray[np.float64]

Kind = Literal["transform", "gcps", "rpcs", "none"]
# Points along each side of a footprint: the straight sides of a rotated or projected scene are curves in degrees.
_SIDE = 8
_LONGEST_PRJ = 1 << 16
# Cells along each side of the mesh that a scene's area is taken from: 4,225 places, a few milliseconds.
_MESH = 64


@dataclass(frozen=True)
class Georeference:
    """A scene's georeferencing, untouched.

    Attributes:
        crs: of `transform`; None where the file names none.
        transform: pixel corner (column, row) to CRS; None where the file has none (not the identity).
        gcps: ground control points, empty where there are none.
        gcp_crs: of the control points.
        rpcs: rational polynomial coefficients.
        problem: why what the file says of its place is not believed; empty where it is.
        epoch: year at which the coordinates of a dynamic CRS hold, such as 2021.5; None where the file names none.
    """

    crs: CRS | None = None
    transform: Affine | None = None
    gcps: tuple[GroundControlPoint, ...] = ()
    gcp_crs: CRS | None = None
    rpcs: RPC | None = None
    epoch: float | None = None
    problem: str = ""

    @property
    def kind(self) -> Kind:
        """Kind of the georeferencing: a transform is used before GCPs, and these before RPCs."""
        if self.transform is not None:
            return "transform"
        if self.gcps:
            return "gcps"
        return "rpcs" if self.rpcs is not None else "none"

    def gsd_m(self, width: int, height: int) -> float | None:
        """Ground size of a scene's mean pixel in metres (root of its area), None where it cannot be computed."""
        area = self.pixel_area_m2(width, height)
        return None if area is None else math.sqrt(area)

    def pixel_area_m2(self, width: int, height: int) -> float | None:
        """Mean area of a pixel on the ellipsoid over a scene of this size; None where it lies nowhere known.

        For every kind of georeferencing: the areas that a projection shows are not those on the ground (Web Mercator
        shows four times the area at 60 degrees). Rational polynomials are taken at their HEIGHT_OFF.
        """
        try:
            area = area_m2(*self._mesh(width, height))
        except Unlocated:
            return None
        return area / (width * height) if math.isfinite(area) and area > 0 else None

    def pixel_sides_m(self, width: int, height: int) -> tuple[float, float] | None:
        """Ground size of the mean pixel in metres, across and down; their product is `pixel_area_m2`.

        They differ where a scene lies in degrees far from the equator. None where they cannot be told.
        """
        area = self.pixel_area_m2(width, height)
        if area is None:
            return None
        across, down = mean_steps_m(*self._mesh(width, height))
        oblong = math.sqrt(across / width / (down / height)) if across > 0 and down > 0 else 1.0
        return math.sqrt(area) * oblong, math.sqrt(area) / oblong

    def scaled(self, across: float, down: float) -> Georeference:
        """That of the same ground in pixels that are so many of these wide and high.

        Transform and control points count from the corner of the first pixel, rational polynomials from its centre.
        """
        if (across, down) == (1, 1):
            return self
        return replace(
            self,
            transform=None if self.transform is None else _scaled_transform(self.transform, across, down),
            gcps=tuple(_scaled_point(point, across, down) for point in self.gcps),
            rpcs=None if self.rpcs is None else _scaled_rpcs(self.rpcs, across, down),
        )

    def _mesh(self, width: int, height: int) -> tuple[Points, Points]:
        """Longitudes and latitudes of a grid of pixel corners all over a scene, (rows, columns)."""
        return self.places_in(Window(col=0, row=0, width=width, height=height), _MESH)

    def places_in(self, window: Window, cells: int) -> tuple[Points, Points]:
        """Longitudes and latitudes of the corners of so many cells each way of a window, (cells + 1, cells + 1).

        Raises:
            Unlocated: it lies nowhere known.
        """
        columns, rows = np.meshgrid(
            np.linspace(window.col, window.col + window.width, cells + 1),
            np.linspace(window.row, window.row + window.height, cells + 1),
        )
        degrees = _degrees(*self._ground(columns.ravel().tolist(), rows.ravel().tolist()))
        longitudes, latitudes = (np.reshape(part, columns.shape) for part in degrees)
        # Global grids whose outer rows are centred on the poles hang over them by half a pixel.
        return longitudes, np.clip(latitudes, -90, 90)

    def pixels_of(
        self, size: tuple[int, int], longitudes: list[float], latitudes: list[float]
    ) -> tuple[list[float], list[float]]:
        """Columns and rows, in pixel corners, of places in degrees; those far from the scene are not to be believed.

        Rational polynomials are taken at their HEIGHT_OFF.

        Args:
            size: width and height of the scene, pixels.
            longitudes: degrees; they may be off by whole turns.
            latitudes: degrees.

        Raises:
            Unlocated: no way leads from degrees to its pixels.
        """
        if self.transform is not None:
            if self.crs is None:
                raise Unlocated(self.problem or "its transform names no CRS")
            x, y = _in_crs(self.crs, longitudes, latitudes)
            if self.crs.is_geographic:
                middle = _applied(self.transform, np.array([size[0] / 2]), np.array([size[1] / 2]))[0][0]
                # The scene may count from 0 to 360, PROJ counts from -180 to 180: the turn nearest to its middle.
                x = x + 360 * np.round((middle - x) / 360)
            return _unapplied(self.transform, x, y)
        if self.gcps and self.gcp_crs is not None:
            with _unlocated(f"its ground control points ({len(self.gcps)}) fix no place"):
                x, y = _in_crs(self.gcp_crs, longitudes, latitudes)
                if self.gcp_crs.is_geographic:
                    near = [point.x for point in without_jump(self.gcps, self.gcp_crs)]
                    x = x + 360 * np.round((np.mean(near) - x) / 360)
                return _to_pixels(transformer_of(self.gcps, self.gcp_crs), x.tolist(), y.tolist())
        if self.rpcs is not None:
            with _unlocated("its rational polynomials give no place"):
                x = np.array(longitudes) + 360 * np.round((self.rpcs.long_off - np.array(longitudes)) / 360)
                return _to_pixels(_rpc_transformer(self.rpcs), x.tolist(), latitudes)
        raise Unlocated("it has no georeferencing")

    def footprint(self, width: int, height: int) -> dict[str, Any] | None:
        """The scene's outline as GeoJSON in longitude and latitude, None where it lies nowhere known."""
        return self.footprint_or_reason(width, height)[0]

    def footprint_or_reason(self, width: int, height: int) -> tuple[dict[str, Any] | None, str]:
        """The footprint, or None and why there is none: a scene that cannot be located is mapped all the same."""
        try:
            longitudes, latitudes = _degrees(*self._ground(*_ring_and_middle(width, height)))
            middle = longitudes.pop(), latitudes.pop()
            return geojson_of(longitudes, latitudes, inside=middle), ""
        except Unlocated as why:
            return None, str(why)

    def _ground(self, columns: list[float], rows: list[float]) -> tuple[CRS | str, list[float], list[float]]:
        """Where pixel corners lie, in the coordinates of a CRS: that CRS, x and y."""
        if self.transform is not None:
            if self.crs is None:
                raise Unlocated(self.problem or "its transform names no CRS")
            x, y = _applied(self.transform, np.array(columns), np.array(rows))
            return self.crs, x.tolist(), y.tolist()
        if self.gcps and self.gcp_crs is not None:
            with _unlocated(f"its ground control points ({len(self.gcps)}) fix no place"):
                return self.gcp_crs, *_by_transformer(transformer_of(self.gcps, self.gcp_crs), columns, rows)
        if self.rpcs is not None:
            with _unlocated("its rational polynomials give no place"):
                return "EPSG:4326", *_by_transformer(_rpc_transformer(self.rpcs), columns, rows)
        raise Unlocated(
            "its ground control points name no CRS" if self.gcps else self.problem or "it has no georeferencing"
        )


@contextmanager
def _unlocated(why: str) -> Iterator[None]:
    try:
        yield
    except (CPLE_BaseError, RasterioError, ValueError) as error:
        raise Unlocated(why) from error


def _degrees(crs: CRS | str, x: list[float], y: list[float]) -> tuple[list[float], list[float]]:
    """Longitudes and latitudes."""
    from rasterio.warp import transform as warp

    # Two coordinates of three: PROJ would answer, with a place near the centre of the Earth seen from there.
    if not isinstance(crs, str) and crs.wkt.startswith("GEOCCS"):
        raise Unlocated("its CRS is geocentric")
    with _unlocated("no way leads from its CRS to longitude and latitude"):
        longitudes, latitudes = warp(crs, "EPSG:4326", x, y)[:2]
    return list(longitudes), list(latitudes)


def _ring_and_middle(width: int, height: int) -> tuple[list[float], list[float]]:
    """Columns and rows of a closed ring of points along a scene's border, then those of its middle."""
    part = np.linspace(0, 1, _SIDE, endpoint=False)
    columns = np.concatenate([part * width, np.full(_SIDE, width), (1 - part) * width, np.zeros(_SIDE), [0]])
    rows = np.concatenate([np.zeros(_SIDE), part * height, np.full(_SIDE, height), (1 - part) * height, [0]])
    return [*columns.tolist(), width / 2], [*rows.tolist(), height / 2]


def _scaled_transform(transform: Affine, across: float, down: float) -> Affine:
    # Written out: as below.
    a, b, c, d, e, f = tuple(transform)[:6]
    return type(transform)(a * across, b * down, c, d * across, e * down, f)


def _scaled_point(point: GroundControlPoint, across: float, down: float) -> GroundControlPoint:
    from rasterio.control import GroundControlPoint

    return GroundControlPoint(
        point.row / down, point.col / across, point.x, point.y, point.z, id=point.id, info=point.info
    )


def _scaled_rpcs(rpcs: RPC, across: float, down: float) -> RPC:
    scaled = copy(rpcs)
    scaled.samp_off, scaled.line_off = (rpcs.samp_off + 0.5) / across - 0.5, (rpcs.line_off + 0.5) / down - 0.5
    scaled.samp_scale, scaled.line_scale = rpcs.samp_scale / across, rpcs.line_scale / down
    return scaled


def _applied(transform: Affine, columns: Points, rows: Points) -> tuple[Points, Points]:
    # Written out: versions of affine differ in the operator for it.
    return (
        transform.a * columns + transform.b * rows + transform.c,
        transform.d * columns + transform.e * rows + transform.f,
    )


def _unapplied(transform: Affine, x: Points, y: Points) -> tuple[list[float], list[float]]:
    """Columns and rows of coordinates; written out as :func:`_applied`."""
    across, down = x - transform.c, y - transform.f
    determinant = transform.a * transform.e - transform.b * transform.d
    if determinant == 0:
        raise Unlocated("its transform has no extent")
    columns = (transform.e * across - transform.b * down) / determinant
    rows = (transform.a * down - transform.d * across) / determinant
    return columns.tolist(), rows.tolist()


def _in_crs(crs: CRS, longitudes: list[float], latitudes: list[float]) -> tuple[Points, Points]:
    from rasterio.warp import transform as warp

    if crs.wkt.startswith("GEOCCS"):
        raise Unlocated("its CRS is geocentric")
    with _unlocated("no way leads from longitude and latitude to its CRS"):
        x, y = warp("EPSG:4326", crs, longitudes, latitudes)[:2]
    return np.array(x, dtype=np.float64), np.array(y, dtype=np.float64)


def _to_pixels(transformer: Any, x: list[float], y: list[float]) -> tuple[list[float], list[float]]:
    with transformer:
        rows, columns = transformer.rowcol(x, y, op=float)
    return list(columns), list(rows)


def _by_transformer(transformer: Any, columns: list[float], rows: list[float]) -> tuple[list[float], list[float]]:
    with transformer:
        x, y = transformer.xy(rows, columns, offset="ul")
    return list(x), list(y)


def _rpc_transformer(rpcs: RPC) -> RPCTransformer:
    """At the height that the polynomials are centred on; at height 0 a scene lies hundreds of metres off.

    GDAL inverts the polynomials to a tenth of a pixel unless told otherwise.
    """
    return RPCTransformer(rpcs, RPC_HEIGHT=repr(float(rpcs.height_off)), RPC_PIXEL_ERROR_THRESHOLD="0.001")


def georeference_of(source: DatasetReader) -> Georeference:
    """Everything an open dataset says about where it lies.

    Raises:
        ValueError: its rational polynomials are damaged.
        CPLE_BaseError: a file beside it is.
    """
    from affine import Affine

    gcps, gcp_crs = source.gcps
    # rasterio gives the identity for a file without a transform.
    transform = None if source.transform == Affine.identity() else source.transform
    crs = source.crs
    # Only beside a CRS: GDAL has to describe the whole dataset for it.
    epoch = None if crs is None and gcp_crs is None else _epoch_of(source)
    try:
        rpcs, problem = source.rpcs, ""
    except (KeyError, TypeError, IndexError) as error:  # of rasterio, where items are missing or no numbers
        raise ValueError("its rational polynomials are damaged") from error
    if rpcs is not None and lacks_offset(Path(source.name)):
        rpcs, problem = None, "its polynomials are those of a product it is a tile of: deliver the DIM_*.XML with it"
    if crs is None and transform is not None:
        crs, problem = _crs_beside(Path(source.name))
    return Georeference(crs, transform, tuple(gcps), gcp_crs, rpcs, epoch, problem)


def _crs_beside(scene: Path) -> tuple[CRS | None, str]:
    """The CRS in a .prj beside a scene that has a transform alone, or None and what is wrong with it.

    Who writes a world file writes its CRS there. GDAL reads the one and not the other beside a GeoTIFF.
    """
    for path in (scene.with_suffix(".prj"), scene.with_suffix(".PRJ")):
        try:
            text = path.read_bytes()[:_LONGEST_PRJ].decode("utf-8-sig", "replace").strip()
        except OSError:
            continue
        # What is no WKT at all is not shown to GDAL, which prints what it thinks of it.
        crs = crs_of(text) if re.fullmatch(r"[A-Z_]+\s*\[.*\]", text, re.DOTALL) else None
        return crs, "" if crs is not None else f"{path.name} beside it holds no CRS"
    return None, ""


def crs_of(described: str | dict[str, Any]) -> CRS | None:
    """A CRS from WKT, ESRI's or not, or PROJJSON; None where that is none."""
    from rasterio.crs import CRS

    try:
        is_text = isinstance(described, str)
        return CRS.from_wkt(described, morph_from_esri_dialect=True) if is_text else CRS.from_user_input(described)
    except (CRSError, CPLE_BaseError):
        # rasterio 1.4.4 leaves GDAL's error behind, and the next call of another kind raises it; this one clears it.
        CRS.from_epsg(4326)
        return None


def _epoch_of(source: DatasetReader) -> float | None:
    """The coordinate epoch, which rasterio does not tell: read from GDAL's own description of the dataset."""
    import rasterio.shutil
    from rasterio.io import MemoryFile

    with MemoryFile(ext=".vrt") as description:
        try:
            rasterio.shutil.copy(source, description.name, driver="VRT")
        except RasterioError:
            return None
        match = re.search(rb'coordinateEpoch="([0-9.]+)"', description.read())
    return float(match[1]) if match else None
