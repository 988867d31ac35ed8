"""The short version of the campaign in radiation.py, and a real service whose worker is hit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from engines.open import backend_states, open_engine
from onboard.jobs.event_log import Event
from onboard.mapping.run import MapRequest, map_scene
from tests.onboard.radiation import SEEN_PAGES, SILENT, Tally, WeightsCampaign, flip_files
from tests.onboard.service import Served, running, until, write_scene
from tests.onboard.weights_in_memory import ProcessMemory, flips, locate, tensors_of
from tests.onboard.wide_model import write_wide_model


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_no_flipped_weight_changes_a_map_in_silence(tmp_path: Path, backend: str) -> None:
    if backend not in {state.name for state in backend_states() if state.version}:
        pytest.skip(f"{backend} is not installed")
    campaign = WeightsCampaign(str(write_wide_model(tmp_path / "model")), backend)
    try:
        assert campaign.found, "no weights were recognised in memory"
        assert campaign.run(24) == 24
        assert campaign.by_kind.total(SEEN_PAGES) >= 12, "places may be copies that are not in use"
        assert campaign.silent == []
    finally:
        campaign.patient.close()


def test_no_flipped_bit_of_canvas_or_scene_changes_a_map_in_silence(tmp_path: Path) -> None:
    tally = Tally()
    flip_files(tmp_path, 8, tally)
    assert tally.total(SILENT) == 0
    assert tally.counts["canvas"]["repaired"] >= 1
    assert tally.counts["scene"]["refused"] >= 1


def test_a_worker_hit_while_it_maps_publishes_the_right_map(tmp_path: Path) -> None:
    model = write_wide_model(tmp_path / "model")
    scene = write_scene(tmp_path / "scene.tif", side=300)
    settings = {"ONBOARD_MODEL": str(model), "FAULT": "slow:0.02", "FAULT_STATE": str(tmp_path / "state")}
    with running(tmp_path / "served" / "data", "tests.onboard.faulty", **settings) as served:
        posted = served.post(scene)
        _some_tiles(served, posted["id"])
        memory = ProcessMemory(served.children()["worker"])
        graph = (model / "model.onnx").read_bytes()
        found = locate(memory, tensors_of(graph), graph)
        flip = random.Random(3).choice([flip for flip in flips(found, 30) if flip.kind == "exponent"])
        memory.flip(flip.address, flip.bit)
        memory.close()
        served.wait_for(posted["id"], "mapped")
        events = _events(served)
        assert (
            undisturbed(model, scene, tmp_path / "plain")
            == (served.data / "maps" / posted["id"] / "map.tif").read_bytes()
        )
        assert [event.kind for event in events if event.kind in ("engine-failed", "engine-lost")] == ["engine-failed"]
        # By the scrub or by the answer: small pieces are learned in the first looks, longer than this scene takes.


def undisturbed(model: Path, scene: Path, out: Path) -> bytes:
    with open_engine(str(model), backend="onnxruntime", threads=1) as engine:
        return map_scene(MapRequest(scene, out), engine).map_path.read_bytes()


def _some_tiles(served: Served, scene_id: str) -> None:
    journal = served.data / "canvases" / scene_id / "canvas" / "journal"
    until(lambda: journal.exists() and journal.stat().st_size > 1500, "no tiles")


def _events(served: Served) -> list[Event]:
    with served.ledger() as ledger:
        return ledger.events.page(limit=100)
