"""Seeded noise as a pure function of position: a window equals the same window of a larger one.

Lattice values come from an integer hash, so nothing is stored and nothing depends on the order of calls. All
coordinates wrap at `period`, which makes a scene that repeats without a seam.

Source of the hash: the murmur3 finaliser (A. Appleby, public domain), applied to mixed coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
_U32 = np.uint64(0xFFFFFFFF)


def hashed(x: Ints, y: Ints, seed: int) -> Floats:
    """Uniform values in [0, 1) for integer positions; `x` and `y` broadcast."""
    mixed = (
        x.astype(np.uint64) * np.uint64(0x9E3779B1)
        ^ y.astype(np.uint64) * np.uint64(0x85EBCA77)
        ^ np.uint64(seed * 0xC2B2AE3D & 0xFFFFFFFF)
    ) & _U32
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed ^= mixed >> np.uint64(shift)
        mixed = mixed * np.uint64(factor) & _U32
    mixed ^= mixed >> np.uint64(16)
    # 24 bits are what a float32 holds exactly, so 1.0 cannot come out.
    values: Floats = (mixed >> np.uint64(8)).astype(np.float32) / np.float32(1 << 24)
    return values


@dataclass(frozen=True)
class Field:
    """Value noise on the pixels of one window.

    Attributes:
        col: first column; row: first row; width, height: of the window, pixels.
        period: pixels after which the field repeats; a multiple of every scale used.
        seed: of the scene.
    """

    col: int
    row: int
    width: int
    height: int
    period: int
    seed: int

    def smooth(self, scale: int, salt: int) -> Floats:
        """Values in [0, 1], smooth over `scale` pixels, as (height, width)."""
        cols, left = self._axis(self.col, self.width, scale)
        rows, upper = self._axis(self.row, self.height, scale)
        wrap = self.period // scale
        # The period is a multiple of the scale, so the lattice itself repeats and the field has no seam.
        lattice_x = np.arange(cols[0], cols[-1] + 2) % wrap
        lattice_y = np.arange(rows[0], rows[-1] + 2) % wrap
        lattice = hashed(lattice_x[None, :], lattice_y[:, None], self.seed * 131 + salt)
        x, y = cols - cols[0], rows - rows[0]
        # Across first: the intermediate has few rows, so one full-size pass is left.
        across = lattice[:, x] + (lattice[:, x + 1] - lattice[:, x]) * left
        values: Floats = across[y] + (across[y + 1] - across[y]) * upper[:, None]
        return values

    def fractal(self, scale: int, octaves: int, salt: int) -> Floats:
        """Sum of `octaves` smooth fields, each half as large and half as strong; about [0, 1]."""
        total = np.zeros((self.height, self.width), np.float32)
        strength, sum_of_strengths = 1.0, 0.0
        for octave in range(octaves):
            total += np.float32(strength) * self.smooth(max(1, scale >> octave), salt + octave)
            sum_of_strengths += strength
            strength /= 2
        return total / np.float32(sum_of_strengths)

    def grain(self, salt: int) -> Floats:
        """Independent values in [0, 1) for every pixel."""
        x = np.arange(self.col, self.col + self.width) % self.period
        y = np.arange(self.row, self.row + self.height) % self.period
        return hashed(x[None, :], y[:, None], self.seed * 131 + salt)

    def _axis(self, start: int, count: int, scale: int) -> tuple[Ints, Floats]:
        places = np.arange(start, start + count)
        cells = places // scale
        part = ((places - cells * scale) / scale).astype(np.float32)
        # Smoothstep: its slope is 0 at lattice points, where straight lines would show as edges.
        return cells, part * part * (3 - 2 * part)
