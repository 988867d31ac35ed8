"""A scene's folder: `scene.tif` where a scene is one file, else `files/` with all of them under their own names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onboard.errors import SceneRefused
from onboard.scene.mosaic import files_of, names_tiles

SCENE_FILE = "scene.tif"
FILES = "files"
TIFF_ENDINGS = (".tif", ".tiff")


def scene_file(folder: Path) -> Path:
    """The file that a scene is opened by; where there is none, the path it would have."""
    single = folder / SCENE_FILE
    if single.is_file() or not (folder / FILES).is_dir():
        return single
    try:
        return main_file(files_below(folder / FILES))
    # That path does not exist, so every caller takes the scene for missing.
    except SceneRefused:
        return single


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def main_file(files: Sequence[Path]) -> Path:
    """Of the files of one delivery, the one that the scene is opened by: a product's description, else its GeoTIFF.

    Raises:
        SceneRefused: there is none, or more than one.
    """
    # A product's tiles are GeoTIFFs as well: where there is a description, it opens the scene.
    described = [path for path in files if names_tiles(path)]
    candidates = described or [path for path in files if path.suffix.lower() in TIFF_ENDINGS]
    where = files[0] if files else Path("delivery")
    if not candidates:
        raise SceneRefused(where, "holds no GeoTIFF", "send a GeoTIFF, or a DIMAP or TIL product with its tiles")
    if len(candidates) > 1:
        names = ", ".join(path.name for path in candidates[:4])
        raise SceneRefused(where, f"holds {len(candidates)} scenes ({names})", "send each with its own files")
    return candidates[0]


def only_needed(folder: Path) -> Path:
    """Removes what the scene in a folder of delivered files does not depend on; gives its main file.

    Raises:
        SceneRefused: as :func:`main_file`; or files that it needs are not there.
    """
    files = files_below(folder)
    main = main_file(files)
    needed = set(files_of(main))
    for path in files:
        if path not in needed:
            path.unlink()
    return main
