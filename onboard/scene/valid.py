"""Which pixels of a scene hold data, by what the file says: nodata tag, mask, alpha band, not-a-number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags

if TYPE_CHECKING:
    from rasterio.io import DatasetReader
    from rasterio.windows import Window

Valid = NDArray[np.bool_]
NodataOption = float | Literal["file", "none"]
LARGEST_FLOAT = 1e30
"""Floats beyond it are fill values (-3.4e38, 9.97e36 of netCDF, 1.7e308), in one band or in all."""
LOSSY = {"jpeg", "ycbcr jpeg", "webp", "lerc", "lerc_deflate", "lerc_zstd", "jxl", "jpeg2000"}
_LOSSY_ALPHA = 16
LEAST_FLOAT_ALPHA = 1e-6
"""Of an alpha band of floats, the smallest value that means data before its largest is known."""


@dataclass(frozen=True)
class ValidRule:
    """The rule that says which pixels hold no data.

    Attributes:
        nodata: the tag's value for each chosen band, None where there is no tag. A pixel is no data where ALL chosen
            bands that have a tag have its value: a lone 0 or 255 in one band is an ordinary colour.
        alpha: 1-based band of which small values mean no data, None where there is none.
        mask: whether the file carries one mask for all bands, inside or beside it.
        floats: whether values can be not-a-number, infinite or beyond `LARGEST_FLOAT`; one such band makes the pixel
            no data.
        band_masks: chosen bands with a mask of their own; one that is masked makes the pixel no data.
        fill: a value no tag names, which cannot be a measurement; one band that has it makes the pixel no data.
        tag_is_no_value: the tag's value cannot be a measurement either: one band that has it is enough.
        alpha_from: smallest value of the alpha band that means data.
    """

    nodata: tuple[float | None, ...]
    alpha: int | None
    mask: bool
    floats: bool
    band_masks: tuple[int, ...] = ()
    fill: float | None = None
    tag_is_no_value: bool = False
    alpha_from: float = 1

    @classmethod
    def of(
        cls,
        source: DatasetReader,
        bands: tuple[int, ...],
        *,
        nodata: NodataOption = "file",
        alpha: int | None = None,
    ) -> ValidRule:
        """Reads the rule off an open dataset.

        Args:
            source: the dataset.
            bands: the chosen ones, 1-based.
            nodata: a value instead of the file's tag, or "none" for no value at all.
            alpha: the band that is the alpha, 0 for none, None for the one that is marked so.
        """
        masks = {band: mask_of(source, band) for band in dict.fromkeys(bands)}
        compression = source.compression
        lossy = compression is not None and compression.name.lower() in LOSSY
        # 0 says that there is none, whatever the file marks.
        alpha = alpha_band(source, bands) if alpha is None else alpha or None
        of_floats = alpha is not None and np.issubdtype(np.dtype(source.dtypes[alpha - 1]), np.floating)
        return cls(
            nodata=_tags(source, bands, nodata),
            alpha=alpha,
            # A mask for the whole dataset is flagged on each of its bands.
            mask=masks[bands[0]] == "dataset",
            floats=np.issubdtype(np.dtype(source.dtypes[bands[0] - 1]), np.floating),
            band_masks=tuple(band for band, mask in masks.items() if mask == "band"),
            alpha_from=LEAST_FLOAT_ALPHA if of_floats else _LOSSY_ALPHA if lossy else 1,
        )

    @property
    def text(self) -> str:
        """The rule in words."""
        parts = []
        if self.tags:
            word = "nodata tag " + "/".join(f"{value:g}" for value in dict.fromkeys(self.tags.values()))
            parts.append(f"{word} in any band" if self.tag_is_no_value else word)
        if self.fill is not None:
            parts.append(f"untagged fill value {self.fill:g}")
        if self.alpha is not None:
            parts.append(f"alpha band {self.alpha}")
        if self.mask or self.band_masks:
            parts.append("mask")
        if self.floats:
            parts.append("not-a-number")
        return ", ".join(parts) or "all valid"

    @property
    def tags(self) -> dict[int, float]:
        """Places (0-based) of the chosen bands that have a tag, with its value; `floats` has not-a-number."""
        return {place: value for place, value in enumerate(self.nodata) if value is not None and not math.isnan(value)}

    @property
    def has_mask(self) -> bool:
        """Whether an alpha band or a mask says which pixels hold data."""
        return self.alpha is not None or self.mask or bool(self.band_masks)

    def valid(self, source: DatasetReader, pixels: NDArray[Any], window: Window) -> Valid | None:
        """Validity (h, w) of pixels (bands, h, w) just read, None where no rule exists.

        Args:
            source: the dataset they come from.
            pixels: the chosen bands.
            window: they were read with, at full resolution: the mask's own overviews may be stale.
        """
        masks: list[Valid] = []
        if self.tags:
            masks.append(self._not_tagged(pixels))
        if self.fill is not None:
            masks.append((pixels != self.fill).all(axis=0))
        if self.alpha is not None:
            masks.append(source.read(self.alpha, window=window) >= self.alpha_from)
        if self.mask:
            masks.append(source.dataset_mask(window=window) != 0)
        masks += [source.read_masks(band, window=window) != 0 for band in self.band_masks]
        if self.floats:
            with np.errstate(invalid="ignore"):
                # Not-a-number fails every comparison: one test for it, infinities and fills.
                masks.append((np.abs(pixels) < LARGEST_FLOAT).all(axis=0))
        return None if not masks else np.logical_and.reduce(masks)

    def _not_tagged(self, pixels: NDArray[Any]) -> Valid:
        differs = [pixels[place] != value for place, value in self.tags.items()]
        every = np.logical_and if self.tag_is_no_value else np.logical_or
        return np.asarray(every.reduce(differs), dtype=np.bool_)


def mask_of(source: DatasetReader, band: int) -> Literal["dataset", "band", "none"]:
    """What mask a band (1-based) has: one of the whole dataset, one of its own, or none; inside or beside the file.

    A nodata tag and an alpha band are none: GDAL shows both as masks, and they are judged by their values.
    """
    flags = source.mask_flag_enums[band - 1]
    # No flag at all: a mask, and of this band only (GDAL RFC 15).
    if not flags:
        return "band"
    return "dataset" if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags else "none"


def _tags(source: DatasetReader, bands: tuple[int, ...], nodata: NodataOption) -> tuple[float | None, ...]:
    if nodata == "file":
        return tuple(source.nodatavals[band - 1] for band in bands)
    return (None if nodata == "none" else float(nodata),) * len(bands)


def alpha_band(source: DatasetReader, bands: tuple[int, ...], after: int = 0) -> int | None:
    """The first band beyond `after` that is marked alpha and is none of those that are read; None without one."""
    alphas = [n for n, colour in enumerate(source.colorinterp, 1) if colour == ColorInterp.alpha]
    return next((number for number in alphas if number > after and number not in bands), None)
