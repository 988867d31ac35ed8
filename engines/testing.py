"""Engines that cost nothing and need no runtime, for tests and benchmarks. They pass the shared contract suite."""

from __future__ import annotations

import hashlib
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from engines.engine import ClosesOnExit, Prediction, Tiles, checked_count, checked_tiles, engine_digest
from engines.errors import InferenceFailed, SettingRefused
from engines.manifest import Band, ClassInfo, Familiarity, Manifest, ModelFile, ModelInput, ModelOutput

_BANDS = ("red", "green", "blue", "nir")
_VERSION = "1"


def manifest_for_testing(
    name: str = "testing",
    *,
    tile_size: int = 1024,
    bands: int = 3,
    classes: int = 5,
    halo: int | None = None,
    confidence: bool = False,
    familiarity: bool = False,
    tile_sides: tuple[int, ...] | None = None,
) -> Manifest:
    """A valid manifest for a model without a file; the halo is an eighth of the tile unless given."""
    # Stands for the file's bytes: engines that answer otherwise need another digest, since canvases go by it.
    model = f"{name} tile_size={tile_size} bands={bands} classes={classes} confidence={confidence}".encode()
    known = Familiarity(
        threshold=0.02, fitted_on="nothing", held_out="nothing", held_out_tiles=1, wrongly_unfamiliar=0.0
    )
    names = [_BANDS[index] if index < len(_BANDS) else f"band_{index + 1}" for index in range(bands)]
    return Manifest(
        name=name,
        version=_VERSION,
        created=datetime(2024, 1, 1, tzinfo=timezone.utc),
        description="not a trained model: for tests and benchmarks",
        model=ModelFile(file="none", sha256=hashlib.sha256(model).hexdigest(), bytes=len(model)),
        input=ModelInput(
            bands=tuple(Band(name=band, common_name=band) for band in names),
            tile_size=tile_size,
            tile_sides=tile_sides,
            value_scaling="none",
        ),
        output=ModelOutput(confidence="confidence" if confidence else None),
        halo=tile_size // 8 if halo is None else halo,
        classes=tuple(_class_info(code) for code in range(1, classes + 1)),
        precision="fp32",
        opset=17,
        familiarity=known if familiarity else None,
    )


def _class_info(code: int) -> ClassInfo:
    # Blue is the code, so no two are alike; red and green leap, so neighbours are told apart by eye.
    color = f"#{code * 97 % 256:02x}{code * 57 % 256:02x}{code:02x}"
    return ClassInfo(code=code, name=f"class_{code}", title=f"class {code}", color=color)


class _FreeEngine(ClosesOnExit):
    """What both engines share; keeps the Engine contract, does no arithmetic.

    Args:
        manifest: what it says of itself.
        max_batch: most tiles in one call.
        delay_s: seconds slept for each tile, to stand in for work.
    """

    backend = "testing"
    precision = "fp32"
    folder: Path | None = None

    def __init__(self, manifest: Manifest, *, max_batch: int, delay_s: float) -> None:
        if not delay_s >= 0:
            raise SettingRefused("delay_s", delay_s, "0 or more seconds")
        self.manifest = manifest
        self.max_batch = checked_count("max_batch", max_batch)
        self.digest = engine_digest(model=manifest.model.sha256, backend=self.backend, version=_VERSION)
        self._delay_s = delay_s
        self._closed = False

    def infer(self, tiles: Tiles) -> Prediction:
        """See Engine."""
        if self._closed:
            raise InferenceFailed(self.backend, "the engine is closed", retryable=False)
        tiles = checked_tiles(tiles, self.manifest, max_batch=self.max_batch, sides=self.tile_sides)
        if self._delay_s:
            time.sleep(self._delay_s * len(tiles))
        return self._predicted(tiles)

    @property
    def tile_sides(self) -> tuple[int, ...]:
        """See Engine."""
        return self.manifest.input.sides

    def close(self) -> None:
        """See Engine."""
        self._closed = True

    def _predicted(self, tiles: Tiles) -> Prediction:
        raise NotImplementedError

    def _confidence(self, tiles: Tiles, value: int) -> Tiles | None:
        if self.manifest.output.confidence is None:
            return None
        return np.full((len(tiles), *tiles.shape[2:]), value, np.uint8)


class ConstantEngine(_FreeEngine):
    """Says the same class for every pixel.

    Args:
        code: that class; the manifest has at least five.
        tile_size: pixels; bands: of a tile.
        confidence: whether it says 255 everywhere, or nothing.
        halo: of the manifest, an eighth of the tile by default.
        max_batch: most tiles in one call.
        delay_s: seconds slept for each tile.
        tile_sides: of the manifest; squares of `tile_size` alone by default.
    """

    backend = "constant"

    def __init__(
        self,
        code: int = 1,
        tile_size: int = 1024,
        *,
        bands: int = 3,
        confidence: bool = False,
        halo: int | None = None,
        max_batch: int = 8,
        delay_s: float = 0.0,
        tile_sides: tuple[int, ...] | None = None,
    ) -> None:
        self._code = checked_count("code", code, most=255)
        manifest = manifest_for_testing(
            f"constant-{code}", tile_size=tile_size, bands=bands, classes=max(5, code), halo=halo,
            confidence=confidence, tile_sides=tile_sides,
        )  # fmt: skip
        super().__init__(manifest, max_batch=max_batch, delay_s=delay_s)

    def _predicted(self, tiles: Tiles) -> Prediction:
        classes = np.full((len(tiles), *tiles.shape[2:]), self._code, np.uint8)
        return Prediction(classes, self._confidence(tiles, 255))


class IdentityEngine(_FreeEngine):
    """Says the first band's value as the class (0 becomes 1), so that a map equals its scene's first band.

    A tile's familiarity, if wanted, is the mean of its first band / 255: dark tiles are unfamiliar.

    Args:
        tile_size: pixels; bands: of a tile.
        confidence: whether it says 255 everywhere, or nothing.
        familiarity: whether it gives one.
        halo: of the manifest, an eighth of the tile by default.
        max_batch: most tiles in one call.
        delay_s: seconds slept for each tile.
        tile_sides: of the manifest; squares of `tile_size` alone by default.
    """

    backend = "identity"

    def __init__(
        self,
        tile_size: int = 1024,
        *,
        bands: int = 3,
        confidence: bool = False,
        familiarity: bool = False,
        halo: int | None = None,
        max_batch: int = 8,
        delay_s: float = 0.0,
        tile_sides: tuple[int, ...] | None = None,
    ) -> None:
        manifest = manifest_for_testing(
            # 255 classes, so that every value of a pixel is a code of the manifest.
            "identity", tile_size=tile_size, bands=bands, classes=255, halo=halo, confidence=confidence,
            familiarity=familiarity, tile_sides=tile_sides,
        )  # fmt: skip
        super().__init__(manifest, max_batch=max_batch, delay_s=delay_s)

    def _predicted(self, tiles: Tiles) -> Prediction:
        familiarity = None
        if self.manifest.familiarity is not None:
            familiarity = (tiles[:, 0].mean(axis=(1, 2)) / 255).astype(np.float32)
        return Prediction(np.maximum(tiles[:, 0], np.uint8(1)), self._confidence(tiles, 255), familiarity)
