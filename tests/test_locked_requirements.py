"""The pinned packages of the Docker images hold every package that the code of the images asks for."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from telemetry.sources.nvpmodel import STATUS, TABLE

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[1]
LOCKED = re.compile(r"^lock (\S+\.txt) [\d.]+((?: --extra \w+)*) \.\./\.\./pyproject\.toml", re.MULTILINE)


def names(requirements: list[str]) -> set[str]:
    """Package names as an index writes them."""
    return {re.split(r"[\s\[<>=~!;]", line)[0].lower().replace("_", "-") for line in requirements}


@pytest.mark.parametrize("file", ["cpu.txt", "gpu.txt"])
def test_what_pyproject_asks_for_is_pinned_in_the_images(file: str) -> None:
    """A dependency that was added and not locked is missing in an image, and the service does not start."""
    script = re.sub(r".*\| lock", "lock", (ROOT / "docker" / "lock.sh").read_text())
    extras = {match[1]: match[2].split("--extra")[1:] for match in LOCKED.finditer(script)}[file]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = names(project["dependencies"])
    for extra in extras:
        wanted |= names(project["optional-dependencies"][extra.strip()])
    pinned = names((ROOT / "docker" / "requirements" / file).read_text().splitlines())
    assert "uplink" in [extra.strip() for extra in extras]
    assert wanted <= pinned, f"not locked: {sorted(wanted - pinned)}; run make lock, read the difference, commit it"


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
