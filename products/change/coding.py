"""Codes of `changes.tif`: what a later map has where it differs from an earlier one of its grid.

0 is unchanged, 1 is now no data, and from 2 on the class of now plus one. Which class it was stands in the earlier map,
so four bits a pixel are enough for up to 14 classes; the pairs from class to class would take eight.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from products.polygons.tiles import Codes

CHANGED: Final = 1
"""Added to the class of now, no data (0) included."""
NOW_NO_DATA: Final = CHANGED
LARGEST_CODE: Final = 255 - CHANGED


def changes_of(before: Codes, after: Codes) -> Codes:
    """Codes of changes, of arrays of one shape."""
    return np.where(before == after, 0, after + np.uint8(CHANGED)).astype(np.uint8)


def applied(before: Codes, changes: Codes) -> Codes:
    """The later map's codes, of the earlier one's and the changes."""
    # `where` computes both: of unchanged pixels the difference wraps to 255 and is not taken.
    return np.where(changes == 0, before, changes - np.uint8(CHANGED)).astype(np.uint8)
