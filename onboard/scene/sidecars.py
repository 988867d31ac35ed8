"""Files beside a scene that GDAL reads with it.

A world file, a mask or rational polynomials change where a map lies and which of its pixels hold data, as much as the
scene's own bytes do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from onboard.errors import SceneRefused
from onboard.scene.tiff import is_tiff_start

# Beside NAME.tif, by what follows the whole name; then by what follows the name without its ending; then the last ones
# by a name of their own. Seen with strace of GDAL 3.10.3 opening a GeoTIFF: the names of its GTiff driver, of masks and
# overviews, of PAM (.aux.xml, .aux) and of its readers of vendors' metadata (gcore/mdreader).
_AFTER_NAME = (".aux.xml", ".aux", ".ovr", ".msk", ".msk.ovr", ".xml")
_RASTERS = (".msk", ".ovr", ".msk.ovr")
"""Those of them that GDAL opens as a raster, by whatever driver takes them."""
_AFTER_STEM = (
    ".aux", ".tfw", ".tifw", ".tiffw", ".wld", ".tab", ".prj", ".imd", ".rpb", ".rpc", ".xml", ".txt", ".pvl", ".pass",
    ".eph", "_rpc.txt", "_metadata.txt", "_metadata.xml", "_mtl.txt",
)  # fmt: skip
_LONGEST_NAME = 255  # bytes; asking for a longer one is an error (ext4, XFS, btrfs)
_OF_FOLDER = ("metadata.dim", "summary.txt")
_AIRBUS = re.compile(r"IMG_(.+?)(_R\d+C\d+)?", re.IGNORECASE)
_ALOS = re.compile(r"IMG-\d\d-(.+)", re.IGNORECASE)


def sidecars_of(scene: Path) -> list[Path]:
    """The files beside a GeoTIFF that GDAL looks for and that are there, sorted by name.

    They are asked for by name: listing a folder of thousands of scenes takes longer than reading one.
    """
    names = {scene.name + ending for ending in _both(_AFTER_NAME)}
    names |= {scene.stem + ending for ending in _both(_AFTER_STEM)}
    names |= set(_both(_OF_FOLDER))
    if (airbus := _AIRBUS.fullmatch(scene.stem)) is not None:
        product, tile = airbus[1], airbus[2] or ""
        # GDAL looks for the files of the whole product beside each of its tiles.
        names |= {f"{kind}_{product}{part}.XML" for kind in ("DIM", "RPC") for part in ("", tile)}
    if (alos := _ALOS.fullmatch(scene.stem)) is not None:
        names |= {f"{kind}-{alos[1]}{ending}" for kind in ("HDR", "RPC") for ending in (".txt", ".TXT")}
    names.discard(scene.name)
    possible = [name for name in sorted(names) if len(os.fsencode(name)) <= _LONGEST_NAME]
    return [path for name in possible if (path := scene.with_name(name)).is_file()]


def check_rasters_beside(scene: Path) -> None:
    """Looks whether masks and overviews beside a scene are TIFFs: another format could name any file of this machine.

    Raises:
        SceneRefused: one is none.
    """
    for path in (scene.with_name(scene.name + ending) for ending in _both(_RASTERS)):
        try:
            with path.open("rb") as file:
                start = file.read(4)
        except OSError:  # mostly: it is not there
            continue
        if not is_tiff_start(start):
            raise SceneRefused(scene, f"{path.name} beside it is no TIFF", "deliver it as one, or leave it out")


def lacks_offset(scene: Path) -> bool:
    """Whether polynomials beside a tile are those of a whole Airbus product and nothing says where the tile lies in it.

    GDAL takes a tile's offset from the product's DIM_*.XML; without that file it places every tile on the first one.
    """
    match = _AIRBUS.fullmatch(scene.stem)
    if match is None or match[2] is None or match[2].upper() == "_R1C1":
        return False
    product, tile = match[1], match[2]
    names = [f"DIM_{product}.XML", f"DIM_{product}{tile}.XML", f"RPC_{product}{tile}.XML"]
    return scene.with_name(f"RPC_{product}.XML").is_file() and not any(scene.with_name(n).is_file() for n in names)


def _both(endings: Iterable[str]) -> list[str]:
    return [part for ending in endings for part in (ending, ending.upper(), _upper_tail(ending))]


def _upper_tail(ending: str) -> str:
    """`_RPC.TXT` has a sister `_RPC.txt`, and `_MTL.txt` is what Landsat writes."""
    head, dot, tail = ending.rpartition(".")
    return head.upper() + dot + tail
