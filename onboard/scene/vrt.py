"""Georeferencing as elements of a GDAL virtual raster (VRT)."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping

from onboard.scene.georeference import Georeference


def add_georeference(root: ET.Element, georeference: Georeference) -> None:
    """Adds CRS, transform, control points and rational polynomials to a VRTDataset, as they are.

    A dynamic CRS keeps the epoch of its coordinates, which GeoTIFF 1.1 has a key for.
    """
    if georeference.crs is not None:
        # Without a mapping of axes GDAL takes x and y in the order that rasters have them, whatever the CRS says.
        ET.SubElement(root, "SRS", _epoch(georeference)).text = georeference.crs.to_wkt()
    if georeference.transform is not None:
        # `repr` gives the shortest text that reads back as the same number.
        ET.SubElement(root, "GeoTransform").text = ", ".join(repr(value) for value in georeference.transform.to_gdal())
    if georeference.gcps:
        _add_control_points(root, georeference)
    if georeference.rpcs is not None:
        add_metadata(root, "RPC", georeference.rpcs.to_gdal())


def add_metadata(root: ET.Element, domain: str, items: Mapping[str, object]) -> None:
    """Adds a metadata domain; the empty name is the default domain."""
    metadata = ET.SubElement(root, "Metadata", {"domain": domain} if domain else {})
    for key, value in items.items():
        ET.SubElement(metadata, "MDI", key=key).text = str(value)


def _add_control_points(root: ET.Element, georeference: Georeference) -> None:
    crs = georeference.gcp_crs
    named = {"Projection": crs.to_wkt()} | _epoch(georeference) if crs else {}
    points = ET.SubElement(root, "GCPList", named)
    for number, gcp in enumerate(georeference.gcps, 1):
        ET.SubElement(
            points, "GCP", Id=str(gcp.id or number), Pixel=repr(gcp.col), Line=repr(gcp.row),
            X=repr(gcp.x), Y=repr(gcp.y), Z=repr(gcp.z or 0.0),
        )  # fmt: skip


def _epoch(georeference: Georeference) -> dict[str, str]:
    return {} if georeference.epoch is None else {"coordinateEpoch": repr(georeference.epoch)}
