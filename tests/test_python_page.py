"""The blocks of docs/python.md, run as they are written, in their order, in one interpreter."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.onboard.service import ROOT, running, write_scene

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_python_page_runs_as_it_stands(tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "python.md").read_text(encoding="utf-8"))
    assert len(blocks) == 4
    write_scene(tmp_path / "scene.tif", 100)
    with running(tmp_path / "data") as service:
        lines = [*blocks, f"assert pull({service.url!r}, Path('pulled')) == 0", "print('the page ends here')"]
        script = tmp_path / "page.py"
        script.write_text("\n".join(lines), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(script)], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "(1, 1024, 1024) uint8" in done.stdout
    assert done.stdout.endswith("the page ends here\n")
    assert (tmp_path / "maps" / "scene" / "map.tif").is_file()
