"""A real service on loopback for benchmarks: `onboard serve` in processes of its own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx


@contextlib.contextmanager
def service(data: Path, **settings: str) -> Iterator[tuple[httpx.Client, int]]:
    """A service with an empty data folder; gives a client and the process id of its supervisor.

    Args:
        data: its folder; what is there is removed.
        settings: more settings, by their variables.
    """
    shutil.rmtree(data, ignore_errors=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ONBOARD_")}
    own = {"ONBOARD_DATA_DIR": str(data), "ONBOARD_PORT": "0", "ONBOARD_REQUESTS_BURST": "1000000"}
    process = subprocess.Popen(
        [sys.executable, "-m", "onboard.cli", "serve"], env=inherited | own | settings, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None  # noqa: S101 -- asked for above
        match = re.search(r"http://\S+", process.stdout.readline())
        assert match is not None  # noqa: S101 -- the service says so or has ended
        with httpx.Client(base_url=match[0], timeout=300) as client:
            yield client, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        if process.stdout is not None:
            process.stdout.close()
        shutil.rmtree(data, ignore_errors=True)
