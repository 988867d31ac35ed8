"""Areas of change as rows: for the terminal, as CSV and as JSON."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from products.change.counting import Changes, rows_of, totals_of


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
