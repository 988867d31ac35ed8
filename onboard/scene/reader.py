"""Opens a scene, decides once how its pixels become the model's bytes, and reads windows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from onboard.errors import SceneRefused
from onboard.scene.gdal_env import GDAL_ENV
from onboard.scene.georeference import Georeference, georeference_of
from onboard.scene.grid import Window


@dataclass(frozen=True)
class SceneOptions:
    """How a scene is to be read."""

    bands: tuple[int, ...] | None = None
    stretch_percentiles: tuple[float, float] = (2.0, 98.0)
    collar: bool = True
    band_names: tuple[str, ...] = ("red", "green", "blue")


@dataclass(frozen=True)
class ScenePixels:
    """What one window holds."""

    pixels: NDArray[np.uint8]
    valid: NDArray[np.bool_] | None


class Scene:
    """An open scene."""

    def __init__(self, path: Path, options: SceneOptions) -> None:
        self.path, self.options = path, options
        with rasterio.Env(**GDAL_ENV):
            self._source = rasterio.open(path, driver="GTiff")
        self.width, self.height = self._source.width, self._source.height
        self.count, self.dtype = self._source.count, str(self._source.dtypes[0])
        self.georeference: Georeference = georeference_of(self._source)
        self.valid_rule = "all valid"
        self.acquired: str | None = None
        self.facts: dict[str, Any] = {}
        self._indexes = list(options.bands or range(1, 1 + len(options.band_names)))

    @classmethod
    def open(cls, path: Path, options: SceneOptions | None = None) -> Scene:
        return cls(path, options or SceneOptions())

    def reopen(self) -> Scene:
        return Scene(self.path, self.options)

    def read(self, window: Window) -> ScenePixels:
        try:
            pixels = self._source.read(
                self._indexes, window=RasterWindow(window.col, window.row, window.width, window.height)
            )
        except RasterioError as error:
            raise SceneRefused(
                self.path, f"block at ({window.col}, {window.row}) cannot be decoded: {error}", "deliver the file again"
            ) from error
        return ScenePixels(pixels, None)

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
