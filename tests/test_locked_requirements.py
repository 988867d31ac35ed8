"""The pinned packages of the Docker images hold every package that the code of the images asks for."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

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
