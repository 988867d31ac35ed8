"""The quickstart's curl examples, run as they are written."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.onboard.service import ROOT, running, write_scene


def test_the_quickstarts_curl_examples_work(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    text = (ROOT / "docs" / "quickstart.md").read_text()
    commands = [line for line in re.findall(r"^curl .+$", text, re.MULTILINE) if "localhost:8000" in line]
    assert len(commands) >= 6
    scene = write_scene(tmp_path / "out" / "landscape.tif", 100)
    with running(tmp_path / "data") as served:
        for command in commands:
            here = command.replace("localhost:8000", served.url.removeprefix("http://"))
            done = subprocess.run(here, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (command, done.stderr)
            assert done.stdout, command
        with served.ledger() as ledger:
            (row,) = ledger.scenes.page()  # posted twice, taken once
        assert row.bytes == scene.stat().st_size
        assert (row.name, row.priority) == ("first", "high")
        served.wait_for(row.id, "mapped")
