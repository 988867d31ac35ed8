"""The picture of a map for people: the scene beside or above its map, a legend with shares, a scale bar.

Panels lie side by side where the scene is tall, one above the other where it is wide: either way the sheet is nearly
square, and its letters can be read on a telephone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from engines.manifest import ClassInfo
from onboard.mapping.lettering import HEIGHT, SCALE, is_drawable, lettered
from onboard.mapping.product import colour_table, unlocated_allowed, write_failed
from onboard.mapping.thumbnail import SceneThumbnail

Kind = Literal["side", "map", "off"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)
DEFAULT_KIND: Final[Kind] = "side"
QUICKLOOK: Final = "quicklook.webp"
"""Of the first head."""
Picture = NDArray[np.uint8]

MAP_PIXELS: Final = 1024
"""Longest side of a picture of the map alone."""
SHEET: Final = 768
"""Width of scene and map together: on a telephone the letters are as high as its own."""
GAP: Final = 9
HIGHEST: Final = 750
"""Most rows of the panels."""
WIDE: Final = 1.25
"""Width by height from which panels lie one above the other."""
QUALITY: Final = 25
"""Of WebP with loss; docs/mapping.md has the bytes."""
_PAPER, _INK, _NOTHING = 255, 24, 225
_CAPITAL = 7 * SCALE
# Of the pixels: classes below it would fill the legend with lines of "under 1 %".
_SMALLEST_SHARE = 0.0005


@dataclass(frozen=True)
class Facts:
    """What is written under the panels.

    Attributes:
        classes: of the legend.
        pixels: of each code 0..K.
        width_m: ground width of the map's first row, metres; None where it is not known.
        notes: lines for people, such as that the map may be a guess.
    """

    classes: tuple[ClassInfo, ...]
    pixels: Sequence[int]
    width_m: float | None = None
    notes: tuple[str, ...] = ()


def quicklook_name(head: str) -> str:
    """File name of the picture of a further head's map."""
    return f"{head}-{QUICKLOOK}"


def panel_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of a panel for a scene of this size, pixels."""
    widest = SHEET if _is_wide(width, height) else (SHEET - GAP) // 2
    scale = min(widest / width, HIGHEST / (2 if _is_wide(width, height) else 1) / height)
    # A small scene is enlarged by whole pixels, so that its classes keep straight borders.
    scale = math.floor(scale) if scale > 1 else scale
    return max(1, round(width * scale)), max(1, round(height * scale))


def thumbnail_of(scene_size: tuple[int, int], bands: Sequence[str]) -> SceneThumbnail:
    """The scene's panel, to be filled while it is mapped.

    Args:
        scene_size: width and height of the scene as the model sees it.
        bands: names of the bands that are read, in their order.
    """
    names = [name.casefold() for name in bands]
    colours = ("red", "green", "blue")
    # A model of other bands is shown by its first three.
    places = tuple(names.index(name) for name in colours) if set(colours) <= set(names) else (0, 1, 2)
    return SceneThumbnail(scene_size, *panel_size(*scene_size), (places[0], places[1], places[2]))


def write_quicklook(kind: Kind, map_path: Path, target: Path, thumbnail: SceneThumbnail | None, facts: Facts) -> None:
    """Writes the picture of this kind; none where it is "off".

    Args:
        kind: side: scene, map, legend and scale, 768 pixels wide; map: the map alone.
        map_path: the map.
        target: the file to write.
        thumbnail: the scene's, complete; for the kind "side".
        facts: of legend and scale.

    Raises:
        StorageError: it cannot be written.
    """
    if kind == "map":
        _write_map(map_path, target, facts.classes)
    elif kind == "side" and thumbnail is not None:
        _write_sheet(map_path, target, thumbnail, facts)


def _write_sheet(map_path: Path, target: Path, thumbnail: SceneThumbnail, facts: Facts) -> None:
    colours, valid = thumbnail.picture()
    height, width = valid.shape
    with unlocated_allowed(), rasterio.open(map_path) as source:
        # GDAL decimates from the overviews where there are any: these are majorities, which drop no class at random.
        codes = source.read(1, out_shape=(height, width))
        is_wide = _is_wide(source.width, source.height)
    table = colour_table(facts.classes)[:, :3]
    table[0] = _NOTHING
    panels = [np.where(valid[..., None], colours, np.uint8(_NOTHING)), table[codes]]
    beside = _beside(panels, is_wide)
    sheet = np.concatenate([_on_sheet(beside, max(0, SHEET - beside.shape[1]) // 2), _legend(facts, width)])
    _write(target, np.moveaxis(sheet, -1, 0), QUALITY=str(QUALITY))


def _write_map(map_path: Path, target: Path, classes: tuple[ClassInfo, ...]) -> None:
    """The map alone, at most 1024 pixels a side: RGBA without loss, transparent where there is no data."""
    with unlocated_allowed(), rasterio.open(map_path) as source:
        scale = min(1.0, MAP_PIXELS / max(source.width, source.height))
        shape = (max(1, round(source.height * scale)), max(1, round(source.width * scale)))
        codes = source.read(1, out_shape=shape)
    # Lossless, "quality" is the effort: 1 and the usual 75 give the same bytes here, 75 in 1.7 times as long.
    _write(target, np.moveaxis(colour_table(classes)[codes], -1, 0), lossless=True, quality=1)


def _is_wide(width: int, height: int) -> bool:
    return width >= WIDE * height


def _beside(panels: Sequence[Picture], is_wide: bool) -> Picture:
    """Panels of one size, one above the other if they are wide."""
    height, width = panels[0].shape[:2]
    gap = np.full((GAP, width, 3) if is_wide else (height, GAP, 3), _PAPER, dtype=np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=0 if is_wide else 1)


def _on_sheet(part: Picture, left: int) -> Picture:
    """A picture on paper of a sheet's width, so many pixels from its left; what is wider is cut off."""
    sheet = np.full((len(part), SHEET, 3), _PAPER, dtype=np.uint8)
    width = min(part.shape[1], SHEET - left)
    sheet[:, left : left + width] = part[:, :width]
    return sheet


def _legend(facts: Facts, panel_width: int) -> Picture:
    """Lines of a swatch, a title and a share for each class, the scale, notes."""
    valid = max(1, sum(facts.pixels[1:]))
    entries = [
        _entry(item.color, f"{_title(item)} {_percent(facts.pixels[item.code] / valid)}")
        for item in facts.classes
        if facts.pixels[item.code] >= _SMALLEST_SHARE * valid
    ]
    if facts.pixels[0] >= _SMALLEST_SHARE * sum(facts.pixels):
        entries.append(_entry(f"#{_NOTHING:02x}{_NOTHING:02x}{_NOTHING:02x}", "no data"))
    entries.append(_scale(facts.width_m, panel_width))
    rows = _wrapped(entries) + [_text(note) for note in facts.notes]
    space = np.full((GAP, SHEET, 3), _PAPER, dtype=np.uint8)
    parts = [space]
    for row in rows:
        parts += [_on_sheet(row, GAP), space]
    return np.concatenate(parts)


def _wrapped(entries: Sequence[Picture]) -> list[Picture]:
    """Entries beside each other, as many in a line as it takes."""
    rows: list[list[Picture]] = [[]]
    for entry in entries:
        used = sum(part.shape[1] + 3 * GAP for part in rows[-1])
        if rows[-1] and used + entry.shape[1] > SHEET - 2 * GAP:
            rows.append([])
        rows[-1].append(entry)
    gap = np.full((HEIGHT, 3 * GAP, 3), _PAPER, dtype=np.uint8)
    return [np.concatenate([part for entry in row for part in (entry, gap)][:-1], axis=1) for row in rows]


def _entry(colour: str, text: str) -> Picture:
    """A swatch and a text."""
    swatch = np.full((HEIGHT, _CAPITAL + GAP, 3), _PAPER, dtype=np.uint8)
    swatch[:_CAPITAL, :_CAPITAL] = _INK
    swatch[1 : _CAPITAL - 1, 1 : _CAPITAL - 1] = list(bytes.fromhex(colour.removeprefix("#")))
    return np.concatenate([swatch, _text(text)], axis=1)


def _scale(width_m: float | None, panel_width: int) -> Picture:
    """A bar of a round length and its text; the text alone where the scale is not known."""
    # Over 1e8 m is twice round the Earth: such a georeferencing is wrong, and a bar by it would be too.
    if width_m is None or not 0 < width_m < 1e8:
        return _text("scale not known")
    per_pixel = width_m / panel_width
    metres = _round_below(per_pixel * min(panel_width, SHEET // 5))
    length = max(2, round(metres / per_pixel))
    bar = np.full((HEIGHT, length + GAP, 3), _PAPER, dtype=np.uint8)
    bar[_CAPITAL - 5 : _CAPITAL - 1, :length] = _INK
    bar[_CAPITAL - 14 : _CAPITAL - 1, :3] = bar[_CAPITAL - 14 : _CAPITAL - 1, length - 3 : length] = _INK
    text = f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"
    return np.concatenate([bar, _text(text)], axis=1)


def _round_below(length: float) -> float:
    """1, 2 or 5 times a power of ten, the largest that is no longer."""
    power = 10.0 ** math.floor(math.log10(length))
    # A length that is round itself must not miss its own value by the last bit of the product.
    return max(factor * power for factor in (1, 2, 5) if factor * power <= length * (1 + 1e-9))


def _text(text: str) -> Picture:
    """Dark letters on paper, (HEIGHT, width, 3)."""
    shades = _PAPER - lettered(text) * (_PAPER - _INK)
    return np.repeat(np.rint(shades).astype(np.uint8)[..., None], 3, axis=2)


def _title(item: ClassInfo) -> str:
    """The class's title, shortened; its number where the letters cannot be drawn."""
    if not is_drawable(item.title):
        return f"class {item.code}"
    return item.title if len(item.title) <= 24 else item.title[:22] + ".."


def _percent(share: float) -> str:
    # Rounded to 0 % a class that is there would look absent.
    return f"{share:.0%}".replace("%", " %") if share >= 0.01 or share == 0 else "under 1 %"


def _write(target: Path, bands: Picture, **options: object) -> None:
    try:
        with (
            unlocated_allowed(),
            rasterio.open(
                target, "w", driver="WEBP", width=bands.shape[2], height=bands.shape[1], count=len(bands),
                dtype="uint8", **options,
            ) as picture,
        ):  # fmt: skip
            picture.write(bands)
    except RasterioError as error:
        raise write_failed(target, error) from error
