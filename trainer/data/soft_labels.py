"""A teacher's soft labels on disk: class probabilities for each head, one file per image.

A file is uint8 (K, h, w), probability x 255 of the classes of all heads one after another, on a grid ``stride`` times
as coarse as the image's. It is read by windows, never whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from engines.files import replace_file
from onboard.scene.grid import Window
from trainer.errors import DataMissing, DataRefused, SettingsRefused

FACTS = "soft.json"


@dataclass(frozen=True)
class SoftFacts:
    """What a folder of soft labels holds.

    Attributes:
        heads: classes of each head, in the order of the files' channels.
        stride: image pixels a side of a cell.
        teacher: the run that made them, and the digest of its weights.
        views_m: ground sampling distances at which each image was seen, metres; None in folders of earlier versions.
    """

    heads: dict[str, int]
    stride: int
    teacher: str
    views_m: tuple[float, ...] | None = None

    def difference(self, other: SoftFacts) -> str | None:
        """What the other has otherwise, in words; None where both hold the same. Unknown views agree with any."""
        # As JSON, since the order of heads is that of the channels, and dictionaries are equal in any order.
        told = {name: json.dumps(value) for name, value in asdict(other).items()}
        for name, own in asdict(self).items():
            given = getattr(other, name)
            if json.dumps(own) != told[name] and not (name == "views_m" and None in (own, given)):
                return f"{name} {own}, not {given}"
        return None


class SoftLabels:
    """Soft labels of one set.

    Raises:
        DataMissing: the folder is none of soft labels.
        SettingsRefused: they are of other heads than ``heads`` (classes by head, in order).
    """

    def __init__(self, folder: Path, heads: Mapping[str, int]) -> None:
        self.folder = folder
        self.facts = read_facts(folder)
        # In order: dictionaries are equal in any, and the channels of one head would teach another.
        if list(heads.items()) != list(self.facts.heads.items()):
            raise SettingsRefused(
                str(folder), f"its soft labels are of heads {self.facts.heads}, not {dict(heads)}, in this order"
            )

    @property
    def channels(self) -> int:
        """Classes of all heads together."""
        return sum(self.facts.heads.values())

    def check(self, name: str, size: tuple[int, int]) -> None:
        """Looks, by the header of its file, whether there are soft labels of an image of ``size`` (H, W).

        Raises:
            DataMissing: there are none of this image.
            DataRefused: they are of an image of another size, or cannot be read.
        """
        path = self.folder / file_name(name)
        # Not `_cells`: all images of a set would push out of its cache what crops use.
        found = _mapped(path).shape
        wanted = (self.channels, *(-(-length // self.facts.stride) for length in size))
        if found != wanted:
            raise DataRefused(
                path,
                f"it has {_shape(found)} cells and its image of {size[1]}x{size[0]} pixels takes {_shape(wanted)}",
                "it is of another image: give each set a folder of its own (`soft`), or remove it and run `trainer "
                "soften` again",
            )  # fmt: skip

    def crop(self, name: str, window: Window, side: int) -> Tensor:
        """Probabilities of a window of an image, float32 (K, side, side), bilinear.

        Raises:
            DataMissing: there are none of this image.
        """
        stride = self.facts.stride
        cells = _cells(self.folder / file_name(name))
        rows, columns = (
            _Line.of(first, length, side, stride, count)
            for first, length, count in zip(
                (window.row, window.col), (window.height, window.width), cells.shape[1:], strict=True
            )
        )
        # The copy takes the window out of the mapped file; the rest of it is never read.
        part = torch.from_numpy(cells[:, rows.cells, columns.cells].astype(np.float32)) / 255.0
        grid = torch.stack(torch.meshgrid(columns.places, rows.places, indexing="xy"), dim=-1)
        return F.grid_sample(part[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]


@dataclass(frozen=True)
class _Line:
    """Where samples lie along one axis: the cells around them, and their places among these, -1..1 from edge to edge.

    A window begins and ends anywhere in a cell. Whole cells stretched to it would lie up to a cell beside its pixels.
    """

    cells: slice
    places: Tensor

    @classmethod
    def of(cls, first: int, length: int, side: int, stride: int, count: int) -> _Line:
        """``side`` samples over ``length`` pixels from ``first`` on, of an axis of ``count`` cells of ``stride``."""
        # In cells, of which number 0 has its middle at 0.5.
        middles = (first + (torch.arange(side, dtype=torch.float32) + 0.5) * length / side) / stride
        begin = min(max(0, math.floor(float(middles[0]) - 0.5)), count - 1)
        end = min(count, max(begin + 1, math.ceil(float(middles[-1]) + 0.5)))
        return cls(slice(begin, end), (middles - begin) * 2 / (end - begin) - 1)


def file_name(image: str) -> str:
    """Name of an image's file; names of images may have slashes."""
    return image.replace("/", "--") + ".npy"


def claim_folder(folder: Path, facts: SoftFacts) -> None:
    """Says what the folder is going to hold, unless files of the same kind lie there already.

    Raises:
        DataRefused: files of another teacher, or made otherwise, lie there; or nobody knows what made them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.npy")):
        remedy = "give another folder (`soft`), or remove this one"
        if not (folder / FACTS).is_file():
            raise DataRefused(folder, f"holds soft labels, but no {FACTS} that says of what teacher", remedy)
        if problem := read_facts(folder).difference(facts):
            raise DataRefused(folder, f"holds soft labels of {problem}", remedy)
        return
    replace_file(folder / FACTS, json.dumps(asdict(facts), indent=1).encode())


def read_facts(folder: Path) -> SoftFacts:
    """What a folder holds.

    Raises:
        DataMissing: it is none of soft labels.
        DataRefused: what it says cannot be read.
    """
    path = folder / FACTS
    if not path.is_file():
        raise DataMissing(path, "no soft labels here", "make them with `trainer soften`")
    try:
        facts = json.loads(path.read_text())
        # JSON has lists only.
        views = facts.pop("views_m", None)
        return SoftFacts(**facts, views_m=None if views is None else tuple(views))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataRefused(path, f"cannot be read ({error})", "make the soft labels again") from error


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


@lru_cache(maxsize=512)
def _cells(path: Path) -> NDArray[np.uint8]:
    return _mapped(path)


def _mapped(path: Path) -> NDArray[np.uint8]:
    try:
        # Mapped: a crop reads its window, and the kernel keeps what is used.
        cells: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    except FileNotFoundError as error:
        raise DataMissing(path, "no soft label of this image", "run `trainer soften` again: it goes on") from error
    except (OSError, ValueError) as error:
        raise DataRefused(path, f"cannot be read ({error})", "remove it and run `trainer soften` again") from error
    return cells
