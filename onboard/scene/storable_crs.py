"""The part of a scene's CRS that a GeoTIFF can store.

GeoTIFF 1.1 has no keys for a projected CRS with ellipsoidal heights: GDAL writes such a CRS into an .aux.xml beside the
file, and a map without that file would lie nowhere. A map has two coordinates, so its horizontal CRS says all.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from onboard.scene.gdal_env import GDAL_ENV
from onboard.scene.georeference import Georeference, crs_of

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.crs import CRS


def storable(georeference: Georeference) -> Georeference:
    """The same, its CRS without heights where a GeoTIFF cannot hold it with them."""
    crs = georeference.crs
    if crs is None or georeference.transform is None or _is_kept(crs, georeference.transform):
        return georeference
    flat = _horizontal(crs)
    return georeference if flat is None else replace(georeference, crs=flat)


def _is_kept(crs: CRS, transform: Affine) -> bool:
    """Whether a small GeoTIFF gives it back, by itself."""
    profile = {"driver": "GTiff", "width": 1, "height": 1, "count": 1, "dtype": "uint8", "GEOTIFF_VERSION": "1.1"}
    with rasterio.Env(**GDAL_ENV), warnings.catch_warnings(), MemoryFile(ext=".tif") as file:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with file.open(**profile, crs=crs, transform=transform):
            pass
        with file.open() as source:
            return source.crs is not None


def _horizontal(crs: CRS) -> CRS | None:
    """The CRS without its third axis; None where it has none or PROJ does not take the rest."""
    described: dict[str, Any] = crs.to_dict(projjson=True)
    for part in (described, described.get("base_crs", {})):
        axes = part.get("coordinate_system", {}).get("axis", [])
        if len(axes) == 3:
            del axes[2]
            part.pop("id", None)  # of the CRS with heights
    return crs_of(described)
