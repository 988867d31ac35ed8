"""Where the maps of a station's folder lie: by its layout, those on their way in a folder of their own.

By default a map's folder has the map's id as its name. With another layout (`layout.json`) a map grows in
`.incoming/ID` and is moved to its place by one rename once the satellite has its receipt. From then on the receipt says
which map it is.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from ground.errors import AskedWrong, GroundError
from ground.layout import DEFAULT, Layout
from ground.passes import is_going_on
from ground.transfer import read_small, sync, write_whole

MAP, ITEM, RECEIPT, COARSE = "map.tif", "map.json", "receipt.json", "coarse.tif"
LAYOUT_FILE: Final = "layout.json"
INCOMING: Final = ".incoming"
PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Ids of maps."""
# Both are read whole into memory and came over the link: the bounds keep a foreign file from filling it.
LONGEST_ITEM: Final = 4 << 20
_LONGEST_RECEIPT = 1 << 16
# Ends the search for a free name; layout.py leaves room for the five characters that the last one adds.
_MOST_NAMESAKES = 10_000
# What rename(2) answers for a target that is a file, or a folder with entries. An empty folder it replaces.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


@dataclass(frozen=True)
class MapFolder:
    """The folder of a map, whole or not.

    Attributes:
        id: of the map.
        path: of the folder.
    """

    id: str
    path: Path


def layout_of(root: Path) -> Layout:
    """The layout of a station's folder; the default where it says nothing.

    Raises:
        AskedWrong: what it says cannot be read.
    """
    path = root / LAYOUT_FILE
    try:
        return Layout(str(json.loads(read_small(path, 10_000))["layout"]))
    except (FileNotFoundError, NotADirectoryError):
        return Layout()
    # The default is no way out: maps would be looked for, and put, where they are not.
    except (OSError, ValueError, KeyError, TypeError, AskedWrong) as error:
        raise AskedWrong(
            f"{path} cannot be read ({error})", f'write the folder\'s layout into it, like {{"layout": "{DEFAULT}"}}'
        ) from None


def map_paths(root: Path) -> Iterator[Path]:
    """Folders in which maps lie or may lie, in the order of their names.

    Raises:
        AskedWrong: see :func:`layout_of`.
    """
    layout = layout_of(root)
    folders = [root]
    for _ in range(layout.depth):
        folders = [child for folder in folders for child in _subfolders(folder)]
    yield from folders
    # Under every layout maps on their way lie one level deep, by their id.
    yield from _subfolders(root / INCOMING)


def map_id(root: Path, path: Path, layout: Layout) -> str:
    """Id of the map in one of these folders; of a folder that no receipt names, its own name."""
    # Elsewhere the folder's name is the id, and no receipt needs to be read.
    if not layout.is_default and path.parent != root / INCOMING:
        with suppress(OSError, ValueError, KeyError, TypeError):
            name = json.loads(read_small(path / RECEIPT, _LONGEST_RECEIPT))["map"]
            if PLAIN.fullmatch(name):
                return str(name)
    # A name on the disk may be no UTF-8. Python then gives it with surrogates, which no JSON and no terminal takes.
    return os.fsencode(path.name).decode("utf-8", "replace")


def map_folders(root: Path) -> list[MapFolder]:
    """All of them.

    Raises:
        AskedWrong: see :func:`layout_of`.
    """
    layout = layout_of(root)
    return [MapFolder(map_id(root, path, layout), path) for path in map_paths(root)]


def id_of_map(folder: Path) -> str:
    """Id of the map in a folder that was named by itself: as its station has it, else the folder's name.

    Raises:
        AskedWrong: see :func:`layout_of`.
    """
    folder = folder.resolve()
    root = next((parent for parent in folder.parents if (parent / LAYOUT_FILE).is_file()), folder.parent)
    return map_id(root, folder, layout_of(root))


class MapFolders:
    """The map folders of a station, for one pass.

    Args:
        root: the station's folder.

    Raises:
        AskedWrong: its layout cannot be read.
        OSError: the disk failed.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.layout = root, layout_of(root)
        self._paths = {folder.id: folder.path for folder in map_folders(root)}

    def path(self, name: str) -> Path:
        """The folder of a map: where it is, else where it is to come."""
        entrance = self.root if self.layout.is_default else self.root / INCOMING
        return self._paths.get(name) or entrance / name

    def names(self) -> list[str]:
        """Ids of the maps that have a folder."""
        return [name for name in self._paths if PLAIN.fullmatch(name)]

    def made_here(self, name: str) -> bool:
        """Whether `onboard process` made the map into this folder, so that no satellite waits for its receipt.

        Its item links to the scene, and that lies on this machine. Items of a service link to none.
        """
        folder = self.path(name)
        with suppress(OSError, ValueError, KeyError, TypeError):
            item = json.loads(read_small(folder / ITEM, LONGEST_ITEM))
            sources = [link for link in item["links"] if link["rel"] == "derived_from"]
            # Not the model, which the same link names as well: it may lie at the same place beside both folders.
            scenes = [unquote(link["href"]) for link in sources if link["type"].startswith("image/tiff")]
            return any((folder / scene).is_file() for scene in scenes)
        return False

    def write_receipt(self, name: str, facts: dict[str, Any]) -> None:
        """Notes in a map's folder that the satellite knows it to be here.

        Raises:
            OSError: it cannot be written.
        """
        write_whole(self.path(name) / RECEIPT, json.dumps({"map": name, **facts}).encode())

    def settle(self, name: str) -> None:
        """Moves an acknowledged map from where it came to its place.

        Raises:
            OSError: it cannot be moved; it stays where it is, and the next pass tries again.
        """
        source = self.root / INCOMING / name
        # A map without a receipt goes on growing in .incoming. Under the default layout it grows in its place, so what
        # a change to that layout left in .incoming goes there too, whole or not.
        if not (source / RECEIPT).is_file() and not (self.layout.is_default and source.is_dir()):
            return
        # Before the rename: where the folder's name is not the id, the receipt alone says which map it is.
        _name_in_receipt(source / RECEIPT, name)
        *parents, last = self.layout.place(name, *_title_and_time(source / ITEM))
        folder = self._made(parents)
        for number in range(1, _MOST_NAMESAKES):
            target = folder / (last if number == 1 else f"{last}-{number}")
            try:
                source.rename(target)
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
                continue
            self._paths[name] = target
            # The rename changed two folders, and each is durable only after its own fsync.
            sync(source.parent)
            sync(folder)
            return
        raise OSError(errno.EEXIST, "too many maps of this name", str(folder / last))

    def incoming(self) -> list[str]:
        """Ids of the maps that are not in their place."""
        return [path.name for path in _subfolders(self.root / INCOMING) if PLAIN.fullmatch(path.name)]

    def _made(self, names: list[str]) -> Path:
        """The folder below the station's, made where it is missing, each entry durable."""
        folder = self.root
        for name in names:
            # exist_ok takes a link to a folder for one, and the names come from the satellite: hence the check below.
            (folder / name).mkdir(exist_ok=True)
            sync(folder)
            folder /= name
        if not folder.resolve().is_relative_to(self.root.resolve()):
            raise OSError(errno.ELOOP, "a link in it leads out of the station's folder", str(folder))
        return folder


def set_layout(root: Path, layout: Layout) -> int:
    """Has a station's folder follow this layout; returns how many maps were moved.

    All maps go to `.incoming` first, then the layout is written, then they go to their places: whenever it is broken
    off, the same command continues, and no map is without a place meanwhile.

    Raises:
        AskedWrong: a pass is going on in it, or its layout cannot be read.
        OSError: a map cannot be moved; the same command continues.
    """
    before = layout_of(root)
    # A change that broke off behind its write of the layout is finished by the pass that follows: see Station.pull.
    if before == layout:
        return 0
    # A pass keeps the paths of its maps in memory, and would go on writing to the old ones.
    if is_going_on(root):
        raise AskedWrong(f"{root}: a pass is going on in it", "change its layout when that has ended")
    root.mkdir(parents=True, exist_ok=True)
    moved = [folder for folder in map_folders(root) if _is_ours(folder)]
    for folder in moved:
        target = root / INCOMING / folder.id
        # Moved by a change that broke off.
        if folder.path == target:
            continue
        target.parent.mkdir(exist_ok=True)
        try:
            folder.path.rename(target)
        except OSError as error:
            if error.errno in _TAKEN:
                raise GroundError(f"{folder.path}: this map is in {target} too; remove one of them") from None
            raise
        _remove_empty(folder.path.parent, root)
    if moved:
        sync(root / INCOMING)
    # All maps are in .incoming now, where the old layout and the new one both look: a cut here hides none.
    write_whole(root / LAYOUT_FILE, (json.dumps({"layout": layout.pattern}) + "\n").encode())
    folders = MapFolders(root)
    for folder in moved:
        folders.settle(folder.id)
    return len(moved)


def held_maps(root: Path) -> list[dict[str, Any]]:
    """What a folder holds: for `ground ls`.

    Raises:
        GroundError: there is no such folder.
    """
    if not root.is_dir():
        raise GroundError(f"{root}: no such folder; `ground pull URL --dest {root}` makes it")
    rows, layout = [], layout_of(root)
    for folder in map_folders(root):
        path, whole = folder.path, folder.path / MAP
        row: dict[str, Any] = {
            "map": folder.id,
            "bytes": whole.stat().st_size if whole.is_file() else None,
            "part_bytes": sum(part.stat().st_size for part in path.glob("*.part") if part.is_file()),
            "coarse": (path / COARSE).exists(),
            "acknowledged": (path / RECEIPT).exists(),
        }
        if not layout.is_default:
            row["folder"] = os.fsencode(path.relative_to(root)).decode("utf-8", "replace")
        rows.append(row)
    return rows


def _subfolders(folder: Path) -> list[Path]:
    """Folders in it that are no links and are not hidden."""
    try:
        return sorted(
            folder / entry.name
            for entry in os.scandir(folder)
            # No links: one could lead to maps outside the station, or round in a circle.
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
        )
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_ours(folder: MapFolder) -> bool:
    """Whether a map's files lie in it, whole or growing: other folders beside the maps are their owner's."""
    known = (MAP, ITEM, RECEIPT, COARSE)
    is_plain = PLAIN.fullmatch(folder.id) is not None
    return is_plain and (any((folder.path / name).is_file() for name in known) or any(folder.path.glob("*.part")))


def _remove_empty(folder: Path, root: Path) -> None:
    # rmdir refuses a folder that has entries, which ends the climb.
    with suppress(OSError):
        while folder != root and folder.name != INCOMING:
            folder.rmdir()
            folder = folder.parent


def _name_in_receipt(path: Path, name: str) -> None:
    """Receipts of earlier versions do not say whose they are: the folder's name did."""
    try:
        receipt = json.loads(read_small(path, _LONGEST_RECEIPT))
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        # That a receipt is here is what counts: the satellite was told. Its contents are for people.
        receipt = {}
    if not isinstance(receipt, dict) or receipt.get("map") != name:
        write_whole(path, json.dumps({**(receipt if isinstance(receipt, dict) else {}), "map": name}).encode())


def _title_and_time(path: Path) -> tuple[str, datetime | None]:
    """Of an item, as far as it can be read."""
    try:
        properties = json.loads(read_small(path, LONGEST_ITEM))["properties"]
        title, text = properties.get("title"), properties.get("datetime")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", None
    return title if isinstance(title, str) else "", time_of(text) if isinstance(text, str) else None


def time_of(text: str) -> datetime | None:
    """An RFC 3339 time; None where it is none."""
    # Python 3.10's fromisoformat takes neither Z nor any number of decimals: fractions of a second are dropped.
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.\d+)?([Zz]|[+-]\d\d:\d\d)", text)
    if match is None:
        return None
    try:
        return datetime.fromisoformat(f"{match[1]}T{match[2]}{match[3].upper().replace('Z', '+00:00')}")
    except ValueError:
        return None
