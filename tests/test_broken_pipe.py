from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("engines.cli", ["list"]),
        ("onboard.cli", ["settings"]),
        ("trainer.cli", ["profile", "--model", "dubai-lite"]),
    ],
)
def test_a_reader_that_leaves_ends_a_command_without_a_traceback(module: str, arguments: list[str]) -> None:
    """As `engines list | head -1` does, where the first line is all that head wants."""
    program = f"import sys; from {module} import main; sys.exit(main({arguments}))"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        told = running.stderr.read()
    assert (running.returncode, told) == (141, "")
