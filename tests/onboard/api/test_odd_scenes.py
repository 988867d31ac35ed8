"""Odd and damaged TIFFs posted one after another: the API stays the same process and does not grow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.onboard.service import Served, running, until, write_scene

MUTATIONS = int(os.environ.get("ODD_SCENES", "40"))
"""`make campaign` asks for 500."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with running(tmp_path_factory.mktemp("odd") / "data") as served:
        yield served


def mutated(whole: bytes, rng: np.random.Generator) -> bytes:
    """Cut short, with bits turned over in its head, its tags or anywhere, or with a run of bytes overwritten."""
    data = bytearray(whole)
    kind = int(rng.integers(4))
    if kind == 0:
        return bytes(data[: int(rng.integers(4, len(data)))])
    reach = (64, 512, len(data), len(data))[kind]
    for _ in range(int(rng.integers(1, 9))):
        at = int(rng.integers(4, min(reach, len(data))))
        if kind == 3:
            data[at : at + 16] = rng.bytes(len(data[at : at + 16]))
        else:
            data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def post_all(served: Served, bodies: list[bytes]) -> list[int]:
    with served.client(timeout=120) as client:
        answers = [client.post("/scenes", content=body, headers={"Content-Type": "image/tiff"}) for body in bodies]
    assert all(answer.status_code in (200, 202, 415, 422) for answer in answers), [a.text for a in answers]
    assert all(answer.json()["detail"] for answer in answers if answer.status_code >= 400)
    return [answer.status_code for answer in answers]


def quiet(served: Served) -> None:
    def nothing_waits() -> bool:
        with served.ledger() as ledger:
            counts = ledger.scenes.counts()
        return counts["queued"] + counts["running"] == 0

    until(nothing_waits, "scenes still wait", 300)


def test_mutations_of_good_files_neither_kill_nor_feed_the_api(served: Served, tmp_path: Path) -> None:
    pid = served.children()["api"]
    whole = write_scene(tmp_path / "whole.tif", 60, seed=4).read_bytes()
    rng = np.random.default_rng(5)
    post_all(served, [mutated(whole, rng) for _ in range(8)])
    before = resident(pid)
    told = post_all(served, [mutated(whole, rng) for _ in range(MUTATIONS)])
    assert 422 in told
    assert served.children()["api"] == pid
    assert resident(pid) - before < 32 << 20
    quiet(served)


def test_every_odd_file_is_mapped_or_refused(served: Served, shared_data: Path) -> None:
    folder = shared_data / "odd_tiffs"
    if not folder.is_dir():
        pytest.skip(f"no odd TIFFs at hand: {folder}")
    pid = served.children()["api"]
    small = [path for path in sorted(folder.glob("*.tif")) if path.stat().st_size < 20 << 20]
    post_all(served, [path.read_bytes() for path in small])
    assert served.children()["api"] == pid
    quiet(served)
    with served.ledger() as ledger:
        states = {row.state for row in ledger.scenes.page(limit=1000)}
    assert states <= {"mapped", "failed"}
