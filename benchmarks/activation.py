"""How long no tile is mapped while another model is activated: a stream of scenes through a real service.

Beside it stands what the worker's opening of the engine takes, its checks included: from when the service says that no
model is in service to when it says that the other one is.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.satellite import Station, retrained, satellite, wait_until_verified
from engines.open import SHIPPED
from trainer.data.landscape import write_landscape

TIFF = {"Content-Type": "image/tiff"}
LOOK_S = 0.02
LIMIT_S = 900.0


@dataclass(frozen=True)
class Change:
    """From one scene to the next.

    Attributes:
        idle_s: from the end of a scene, its map published, to the begin of the next: the worker maps nothing.
        opening_s: of it, without a model in service: the worker opens the other one.
        gap_s: from the last tile seen of a scene to the first one seen of the next.
        is_activation: the next is mapped by another model.
    """

    idle_s: float
    opening_s: float
    gap_s: float
    is_activation: bool


@dataclass(frozen=True)
class Look:
    """What the service said at a time: its telemetry, and whether any model is in service."""

    at_s: float
    telemetry: dict[str, Any]
    in_service: bool


def downtime(folder: Path, *, quick: bool) -> None:
    """Prints the gap between tiles of two scenes, with and without an activation, beside opening and tile time."""
    rounds = 2 if quick else 6
    model = SHIPPED / "landcover"
    other = retrained(model, "landcover", folder / "activation-new", version="9.0.0", noise=0.005)
    station = Station.new(folder / "activation-station")
    station.sign(other)
    # Twice the rounds and one more: as many changes of scene with an activation as without.
    scenes = [_scene(folder / f"activation-{number}.tif", number) for number in range(2 * rounds + 1)]
    # Telemetry counts tiles batch by batch: with one tile in each it says when each tile ended.
    settings = {"ONBOARD_BATCH": "1"}
    with satellite(folder / "activation-data", model, station, **settings) as client:
        report = station.push(other, str(client.base_url), "--base", str(model))
        row = wait_until_verified(client, report["digest"])
        shipped = next(each["digest"] for each in client.get("/models").json()["models"] if each["origin"] == "shipped")
        looks = _looks(client, scenes, [row["digest"], shipped])
        tile_s = client.get("/telemetry").json()["stages_ms"]["infer"][0] / 1e3
    changes = _changes(looks)
    plain = [change for change in changes if not change.is_activation]
    activated = [change for change in changes if change.is_activation]
    openings = [each.opening_s for each in activated]
    opening_s = statistics.median(openings)
    print(f"scenes of 4 tiles, a tile {tile_s:.2f} s; opening with its checks {_spread(openings)} s")
    for title, group in (("same model", plain), ("activation", activated)):
        idle, gap = ([getattr(change, name) for change in group] for name in ("idle_s", "gap_s"))
        print(
            f"{title}, {len(group)} changes of scene: worker without a scene {_spread(idle)} s, last tile to first "
            f"{_spread(gap)} s"
        )
    cost = statistics.median(each.gap_s for each in activated) - statistics.median(each.gap_s for each in plain)
    idle_s = statistics.median(each.idle_s for each in activated)
    limit = opening_s + tile_s
    print(f"worker without a scene / (opening + a tile):             {idle_s / limit:.2f} (wanted: at most 1)")
    print(f"longer from tile to tile by it / (opening + a tile):     {cost / limit:.2f} (wanted: at most 1)")


def _scene(path: Path, seed: int) -> Path:
    if not path.exists():
        write_landscape(path, width=1700, height=1700, seed=seed)
    return path


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f} to {max(values):.2f}]"


def _looks(client: httpx.Client, scenes: list[Path], digests: list[str]) -> list[Look]:
    """Snapshots of telemetry while all scenes are mapped; at every other scene's middle a model is activated."""
    # All delivered first: the queue is never empty, and a pause between scenes is the worker's own.
    names = []
    for scene in scenes:
        answer = client.post("/scenes", content=scene.read_bytes(), headers=TIFF)
        names.append(answer.raise_for_status().json()["id"])
    looks: list[Look] = []
    activated: set[str] = set()
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        look = client.get("/telemetry").json()
        in_service = any(model["in_service"] for model in client.get("/models").json()["models"])
        looks.append(Look(time.monotonic(), look, in_service))
        scene = look["scene"]
        is_due = scene in names and names.index(scene) % 2 == 1 and scene not in activated
        if is_due and look["tiles_done"]:
            activated.add(scene)
            # Amid a scene: the worker takes the other model when the scene has ended. The two take turns.
            client.post(f"/models/{digests[len(activated) % 2 - 1]}/activate").raise_for_status()
        if look["scenes_total"] >= len(scenes):
            return looks
        time.sleep(LOOK_S)
    raise RuntimeError("the scenes are not mapped in time")


def _changes(looks: list[Look]) -> list[Change]:
    """Of every scene to the next, by what telemetry showed."""
    changes: list[Change] = []
    ended, last_tile, model, opening_s = 0.0, 0.0, "", 0.0
    waiting: float | None = None
    before, then = looks[0].telemetry, looks[0].at_s
    for seen in looks[1:]:
        at, look = seen.at_s, seen.telemetry
        # Exact to one look: the service says only whether a model is in service now.
        opening_s += 0.0 if seen.in_service else at - then
        then = at
        if before["scene"] is not None and look["scene"] is None:
            ended = at
        if look["scene"] is not None and look["scene"] != before["scene"] and ended:
            waiting, ended = at - ended, 0.0
        if look["tiles_total"] > before["tiles_total"]:
            if waiting is not None:
                changes.append(Change(waiting, opening_s, at - last_tile, model != look["engine"]["model"]))
                waiting = None
            opening_s = 0.0
            last_tile, model = at, look["engine"]["model"]
        before = look
    return changes
