"""Scenes for the tools: a real one with labels, a large one, and a 16-bit one placed by RPCs only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.rpc import RPC

from onboard.scene.grid import Window
from onboard.scene.reader import Scene, SceneOptions
from trainer.data.landscape import write_landscape

PERIOD = 4096
"""A landscape of 12,000 pixels repeats: its making takes minutes, and tiling does not care."""


@dataclass(frozen=True)
class BenchScene:
    """A scene of the comparison.

    Attributes:
        path: as delivered.
        plain: the same pixels as DEFLATE, for tools that fail on JPEG; made when needed.
        labels: codes, 0 where there is none; None without.
        judged: the part compared with the reference; large scenes take too long whole.
    """

    name: str
    title: str
    path: Path
    plain: Path
    labels: Path | None
    judged: Window

    def pixels(self) -> NDArray[np.uint8]:
        """The whole scene as the model sees it: uint8 (3, H, W)."""
        with Scene.open(self.path, SceneOptions(collar=False)) as scene:
            return scene.read(Window(0, 0, scene.width, scene.height)).pixels

    def stretch(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Low and high of each band, where the scene is not uint8: ours, given to all so that seams alone differ."""
        with Scene.open(self.path, SceneOptions(collar=False)) as scene:
            chosen = scene.decisions.stretch
        return None if chosen is None else (chosen.low, chosen.high)

    def size(self) -> tuple[int, int]:
        """Height and width."""
        with rasterio.open(self.path) as source:
            return source.height, source.width

    def plain_path(self) -> Path:
        """The copy, made if missing."""
        if not self.plain.exists():
            with rasterio.open(self.path) as source:
                profile = {
                    "driver": "GTiff", "width": source.width, "height": source.height, "count": 3,
                    "dtype": source.dtypes[0], "crs": source.crs, "transform": source.transform, "tiled": True,
                    "blockxsize": 512, "blockysize": 512, "compress": "deflate", "photometric": "RGB",
                }  # fmt: skip
                # Renamed when it is whole: a later run takes what has this name.
                part = self.plain.with_suffix(".part.tif")
                with rasterio.open(part, "w", **profile) as target:
                    for _, window in target.block_windows(1):
                        target.write(source.read((1, 2, 3), window=window), window=window)
                    if source.rpcs is not None:
                        target.rpcs = source.rpcs
            part.rename(self.plain)
        return self.plain


def bench_scene(name: str, folder: Path, data: Path, *, side: int | None = None) -> BenchScene:
    """The scene of that name ("dubai", "landscape", "rpc16"), made if missing; `side` in pixels makes it smaller."""
    if name == "dubai":
        path = data / "dubai" / "scenes" / "scene_1.tif"
        with rasterio.open(path) as source:
            judged = Window(0, 0, source.width, source.height)
        title = f"Dubai scene 1, {judged.width} x {judged.height}, JPEG"
        return BenchScene(name, title, path, folder / "dubai_plain.tif", data / "dubai" / "labels" / path.name, judged)
    wide = name == "landscape"
    side = side or (12_000 if wide else 6_000)
    path = folder / f"{name}_{side}.tif"
    if not path.exists():
        part = path.with_suffix(".part.tif")
        period = PERIOD if side > PERIOD else None
        write_landscape(part, seed=7, width=side, height=side, period=period, dtype="uint8" if wide else "uint16")
        if not wide:
            _placed_by_rpcs_alone(part, side)
        part.rename(path)
    # Its middle, 9 Mpx: the reference infers each place some twenty times.
    start, wanted = (side - min(side, 3072)) // 2, min(side, 3072)
    title = f"landscape, {side:,} x {side:,}, " + ("JPEG" if wide else "uint16 DEFLATE, RPCs")
    return BenchScene(
        name, title, path, folder / f"{name}_{side}_plain.tif", None, Window(start, start, wanted, wanted)
    )


def rpcs(width: int, height: int) -> RPC:
    """Of a level scene near Dubai: latitude falls with the line, longitude grows with the sample."""
    unit = [1.0] + [0.0] * 19
    line, sample = [0.0] * 20, [0.0] * 20
    # Order of the 20 coefficients (RPC00B): 1, longitude, latitude, height, then products.
    line[2], sample[1] = -1.0, 1.0
    return RPC(
        height_off=0.0, height_scale=500.0, lat_off=25.2, lat_scale=height / 2 * 4.5e-6, long_off=55.3,
        long_scale=width / 2 * 5e-6, line_off=height / 2, line_scale=height / 2, samp_off=width / 2,
        samp_scale=width / 2, line_num_coeff=line, line_den_coeff=unit, samp_num_coeff=sample, samp_den_coeff=unit,
    )  # fmt: skip


def _placed_by_rpcs_alone(path: Path, side: int) -> None:
    """Takes the affine away and gives RPCs."""
    plain = path.with_suffix(".affine.tif")
    path.rename(plain)
    with rasterio.open(plain) as source:
        profile = {
            "driver": "GTiff", "width": side, "height": side, "count": source.count, "dtype": source.dtypes[0],
            "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "predictor": 2,
        }  # fmt: skip
        with rasterio.open(path, "w", **profile) as target:
            for _, window in target.block_windows(1):
                target.write(source.read(window=window), window=window)
            target.rpcs = rpcs(side, side)
    plain.unlink()
