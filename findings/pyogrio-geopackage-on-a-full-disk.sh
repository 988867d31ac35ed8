#!/usr/bin/env bash
# pyogrio 0.13.0 (GDAL 3.12.4 in its wheel) writes a GeoPackage where room ends (here: a limit of the size of files; a full disk does
# the same). With features missing it raises an error. With none to write, or room for all but the spatial index, it returns
# as if all were well: the first file cannot be opened, the second one has no index, and each query reads all of it.
# Read the file back before it takes the place of another: count its features and ask for its index.
# Seen: room for 12 kB, no features: no error, cannot be opened; 80 kB, three features: no error, all there, no index.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check pyogrio==0.13.0 pyarrow==21.0.0 shapely==2.1.2 numpy==2.2.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import os
import resource
import signal

import pyarrow as pa
import pyogrio
import shapely

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writes fail then, as on a full disk


def write(path, count):
    squares = [shapely.to_wkb(shapely.box(i, 0, i + 1, 1)) for i in range(count)]
    table = pa.table({"n": pa.array(range(count), pa.int64()), "geometry": pa.array(squares, pa.binary())})
    pyogrio.write_arrow(
        table, path, driver="GPKG", geometry_name="geometry", geometry_type="Polygon", crs="EPSG:4326"
    )


def written_with(room, count):
    """What a writer with so much room says, and what a reader finds: features and index, or None."""
    path = f"{room}-{count}.gpkg"
    if (child := os.fork()) == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        try:
            write(path, count)
        except Exception:
            os._exit(1)
        os._exit(0)
    told = "an error" if os.waitpid(child, 0)[1] else "no error"
    try:
        info = pyogrio.read_info(path, force_feature_count=True)
    except Exception:
        return told, None
    return told, (info["features"], bool(info["capabilities"]["fast_spatial_filter"]))


seen = {case: written_with(*case) for case in ((12 << 10, 0), (80 << 10, 3), (80 << 10, 2000), (1 << 20, 3))}
print(pyogrio.__version__, pyogrio.__gdal_version_string__, seen)
assert seen[1 << 20, 3] == ("no error", (3, True)), "with room enough all is there"
assert seen[80 << 10, 2000][0] == "an error", "missing features are told"
assert seen[12 << 10, 0] == ("no error", None), "an empty layer is told of now"
assert seen[80 << 10, 3] == ("no error", (3, False)), "a missing index is told of now"
PY
