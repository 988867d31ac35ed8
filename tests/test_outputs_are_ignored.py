"""What the commands of README and quickstart write, git ignores, and none of it lies in a package."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WRITTEN = re.compile(r"(?:--(?:dest|out|run)|ONBOARD_DATA_DIR=)[ =]?([\w][\w/.-]*)")


def outputs() -> set[str]:
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/quickstart.md"))
    defaults = {"maps", "onboard-data", "power.png", "power.svg"}  # of commands that are given no folder
    return {name.rstrip(".") for name in WRITTEN.findall(text)} | defaults


def test_no_command_of_the_pages_writes_into_the_sources() -> None:
    assert {"maps", "out/telemetry", "out/power"} <= outputs()
    for name in outputs():
        top = ROOT / Path(name).parts[0]
        assert not (top / "__init__.py").exists(), f"{name} lies in a package"


def test_git_ignores_what_they_write() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    for name in outputs():
        asked = subprocess.run(["git", "check-ignore", "-q", f"{name}/x"], cwd=ROOT, check=False)
        alone = subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=False)
        assert 0 in (asked.returncode, alone.returncode), name
