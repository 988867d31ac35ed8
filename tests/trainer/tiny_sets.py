"""Tiny labelled sets, and the settings of a run that learns two heads from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from trainer.config import FinetuneSettings, checked_settings

COVER = [
    {"code": 1, "name": "roof", "title": "Roof", "colour": "#FF0000", "codes": [1]},
    {"code": 2, "name": "green", "title": "Green", "colour": "#00FF00", "codes": [2]},
    {"code": 3, "name": "water", "title": "Water", "colour": "#0000FF", "codes": [3]},
]
COLOURS = np.array([[90, 90, 90], [220, 60, 60], [60, 200, 60], [40, 60, 220]], dtype=np.uint8)


def write_set(where: Path, name: str, side: int, count: int, **more: Any) -> str:
    """A set of images of three colours in stripes, labelled 1 to 3 from left to right."""
    (where / name / "images").mkdir(parents=True)
    (where / name / "labels").mkdir()
    rng = np.random.default_rng(1)
    for number in range(count):
        codes = np.tile((np.arange(side) * 3 // side + 1).astype(np.uint8), (side, 1))
        pixels = COLOURS[codes].astype(int) + rng.integers(-9, 10, size=(side, side, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(where / name / "images" / f"{number}.png")
        Image.fromarray(codes).save(where / name / "labels" / f"{number}.png")
    description = {
        "name": name, "title": name, "source": "made", "licence": "CC0", "folder": ".", "images": "images/{n}.png",
        "labels": "labels/{n}.png", "classes": COVER, "splits": {"train": {"names": ["*"]}}, **more,
    }  # fmt: skip
    path = where / name / "set.yaml"
    path.write_text(yaml.safe_dump(description))
    return str(path)


def write_coarse(folder: Path, **more: Any) -> str:
    """The same images under another class table: land (stripes 1 and 2) or sea."""
    told: dict[str, Any] = {
        "classes": [
            {"code": 1, "name": "land", "title": "Land", "colour": "#00FF00", "codes": [1, 2]},
            {"code": 2, "name": "sea", "title": "Sea", "colour": "#0000FF", "codes": [3]},
        ],
        "translations": {str(folder / "cover" / "set.yaml"): {"land": {"roof": 0.5, "green": 1.0}, "sea": "water"}},
        **more,
    }
    return write_set(folder, "coarse", 32, 6, **told)


def many_sets_settings(folder: Path, **more: Any) -> FinetuneSettings:
    cover = write_set(folder, "cover", 160, 2, gsd_m=1.0)
    coarse = write_coarse(folder, gsd_m=0.5)
    told: dict[str, Any] = {
        "name": "made", "heads": {"cover": {"classes_of": cover}, "coarse": {"classes_of": coarse, "weight": 0.5}},
        "data": {
            "gsd_m": 1.0, "augment": {"scale": [1.0, 1.0], "colour": None},
            "sets": [{"set": cover, "weight": 1}, {"set": coarse, "weight": 1}],
        },
        "model": {
            "classes": 3, "student": {"kind": "plain", "widths": [8, 8, 8, 8, 8], "blocks": [0, 0, 1, 0]},
            "decoder": {"kind": "fpn", "widths": [8, 8, 8, 8]},
            "heads": {"coarse": {"classes": 2, "decoder": {"kind": "fpn", "widths": [8, 8, 8, 8], "stride": 8}}},
        },
        "stages": [{"until": 1.0, "crop": 64, "batch": 4}], "max_steps": 2, "frozen_encoder": False,
        "label_stride": 2, "machine": {"precision": "32-true", "threads": 1}, **more,
    }  # fmt: skip
    return checked_settings(told, FinetuneSettings, "made")
