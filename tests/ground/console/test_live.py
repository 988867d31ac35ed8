"""The console in a pass: a real service with tokens on a made board, a slow link, an operator's action, and its end."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ground.console.browser import browser, click, find, serious_faults, text_of, until
from tests.ground.console.conftest import console
from tests.ground.console.made import HOSTILE
from tests.ground.proxy import slow_link
from tests.onboard.api.test_callers_first import token
from tests.onboard.service import ROOT, Served, running, write_scene
from tests.onboard.service import until as until_true
from tests.telemetry.trees import orin_nx

ROLES = ("ground", "operator", "ingest")
PRIORITIES = ("urgent", "high", "routine")
AXE = Path(__file__).parent / "axe" / "axe.min.js"


@dataclass
class Pass:
    """A service whose worker is held, so that its queue stays; and where the station keeps what it pulls."""

    served: Served
    folder: Path
    secrets: dict[str, str]

    def file(self, role: str) -> str:
        """Path of a file with a token of this role."""
        path = self.folder / f"{role}.token"
        path.write_text(self.secrets.get(role, "wrong"))
        return str(path)

    def options(self, reading: str = "ground", acting: str | None = "operator") -> list[str]:
        """Of `ground console`."""
        own = [self.served.url, "--dest", str(self.folder / "maps"), "--telemetry", str(self.folder / "telemetry")]
        own += ["--token-file", self.file(reading), "--name", HOSTILE]
        return own if acting is None else [*own, "--operator-token-file", self.file(acting)]

    def post(self, name: str, priority: str, seed: int) -> str:
        """Delivers a scene; gives its id."""
        scene = write_scene(self.folder / f"scene-{seed}.tif", 100, seed=seed)
        with self.served.client(headers={"Authorization": f"Bearer {self.secrets['ingest']}"}) as client:
            answer = client.post(
                "/scenes", content=scene.read_bytes(), headers={"Content-Type": "image/tiff"},
                params={"name": name, "priority": priority},
            )  # fmt: skip
        return str(answer.json()["id"])

    def scene(self, scene: str) -> dict[str, Any]:
        """A scene as the service has it."""
        headers = {"Authorization": f"Bearer {self.secrets['operator']}"}
        told: dict[str, Any] = httpx.get(f"{self.served.url}/scenes/{scene}", headers=headers, timeout=60).json()
        return told


def hold(worker: int, ledger: Path) -> bool:
    """Stops the worker; lets it go on where it was just writing, since nobody else could write to the ledger then."""
    os.kill(worker, signal.SIGSTOP)
    connection = sqlite3.connect(ledger, timeout=1, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        os.kill(worker, signal.SIGCONT)
        return False
    finally:
        connection.close()
    return True


@pytest.fixture(scope="module")
def aboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pass]:
    """Two maps are made and not fetched, three scenes wait."""
    folder = tmp_path_factory.mktemp("pass")
    for name in ("maps", "telemetry"):
        (folder / name).mkdir()
    data = folder / "aboard" / "data"
    secrets = {role: token(data, role) for role in ROLES}
    board = orin_nx(folder / "board")
    # Nobody replaces the worker that is held here.
    settings = {"ONBOARD_TELEMETRY_ROOT": str(board), "ONBOARD_HEARTBEAT_TIMEOUT_S": "3600"}
    with running(data, **settings) as served:
        made = Pass(served, folder, secrets)
        for seed in (1, 2):
            served.wait_for(made.post(f"mapped {seed}", "routine", seed), "mapped")
        worker = served.children()["worker"]
        until_true(lambda: hold(worker, data / "ledger.sqlite"), "the worker is held at no moment")
        try:
            yield made
        finally:
            os.kill(worker, signal.SIGCONT)


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with browser() as driver:
        yield driver


def open_view(page: Any, address: str, view: str) -> None:
    page.get("about:blank")
    page.get(f"{address}/#{view}")


def test_a_pass_is_seen_while_it_goes_on_and_after(aboard: Pass, page: Any) -> None:
    with console(*aboard.options()) as address, slow_link(aboard.served.url, pace_s=1.5) as link:
        open_view(page, address, "passes")
        until(page, lambda: "in contact" in text_of(page, "#link"), "no contact")
        until(page, lambda: "2 maps\nleft aboard" in text_of(page, "#passes-now"), "no plan")
        command = [sys.executable, "-m", "ground.cli", "pull", link.url, "--dest", str(aboard.folder / "maps")]
        pulling = subprocess.Popen([*command, "--token-file", aboard.file("ground"), "--quiet"], cwd=ROOT)
        try:
            until(page, lambda: "a pass is going on" in text_of(page, "#link"), "no pass is seen")
            until(page, lambda: "going on" in text_of(page, "#passes-now"), "the view does not say so")
        finally:
            assert pulling.wait(300) == 0
        until(page, lambda: "1 pass" in text_of(page, "#passes"), "the pass is not in the log")
        words = text_of(page, "#passes")
        assert "nothing" in words
        until(page, lambda: "none now" in text_of(page, "#passes-now"), "it never ends")
        until(page, lambda: "0 maps\nleft aboard" in text_of(page, "#passes-now"), "the plan stays")
        click(page, 'header nav a[href="#map"]')
        until(page, lambda: len(find(page, "#map-list button")) == 2, "the maps are not listed")


def test_live_curves_and_the_engine_come_from_the_stream(aboard: Pass, page: Any) -> None:
    with console(*aboard.options()) as address:
        open_view(page, address, "curves")
        until(page, lambda: text_of(page, "#now"), "no telemetry")
        click(page, '[data-span="live"]')
        until(page, lambda: find(page, "#charts canvas"), "no curve")
        assert "VDD_IN, now" in text_of(page, "#now")
        assert "19.00 W" in text_of(page, "#now")
        click(page, 'header nav a[href="#model"]')
        until(page, lambda: "tiny 1.0" in text_of(page, "#model"), "no model")
        assert HOSTILE in text_of(page, "#name")


def test_an_operator_cancels_a_scene_and_no_page_learns_the_token(aboard: Pass, page: Any) -> None:
    routine, urgent = aboard.post("second", "routine", 11), aboard.post(HOSTILE, "urgent", 12)
    with console(*aboard.options()) as address:
        open_view(page, address, "queue")
        until(page, lambda: len(find(page, "#queue tbody tr")) >= 2, "no queue")
        names = [row.text for row in find(page, "#queue tbody tr td:nth-child(3)")]
        assert names.index(HOSTILE) < names.index("second"), "the urgent one comes first"
        click(page, '[aria-label="Cancel second"]')
        assert "erased aboard" in text_of(page, "#confirm")
        assert aboard.scene(routine)["state"] == "queued", "cancelled before it was confirmed"
        click(page, "#confirm-yes")
        until(page, lambda: "second is cancelled" in text_of(page, "#queue-note"), "nothing happens")
        assert aboard.scene(routine)["state"] == "cancelled"
        assert aboard.scene(urgent)["state"] == "queued"
        with httpx.Client(base_url=address, timeout=60) as client:
            paths = ("/", "/api/live", "/api/passes", "/api/events", "/api/maps", "/api/curves")
            told = "".join(client.get(path).text for path in paths)
        assert not [role for role, secret in aboard.secrets.items() if secret in told + page.page_source]


def test_a_wrong_operators_token_cancels_nothing_and_is_said_so(aboard: Pass, page: Any) -> None:
    scene = aboard.post("kept", "high", 13)
    with console(*aboard.options(acting="nobody")) as address:
        open_view(page, address, "queue")
        click(page, '[aria-label="Cancel kept"]')
        click(page, "#confirm-yes")
        until(page, lambda: "kept is not cancelled" in text_of(page, "#queue-note"), "nothing is said")
        assert "answers 401" in text_of(page, "#queue-note")
    assert aboard.scene(scene)["state"] == "queued"
    with console(*aboard.options(acting=None)) as address:
        open_view(page, address, "queue")
        until(page, lambda: "needs the operator's token" in text_of(page, "#queue-note"), "it does not say why")
        assert find(page, "#queue button") == []
        answer = httpx.post(f"{address}/api/scenes/{scene}/cancel", headers={"Origin": address}, timeout=60)
        assert answer.status_code == 403


def ask_for(page: Any, name: str, priority: str) -> None:
    """Chooses a priority in the dialog of a scene's row, by the keyboard alone, and leaves it open."""
    from selenium.webdriver.common.keys import Keys

    selector = f'[aria-label="Priority of {name}"]'
    until(page, lambda: find(page, selector), "no control")
    find(page, selector)[0].send_keys(Keys.ENTER)
    until(page, lambda: page.switch_to.active_element.get_attribute("type") == "radio", "nothing has the focus")
    page.switch_to.active_element.send_keys(*[Keys.ARROW_UP] * (2 - PRIORITIES.index(priority)))
    assert page.switch_to.active_element.get_attribute("value") == priority


def submit(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    page.switch_to.active_element.send_keys(Keys.ENTER)


def test_an_operator_changes_the_turn_of_a_scene_by_the_keyboard_alone(aboard: Pass, page: Any) -> None:
    first, late = aboard.post("first", "routine", 21), aboard.post("late", "routine", 22)
    with console(*aboard.options()) as address:
        open_view(page, address, "queue")
        ask_for(page, "late", "urgent")
        assert "It waits as routine" in text_of(page, "#confirm")
        assert serious_faults(page, AXE) == []
        # The table is drawn anew behind the open dialog.
        aboard.post("meanwhile", "routine", 27)
        until(page, lambda: find(page, '[aria-label="Priority of meanwhile"]'), "the table stays as it was")
        assert aboard.scene(late)["priority"] == "routine", "changed before it was confirmed"
        submit(page)
        until(page, lambda: "late waits as urgent now" in text_of(page, "#queue-note"), "nothing happens")
        assert aboard.scene(late)["priority"] == "urgent"
        assert aboard.scene(first)["priority"] == "routine"

        def rows() -> list[str]:
            return [str(row.text) for row in find(page, "#queue tbody tr td:nth-child(3)")]

        until(page, lambda: rows().index("late") < rows().index("first"), "the order of the queue stays")
        label = "return document.activeElement.getAttribute('aria-label')"
        until(page, lambda: page.execute_script(label) == "Priority of late", "the keyboard's place is lost")


def test_a_turn_that_is_not_changed_is_told_in_one_line(aboard: Pass, page: Any) -> None:
    aboard.post("steady", "routine", 23)
    gone = aboard.post("gone", "routine", 24)
    with console(*aboard.options(acting="nobody")) as address:
        open_view(page, address, "queue")
        ask_for(page, "steady", "high")
        submit(page)
        until(page, lambda: "steady keeps its priority" in text_of(page, "#queue-note"), "nothing is said")
        assert "the satellite answers 401" in text_of(page, "#queue-note")
    with console(*aboard.options()) as address:
        open_view(page, address, "queue")
        ask_for(page, "gone", "urgent")
        with aboard.served.client(headers={"Authorization": f"Bearer {aboard.secrets['operator']}"}) as client:
            client.delete(f"/scenes/{gone}").raise_for_status()
        submit(page)
        until(page, lambda: "gone keeps its priority" in text_of(page, "#queue-note"), "nothing is said")
        words = text_of(page, "#queue-note")
        assert "answers 409" in words
        assert "only one that is queued" in words
        assert "\n" not in words


def test_the_console_changes_no_turn_without_the_operators_token(aboard: Pass) -> None:
    scene = aboard.post("untouched", "routine", 25)
    with console(*aboard.options(acting=None)) as address, httpx.Client(base_url=address, timeout=60) as client:
        path, headers = f"/api/scenes/{scene}/priority", {"Origin": address}
        assert client.post(path, json={"priority": "urgent"}, headers=headers).status_code == 403
        assert client.post(path, json={"priority": "first"}, headers=headers).status_code == 422
        assert client.post(path, json={"priority": "urgent"}).status_code == 403, "of another page"
    assert aboard.scene(scene)["priority"] == "routine"


def test_a_wrong_token_for_reading_is_said_so(aboard: Pass, page: Any) -> None:
    with console(*aboard.options(reading="nobody", acting=None)) as address:
        open_view(page, address, "queue")
        until(page, lambda: "answers 401" in text_of(page, "#link"), "the page says nothing")
        assert "no contact" in text_of(page, "#link")


def test_events_of_the_satellite_are_seen_before_they_are_stored(aboard: Pass, page: Any) -> None:
    with aboard.served.ledger() as ledger:
        ledger.events.log("warning", "test", "seen before it is stored")
    with console(*aboard.options()) as address:

        def newest() -> Any:
            httpx.get(f"{address}/api/live", timeout=60)
            return httpx.get(f"{address}/api/events", timeout=60).json()["events"]

        event = until_true(newest, "the satellite has no event")[0]
        assert not event["stored"]
        open_view(page, address, "events")
        until(page, lambda: "not stored here yet" in text_of(page, "#events"), "no live event")


def test_a_satellite_that_is_gone_is_said_so_and_what_the_station_holds_stays(page: Any, aboard: Pass) -> None:
    aboard.post("waiting", "routine", 26)
    with slow_link(aboard.served.url, pace_s=0.0) as link:
        options = [link.url, *aboard.options()[1:]]
        with console(*options, "--stall", "1") as address:
            open_view(page, address, "queue")
            until(page, lambda: text_of(page, "#link").startswith("in contact"), "no contact")
            ask_for(page, "waiting", "urgent")
            aboard.served.kill("api")
            link.close()
            submit(page)
            told = "waiting keeps its priority: the satellite does not answer"
            until(page, lambda: told in text_of(page, "#queue-note"), "nothing is said")
            until(page, lambda: "no contact" in text_of(page, "#link"), "the page goes on as if nothing were")
            click(page, 'header nav a[href="#passes"]')
            until(page, lambda: "no contact" in text_of(page, "#passes-now"), "an old plan is shown as today's")
            assert text_of(page, "#trouble") == ""
