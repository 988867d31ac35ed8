"""A process that holds an engine as the worker does and says, on request, what its checks see. Driven by radiation.py.

Requests on standard input, one a line, each answered by a line of JSON:
look     what the page scrub sees, as before a publication
watched  start, pages and group of every run of pages that is watched
answer   whether the answer to the check tile is that of the opening
map      the digest of the classes of some tiles; "map N" computes each N times, see engines.integrity.redundant
pages    addresses of up to 2,000 pages of the engine's that are rewritten by inference
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from engines.engine import Tiles
from engines.errors import EngineError
from engines.integrity.memory_map import PAGE, OwnMemory, read_maps
from engines.integrity.packed_tile import variants
from engines.integrity.redundant import RedundantEngine
from engines.open import load_runtime, open_engine
from engines.verify import golden_tiles
from onboard.processes.engine_guard import CheckSchedule, EngineGuard


class Child:
    """The engine and its checks."""

    def __init__(self, model: str, backend: str, tiles: int) -> None:
        import rasterio  # noqa: F401 -- as in the worker, before the engine

        self.said: list[str] = []
        heads = [word.partition(":")[2] for word in sys.argv[4:] if word.startswith("head:")]
        schedule = CheckSchedule(period_s=600, scrub_small="large-only" not in sys.argv[4:])
        self.guard = EngineGuard(
            lambda: open_engine(model, heads=heads, backend=backend, threads=1), schedule,
            prepare=lambda: load_runtime(backend), log_event=lambda *event: self.said.append(" ".join(event)),
        )  # fmt: skip
        begin = time.perf_counter()
        self.engine = self.guard.open()
        self.opened_s = time.perf_counter() - begin
        self.tiles: Tiles = variants(np.rot90(golden_tiles(self.engine, 1)[0], 2, axes=(1, 2)))[:tiles]

    def look(self) -> dict[str, Any]:
        assert self.guard._watch is not None
        assert self.guard._self_check is not None
        check = self.guard._self_check
        change = self.guard._watch.changed(lambda: self.engine.infer(check.tiles))
        if change is None:
            return {"pages": 0}
        return {"pages": len(change.addresses), "addresses": change.addresses, "groups": change.groups}

    def watched(self) -> dict[str, Any]:
        """Start, pages and group of every run that is watched."""
        assert self.guard._scrub is not None
        return {"runs": [(run.start, run.pages, run.group) for run in self.guard._scrub._runs]}

    def answer(self) -> dict[str, Any]:
        assert self.guard._self_check is not None
        try:
            self.guard._self_check.check(self.engine)
        except EngineError as error:
            return {"changed": str(error)}
        return {"changed": ""}

    def map(self, times: str = "1") -> dict[str, Any]:
        differed: list[str] = []
        engine = RedundantEngine(self.engine, float(int(times) > 1), differed.append)
        digest = hashlib.sha256()
        try:
            for tile in self.tiles:
                for head in engine.infer(tile[None]).heads:
                    digest.update(head.classes.tobytes())
        except EngineError as error:
            return {"failed": str(error)}
        return {"digest": digest.hexdigest(), "differed": len(differed)}

    def pages(self) -> dict[str, Any]:
        """Pages that differ between two different tiles."""
        memory, before = OwnMemory(), self._contents()
        self.engine.infer(self.tiles[:1])
        page = memoryview(bytearray(PAGE))
        moved = []
        for address, digest in before.items():
            if memory.read_into(page, address) and hash(bytes(page)) != digest:
                moved.append(address)
        memory.close()
        chance = np.random.default_rng(0)
        chance.shuffle(moved)
        return {"pages": moved[:2000]}

    def _contents(self) -> dict[int, int]:
        memory, page, contents = OwnMemory(), memoryview(bytearray(PAGE)), {}
        for mapping in read_maps():
            large = mapping.end - mapping.start >= 8 << 20
            if not large or mapping.name or mapping.permissions != "rw-p":
                continue
            for address in range(mapping.start, mapping.end, PAGE):
                if memory.read_into(page, address):
                    contents[address] = hash(bytes(page))
        memory.close()
        return contents


def main() -> None:
    """Answers until its input ends."""
    model, backend, tiles = sys.argv[1:4]
    child = Child(model, backend, int(tiles))
    watched = child.guard._scrub.watched_bytes if child.guard._scrub is not None else 0
    print(json.dumps({"opened_s": child.opened_s, "watched": watched, "said": child.said}), flush=True)
    for line in sys.stdin:
        name, *arguments = line.split()
        begin = time.perf_counter()
        reply: dict[str, Any] = getattr(child, name)(*arguments)
        print(json.dumps({**reply, "s": time.perf_counter() - begin}), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
