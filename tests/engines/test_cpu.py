from __future__ import annotations

import os
from pathlib import Path

import pytest

from engines.cpu import has_fast_bfloat16, usable_cores


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


@pytest.mark.parametrize(
    ("vendor", "flags", "is_fast"),
    [
        ("GenuineIntel", "avx512_bf16 amx_tile amx_bf16", True),
        ("GenuineIntel", "avx512f avx512_bf16", False),
        ("AuthenticAMD", "avx512f avx512_bf16", True),
        ("AuthenticAMD", "avx2", False),
        ("", "", False),
    ],
)
def test_bfloat16_pays_with_amx_or_on_amd(tmp_path: Path, vendor: str, flags: str, *, is_fast: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        f"processor : 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n\nprocessor : 1\nflags : amx_bf16\n"
    )
    assert has_fast_bfloat16(cpuinfo) == is_fast
    assert not has_fast_bfloat16(tmp_path / "none")
