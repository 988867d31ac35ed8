"""Heads of a map: of each, a raster of classes that is an asset of the map's item.

The first is the asset ``map`` (map.tif); further ones are called by their head, like ``deepglobe`` (deepglobe.tif), and
the confidence and the picture of each lie beside it (confidence.tif and quicklook.webp, deepglobe-confidence.tif and
deepglobe-quicklook.webp).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from ground.errors import AskedWrong
from ground.folders import ITEM, LONGEST_ITEM, MAP, PLAIN
from ground.json_text import model_of
from ground.transfer import read_small

FIRST: Final = "map"
"""The asset of the first head."""
CONFIDENCE: Final = "confidence.tif"
QUICKLOOK: Final = "quicklook.webp"
# An href becomes the name of a file in the map's folder: none that has a slash.
_HREF = re.compile(r"(?:\./)?([A-Za-z0-9][A-Za-z0-9._-]{0,127}\.tif)")
_Text = Annotated[str, Field(max_length=2000)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Asset(_Part):
    href: _Text = ""
    classes: list[Any] = Field([], alias="classification:classes", max_length=256)


class _Model(_Part):
    heads: list[_Text] = Field([], max_length=100)


class _Properties(_Part):
    model: _Model | None = Field(None, alias="onboard:model")


class _Item(_Part):
    properties: _Properties
    assets: dict[str, _Asset] = Field(max_length=100)


@dataclass(frozen=True)
class Head:
    """One head of a map.

    Attributes:
        name: of the head; of the only one of a model without named heads, ``map``.
        asset: its name in the item.
        file: name of its raster in the map's folder.
    """

    name: str
    asset: str
    file: str

    @property
    def confidence(self) -> str:
        """Name of the raster of its confidence, which need not be there."""
        return confidence_name(self.file)

    @property
    def quicklook(self) -> str:
        """Name of its picture for people, which need not be there."""
        return QUICKLOOK if self.file == MAP else f"{Path(self.file).stem}-{QUICKLOOK}"


# By the file and not by a Head: `ground polygons` knows a raster alone, and looks for what lies beside it.
def confidence_name(file: str) -> str:
    """Name of the raster of confidence that belongs to a raster of classes."""
    return CONFIDENCE if file == MAP else f"{Path(file).stem}-{CONFIDENCE}"


def heads_of(hrefs: Mapping[str, str], names: Sequence[str] = ()) -> list[Head]:
    """The heads of an item, the first one first.

    Args:
        hrefs: of its assets with classes, by their names. Text of others: what is no plain name of a TIFF is left out.
        names: heads of the map's model, the first of which made ``map``.
    """
    heads = []
    for asset, href in sorted(hrefs.items(), key=lambda entry: entry[0] != FIRST):  # stable: else as the item has it
        match = _HREF.fullmatch(href)
        file = MAP if asset == FIRST else match[1] if match else None
        if file is not None and PLAIN.fullmatch(asset):
            is_named = asset == FIRST and names and PLAIN.fullmatch(names[0])
            heads.append(Head(names[0] if is_named else asset, asset, file))
    return heads


def read_heads(folder: Path) -> list[Head]:
    """The heads of the map in a folder, by the item there.

    Raises:
        AskedWrong: there is no item that can be read.
    """
    try:
        item = model_of(_Item, read_small(folder / ITEM, LONGEST_ITEM))
    except (OSError, ValueError, RecursionError):
        remedy = f"give a map's folder with its {ITEM}, or leave --head out"
        raise AskedWrong(f"{folder / ITEM}: cannot be read, so nothing says which heads the map has", remedy) from None
    # Pictures and rasters of confidence have no classes.
    hrefs = {name: asset.href for name, asset in item.assets.items() if asset.classes}
    return heads_of(hrefs, item.properties.model.heads if item.properties.model is not None else ())


def head_named(heads: Sequence[Head], name: str) -> Head | None:
    """The head of this name, or whose asset has it; None where there is none."""
    return next((head for head in heads if name in (head.name, head.asset)), None)
