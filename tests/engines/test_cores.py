from __future__ import annotations

import os
from pathlib import Path

import pytest

from engines.cores import usable_cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("0 100000", 1), ("1600000 100000", 8),
        ("max 100000", 8), ("1 0", 8), ("", 8),
    ],
)  # fmt: skip
def test_a_containers_share_bounds_the_cores(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores(tmp_path) == cores


def test_without_a_control_group_the_affinity_decides(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none") == 8
