"""Maps to be exported: found below the paths that were given, opened, and checked to be maps."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from ground.errors import AskedWrong, GroundError
from ground.folders import ITEM, MAP, id_of_map, map_folders
from ground.heads import head_named, read_heads
from products.classes import MapClass

GDAL_OPTIONS: Final[Mapping[str, Any]] = {
    # Nothing that lies beside a map changes how it is read.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GTIFF_REPORT_COMPD_CS": "YES",
    # Bytes, as rasterio takes it; GDAL's own choice is a twentieth of the machine's memory.
    "GDAL_CACHEMAX": 128 << 20,
}
_CLASS = re.compile(r"CLASS_(\d{1,3})")


@dataclass(frozen=True)
class ExportedMap:
    """A map to be exported.

    Attributes:
        name: of the files that are written.
        path: of its GeoTIFF.
    """

    name: str
    path: Path


def find_maps(
    paths: Sequence[Path], head: str | None = None, note: Callable[[str], None] = lambda _: None
) -> list[ExportedMap]:
    """Maps of folders of maps, of folders that hold such folders, and of files.

    Args:
        paths: what was asked for.
        head: of a model with several, instead of the first; files of a further one are called ID-HEAD.
        note: takes a line about maps that are left out since they have no such head.

    Raises:
        AskedWrong: there is none below a path, none of them has the head, or two would be written to the same files.
    """
    maps = [found for path in paths for found in _with_head(path, _maps_below(path), head, note)]
    # By its real path: a map that is named twice, or by a link, is exported once.
    unique = list({found.path.resolve(): found for found in maps}.values())
    name, count = Counter(found.name for found in unique).most_common(1)[0]
    if count > 1:
        raise AskedWrong(f"{count} maps are called {name}", "export them one by one, each to another --out")
    return unique


def _maps_below(path: Path) -> list[ExportedMap]:
    if path.is_file():
        return [ExportedMap(id_of_map(path.parent) if path.name == MAP else path.stem, path)]
    if (path / MAP).is_file():
        return [ExportedMap(id_of_map(path), path / MAP)]
    maps = [ExportedMap(held.id, held.path / MAP) for held in map_folders(path) if (held.path / MAP).is_file()]
    if not maps:
        what = "there is no map in it" if path.is_dir() else "no such file or folder"
        raise AskedWrong(f"{path}: {what}", "give a map's folder, or the folder of `ground pull`")
    return maps


def _with_head(path: Path, maps: list[ExportedMap], head: str | None, note: Callable[[str], None]) -> list[ExportedMap]:
    """The same maps by another head; those that lack it are left out."""
    if head is None:
        return maps
    found, named = [], set()
    for exported in maps:
        try:
            heads = read_heads(exported.path.parent)
        except AskedWrong:
            if len(maps) == 1:
                raise
            # One of many maps without an item that can be read is left out, like those without the head.
            heads = []
        named |= {item.name for item in heads}
        item = head_named(heads, head)
        # Further heads lie beside map.tif alone; the neighbours of a file that was named itself are not looked at.
        if item is not None and (exported.path.name != MAP or not exported.path.with_name(item.file).is_file()):
            item = None
        if item is not None:
            name = exported.name if item.file == MAP else f"{exported.name}-{item.name}"
            found.append(ExportedMap(name, exported.path.with_name(item.file)))
    if not found:
        raise AskedWrong(
            f"{path}: no map in it has a head {head}" if len(maps) > 1 else f"{path}: has no head {head} here",
            f"--head takes {', '.join(sorted(named))}" if named else f"give a map's folder with its {ITEM}",
        )
    if len(found) < len(maps):
        note(f"{path}: {len(maps) - len(found)} of {len(maps)} maps left out: no head {head} there")
    return found


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[Any]:
    """A map's dataset, read as GeoTIFF and as nothing else.

    Raises:
        GroundError: it cannot be read.
    """
    with warnings.catch_warnings(), rasterio.Env(**GDAL_OPTIONS):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            # The driver is named: a file that came over the link may be a VRT, say, that leads GDAL to other files.
            with rasterio.open(path, driver="GTiff", **options) as dataset:
                yield dataset
        except RasterioError as error:
            raise GroundError(f"{path}: cannot be read ({error}); fetch it again with `ground pull`") from error


def legend_of(dataset: Any, path: Path) -> tuple[MapClass, ...]:
    """Classes of a map by its names and palette, in the order of their codes; pixels are not counted.

    Raises:
        AskedWrong: it is no map of classes.
    """
    titles = {int(match[1]): str(title) for key, title in dataset.tags().items() if (match := _CLASS.fullmatch(key))}
    try:
        palette = dataset.colormap(1)
    except ValueError:
        # rasterio raises where a band has none.
        palette = {}
    if dataset.count != 1 or dataset.dtypes[0] != "uint8" or len(titles) < 2 or not palette:
        raise AskedWrong(
            f"{path}: is no land-cover map (one band of classes with names and colours)",
            f"give a folder that holds {MAP}",
        )
    unknown = (0, 0, 0, 255)
    return tuple(MapClass(code, titles[code], palette.get(code, unknown)) for code in sorted(titles))


def classes_of(dataset: Any, path: Path) -> tuple[MapClass, ...]:
    """The same with the pixels of each class.

    Raises:
        AskedWrong: it is no map of classes.
    """
    legend = legend_of(dataset, path)
    pixels = _count(dataset)
    return tuple(replace(item, pixels=int(pixels[item.code])) for item in legend)


def _count(dataset: Any) -> NDArray[np.int64]:
    pixels = np.zeros(256, dtype=np.int64)
    # Block by block: a map may have more pixels than the machine has memory.
    for _, window in dataset.block_windows(1):
        pixels += np.bincount(dataset.read(1, window=window).ravel(), minlength=256)
    return pixels
