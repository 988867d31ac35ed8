#!/usr/bin/env bash
# shapely 2.1.2 (GEOS 3.13.1): the union of a valid coverage (coverage_union_all) can be an invalid polygon. Take the squares of a
# 3 x 3 grid without the middle one and one corner: the hole in the middle touches the outside at one point. The union has one
# shell that touches itself there, in place of a shell and a hole. The area is right and nothing warns; is_valid is False, and
# what needs valid polygons fails later. union_all of the same squares is valid. shapely 2.2.0 (GEOS 3.14.1) gives the hole; 2.1.2
# is the last shapely for Python 3.10.
# Seen: 2.1.2: valid coverage True, union valid False, holes 0, area 7.0; 2.2.0: True, True, 1, 7.0.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cat > "$work/look.py" <<'PY'
import numpy as np
import shapely

rows = ["111", "101", "110"]
squares = np.array([
    shapely.box(column, -row - 1, column + 1, -row)
    for row, line in enumerate(rows) for column, cell in enumerate(line) if cell == "1"
])
union, overlay = shapely.coverage_union_all(squares), shapely.union_all(squares)
assert overlay.is_valid and len(overlay.interiors) == 1
print(bool(shapely.coverage_is_valid(squares)), union.is_valid, len(union.interiors), union.area)
PY
for pinned in "2.1.2 True False 0 7.0" "2.2.0 True True 1 7.0"; do
    read -r version expected <<< "$pinned"
    python3 -m venv "$work/$version"
    "$work/$version/bin/python" -m pip install -q --disable-pip-version-check "shapely==$version" numpy==2.2.6
    seen=$("$work/$version/bin/python" "$work/look.py")
    echo "shapely $version: valid coverage, valid union, holes, area: $seen"
    [ "$seen" = "$expected" ] || { echo "it behaves otherwise now"; exit 1; }
done
