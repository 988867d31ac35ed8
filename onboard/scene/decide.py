"""Decides once, for a whole scene, which bands are read, what is no data, and how values become bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onboard.errors import OptionsRefused, SceneRefused
from onboard.scene.assumption import Assumption
from onboard.scene.bands import BandChoice, asked_bands, chosen_bands
from onboard.scene.collar import Collar, find_collar
from onboard.scene.fills import cannot_be_measured, faint_alpha, is_graded, untagged_fill
from onboard.scene.radiometry import Stretch, checked_percentiles
from onboard.scene.sample import Sample, sampled
from onboard.scene.valid import LARGEST_FLOAT, NodataOption, ValidRule, alpha_band

if TYPE_CHECKING:
    from rasterio.io import DatasetReader


@dataclass(frozen=True)
class SceneOptions:
    """How a scene is to be read.

    Attributes:
        bands: 1-based numbers for the model's bands in its order; by meaning where None.
        stretch_percentiles: of the stretch of scenes that are not uint8.
        collar: whether untagged borders are looked for.
        band_names: the model's bands.
        nodata: the value that means no data instead of the file's tag; "none" for no value; "file" for the tag, and
            where there is none, a value that cannot be anything else.
        alpha: 1-based band that is the mask, 0 for none; None for the band marked so, if it is one.
        page: of a TIFF of several, 1-based; the largest where None.
    """

    bands: tuple[int, ...] | None = None
    stretch_percentiles: tuple[float, float] = (2.0, 98.0)
    collar: bool = True
    band_names: tuple[str, ...] = ("red", "green", "blue")
    nodata: NodataOption = "file"
    alpha: int | None = None
    page: int | None = None

    def __post_init__(self) -> None:
        checked_percentiles(self.stretch_percentiles)


@dataclass(frozen=True)
class Decisions:
    """Decisions that are made once for a scene and hold for all of its windows."""

    bands: BandChoice
    valid_rule: ValidRule
    stretch: Stretch | None
    collar: Collar | None
    assumptions: tuple[Assumption, ...] = ()


def decided(source: DatasetReader, path: Path, options: SceneOptions) -> Decisions:
    """Decides by the header, the corners, and a sample where the scene has an alpha band or is not uint8.

    Raises:
        SceneRefused: it cannot be mapped as it is.
        OptionsRefused: the options do not fit it.
    """
    bands, assumptions = _bands(source, path, options)
    if options.alpha is not None and not 0 <= options.alpha <= source.count:
        raise OptionsRefused(f"--alpha {options.alpha}: the scene has bands 1 to {source.count}", "name one of them")
    rule = ValidRule.of(source, bands.indexes, nodata=options.nodata, alpha=options.alpha)
    sample: Sample | None = None
    is_bytes = source.dtypes[bands.indexes[0] - 1] == "uint8"
    # Plain bytes need no sample: header and corners decide, and nothing more is decoded.
    if rule.alpha is not None or not is_bytes:
        rule, sample, more = _mask_band(source, bands.indexes, rule, options)
        assumptions += more
        rule, more = _judged(rule, sample, options)
        assumptions += more
    # After the rule is final: corners that it leaves out need no search.
    collar = find_collar(source, bands.indexes, rule) if options.collar else None
    if collar is not None:
        assumptions.append(_of_collar(collar))
    stretch = None if sample is None or is_bytes else _stretch(sample, rule, collar, options)
    return Decisions(bands, rule, stretch, collar, tuple(assumptions))


def _bands(source: DatasetReader, path: Path, options: SceneOptions) -> tuple[BandChoice, list[Assumption]]:
    if source.count < 1:
        raise SceneRefused(path, "has no bands", "the file is damaged; deliver it again")
    if options.bands is None:
        bands = chosen_bands(
            path,
            options.band_names,
            colours=[colour.name for colour in source.colorinterp],
            descriptions=source.descriptions,
            wavelengths=_wavelengths(source),
        )
    else:
        bands = asked_bands(options.bands, options.band_names, source.count)
    # One stretch and one no-data rule for all bands need one type; complex radar has no colours to show.
    types = {source.dtypes[band - 1] for band in bands.indexes}
    if len(types) > 1 or any(kind.startswith(("complex", "cint", "cfloat")) for kind in types):
        raise SceneRefused(
            path, f"its pixels are {', '.join(sorted(types))}", "deliver bands of one real type (detected radar, say)"
        )
    return bands, [] if bands.assumption is None else [bands.assumption]


def _mask_band(
    source: DatasetReader, bands: tuple[int, ...], rule: ValidRule, options: SceneOptions
) -> tuple[ValidRule, Sample, list[Assumption]]:
    """The rule with the first band marked alpha that is a mask, and the sample that was looked at."""
    assumptions: list[Assumption] = []
    sample = sampled(source, bands, rule)
    # Writers mark the fourth of four bands as alpha by habit, near infrared too; the mask may come after it.
    while rule.alpha is not None and options.alpha is None and sample.alpha is not None:
        if is_graded(sample.alpha):
            problem = "holds measurements"
        else:
            masked = replace(rule, alpha_from=max(rule.alpha_from, faint_alpha(sample.alpha)))
            if not _hides_all(source, masked, sample):
                return masked, sample, assumptions
            problem = "would leave no pixel of the scene"
        text = f"band {rule.alpha} is marked as alpha but {problem}: it is not taken for a mask"
        assumptions.append(Assumption("alpha", text, f"--alpha {rule.alpha}"))
        rule = replace(rule, alpha=alpha_band(source, bands, after=rule.alpha))
        if rule.alpha is not None:
            sample = sampled(source, bands, rule)
    return rule, sample, assumptions


def _hides_all(source: DatasetReader, rule: ValidRule, sample: Sample) -> bool:
    """Whether the alpha band leaves no pixel though there is a picture: writers add such bands and never fill them."""
    assert sample.alpha is not None  # noqa: S101 -- asked for a rule with an alpha band
    is_blank = bool((sample.pixels == sample.pixels[:, :1]).all())
    if is_blank or bool((sample.alpha >= rule.alpha_from).any()):
        return False
    # The whole band, up to its first pixel of data: one that shows a small part of the scene may hide all that was
    # sampled, and what it hides must not be mapped.
    blocks = (source.read(rule.alpha, window=window) for _, window in source.block_windows(rule.alpha))
    return not any(bool((block >= rule.alpha_from).any()) for block in blocks)


def _judged(rule: ValidRule, sample: Sample, options: SceneOptions) -> tuple[ValidRule, list[Assumption]]:
    """The rule after a look at pixels: values that cannot be measured, whether a tag names them or not."""
    assumptions: list[Assumption] = []
    tags = set(rule.tags.values())
    if len(tags) == 1 and cannot_be_measured(sample.pixels, min(tags)):
        rule = replace(rule, tag_is_no_value=True)
    # The caller has named the value, or said that there is none: nothing is guessed.
    if options.nodata != "file":
        return rule, assumptions
    fill = untagged_fill(sample.pixels, sample.valid)
    if fill is not None:
        text = f"the value {fill:g}, which no nodata tag names, is taken for no data"
        assumptions.append(Assumption("nodata", text, "--nodata VALUE (or none)"))
        rule = replace(rule, fill=fill)
    if rule.floats and bool((np.isfinite(sample.pixels) & (np.abs(sample.pixels) >= LARGEST_FLOAT)).any()):
        assumptions.append(Assumption("nodata", f"values beyond {LARGEST_FLOAT:g} are taken for no data"))
    return rule, assumptions


def _of_collar(collar: Collar) -> Assumption:
    border = f"a {collar.colour} border" if collar.colour in ("black", "white") else f"a border of {collar.colour}"
    return Assumption("collar", f"{border} ({collar.share:.1%} of the scene) is taken for no data", "--no-collar")


def _stretch(sample: Sample, rule: ValidRule, collar: Collar | None, options: SceneOptions) -> Stretch:
    # Alpha, fill and collar were decided on this sample: their pixels go now, else they would bend the stretch.
    valid = sample.valid.copy()
    if rule.alpha is not None and sample.alpha is not None:
        valid &= sample.alpha >= rule.alpha_from
    if rule.fill is not None:
        valid &= (sample.pixels != rule.fill).all(axis=0)
    if rule.tag_is_no_value:
        valid &= (sample.pixels != min(rule.tags.values())).all(axis=0)
    if collar is not None:
        valid &= ~collar.covers(sample.pixels, sample.rows, sample.cols)
    return Stretch.measured(sample.pixels, valid, options.stretch_percentiles)


def _wavelengths(source: DatasetReader) -> list[float | None]:
    """Nanometres of each band's centre, where its metadata say so."""
    from onboard.scene.band_names import wavelength_nm

    return [
        wavelength_nm({**source.tags(number), **source.tags(number, ns="IMAGERY")}, source.descriptions[number - 1])
        for number in range(1, source.count + 1)
    ]
