"""Opens a scene, decides once how its pixels become the model's bytes, and reads windows."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from numpy.typing import NDArray

# Private, but GDAL's errors come raw through it where a file beside the scene is damaged.
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from onboard.errors import SceneRefused
from onboard.scene.bands import BandChoice, asked_bands, chosen_bands
from onboard.scene.collar import Collar, find_collar
from onboard.scene.gdal_env import SCENE_ENV
from onboard.scene.georeference import Georeference, georeference_of
from onboard.scene.grid import Window
from onboard.scene.mosaic import is_description, read_mosaic, virtual_raster
from onboard.scene.radiometry import Stretch, checked_percentiles
from onboard.scene.valid import ValidRule

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

# Side of the decimated read the stretch is taken from.
_SAMPLE = 1024
_DELIVER_AGAIN = "the file is damaged; deliver it again"
_LESS_MEMORY = "reading it takes more memory than there is; deliver it tiled: gdal_translate -co TILED=YES"


@dataclass(frozen=True)
class SceneOptions:
    """How a scene is to be read.

    Attributes:
        bands: 1-based numbers for the model's bands in its order; by meaning where None.
        stretch_percentiles: of the stretch of scenes that are not uint8.
        collar: whether untagged black or white borders are looked for.
        band_names: the model's bands.
    """

    bands: tuple[int, ...] | None = None
    stretch_percentiles: tuple[float, float] = (2.0, 98.0)
    collar: bool = True
    band_names: tuple[str, ...] = ("red", "green", "blue")

    def __post_init__(self) -> None:
        checked_percentiles(self.stretch_percentiles)


@dataclass(frozen=True)
class ScenePixels:
    """What one window holds.

    Attributes:
        pixels: uint8 (bands, h, w), in the model's order.
        valid: (h, w), True where there is data; None where all of it is.
    """

    pixels: NDArray[np.uint8]
    valid: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Decisions:
    """What is decided once for a scene and holds for every window of it."""

    bands: BandChoice
    valid_rule: ValidRule
    stretch: Stretch | None
    collar: Collar | None


class Scene:
    """An open scene; one thread uses one handle, `reopen` gives another with the same decisions.

    Attributes:
        path: of the file.
        width: pixels.
        height: pixels.
        count: bands in the file.
        dtype: of the bands.
        georeference: as the file has it.
        acquired: RFC 3339 time of acquisition, None where the file does not say.
    """

    def __init__(
        self, path: Path, options: SceneOptions, decisions: Decisions | None = None, decoders: str = "1"
    ) -> None:
        self.path, self.options = path, options
        self._source = open_source(path, decoders)
        try:
            self.width, self.height = self._source.width, self._source.height
            self.count, self.dtype = self._source.count, str(self._source.dtypes[0])
            with _translated(path):
                self.georeference: Georeference = georeference_of(self._source)
                self.acquired = _acquired(self._source)
                self.decisions = decisions or _decided(self._source, path, options)
        except BaseException:
            self.close()
            raise
        self._indexes = list(self.decisions.bands.indexes)

    @classmethod
    def open(cls, path: Path, options: SceneOptions | None = None) -> Scene:
        """Opens a scene and decides bands, validity and stretch.

        Raises:
            SceneRefused: it cannot be mapped as it is.
            OptionsRefused: the options do not fit it.
        """
        return cls(path, options or SceneOptions())

    def reopen(self) -> Scene:
        """Another handle on the same file with the same decisions, for another thread; it decodes on all cores."""
        return Scene(self.path, self.options, self.decisions, "ALL_CPUS")

    @property
    def bands(self) -> BandChoice:
        """The bands that are read."""
        return self.decisions.bands

    @property
    def stretch(self) -> Stretch | None:
        """The stretch, None for uint8."""
        return self.decisions.stretch

    @property
    def valid_rule(self) -> str:
        """What makes a pixel no data, in words."""
        rule, collar = self.decisions.valid_rule.text, self.decisions.collar
        if collar is None:
            return rule
        found = f"{collar.colour} collar ({collar.share:.1%})"
        return found if rule == "all valid" else f"{rule}, {found}"

    @property
    def facts(self) -> dict[str, Any]:
        """What was decided, for the canvas's identity and the item; JSON-able."""
        stretch = self.stretch
        return {
            "bands": list(self.bands.indexes),
            "bands_by": self.bands.how,
            "dtype": self.dtype,
            "valid_rule": self.valid_rule,
            "stretch": stretch
            and {
                "percentiles": list(stretch.percentiles),
                "low": list(stretch.low),
                "high": list(stretch.high),
                "sampled_shape": list(stretch.sampled_shape),
            },
        }

    def read(self, window: Window) -> ScenePixels:
        """Bytes and validity of a window inside the scene.

        Raises:
            SceneRefused: it cannot be decoded.
        """
        place = RasterWindow(window.col, window.row, window.width, window.height)
        with _translated(self.path, f"at column {window.col}, row {window.row}"):
            values = self._source.read(self._indexes, window=place)
            valid = self.decisions.valid_rule.valid(self._source, values, window=place)
        if self.decisions.collar is not None:
            inside = self.decisions.collar.valid(values, window)
            valid = inside if valid is None else valid if inside is None else valid & inside
        return ScenePixels(values if self.stretch is None else self.stretch.applied(values), valid)

    def close(self) -> None:
        """Closes the file."""
        self._source.close()

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_source(path: Path, decoders: str = "1") -> DatasetReader:
    """Opens a file as a GeoTIFF and as nothing else, or the scene whose tiles a description names.

    Args:
        path: the file.
        decoders: threads that decode the blocks of one read, as GDAL writes it. GDAL's threads outlive the file, and
            a fork of a process that has them waits for ever: the probe must have none.

    Raises:
        SceneRefused: GDAL cannot open it; its .aux.xml names another file.
    """
    mosaic = virtual_raster(read_mosaic(path)) if is_description(path) else None
    with _translated(path, "when opened"), rasterio.Env(**SCENE_ENV), warnings.catch_warnings():
        # A scene without georeferencing is mapped like any other.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        if mosaic is not None:
            return rasterio.open(mosaic, driver="VRT")
        source = rasterio.open(path, driver="GTiff", NUM_THREADS=decoders)
        if "OVERVIEW_FILE" in source.tags(ns="OVERVIEWS"):
            source.close()
            raise SceneRefused(
                path, "its .aux.xml names another file for its overviews", "remove that line, or the .aux.xml"
            )
        return source


def _decided(source: DatasetReader, path: Path, options: SceneOptions) -> Decisions:
    if source.count < 1:
        raise SceneRefused(path, "has no bands", _DELIVER_AGAIN)
    if options.bands is None:
        colours = [colour.name for colour in source.colorinterp]
        bands = chosen_bands(path, options.band_names, colours=colours, descriptions=source.descriptions)
    else:
        bands = asked_bands(options.bands, options.band_names, source.count)
    types = {source.dtypes[band - 1] for band in bands.indexes}
    if len(types) > 1 or any(kind.startswith(("complex", "cint", "cfloat")) for kind in types):
        raise SceneRefused(
            path, f"its pixels are {', '.join(sorted(types))}", "deliver bands of one real type (detected radar, say)"
        )
    rule = ValidRule.of(source, bands.indexes)
    collar = find_collar(source, bands.indexes) if options.collar and not rule.told else None
    stretch = None if types == {"uint8"} else _measured(source, bands, rule, collar, options)
    return Decisions(bands, rule, stretch, collar)


def _measured(
    source: DatasetReader, bands: BandChoice, rule: ValidRule, collar: Collar | None, options: SceneOptions
) -> Stretch:
    scale = max(1.0, max(source.width, source.height) / _SAMPLE)
    shape = (max(1, round(source.height / scale)), max(1, round(source.width / scale)))
    sample = source.read(list(bands.indexes), out_shape=(len(bands.indexes), *shape))
    valid = rule.valid(source, sample, out_shape=shape)
    if valid is None:
        valid = np.ones(shape, dtype=bool)
    if collar is not None:
        valid &= ~(sample == collar.value).all(axis=0)
    return Stretch.measured(sample, valid, options.stretch_percentiles)


@contextmanager
def _translated(path: Path, where: str = "") -> Iterator[None]:
    """GDAL's errors as refusals of the scene, in one line."""
    try:
        yield
    except (RasterioError, CPLE_BaseError, ValueError, MemoryError) as error:
        told = error.__cause__ or error
        text = " ".join(str(told).replace(str(path), "the file").split()) or type(told).__name__
        place = f"cannot be read {where}: " if where else "cannot be read: "
        # GDAL has no type for it: CPLE_OutOfMemory comes as any other error.
        short = isinstance(told, MemoryError) or "allocate" in text
        remedy = _LESS_MEMORY if short else _DELIVER_AGAIN
        raise SceneRefused(path, place + text[:200], remedy) from error


def _acquired(source: DatasetReader) -> str | None:
    """Acquisition time from TIFF tags, as RFC 3339 in UTC; None where it is missing or no date."""
    tags = {**source.tags(), **source.tags(ns="IMAGERY")}
    text = tags.get("ACQUISITIONDATETIME") or tags.get("TIFFTAG_DATETIME") or ""
    match = re.fullmatch(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.\d+)?Z?", text.strip())
    if match is None:
        return None
    try:
        moment = datetime(*(int(part) for part in match.groups()), tzinfo=timezone.utc)  # type: ignore[misc,arg-type]
    except ValueError:
        return None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
