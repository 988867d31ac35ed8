"""What is recorded for the power cuts: two scenes delivered, mapped, pulled and acknowledged.

What a client was told is noted by making a folder under ROOT/told, so that it stands in the same recording.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.onboard.service import ROOT, running


def main() -> None:
    """`python -m tests.onboard.powercut_scenario ROOT SCENE SCENE`."""
    root, *scenes = map(Path, sys.argv[1:])
    with running(root / "data") as served:
        ids = []
        for scene in scenes:
            ids.append(served.post(scene)["id"])
            (root / "told" / f"accepted {ids[-1]} {scene.stem}").mkdir()
        for scene_id in ids:
            served.wait_for(scene_id, "mapped")
        command = [sys.executable, "-m", "ground.cli", "pull", served.url, "--dest", str(root / "dest"), "--quiet"]
        subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
