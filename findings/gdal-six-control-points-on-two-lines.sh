#!/usr/bin/env bash
# rasterio 1.4.4 (GDAL 3.10.3 in its wheel): five exact ground control points place a raster. A sixth exact one may take its place
# away: from six points on GDAL fits a second-order polynomial, which points on two straight lines leave open. On two rows it
# says "Transform is not solvable". On two slanted lines rounding can hide that: no error comes, and places are wrong by
# thousands of kilometres.
# Pushbroom strips with control points along their first and last line are such rasters. Fit an affine transform there.
# Seen: five points: 0 m off; six on two rows: refused; six on two slanted lines: no error, over 1,000 km off.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check rasterio==1.4.4 numpy==2.2.6
"$work/venv/bin/python" - <<'PY'
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.transform import GCPTransformer

COLUMNS = (0, 150, 300)


def place(row, column):
    """UTM coordinates of a pixel's corner on a grid of 2 m."""
    return 500_000 + 2 * column, 4_000_000 - 2 * row


def off(points):
    """Metres between where row 130, column 75 is put and where it lies; None where no place is given."""
    try:
        with GCPTransformer(points) as transformer:
            x, y = transformer.xy(130, 75)
    except Exception:
        return None
    right = place(130.5, 75.5)  # of the pixel's middle
    return abs(x - right[0]) + abs(y - right[1])


def on_two_lines(first, last, slant):
    lines = [(start + slant * column, column) for start in (first, last) for column in COLUMNS]
    return [GroundControlPoint(row, column, *place(row, column)) for row, column in lines]


rows, slanted = on_two_lines(0, 260, 0), on_two_lines(36.36, 156.72, -0.021)
seen = off(rows[:5]), off(rows), off(slanted[:5]), off(slanted)
print(rasterio.__gdal_version__, "five, six on two rows; five, six on two slanted lines, metres off:", seen)
assert rasterio.__gdal_version__ == "3.10.3"
assert seen[0] is not None and seen[0] < 0.01 and seen[2] is not None and seen[2] < 0.01
assert seen[1] is None, "two rows are refused no more"
assert seen[3] is not None and seen[3] > 1_000_000, "the second order is no longer taken here, or it is refused"
PY
