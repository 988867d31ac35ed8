"""What a model takes here is measured of the process that opens it, not of the one that started that."""

from __future__ import annotations

import subprocess
import sys

_LARGE = 600_000_000
_ASKS = "from onboard.models.probe import most_memory; print(most_memory())"
_STARTS = f"""
import subprocess, sys
held = b"1" * {_LARGE}
print(subprocess.run([sys.executable, "-c", sys.argv[1]], capture_output=True, text=True, check=True).stdout)
"""


def test_memory_of_the_process_that_started_the_probe_does_not_count() -> None:
    """The worker holds an engine, and a model was refused for it."""
    started = subprocess.run([sys.executable, "-c", _STARTS, _ASKS], capture_output=True, text=True, check=True)
    assert 0 < int(started.stdout) < _LARGE
