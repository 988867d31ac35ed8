"""A tiny real model, see tests/tiny_model.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tiny_model import random_tiles, tiny_classes, write_model

MakeModel = Callable[..., Path]


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """Writes tmp_path/<name>/; graph options go into the ONNX file."""

    def make(name: str = "tiny", manifest: dict[str, Any] | None = None, **graph: Any) -> Path:
        return write_model(tmp_path / name, manifest, **graph)

    return make


@pytest.fixture
def tiny_model(make_model: MakeModel) -> Path:
    """Folder of the tiny model as it should be."""
    return make_model()


@pytest.fixture
def oracle() -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """What the tiny model says, computed by numpy."""
    return tiny_classes


@pytest.fixture
def tiles() -> Callable[..., NDArray[np.uint8]]:
    """Makes seeded noise (count, 3, S, S)."""
    return random_tiles
