"""A clock that jumps by ten years while the service works: libfaketime, in every process, told through a file."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from tests.onboard.service import ROOT, Served, running, until, write_scene

JUMPS = ("+3650d", "-3650d", "+0")


def faketime(told: Path) -> dict[str, str]:
    """Variables under which a process believes the file."""
    found = importlib.util.find_spec("libfaketime")
    libraries = sorted(Path(found.origin).parent.rglob("libfaketime.so.1")) if found and found.origin else []
    if not libraries:
        pytest.skip("libfaketime has no library here")
    return {
        "LD_PRELOAD": str(libraries[0]), "FAKETIME_TIMESTAMP_FILE": str(told), "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip


def year(served: Served, scene_id: str) -> int:
    with served.ledger() as ledger:
        row = ledger.scenes.get(scene_id)
    assert row is not None
    return datetime.fromisoformat(str(row.received["utc"]).replace("Z", "+00:00")).year


def pull(served: Served, dest: Path, variables: dict[str, str]) -> None:
    command = [sys.executable, "-m", "ground.cli", "pull", served.url, "--dest", str(dest), "--quiet"]
    subprocess.run(command, cwd=ROOT, env=os.environ | variables, check=True)


def digests(folder: Path) -> dict[str, str]:
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("s*/map.tif")}


def test_jumps_of_ten_years_lose_nothing(tmp_path: Path) -> None:
    told = tmp_path / "jump"
    told.write_text("+0")
    variables = faketime(told)
    data, dest = tmp_path / "data", tmp_path / "dest"
    posted, years = [], []
    with running(data, ONBOARD_RESTART_DELAY_S="0.01", **variables) as served:
        for number, jump in enumerate(JUMPS):
            posted.append(served.post(write_scene(tmp_path / f"{number}.tif", side=300, seed=number))["id"])
            years.append(year(served, posted[-1]))
            served.wait_for(posted[-1], "running", "mapped")
            told.write_text(jump)  # in the middle of the scene
            served.kill("worker")
        posted.append(served.post(write_scene(tmp_path / "last.tif", side=200, seed=9), priority="urgent")["id"])
        for scene_id in posted:
            served.wait_for(scene_id, "mapped")
        until(lambda: len(digests(data / "maps")) == 4, "a map is missing")
        aboard = digests(data / "maps")
        told.write_text("+3650d")
        pull(served, dest, variables)
        with served.client() as client:
            assert [scene["id"] for scene in client.get("/scenes").json()["scenes"]] == posted
            assert {scene["state"] for scene in client.get("/scenes").json()["scenes"]} == {"mapped"}
            listed = client.get("/maps").json()["features"]
            assert sorted(item["id"] for item in listed) == sorted(posted)
    assert years[1] - years[0] >= 9
    assert years[0] - years[2] >= 9
    assert digests(dest) == aboard
    told.write_text("-3650d")
    with running(data, **variables) as served:  # started twenty years before it stopped
        with served.ledger() as ledger:
            assert [row.delivered is not None for row in ledger.maps.page()] == [True] * 4
            sequences = [event.sequence for event in ledger.events.page(limit=1000)]
        assert sequences == sorted(sequences)
        assert served.post(tmp_path / "0.tif")["state"] == "mapped"
    assert digests(data / "maps") == aboard
    with running(tmp_path / "calm" / "data") as calm:
        again = [calm.post(path)["id"] for path in sorted(tmp_path.glob("[0-9].tif"))]
        for scene_id in again:
            calm.wait_for(scene_id, "mapped")
        undisturbed = digests(calm.data / "maps")
    assert sorted(undisturbed.values()) == sorted(aboard[scene_id] for scene_id in posted[:3])
