"""A contact sheet: some of the accepted tiles, and examples of rejected ones by reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from onboard.errors import SceneRefused
from trainer.errors import DataRefused
from trainer.tiles.reject import REASONS
from trainer.tiles.shard_reader import ShardDataset
from trainer.tiles.sources import opened
from trainer.tiles.tally import DroppedTile, Tally

THUMBNAIL, COLUMNS, LINE, GAP = 128, 10, 16, 4
KEPT_ROWS = 4


def contact_sheet(out: Path, files: Sequence[Path], tally: Tally, path: Path) -> None:
    """Writes the sheet as PNG, whatever ``path`` is called."""
    bands = []
    if tally.kept:
        bands.append((f"kept: {tally.kept}", _kept(out), [""] * COLUMNS * KEPT_ROWS))
    for reason in REASONS:
        examples = [tile for tile in tally.examples if tile.reason == reason and tile.window is not None][:COLUMNS]
        if examples:
            pictures = [_dropped(files, tile) for tile in examples]
            bands.append((f"{reason}: {tally.dropped[reason]}", pictures, [tile.detail for tile in examples]))
    height = sum(_band_height(len(pictures)) for _, pictures, _ in bands) + GAP
    sheet = Image.new("RGB", (COLUMNS * (THUMBNAIL + GAP) + GAP, max(height, LINE)), "white")
    top = GAP
    for title, pictures, details in bands:
        _draw_band(sheet, top, title, pictures, details)
        top += _band_height(len(pictures))
    sheet.save(path, "PNG")


def _band_height(count: int) -> int:
    return LINE + -(-count // COLUMNS) * (THUMBNAIL + LINE + GAP) + GAP


def _draw_band(
    sheet: Image.Image, top: int, title: str, pictures: Sequence[Image.Image], details: Sequence[str]
) -> None:
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, top), title, fill="black")
    for number, (picture, detail) in enumerate(zip(pictures, details, strict=False)):
        row, column = divmod(number, COLUMNS)
        left = GAP + column * (THUMBNAIL + GAP)
        down = top + LINE + row * (THUMBNAIL + LINE + GAP)
        sheet.paste(picture, (left, down))
        pen.text((left, down + THUMBNAIL), detail[:22], fill="#a03020")


def _kept(out: Path) -> list[Image.Image]:
    """Tiles spread evenly over the shards."""
    shelf = ShardDataset(out)
    # From the shards as they lie on the disk: the sheet also shows that they can be read.
    numbers = np.linspace(0, len(shelf) - 1, min(len(shelf), COLUMNS * KEPT_ROWS)).round().astype(int)
    return [_thumbnail(shelf[int(number)]) for number in numbers]


def _dropped(files: Sequence[Path], example: DroppedTile) -> Image.Image:
    try:
        with opened(files[example.source]) as imagery:
            if example.window is None:
                raise DataRefused(files[example.source], "no window", "")
            return _thumbnail(imagery.read(example.window).pixels)
    except (DataRefused, SceneRefused):
        # A source may be damaged just here; that is no reason to be without a sheet.
        return Image.new("RGB", (THUMBNAIL, THUMBNAIL), "#dddddd")


def _thumbnail(pixels: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
