"""Settings that decide which tiles are made: equal settings and sources give equal bytes."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.errors import SettingsRefused


@dataclass(frozen=True)
class TileSettings:
    """How sources are cut, what is rejected and how shards are written.

    Attributes:
        size: side of a tile in pixels.
        stride: pixels from one tile to the next; 0 stands for `size`.
        shard_tiles: tiles in a shard; the last shard may hold fewer.
        quality: of the JPEGs, 1 to 100.
        most_invalid: largest share of pixels without data, 0 to 1.
        least_deviation: a tile is blank if no band deviates more than this about its mean, in steps of 0 to 255.
        most_alike: largest Hamming distance of two 64-bit difference hashes that makes near-duplicates.
    """

    size: int = 1024
    stride: int = 0
    shard_tiles: int = 500
    quality: int = 95
    most_invalid: float = 0.25
    least_deviation: float = 3.0
    most_alike: int = 4

    def __post_init__(self) -> None:
        self._check("--size", self.size, 16, 16_384)
        self._check("--stride", self.stride, 0, self.size)
        self._check("--shard-tiles", self.shard_tiles, 1, 1_000_000)
        self._check("--quality", self.quality, 1, 100)
        self._check("--most-invalid", self.most_invalid, 0, 1)
        self._check("--least-deviation", self.least_deviation, 0, 255)
        # -1: no two hashes are that near, so nothing is a duplicate.
        self._check("--most-alike", self.most_alike, -1, 64)

    @property
    def step(self) -> int:
        """Pixels from one tile to the next."""
        return self.stride or self.size

    @staticmethod
    def _check(option: str, value: float, low: float, high: float) -> None:
        if not low <= value <= high:
            raise SettingsRefused("trainer tiles", f"{option} is {value}, it must be {low} to {high}")
