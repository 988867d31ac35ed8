"""Text in pictures, drawn from a table of 5 x 7 dots: no font and no library for one is aboard.

ASCII only; other letters lose their accents. Of a text of which little would be left, :func:`is_drawable` says so.
"""

from __future__ import annotations

import unicodedata
from typing import Final

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

SCALE: Final = 3
"""Pixels a dot: twice doubled by Scale2x, so that slanted strokes have no steps of a whole dot, then made smaller."""
HEIGHT: Final = 9 * SCALE
"""Pixels from the top of a capital letter to the bottom of a `g`."""
_GAP = 1
_ROWS = 9
_FIRST = 32
# A glyph of 7 rows of 5 dots, bits from the left; 2 rows more below the line where it goes there. From space to ~.
_GLYPHS: Final = """
00000000000000 04040404040004 0a0a0a00000000 0a0a1f0a1f0a0a 040f140e051e04 18190204081303 0c12140815120d
04040800000000 02040808080402 08040202020408 0004150e150400 0004041f040400 0000000000060604 0000000e000000
0000000000000c0c 00010204081000 0e11131519110e 040c040404040e 0e11010204081f 1f02040201110e 02060a121f0202
1f101e0101110e 0608101e11110e 1f010204080808 0e11110e11110e 0e11110f01020c 000c0c000c0c00 00060600060604
02040810080402 00001f001f0000 08040201020408 0e110102040004 0e11010d15150e 0e11111f111111 1e11111e11111e
0e11101010110e 1c12111111121c 1f10101e10101f 1f10101e101010 0e11101711110f 1111111f111111 0e04040404040e
0702020202120c 11121418141211 1010101010101f 111b1515111111 11111915131111 0e11111111110e 1e11111e101010
0e11111115120d 1e11111e141211 0f10100e01011e 1f040404040404 1111111111110e 1111110a0a0a04 11111515150a0a
11110a040a1111 1111110a040404 1f01020408101f 0e08080808080e 00100804020100 0e02020202020e 040a1100000000
0000000000001f 08040200000000 00000e010f110f 1010161911111e 00000e1010110e 01010d1311110f 00000e111f100e
0609081c080808 00000f1111110f010e 10101619111111 04000c0404040e 02000602020202120c 10101214181412 0c04040404040e
00001a15151111 00001619111111 00000e1111110e 00001e1111111e1010 00000f1111110f0101 00001619101010 00000f100e011e
08081c08080906 0000111111130d 000011110a0a04 00001115150a0a 0000110a040a11 0000111111110f010e 00001f0204081f
02040408040402 04040404040404 08040402040408 00000815020000
""".split()  # noqa: SIM905 -- a list of strings would be twice as long


def is_drawable(text: str) -> bool:
    """Whether half of its characters or more are drawn as they are, or without their accents."""
    plain = unicodedata.normalize("NFKD", text)
    letters = [char for char in plain if not unicodedata.combining(char)]
    return sum(_FIRST <= ord(char) < _FIRST + len(_GLYPHS) for char in letters) * 2 >= max(1, len(letters))


def lettered(text: str) -> NDArray[np.float64]:
    """The text's strokes, (HEIGHT, width): the share of each pixel that ink covers, 0..1."""
    plain = unicodedata.normalize("NFKD", text)
    dots = [_glyph(char) for char in plain if not unicodedata.combining(char)]
    gap = np.zeros((_ROWS, _GAP), dtype=bool)
    parts = [part for glyph in dots for part in (glyph, gap)][:-1] or [gap]
    # Twice doubled is 4 pixels a dot. Each is repeated SCALE times and every 4 x 4 averaged: SCALE pixels a dot, with
    # grey edges.
    ink = np.kron(_doubled(_doubled(np.concatenate(parts, axis=1))), np.ones((SCALE, SCALE)))
    covered: NDArray[np.float64] = ink.reshape(ink.shape[0] // 4, 4, ink.shape[1] // 4, 4).mean(axis=(1, 3))
    return covered


def _glyph(char: str) -> Mask:
    """Its dots, (9, width); a question mark for what the table has not."""
    place = ord(char) - _FIRST
    rows = bytes.fromhex(_GLYPHS[place if 0 <= place < len(_GLYPHS) else ord("?") - _FIRST])
    bits = np.zeros((_ROWS, 5), dtype=bool)
    bits[: len(rows)] = np.unpackbits(np.frombuffer(rows, dtype=np.uint8)[:, None], axis=1)[:, 3:]
    # Cut to its ink, so that an i takes less room than an m; a blank has no ink and gets three dots.
    used = np.flatnonzero(bits.any(axis=0))
    return bits[:, used[0] : used[-1] + 1] if len(used) else bits[:, :3]


def _doubled(mask: Mask) -> Mask:
    """Twice as high and wide; a corner between two strokes that meet is filled or cut.

    Source: Scale2x, A. Mazzoleni, 2001.
    """
    padded = np.pad(mask, 1)
    up, down = padded[:-2, 1:-1], padded[2:, 1:-1]
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    doubled = np.empty((2 * mask.shape[0], 2 * mask.shape[1]), dtype=bool)
    for (row, across), (vertical, horizontal) in {
        (0, 0): (up, left), (0, 1): (up, right), (1, 0): (down, left), (1, 1): (down, right)
    }.items():  # fmt: skip
        other_vertical = down if row == 0 else up
        other_horizontal = right if across == 0 else left
        meets = (vertical == horizontal) & (vertical != other_vertical) & (horizontal != other_horizontal)
        doubled[row::2, across::2] = np.where(meets, vertical, mask)
    return doubled
