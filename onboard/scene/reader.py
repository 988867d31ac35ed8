"""Opens a scene, decides once how its pixels become the model's bytes, and reads windows."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from numpy.typing import NDArray

# Private, but GDAL's errors come raw through it where a file beside the scene is damaged.
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from onboard.errors import SceneRefused
from onboard.scene.acquired import acquisition_text, rfc3339_utc
from onboard.scene.assumption import Assumption
from onboard.scene.bands import BandChoice
from onboard.scene.codecs import OTHER_CODECS, missing_codec
from onboard.scene.decide import Decisions, SceneOptions, decided
from onboard.scene.gdal_env import SCENE_ENV
from onboard.scene.georeference import Georeference, georeference_of
from onboard.scene.grid import Window
from onboard.scene.mosaic import is_description, read_mosaic, virtual_raster
from onboard.scene.pages import page_of
from onboard.scene.radiometry import Stretch
from onboard.scene.sample import raster_window, read_bands
from onboard.scene.sidecars import check_rasters_beside

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

__all__ = ["LESS_MEMORY", "Decisions", "Scene", "SceneOptions", "ScenePixels", "open_page", "open_source"]

_DELIVER_AGAIN = "the file is damaged; deliver it again"
LESS_MEMORY = "reading it takes more memory than there is; deliver it tiled: gdal_translate -co TILED=YES"


@dataclass(frozen=True)
class ScenePixels:
    """The pixels of one window.

    Attributes:
        pixels: uint8 (bands, h, w), in the model's order.
        valid: (h, w), True where there is data; None where all of it is.
    """

    pixels: NDArray[np.uint8]
    valid: NDArray[np.bool_] | None


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
        time_text: what the file says of that time, readable or not; empty where it says nothing.
    """

    def __init__(
        self, path: Path, options: SceneOptions, decisions: Decisions | None = None, decoders: str = "1"
    ) -> None:
        self.path, self.options = path, options
        self._source, self.page, self._of_pages = open_page(path, options.page, decoders)
        try:
            self.width, self.height = self._source.width, self._source.height
            self.count, self.dtype = self._source.count, str(self._source.dtypes[0])
            # Sidecars are read here too: damage in one of them is the scene's, and said in one line.
            with _translated(path):
                self.georeference: Georeference = georeference_of(self._source)
                self.time_text = acquisition_text(self._source.tags() | self._source.tags(ns="IMAGERY"))
                self.acquired = rfc3339_utc(self.time_text)
                self.decisions = decisions or decided(self._source, path, options)
        except BaseException:
            self.close()
            raise

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
        # The same decisions: a second look could stretch tiles of one map in two ways.
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
        """The rule for pixels without data, as text."""
        rule, collar = self.decisions.valid_rule.text, self.decisions.collar
        if collar is None:
            return rule
        about = f", up to {collar.tolerance:g} off" if collar.tolerance else ""
        collar_rule = f"{collar.colour} collar ({collar.share:.1%}{about})"
        return collar_rule if rule == "all valid" else f"{rule}, {collar_rule}"

    @property
    def assumptions(self) -> tuple[Assumption, ...]:
        """Assumptions where the file says nothing; shown to the user."""
        return self._of_pages + self.decisions.assumptions

    @property
    def facts(self) -> dict[str, Any]:
        """The decisions, for the canvas's identity and the item; JSON-able."""
        stretch = self.stretch
        return {
            "bands": list(self.bands.indexes),
            "bands_by": self.bands.how,
            "dtype": self.dtype,
            "page": self.page,
            "valid_rule": self.valid_rule,
            "stretch": stretch
            and {
                "percentiles": list(stretch.percentiles),
                "low": list(stretch.low),
                "high": list(stretch.high),
                "sampled_pixels": stretch.sampled_pixels,
            },
        }

    def read(self, window: Window) -> ScenePixels:
        """Bytes and validity of a window inside the scene.

        Raises:
            SceneRefused: it cannot be decoded.
        """
        with _translated(self.path, f"at column {window.col}, row {window.row}"):
            values = read_bands(self._source, self.bands.indexes, window)
            # By the scene's own values: after the stretch a value that means no data is a byte like others.
            valid = self.decisions.valid_rule.valid(self._source, values, raster_window(window))
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


def open_source(path: Path, decoders: str = "1", page: int | None = None) -> DatasetReader:
    """Opens a file's page as a GeoTIFF and as nothing else; see :func:`open_page`."""
    return open_page(path, page, decoders)[0]


def open_page(
    path: Path, page: int | None = None, decoders: str = "1"
) -> tuple[DatasetReader, int, tuple[Assumption, ...]]:
    """Opens one page of a file as a GeoTIFF and as nothing else, or the scene whose tiles a description names.

    Args:
        path: the file.
        page: 1-based; the largest where None.
        decoders: threads that decode the blocks of one read, as GDAL writes it. GDAL's threads outlive the file, and
            a fork of a process that has them waits for ever: the probe must have none.

    Returns:
        The dataset, the page's number, and what was assumed of the pages.

    Raises:
        SceneRefused: GDAL cannot open it; its .aux.xml names another file; a mask or overview beside it is no TIFF.
        OptionsRefused: there is no such page.
    """
    mosaic = virtual_raster(read_mosaic(path)) if is_description(path) else None
    with _translated(path, "when opened"), rasterio.Env(**SCENE_ENV), warnings.catch_warnings():
        # A scene without georeferencing is mapped like any other.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        first = _opened(path, path, decoders) if mosaic is None else rasterio.open(mosaic, driver="VRT")
        try:
            number, name, assumptions = page_of(first, path, page)
            if name is None:
                return first, number, assumptions
        except BaseException:
            first.close()
            raise
        first.close()
        return _opened(path, name, decoders), number, assumptions


def _opened(path: Path, name: Path | str, decoders: str) -> DatasetReader:
    """A file's page by GDAL's name for it."""
    check_rasters_beside(path)
    # The driver is named: a file from outside must not choose one that opens other files, as a VRT does.
    source = rasterio.open(name, driver="GTiff", NUM_THREADS=decoders)
    # GDAL opens the overviews that an .aux.xml names, which could be any file of this machine.
    if "OVERVIEW_FILE" in source.tags(ns="OVERVIEWS"):
        source.close()
        raise SceneRefused(
            path, "its .aux.xml names another file for its overviews", "remove that line, or the .aux.xml"
        )
    return source


@contextmanager
def _translated(path: Path, where: str = "") -> Iterator[None]:
    """GDAL's errors as refusals of the scene, in one line."""
    try:
        yield
    except (RasterioError, CPLE_BaseError, ValueError, MemoryError) as error:
        # rasterio's own text says little; GDAL's error is behind it.
        cause = error.__cause__ or error
        text = _without_name(" ".join(str(cause).split()), path) or type(cause).__name__
        place = f"cannot be read {where}: " if where else "cannot be read: "
        # GDAL has no type for it: CPLE_OutOfMemory comes as any other error.
        if isinstance(cause, MemoryError) or "allocate" in text:
            raise SceneRefused(path, place + text[:200], LESS_MEMORY) from error
        if (codec := missing_codec(text)) is not None:
            raise SceneRefused(path, f"its compression ({codec}) has no codec here", OTHER_CODECS) from error
        raise SceneRefused(path, place + text[:200], _DELIVER_AGAIN) from error


def _without_name(text: str, path: Path) -> str:
    """GDAL's text without the file's name, with which it begins: of what comes over the network it is ours."""
    text = text.replace(str(path), "the file")
    return re.sub(rf"(?<![^\s'\"]){re.escape(path.name)}(?=[:,'\"])", "the file", text)
