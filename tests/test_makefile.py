"""The commands of the Makefile are ones that a shell can read."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("cpu", ["x86_64", ""])
def test_every_command_of_the_makefile_is_one_a_shell_can_read(tmp_path: Path, cpu: str) -> None:
    targets = ["demo", "console", "check", "test", "test-hermetic", "campaign", "radiation", "bench", "pictures"]
    targets += ["wheel", "lock"]
    told = ["make", "-n", f"VENV={tmp_path}/venv", f"FAST_CPU={cpu}", *targets]
    commands = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ("openvino" in commands) is bool(cpu)
    for command in commands.replace("\\\n", "").splitlines():
        found = subprocess.run(["sh", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert found.returncode == 0, f"{command}: {found.stderr}"
