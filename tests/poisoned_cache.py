"""Fills a cache with choices of backends that no test may follow: `python -m tests.poisoned_cache FOLDER BACKEND`.

The keys are those that `fastest` would look for here: of the tiny model and the shipped ones, for the numbers of
threads that tests use. `tests/hermetic.sh` runs the suite beside such a cache.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from engines.cpu import processor, usable_cores
from engines.fastest import choice_key
from engines.manifest import Manifest
from engines.open import backend_states, shipped_models
from tests.tiny_model import write_model

THREADS = (None, 1, 2, 4)


def poison(cache: Path, backend: str) -> int:
    """Writes backends.json and a damaged built engine into the cache folder; gives the number of choices."""
    versions = {state.name: state.version for state in backend_states() if state.version}
    with tempfile.TemporaryDirectory() as folder:
        manifests = [Manifest.load(path) for path in shipped_models().values()]
        manifests.append(Manifest.load(write_model(Path(folder) / "tiny")))
    choices = {
        choice_key(
            model=manifest.model.sha256, threads=threads, processor=processor(), cores=usable_cores(),
            **{f"backend {name}": versions[name] for name in names},
        ): backend
        for manifest in manifests
        for threads in THREADS
        for names in (list(versions), [name for name in versions if name != "openvino-bf16"])
    }  # fmt: skip
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "backends.json").write_text(json.dumps(choices), encoding="utf-8")
    (cache / "engines").mkdir(exist_ok=True)
    (cache / "engines" / "damaged.engine").write_bytes(b"\xff" * 4096)
    return len(choices)


if __name__ == "__main__":
    folder, name = Path(sys.argv[1]), sys.argv[2]
    print(f"{poison(folder, name)} choices of {name} in {folder}")
