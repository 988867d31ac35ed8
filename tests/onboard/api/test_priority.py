"""The turn of a scene that waits, changed by an operator: in the queue, after a restart, without the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ground import cli
from tests.onboard.service import Served, running, until, write_scene


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[tuple[Served, list[str]]]:
    """A service that cannot map with three scenes that wait.

    It may not work where it cannot measure, and it cannot measure. Quiet hours would not do: they are kept only where
    the kernel's clock is synchronised.
    """
    no_sensors = str(tmp_path / "no-sensors")
    blind = {"ONBOARD_MAX_TEMPERATURE_C": "1000", "ONBOARD_SAFE_DUTY": "0", "ONBOARD_TELEMETRY_ROOT": no_sensors}
    with running(tmp_path / "run" / "data", **blind) as served:
        scenes = [write_scene(tmp_path / f"{seed}.tif", 100, seed=seed) for seed in range(4)]
        running_one = served.post(scenes[0], name="first", priority="high")["id"]  # first again after each restart
        served.wait_for(running_one, "running")
        yield served, [served.post(scene, name=f"scene {at}")["id"] for at, scene in enumerate(scenes[1:])]


def queue(served: Served) -> list[str]:
    with served.ledger() as ledger:
        return [row.id for row in ledger.scenes.queue()]


def test_a_waiting_scene_goes_first_and_still_does_after_a_restart(waiting: tuple[Served, list[str]]) -> None:
    served, ids = waiting
    assert queue(served) == ids
    with served.client() as client:
        answer = client.patch(f"/scenes/{ids[2]}", json={"priority": "high"})
        assert (answer.status_code, answer.json()["priority"]) == (200, "high")
        assert queue(served) == [ids[2], *ids[:2]]
        assert client.patch(f"/scenes/{ids[2]}", json={"priority": "high"}).status_code == 200
        (event,) = (each for each in client.get("/events").json()["events"] if each["kind"] == "priority-changed")
        assert event["text"] == "scene 2 waits as high, it was routine"
    assert cli.main(["priority", served.url, ids[1], "high"]) == 0
    served.stop()
    served.start()
    assert [name for name in queue(served) if name in ids] == [*ids[1:], ids[0]]
    # The folder knows it too: a ledger that is lost is built again from the folders.
    served.stop()
    for path in served.data.glob("ledger.*"):
        path.unlink()
    served.start()
    until(lambda: set(ids) <= set(queue(served)), "the scenes never came back")
    assert [name for name in queue(served) if name in ids] == [*ids[1:], ids[0]]
    assert not list((served.data / "scenes").glob(".*/*"))


def test_only_what_waits_has_a_turn(waiting: tuple[Served, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    served, ids = waiting
    with served.client() as client:
        (busy,) = client.get("/scenes", params={"status": "running"}).json()["scenes"]
        answer = client.patch(f"/scenes/{busy['id']}", json={"priority": "urgent"})
        assert answer.status_code == 409
        assert "is running" in answer.json()["detail"]
        assert client.patch("/scenes/s0-none", json={"priority": "urgent"}).status_code == 404
        for body in ({}, {"priority": "soon"}, {"priority": "high", "state": "mapped"}):
            assert client.patch(f"/scenes/{ids[0]}", json=body).status_code == 422
    assert queue(served) == ids
    assert cli.main(["priority", served.url, busy["id"], "urgent"]) == 2
    assert "is running" in capsys.readouterr().err


def test_a_scene_that_becomes_urgent_interrupts_the_one_that_runs(waiting: tuple[Served, list[str]]) -> None:
    served, ids = waiting
    with served.client() as client:
        assert client.patch(f"/scenes/{ids[1]}", json={"priority": "urgent"}).status_code == 200
    served.wait_for(ids[1], "running")
