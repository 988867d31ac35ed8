"""The description of a scene in tiles: its tiles, bands, size and polynomials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onboard.errors import SceneRefused
from onboard.scene.sidecars import sidecars_of


@dataclass(frozen=True)
class Tile:
    """A tile's file and the column and row of its upper left pixel in the scene."""

    path: Path
    col: int
    row: int


@dataclass(frozen=True)
class BandGroup:
    """Tiles that together hold some of a scene's bands, all of them over the whole scene.

    Attributes:
        tiles: one or more.
        names: what the bands are ("red", "near infrared"), in their order; empty where nothing says.
    """

    tiles: tuple[Tile, ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mosaic:
    """The contents of a description.

    Attributes:
        path: of the description.
        width: pixels of the whole scene.
        height: pixels.
        groups: the scene's bands are those of the first group, then those of the next one.
        rpcs: rational polynomials of the WHOLE scene by GDAL's names, counted from the centre of its first pixel as
            (0, 0); empty where there are none. A tile's own would have its offset taken off.
        acquired: date and time as GDAL's ACQUISITIONDATETIME, empty where nothing says.
        beside: further files that were read.
    """

    path: Path
    width: int
    height: int
    groups: tuple[BandGroup, ...]
    rpcs: Mapping[str, str]
    acquired: str
    beside: tuple[Path, ...]

    @property
    def tiles(self) -> list[Tile]:
        """Of all groups."""
        return [tile for group in self.groups for tile in group.tiles]

    @property
    def files(self) -> list[Path]:
        """Every file that the scene depends on."""
        own = [path for tile in self.tiles for path in (tile.path, *sidecars_of(tile.path))]
        # Each once: tiles of one product share sidecars.
        return list(dict.fromkeys([self.path, *self.beside, *own]))


def tile_path(description: Path, name: str) -> Path:
    """Where a tile named in a description lies.

    Raises:
        SceneRefused: outside the description's folder; it is no GeoTIFF by its name; it is not there.
    """
    # The description comes from outside: unchecked, it could name any file of this machine as a tile. A colon could
    # be one of GDAL's own prefixes.
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or ":" in name or "\0" in name:
        raise SceneRefused(description, f"names a tile outside its folder: {name!r}", "deliver the tiles beside it")
    if Path(name).suffix.lower() not in (".tif", ".tiff"):
        raise SceneRefused(description, f"its tile {name} is no GeoTIFF", "convert the product to GeoTIFF")
    path = description.parent / name
    if not path.is_file():
        raise SceneRefused(description, f"its tile {name} is not there", "deliver all tiles beside it")
    return path
