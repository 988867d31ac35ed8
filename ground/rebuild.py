"""A map made of an earlier one that lies here and of the changes that came in its place.

What the item says decides: each raster that is made has the digest of the satellite's own, or it is no map, and the
whole is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ground.errors import DiskFailed, GroundError
from ground.folders import ITEM, LONGEST_ITEM, MAP, PLAIN, MapFolders
from ground.heads import read_heads
from ground.json_text import model_of
from ground.transfer import read_small, sha256_of, sync

CHANGES = "changes.tif"
"""The last of the files that stand in for a map's."""
_Checksum = Annotated[str, StringConstraints(pattern="^1220[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Asset(_Part):
    href: str = Field("", max_length=2000)
    checksum: _Checksum | None = Field(None, alias="file:checksum")


class _Changes(_Part):
    earlier: Annotated[str, StringConstraints(pattern=f"^{PLAIN.pattern}$")] | None = None


class _Properties(_Part):
    changes: _Changes = Field(_Changes(), alias="onboard:changes")


class _Item(_Part):
    properties: _Properties
    assets: dict[str, _Asset] = Field(max_length=100)


class NotRebuilt(GroundError):
    """The map cannot be made here: fetch the whole. ``is_lasting`` where no other map can be made either."""

    def __init__(self, why: str, *, is_lasting: bool = False) -> None:
        self.is_lasting = is_lasting
        super().__init__(why)


class ChangesDamaged(GroundError):
    """A file of changes here is not the satellite's any more; it was removed, and is fetched again."""


@dataclass(frozen=True)
class _Step:
    """One raster to be made."""

    before: Path
    changes: Path
    target: Path
    digest: str


def can_rebuild() -> bool:
    """Whether what it takes is installed (extra ``ground``)."""
    # Looked for and not imported: few passes have changes, and GDAL takes time and memory to load.
    return find_spec("rasterio") is not None and find_spec("numpy") is not None


def awaits_rebuild(folder: Path) -> bool:
    """Whether changes came to this folder in place of its map, and the map is not made yet."""
    return (folder / CHANGES).is_file() and not (folder / MAP).exists()


def rebuild_map(folders: MapFolders, name: str) -> str:
    """Makes the rasters of a map of which the changes are here, map.tif last; gives the id of the earlier map.

    Raises:
        NotRebuilt: it cannot be made. ChangesDamaged: the changes are to be fetched again. DiskFailed.
    """
    folder = folders.path(name)
    earlier, steps = _steps(folders, name, folder)
    try:
        for step in steps:
            _make(step)
            # The file's name, that of the map's folder, and that of the folder of all maps.
            # Before the next step: map.tif is made last and says that the map is whole, so the others must be durable.
            for path in (step.target, *list(step.target.parents)[:3]):
                sync(path)
    except OSError as error:
        raise DiskFailed(folder, error) from error
    return earlier


def _steps(folders: MapFolders, name: str, folder: Path) -> tuple[str, list[_Step]]:
    try:
        item = model_of(_Item, read_small(folder / ITEM, LONGEST_ITEM))
        heads = read_heads(folder)
    except (OSError, ValueError, GroundError) as error:
        raise NotRebuilt(f"its item cannot be read ({type(error).__name__})") from error
    earlier = item.properties.changes.earlier
    if earlier is None or earlier == name:
        raise NotRebuilt("its item names no earlier map")
    # By file name, as the plan names them; names of assets are the item's own.
    digests: dict[str, Any] = {asset.href.removeprefix("./"): asset.checksum for asset in item.assets.values()}
    steps = []
    for head in reversed(heads):  # the first one, map.tif, last: with it the map is whole
        changes = CHANGES if head.file == MAP else f"{head.file.removesuffix('.tif')}-{CHANGES}"
        before = folders.path(earlier) / head.file
        if digests.get(head.file) is None or digests.get(changes) is None or not (folder / changes).is_file():
            raise NotRebuilt(f"{changes} is not here")
        if not before.is_file():
            raise NotRebuilt(f"the earlier map {earlier} is not here ({head.file})")
        _check_changes(folder / changes, digests[changes].removeprefix("1220"))
        steps.append(_Step(before, folder / changes, folder / head.file, digests[head.file].removeprefix("1220")))
    return earlier, steps


def _check_changes(path: Path, digest: str) -> None:
    if sha256_of(path) != digest:
        # Where it stayed, the next plan would count it as here, and each pass would fail on it.
        path.unlink()
        raise ChangesDamaged(f"{path}: is not what the satellite sent; it is fetched again")


def _make(step: _Step) -> None:
    from products.change.rebuild import OtherBytes, rebuild
    from products.errors import ProductError

    try:
        rebuild(step.before, step.changes, step.target)
    except ProductError as error:
        raise NotRebuilt(str(error), is_lasting=isinstance(error, OtherBytes)) from error
    # By the item too: the digest that rebuild() compared stands in the changes themselves.
    if sha256_of(step.target) != step.digest:
        step.target.unlink()
        raise NotRebuilt(f"{step.target.name} made of {step.before} is not the one that the item names")
