"""A service whose model has not seen such ground: scene, event and plan say so."""

from __future__ import annotations

from pathlib import Path

from tests.onboard.service import running, until, write_scene
from tests.tiny_model import familiarity_facts, write_model


def test_scene_event_and_plan_say_that_a_map_may_be_a_guess(tmp_path: Path) -> None:
    """The tiny model's familiarity is a tile's mean brightness, about 0.5 for noise: here below the threshold."""
    write_model(tmp_path / "model", {"familiarity": familiarity_facts(threshold=0.9)}, familiarity=True)
    scene = write_scene(tmp_path / "scene.tif", side=100)
    with running(tmp_path / "data") as served:
        posted = served.post(scene)
        served.wait_for(posted["id"], "mapped")
        with served.ledger() as ledger:
            (event,) = until(
                lambda: [event for event in ledger.events.page(limit=1000) if event.kind == "map-unfamiliar"],
                "no event",
            )
        assert event.text.startswith("unlike anything the model was trained on: treat this map as a guess (")
        with served.client() as client:
            assert client.get(f"/scenes/{posted['id']}").json()["statistics"]["unfamiliar_share"] == 1
            items = client.get("/downlink/plan").json()["items"]
    assert {item["unfamiliar_share"] for item in items} == {1.0}
    assert "100% of tiles unlike the training imagery" in items[0]["reason"]
