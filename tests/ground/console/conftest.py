"""A console in a process of its own, over a station that is there for all tests of a module."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.ground.console.made import write_station
from tests.onboard.service import ROOT

PACKAGES = ("rio_tiler", "pyarrow")


@contextmanager
def console(*arguments: str, port: int = 0) -> Iterator[str]:
    """`ground console` on a free port, or on this one; gives its address. Skips where a package of it is missing."""
    for name in PACKAGES:
        pytest.importorskip(name, reason=f"the extra console is not installed: {name}")
    command = [sys.executable, "-m", "ground.cli", "console", *arguments, "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Tests that a shell runs in the background ignore SIGINT, and so would what they start.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 -- no threads of ours yet
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://[^/\s]+", line)
        assert found, process.communicate(timeout=30)
        yield found[0]
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err, err


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """maps/ and telemetry/."""
    return write_station(tmp_path_factory.mktemp("station"))


@pytest.fixture(scope="module")
def address(station: Path) -> Iterator[str]:
    """A console over the station, without a satellite."""
    with console("--dest", str(station / "maps"), "--telemetry", str(station / "telemetry")) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    """Of that console."""
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client
