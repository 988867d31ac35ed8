"""What is recorded for the power cuts: two scenes delivered, mapped by these heads, pulled and acknowledged.

What a client was told is noted by making a folder under ROOT/told, so that it stands in the same recording.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.onboard.service import ROOT, running
from tests.tiny_heads import write_heads_model


def main() -> None:
    """`python -m tests.onboard.powercut_scenario ROOT HEADS SCENE SCENE`; HEADS is empty for a model of one graph."""
    heads = sys.argv.pop(2)
    root, *scenes = map(Path, sys.argv[1:])
    if heads:
        write_heads_model(root / "model")
    with running(root / "data") as served:
        ids = []
        for scene in scenes:
            ids.append(served.post(scene, **({"heads": heads} if heads else {}))["id"])
            (root / "told" / f"accepted {ids[-1]} {scene.stem}").mkdir()
        for scene_id in ids:
            served.wait_for(scene_id, "mapped")
        command = [sys.executable, "-m", "ground.cli", "pull", served.url, "--dest", str(root / "dest"), "--quiet"]
        subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
