"""Areas of change as rows: for the terminal, as CSV and as JSON."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from ground.change.raster import Changes


def rows_of(changes: Changes, *, unchanged: bool = True) -> list[dict[str, Any]]:
    """A row for each pair of classes that occurs, the most pixels first; what did not change is a pair of one class."""
    rows = []
    for number, before in enumerate(changes.classes):
        for other, after in enumerate(changes.classes):
            pixels = int(changes.pixels[number, other])
            if not pixels or (number == other and not unchanged):
                continue
            area = None if changes.areas is None else round(float(changes.areas[number, other]), 1)
            rows.append(
                {
                    "from": before.code, "from_name": before.title, "to": after.code, "to_name": after.title,
                    "pixels": pixels, "area_m2": area, "share": round(pixels / max(1, changes.compared), 6),
                }
            )  # fmt: skip
    return sorted(rows, key=lambda row: -int(row["pixels"]))


def totals_of(changes: Changes) -> list[dict[str, Any]]:
    """A row for each class: how much there was of it and how much there is."""
    rows = []
    for number, item in enumerate(changes.classes):
        before, after = int(changes.pixels[number].sum()), int(changes.pixels[:, number].sum())
        row: dict[str, Any] = {
            "class": item.code, "name": item.title, "pixels_before": before, "pixels_after": after,
            "change": round(after / before - 1, 6) if before else None,
        }  # fmt: skip
        if changes.areas is not None:
            row["area_m2_before"] = round(float(changes.areas[number].sum()), 1)
            row["area_m2_after"] = round(float(changes.areas[:, number].sum()), 1)
        rows.append(row)
    return rows


def write_csv(changes: Changes, path: Path) -> None:
    """Writes the rows of pairs."""
    rows = rows_of(changes)
    with path.open("w", newline="", encoding="utf-8") as file:
        names = ["from", "from_name", "to", "to_name", "pixels", "area_m2", "share"]
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_json(changes: Changes, path: Path, facts: dict[str, Any]) -> None:
    """Writes rows, totals and further facts."""
    document = facts | {
        "pixels_compared": changes.compared,
        "pixels_changed": changes.changed,
        "pixels_without_data": changes.no_data,
        "changes": rows_of(changes),
        "classes": totals_of(changes),
    }
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
