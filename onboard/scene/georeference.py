"""Where a scene lies: kept as the file says it, and as a footprint on Earth where that can be told."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

# Private, but GDAL's errors come raw through it from what fits control points and what turns coordinates.
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.transform import GCPTransformer, RPCTransformer

from onboard.scene.outline import Unlocated, geojson_of

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
# Semi-axes of WGS 84 in metres. Source: NIMA TR8350.2, table 3.1.
_WGS84_A, _WGS84_B = 6_378_137.0, 6_356_752.314245


@dataclass(frozen=True)
class Georeference:
    """A scene's georeferencing, untouched.

    Attributes:
        crs: of `transform`; None where the file names none.
        transform: pixel corner (column, row) to CRS; None where the file has none (not the identity).
        gcps: ground control points, empty where there are none.
        gcp_crs: of the control points.
        rpcs: rational polynomial coefficients.
    """

    crs: CRS | None = None
    transform: Affine | None = None
    gcps: tuple[GroundControlPoint, ...] = ()
    gcp_crs: CRS | None = None
    rpcs: RPC | None = None

    @property
    def kind(self) -> Kind:
        """What maps pixels to the ground; a transform goes before GCPs and these before RPCs."""
        if self.transform is not None:
            return "transform"
        if self.gcps:
            return "gcps"
        return "rpcs" if self.rpcs is not None else "none"

    @property
    def gsd_m(self) -> float | None:
        """Ground size of a pixel in metres (root of its area), None where it cannot be told.

        In a geographic CRS the size at the scene's origin is given.
        """
        area = self.pixel_area_m2(1, 1)
        return None if area is None else math.sqrt(area)

    def pixel_area_m2(self, width: int, height: int) -> float | None:
        """Mean area of a pixel over a scene of this size; None without both transform and CRS.

        In a projected CRS it is that of the projected plane (a UTM zone is true to 0.2 %); in a geographic one it is
        taken on the ellipsoid, as the mean over the scene's rows.
        """
        if self.crs is None or self.transform is None:
            return None
        plane = abs(self.transform.determinant)
        if self.crs.is_projected:
            return float(plane * self.crs.linear_units_factor[1] ** 2)
        if not self.crs.is_geographic:
            return None
        rows = np.linspace(0, height, 65)
        latitudes = _applied(self.transform, np.full(65, width / 2), rows)[1]
        return float(plane * np.mean(_square_degree_m2(latitudes)))

    def footprint(self, width: int, height: int) -> dict[str, Any] | None:
        """The scene's outline as GeoJSON in longitude and latitude, None where it lies nowhere known."""
        return self.footprint_or_reason(width, height)[0]

    def footprint_or_reason(self, width: int, height: int) -> tuple[dict[str, Any] | None, str]:
        """The footprint, or None and why there is none: a scene that cannot be located is mapped all the same."""
        try:
            longitudes, latitudes = _degrees(*self._outline(width, height))
            middle = longitudes.pop(), latitudes.pop()
            return geojson_of(longitudes, latitudes, inside=middle), ""
        except Unlocated as why:
            return None, str(why)

    def _outline(self, width: int, height: int) -> tuple[CRS | str, list[float], list[float]]:
        """Closed outline, and the middle at its end, in the coordinates of a CRS: that CRS, x and y."""
        columns, rows = _ring_and_middle(width, height)
        if self.transform is not None:
            if self.crs is None:
                raise Unlocated("its transform names no CRS")
            x, y = _applied(self.transform, np.array(columns), np.array(rows))
            return self.crs, x.tolist(), y.tolist()
        if self.gcps and self.gcp_crs is not None:
            with _unlocated(f"its ground control points ({len(self.gcps)}) fix no place"):
                points = _side_by_side(self.gcps) if self.gcp_crs.is_geographic else list(self.gcps)
                return self.gcp_crs, *_by_transformer(GCPTransformer(points), columns, rows)
        if self.rpcs is not None:
            with _unlocated("its rational polynomials give no place"):
                return "EPSG:4326", *_by_transformer(RPCTransformer(self.rpcs), columns, rows)
        raise Unlocated("its ground control points name no CRS" if self.gcps else "it has no georeferencing")


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


def _side_by_side(gcps: Sequence[GroundControlPoint]) -> list[GroundControlPoint]:
    """Control points in degrees without the jump at the antimeridian: a polynomial would go round the Earth for it."""
    from rasterio.control import GroundControlPoint

    longitudes = np.array([point.x for point in gcps])
    if np.ptp(longitudes) <= 180:
        return list(gcps)
    near = longitudes[0] + (longitudes - longitudes[0] + 180) % 360 - 180
    return [GroundControlPoint(one.row, one.col, x, one.y, one.z) for one, x in zip(gcps, near.tolist(), strict=True)]


def _applied(transform: Affine, columns: Points, rows: Points) -> tuple[Points, Points]:
    # Written out: versions of affine differ in the operator for it.
    return (
        transform.a * columns + transform.b * rows + transform.c,
        transform.d * columns + transform.e * rows + transform.f,
    )


def _by_transformer(transformer: Any, columns: list[float], rows: list[float]) -> tuple[list[float], list[float]]:
    with transformer:
        x, y = transformer.xy(rows, columns, offset="ul")
    return list(x), list(y)


def _square_degree_m2(latitudes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area of one square degree at each latitude: meridian times parallel. Source: Snyder (1987), 4-18 to 4-20."""
    squared = 1 - (_WGS84_B / _WGS84_A) ** 2
    sine = np.sin(np.radians(latitudes))
    root = np.sqrt(1 - squared * sine**2)
    meridian, parallel = _WGS84_A * (1 - squared) / root**3, _WGS84_A / root * np.cos(np.radians(latitudes))
    area: NDArray[np.float64] = meridian * parallel * math.radians(1) ** 2
    return area


def georeference_of(source: DatasetReader) -> Georeference:
    """Everything an open dataset says about where it lies."""
    from affine import Affine

    gcps, gcp_crs = source.gcps
    transform = None if source.transform == Affine.identity() else source.transform
    return Georeference(source.crs, transform, tuple(gcps), gcp_crs, source.rpcs)
