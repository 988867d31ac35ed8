"""Where a scene lies: kept as the file says it, and as a footprint on Earth where that can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

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


def georeference_of(source: DatasetReader) -> Georeference:
    """Everything an open dataset says about where it lies."""
    from affine import Affine

    gcps, gcp_crs = source.gcps
    transform = None if source.transform == Affine.identity() else source.transform
    return Georeference(source.crs, transform, tuple(gcps), gcp_crs, source.rpcs)
