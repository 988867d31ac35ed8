"""The recipes of the images and of the systemd unit: what they set is what the code reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engines.cache_dirs import cache_dir, engines_dir
from telemetry.sources.nvpmodel import STATUS, TABLE

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("file", ["jetson.Dockerfile", "x86-gpu.Dockerfile"])
def test_pycuda_is_told_where_it_reads_that_it_need_not_link_curand(file: str) -> None:
    """Its setup reads a file and no variable (pycuda 2026.1, aksetup_helper.py); the base may lack libcurand."""
    recipe = (ROOT / "docker" / file).read_text()
    settings = re.search(r'^RUN printf "(.*)" > /etc/aksetup-defaults\.py', recipe, re.MULTILINE)
    assert settings is not None
    assert settings.start() < recipe.index("-r /src/pycuda.txt")
    read: dict[str, object] = {}
    exec(settings[1].replace("\\n", "\n"), read)
    assert (read["CUDA_ENABLE_CURAND"], read["CUDA_ROOT"]) == (False, "/usr/local/cuda")
    assert "CUDA_ENABLE_CURAND=" not in recipe


def test_a_jetsons_container_sees_what_telemetry_reads() -> None:
    """What is read besides /sys and /proc lies on the host."""
    compose = (ROOT / "docker" / "compose.yaml").read_text()
    mounted = [Path(line) for line in re.findall(r"^ +- (/\S+):\1:ro$", compose, re.MULTILINE)]
    for file in ("/etc/nv_tegra_release", f"/{STATUS}", f"/{TABLE}", "/sys/class/thermal"):
        assert any(Path(file).is_relative_to(path) for path in mounted), file


@pytest.mark.parametrize("file", ["jetson.Dockerfile", "x86-gpu.Dockerfile", "cpu.Dockerfile", "onboard.service"])
def test_commands_find_the_engines_that_the_service_built(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`engines verify` and `engines bench` look where ENGINES_CACHE_DIR says, the service below its data folder."""
    settings = dict(re.findall(r"(ENGINES_CACHE_DIR|ONBOARD_DATA_DIR)=(\S+)", (ROOT / "docker" / file).read_text()))
    monkeypatch.setenv("ENGINES_CACHE_DIR", settings["ENGINES_CACHE_DIR"])
    data = Path(settings["ONBOARD_DATA_DIR"])
    # As onboard.processes.engine_opening has them.
    assert (engines_dir(), cache_dir() / "backends.json") == (data / "engines", data / "backends.json")


def test_the_guides_checks_of_the_gpu_have_its_groups() -> None:
    """The image's user is 10001:10001: with a group named there, Docker adds none of /etc/group."""
    guide = (ROOT / "docs" / "deploy-jetson.md").read_text().replace("\\\n", "")
    checks = [line for line in guide.splitlines() if "docker run" in line and ("cuInit" in line or "doctor" in line)]
    assert len(checks) == 2
    assert all("$GPU_GROUPS" in line for line in checks)
    assert "USER 10001:10001" in (ROOT / "docker" / "jetson.Dockerfile").read_text()
