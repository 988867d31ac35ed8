"""Maxar products (WorldView, GeoEye, QuickBird): tiles by a .TIL, size and bands by an .IMD, polynomials by an .RPB.

All three are lists of `name = value;` in groups. Sources: GDAL's driver of the format (frmts/til), its readers of .IMD
and .RPB (gcore/gdal_mdreader.cpp), and "Imagery Support Data (ISD) Documentation", DigitalGlobe 2014.
"""

from __future__ import annotations

import re
from pathlib import Path

from onboard.errors import SceneRefused
from onboard.scene.tiled_product import BandGroup, Mosaic, Tile, tile_path

_BANDS = {
    "BAND_C": "coastal", "BAND_B": "blue", "BAND_G": "green", "BAND_Y": "yellow", "BAND_R": "red",
    "BAND_RE": "red edge", "BAND_N": "near infrared", "BAND_N2": "near infrared 2", "BAND_P": "panchromatic",
}  # fmt: skip
_OFFSETS = {
    "LINE_OFF": "lineOffset", "SAMP_OFF": "sampOffset", "LAT_OFF": "latOffset", "LONG_OFF": "longOffset",
    "HEIGHT_OFF": "heightOffset", "LINE_SCALE": "lineScale", "SAMP_SCALE": "sampScale", "LAT_SCALE": "latScale",
    "LONG_SCALE": "longScale", "HEIGHT_SCALE": "heightScale",
}  # fmt: skip
_ERRORS = {"ERR_BIAS": "errBias", "ERR_RAND": "errRand"}
_LISTS = {
    "LINE_NUM_COEFF": "lineNumCoef", "LINE_DEN_COEFF": "lineDenCoef",
    "SAMP_NUM_COEFF": "sampNumCoef", "SAMP_DEN_COEFF": "sampDenCoef",
}  # fmt: skip
Groups = dict[str, dict[str, str]]


def maxar_mosaic(path: Path) -> Mosaic:
    """Reads a .TIL with the .IMD and .RPB of the same name.

    Raises:
        SceneRefused: it names no tiles, or the .IMD is missing.
        ValueError, KeyError, OSError: a file is damaged.
    """
    imd, rpb = _beside(path, ".IMD"), _beside(path, ".RPB")
    if imd is None:
        raise SceneRefused(path, f"without {path.stem}.IMD beside it", "deliver the .IMD too: it has the scene's size")
    groups = _groups(imd)
    tiles = [
        Tile(tile_path(path, tile["filename"]), int(tile["ULColOffset"]), int(tile["ULRowOffset"]))
        for name, tile in _groups(path).items()
        if re.fullmatch(r"TILE_\d+", name)
    ]
    # Groups stand in the order of the file's bands. One that is not known leaves all unnamed, see below.
    bands = tuple(_BANDS.get(name, "") for name in groups if name.startswith("BAND_"))
    return Mosaic(
        path=path,
        width=int(groups[""]["numColumns"]),
        height=int(groups[""]["numRows"]),
        groups=(BandGroup(tuple(tiles), bands if all(bands) else ()),),
        rpcs={} if rpb is None else _rpcs(_groups(rpb)),
        acquired=_acquired(groups),
        beside=tuple(part for part in (imd, rpb) if part is not None),
    )


def _beside(path: Path, ending: str) -> Path | None:
    return next((candidate for end in (ending, ending.lower()) if (candidate := path.with_suffix(end)).is_file()), None)


def _groups(path: Path) -> Groups:
    """Values by name in each group, those outside any under the empty name. Lists keep their parentheses."""
    groups: Groups = {"": {}}
    group = ""
    # A list in parentheses goes on over lines; all else ends with its semicolon or its line.
    for statement in re.finditer(r"^\s*(\w+)\s*=\s*(\([^)]*\)|\"[^\"]*\"|[^;\n]*)", _text(path), re.MULTILINE):
        name, value = statement[1], statement[2].strip().strip('"')
        if name == "BEGIN_GROUP":
            group = value
            groups.setdefault(group, {})
        elif name == "END_GROUP":
            group = ""
        else:
            groups[group].setdefault(name, value)
    return groups


def _text(path: Path) -> str:
    if path.stat().st_size > 16 << 20:
        raise ValueError(f"{path.name} is longer than 16 MiB")
    # Every byte is a letter of Latin-1: an odd name in a comment does not spoil the description.
    return path.read_text(encoding="latin-1")


def _rpcs(groups: Groups) -> dict[str, str]:
    """GDAL's RPC items: these count from the centre of the first pixel as (0, 0), as GDAL does."""
    image = groups["IMAGE"]
    items = {name: repr(float(image[theirs])) for name, theirs in _OFFSETS.items()}
    items |= {name: repr(float(image[theirs])) for name, theirs in _ERRORS.items() if theirs in image}
    for name, theirs in _LISTS.items():
        numbers = [repr(float(part)) for part in image[theirs].strip("()").replace(",", " ").split()]
        if len(numbers) != 20:
            raise ValueError(f"{theirs} has {len(numbers)} coefficients")
        items[name] = " ".join(numbers)
    return items


def _acquired(groups: Groups) -> str:
    image = groups.get("IMAGE_1") or groups.get("MAP_PROJECTED_PRODUCT") or {}
    time = image.get("firstLineTime") or image.get("earliestAcqTime") or ""
    match = re.match(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)", time)
    return f"{match[1]} {match[2]}" if match else ""
