"""What is recorded for power cuts on a model's way up and back: `python -m` this module ROOT GROUND MODEL UNIT.

What a client was told is noted by making a folder under ROOT/told, so that it stands in the same recording.
"""

from __future__ import annotations

import sys
from pathlib import Path

from engines.files import synced_folder
from ground.model.sign import LIST_FILE
from ground.model.unit import unit_of
from onboard.settings import Settings, read_settings
from tests.onboard.models.test_kills import fall_back, fly


def settings_of(data: Path, ground: Path, model: Path) -> Settings:
    """Of the satellite; model and root of trust lie elsewhere, as on a partition that is never written."""
    return read_settings(
        data_dir=data, model=str(model), disk_reserve_bytes=0, trust_root=ground / "keys" / "1.root.json"
    )


def main() -> None:
    root, ground, model, folder = map(Path, sys.argv[1:])
    unit = unit_of(folder)
    settings = settings_of(root / "data", ground, model)
    settings.data_dir.mkdir()
    synced_folder(root)  # as the service's start does
    fly(settings, (ground / "keys" / LIST_FILE).read_bytes(), unit)
    (root / "told" / "activated").mkdir()
    (root / "told" / "fails").mkdir()
    fall_back(settings, unit)
    (root / "told" / "left").mkdir()


if __name__ == "__main__":
    main()
