"""Labelled sets on disk: the images of a split, with their pixels and labels, whole or by windows."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onboard.scene.grid import Window
from trainer.data.alignment import misplaced
from trainer.data.codes import LabelTable
from trainer.data.description import (
    FIELD,
    READY_MADE,
    LandCoverClass,
    SetDescription,
    Split,
    description_path,
    read_description,
)
from trainer.data.labelled import LabelledScene
from trainer.data.rasters import is_jpeg, raster_size, read_label_values, read_pixels
from trainer.errors import DataMissing, DataRefused, SettingsRefused

Missing: TypeAlias = Literal["refuse", "leave out"]
"""What is done about an image that is not there."""


def data_root(given: Path | None = None) -> Path:
    """Folder of the data sets: as given, else SHARED_DATA, else ../shared/data beside the checkout."""
    if given is not None:
        return given
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("SHARED_DATA", beside))


def open_set(given: str, root: Path | None = None) -> LabelledSet:
    """A labelled set.

    Args:
        given: name of a ready-made description (trainer/sets), or the path of a YAML.
        root: folder of the data sets. Without it, a ready-made set lies in :func:`data_root` and a set of a YAML of
            your own beside that YAML.

    Raises:
        SettingsRefused: no such description, or it does not hold together.
        DataMissing: the set's folder is not there.
    """
    path = description_path(given)
    description = read_description(given)
    # A set of one's own lies beside its YAML, wherever the process was started.
    if root is None and path.parent != READY_MADE:
        root = path.parent
    return LabelledSet(description, data_root(root) / description.folder)


class LabelledSet:
    """The images of a set by name, with their labels in our codes. Safe to use from several threads."""

    def __init__(self, description: SetDescription, folder: Path) -> None:
        if not folder.is_dir():
            raise DataMissing(folder, f"no folder of the labelled set {description.name} here")
        self.description = description
        self.folder = folder
        self._table = LabelTable(description)
        self._sizes: dict[str, tuple[int, int]] = {}

    @property
    def name(self) -> str:
        """Name of the set."""
        return self.description.name

    @property
    def classes(self) -> tuple[LandCoverClass, ...]:
        """The class table; codes are 1..K in this order."""
        return self.description.classes

    def split(self, name: str) -> tuple[str, ...]:
        """Names of a split's images, sorted.

        Raises:
            SettingsRefused: no such split.
            DataMissing: a name or list that is not there.
            DataRefused: nothing is left in it.
        """
        split = self._split(name)
        # A glob may match nothing where only a part of the set was fetched; a plain name must be there.
        names = self._of_split(split, missing="refuse")
        if not names:
            raise DataRefused(
                self.folder, f"split {name!r} of {self.name} has no image ({split.names or split.lists})",
                f"{len(self._images)} images fit {self.description.images!r}: correct the split, or fetch its images",
            )  # fmt: skip
        return names

    def at_hand(self, name: str) -> tuple[str, ...]:
        """Names of those images of a split that are there, sorted; perhaps none.

        Raises:
            SettingsRefused: no such split.
            DataRefused: a list of it cannot be read.
        """
        return self._of_split(self._split(name), missing="leave out")

    def named(self, asked: Sequence[str]) -> tuple[str, ...]:
        """Names of the images asked for by name or glob, in that order and each once.

        Raises:
            DataMissing: no image is called so.
        """
        return tuple(dict.fromkeys(name for pattern in asked for name in self._matching(pattern, missing="refuse")))

    def image_path(self, name: str) -> Path:
        """File of an image's pixels.

        Raises:
            DataMissing: no image is called so.
        """
        if name not in self._images:
            raise DataMissing(
                self.folder / self.description.images,
                f"no image {name!r} of {self.name}; {_few(list(self._images)) or 'nothing'} there",
            )
        return self.folder / self.description.images.format(**self._images[name])

    def label_path(self, name: str) -> Path:
        """File of its label.

        Raises:
            DataMissing: no image is called so.
            DataRefused: it has no label.
        """
        image = self.image_path(name)
        if self.description.labels is None:
            raise DataMissing(image, f"{self.name} has no labels", "take a labelled set")
        path = self.folder / self.description.labels.format(**self._images[name])
        if not path.is_file():
            raise DataRefused(
                path, f"{self.name} has an image {image} without this label",
                "fetch the label, or take the image out of the split",
            )  # fmt: skip
        return path

    def size(self, name: str) -> tuple[int, int]:
        """Height and width, from the headers of both files.

        Raises:
            DataRefused: image and label differ in size or lie in different places, one cannot be read, or the label is
                a JPEG and no threshold is given.
        """
        # Checked once for an image: crops ask for the size each time.
        if name not in self._sizes:
            image = self.image_path(name)
            size = raster_size(image)
            if self.description.labels is None:
                self._sizes[name] = size
                return size
            label = self.label_path(name)
            labelled = raster_size(label)
            if size != labelled:
                raise DataRefused(
                    label, f"it is {labelled[1]}x{labelled[0]} pixels and its image {image} {size[1]}x{size[0]}",
                    "a label lies on its image's grid: correct one of them, or the description's patterns",
                )  # fmt: skip
            # Codes of neighbouring classes become others of the table: most of such errors no look-up finds.
            if self.description.threshold is None and is_jpeg(label):
                raise DataRefused(
                    label, "it is a JPEG, whose compression changes codes and colours",
                    "write labels without loss, as PNG or GeoTIFF with DEFLATE; or give `threshold`, for colours of 00 "
                    "and FF",
                )  # fmt: skip
            if problem := misplaced(image, label):
                raise DataRefused(
                    label, f"{problem} {image}",
                    "put it on its image's grid (gdalwarp), or drop its georeferencing if its pixels are right",
                )  # fmt: skip
            self._sizes[name] = size
        return self._sizes[name]

    def read(self, name: str, window: Window | None = None) -> LabelledScene:
        """Pixels and labels of an image, or of a window of it.

        Raises:
            DataRefused: as :meth:`size`, or a label value outside the class table.
        """
        # Image and label are compared before either is decoded.
        self.size(name)
        return LabelledScene(
            f"{self.name}/{name}", read_pixels(self.image_path(name), window), self.read_labels(name, window)
        )

    def read_labels(self, name: str, window: Window | None = None) -> NDArray[np.uint8]:
        """Labels alone, uint8 (h, w) of 0 (ignore) and 1..K.

        Raises:
            DataRefused: it cannot be read, or holds a value outside the class table.
        """
        if self.description.labels is None:
            shape = self.size(name) if window is None else (window.height, window.width)
            return np.zeros(shape, dtype=np.uint8)
        path = self.label_path(name)
        label = read_label_values(path, palette=self._table.by_colour, window=window)
        row, column = (window.row, window.col) if window else (0, 0)
        return self._table.our_codes(label.values, path, row=row, column=column, labelled=label.labelled)

    @cached_property
    def _images(self) -> dict[str, dict[str, str]]:
        """Fields of each image by its name, sorted by name."""
        parts = FIELD.split(self.description.images)  # text, field, text, field, ..., text
        pattern, wild, seen = "", "", set[str]()
        for text, field in zip(parts[::2], [*parts[1::2], None], strict=True):
            # The glob finds candidates, and the pattern holds them to equal fields, which a glob cannot say.
            pattern, wild = pattern + re.escape(text), wild + glob.escape(text)
            if field is not None:
                pattern += f"(?P={field})" if field in seen else f"(?P<{field}>[^/]+)"
                wild += "*"
                seen.add(field)
        images: dict[str, dict[str, str]] = {}
        for path in sorted(self.folder.glob(wild)):
            match = re.fullmatch(pattern, path.relative_to(self.folder).as_posix())
            if match is None or not path.is_file():
                continue
            name = self.description.naming.format(**match.groupdict())
            if name in images:
                raise DataRefused(path, f"a second image called {name!r}", "give `image_name` more fields")
            images[name] = match.groupdict()
        return dict(sorted(images.items()))

    def _split(self, name: str) -> Split:
        split = self.description.splits.get(name)
        if split is None:
            raise SettingsRefused(self.name, f"no split {name!r}; there are {', '.join(self.description.splits)}")
        return split

    def _of_split(self, split: Split, *, missing: Missing) -> tuple[str, ...]:
        names: set[str] = set()
        for asked in split.names:
            names.update(self._matching(asked, missing="leave out" if _is_glob(asked) else missing))
        for listing in split.lists:
            names.update(self._listed(self.folder / listing, missing if split.missing == "refuse" else "leave out"))
        for asked in split.without:
            left_out = self._matching(asked, missing="leave out")
            # Passed over, an image that is meant to be held out would be learnt from, and nobody would see it.
            if not left_out and missing == "refuse" and not _is_glob(asked):
                raise DataMissing(
                    self.folder / self.description.images,
                    f"a split of {self.name} is without {asked!r}, and no image is called so; "
                    f"{_few(list(self._images)) or 'nothing'} there", "correct the name in `without`, or take it out",
                )  # fmt: skip
            names.difference_update(left_out)
        # Sorted, since numbers of scenes seed what is drawn from them: the order of a file system must not.
        return tuple(sorted(names))

    def _matching(self, asked: str, *, missing: Missing) -> list[str]:
        if asked in self._images:
            return [asked]
        names = [name for name in self._images if fnmatchcase(name, asked)]
        if not names and missing == "refuse":
            self.image_path(asked)  # says what is there
        return names

    def _listed(self, path: Path, missing: Missing) -> list[str]:
        try:
            # Some editors begin a file with a mark, which would be a part of the first name.
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataRefused(
                path, f"list of a split, cannot be read ({error})", "fetch it, or correct `lists`"
            ) from error
        suffix = PurePosixPath(self.description.images).suffix
        # Published lists name files (OpenEarthMap), ours name images.
        names = [line.removesuffix(suffix) for line in lines if line]
        if missing == "refuse":
            for name in names:
                self.image_path(name)
        return [name for name in names if name in self._images]


def _is_glob(asked: str) -> bool:
    return re.search(r"[*?\[]", asked) is not None


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{names[0]} ... {names[-1]} ({len(names)} in all)"
