"""Converts the codes or colours of label files to our class codes: 0 (ignore) and 1..K."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.description import SetDescription
from trainer.errors import DataRefused

_UNKNOWN = 255
"""In the look-up tables: no such value in the class table. Classes end at 254."""


class LabelTable:
    """The class table of a set, as look-up tables (64 KiB for codes, 16 MiB for colours, made when first needed)."""

    def __init__(self, description: SetDescription) -> None:
        self.description = description
        meanings = list(enumerate(description.meanings))
        self._codes = {value: code for code, part in meanings for value in part.codes}
        self._colours = {int(value[1:], 16): code for code, part in meanings for value in part.colours}

    @property
    def by_colour(self) -> bool:
        """Whether labels are told by colour only, so that a palette's colours count, not its indices."""
        return not self._codes

    def our_codes(
        self,
        values: NDArray[Any],
        path: Path,
        *,
        row: int = 0,
        column: int = 0,
        labelled: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.uint8]:
        """uint8 (h, w) of codes (h, w) or colours uint8 (3, h, w).

        Args:
            values: of a label file.
            path: of the file, for errors.
            row: where ``values`` begin in it, for errors.
            column: likewise.
            labelled: (h, w), False where the file says that nothing is labelled, whatever value stands there.

        Raises:
            DataRefused: a value that the table does not have; the first one and its place are named.
        """
        known = self._colours if values.ndim == 3 else self._codes
        if not known:
            # A file of codes where colours are described is a wrong
            # description, not a wrong pixel: said once for the file.
            held, wanted = ("colours", "codes") if values.ndim == 3 else ("codes", "colours")
            raise DataRefused(path, f"it holds {held}", f"the class table of {self.description.name} tells {wanted}")
        codes = self._of_colours(values) if values.ndim == 3 else self._of_codes(values)
        if labelled is not None:
            # Before unknown values are looked for: under a mask any value may stand.
            codes[~labelled] = 0
        if (codes == _UNKNOWN).any():
            y, x = (int(part[0]) for part in np.nonzero(codes == _UNKNOWN))
            value = values[..., y, x]
            unknown = f"colour #{''.join(f'{band:02X}' for band in value)}" if values.ndim == 3 else f"code {value}"
            raise DataRefused(
                path,
                f"{unknown} at row {row + y}, column {column + x} is not in the class table "
                f"({self._known(values.ndim)})",
                f"correct the label, or add it to a class or to `ignore` in the description of {self.description.name}",
            )
        return codes

    def _of_codes(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        if values.dtype.itemsize > 2 or values.dtype.kind == "i":
            # Only 0 to 65535 can be looked up; anything else is no code at all.
            inside = (values >= 0) & (values < len(self._by_code))
            codes: NDArray[np.uint8] = self._by_code[np.where(inside, values, 0)]
            codes[~inside] = _UNKNOWN
            return codes
        return self._by_code[values.astype(np.uint16)]

    def _of_colours(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        threshold = self.description.threshold
        if threshold is not None:
            # The colours of some label files are a little off (DeepGlobe's); after the threshold there is no doubt.
            values = np.where(values >= threshold, np.uint8(255), np.uint8(0))
        # Shifted as bytes they would overflow.
        red, green, blue = values.astype(np.uint32)
        codes: NDArray[np.uint8] = self._by_colour[red << 16 | green << 8 | blue]
        return codes

    @cached_property
    def _by_code(self) -> NDArray[np.uint8]:
        return _table(self._codes, 1 << 16)

    @cached_property
    def _by_colour(self) -> NDArray[np.uint8]:
        return _table(self._colours, 1 << 24)

    def _known(self, dimensions: int) -> str:
        names = ("ignored", *(item.name for item in self.description.classes))
        values = [part.colours if dimensions == 3 else part.codes for part in self.description.meanings]
        texts = [f"{name} {' '.join(str(v) for v in of)}" for name, of in zip(names, values, strict=True) if of]
        return ", ".join(texts)


def _table(known: dict[int, int], size: int) -> NDArray[np.uint8]:
    table = np.full(size, _UNKNOWN, dtype=np.uint8)
    for value, code in known.items():
        table[value] = code
    return table
