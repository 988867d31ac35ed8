"""Which pixels of a scene hold data, by what the file says: nodata tag, mask, alpha band, not-a-number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags

if TYPE_CHECKING:
    from rasterio.io import DatasetReader
    from rasterio.windows import Window

Valid = NDArray[np.bool_]


@dataclass(frozen=True)
class ValidRule:
    """What makes a pixel no data.

    Attributes:
        nodata: the tag's value for each chosen band, None where there is no tag. A pixel is no data where ALL chosen
            bands have theirs: a lone 0 or 255 in one band is an ordinary colour.
        alpha: 1-based band whose 0 means no data, None where there is none.
        mask: whether the file carries a mask, inside or beside it.
        floats: whether values can be not-a-number or infinite; one such band makes the pixel no data.
    """

    nodata: tuple[float | None, ...]
    alpha: int | None
    mask: bool
    floats: bool

    @classmethod
    def of(cls, source: DatasetReader, bands: tuple[int, ...]) -> ValidRule:
        """Reads the rule off an open dataset."""
        flags = source.mask_flag_enums[bands[0] - 1]
        alphas = [n for n, colour in enumerate(source.colorinterp, 1) if colour == ColorInterp.alpha]
        alpha = next((number for number in alphas if number not in bands), None)
        return cls(
            nodata=tuple(source.nodatavals[band - 1] for band in bands),
            alpha=alpha,
            mask=MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags,
            floats=np.issubdtype(np.dtype(source.dtypes[bands[0] - 1]), np.floating),
        )

    @property
    def text(self) -> str:
        """The rule in words."""
        parts = []
        if self._tagged:
            parts.append("nodata tag " + "/".join(f"{value:g}" for value in dict.fromkeys(self._numbers)))
        if self.alpha is not None:
            parts.append(f"alpha band {self.alpha}")
        if self.mask:
            parts.append("mask")
        if self.floats:
            parts.append("not-a-number")
        return ", ".join(parts) or "all valid"

    @property
    def told(self) -> bool:
        """Whether the file itself says which pixels hold no data."""
        return self._tagged or self.alpha is not None or self.mask

    def valid(self, source: DatasetReader, pixels: NDArray[Any], **read: Window | tuple[int, int]) -> Valid | None:
        """Validity (h, w) of pixels (bands, h, w) just read, None where no rule exists.

        Args:
            source: the dataset they come from.
            pixels: the chosen bands.
            **read: `window` or `out_shape` they were read with.
        """
        masks: list[Valid] = []
        if self._tagged:
            masks.append(self._not_tagged(pixels))
        if self.alpha is not None:
            masks.append(source.read(self.alpha, **read) != 0)
        if self.mask:
            masks.append(source.dataset_mask(**read) != 0)
        if self.floats:
            masks.append(np.isfinite(pixels).all(axis=0))
        return None if not masks else np.logical_and.reduce(masks)

    @property
    def _numbers(self) -> list[float]:
        return [value for value in self.nodata if value is not None]

    @property
    def _tagged(self) -> bool:
        # Not-a-number as the tag is what `floats` looks for anyway.
        return (
            bool(self._numbers) and len(self._numbers) == len(self.nodata) and not any(map(math.isnan, self._numbers))
        )

    def _not_tagged(self, pixels: NDArray[Any]) -> Valid:
        valid: Valid = pixels[0] != self.nodata[0]
        for band, value in zip(pixels[1:], self.nodata[1:], strict=True):
            valid |= band != value
        return valid
