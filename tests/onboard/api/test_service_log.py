"""What a person reads who follows `onboard serve`: a line for each scene, each event, and each pass."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onboard.api.pass_log import PassLog
from onboard.jobs.ledger import Ledger
from onboard.processes.deferred_writes import DeferredWrites
from tests.onboard.service import DEADLINE_S, ROOT, running, until, write_scene
from tests.tiny_model import write_model


def test_scenes_and_passes_are_lines_of_the_log(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", 64)
    with running(tmp_path / "data") as service:
        row = service.post(scene, name="har\x1bbour", priority="high")
        service.wait_for(row["id"], "mapped")
        with service.client() as client:
            client.get("/downlink/plan").raise_for_status()
            item = client.get(f"/maps/{row['id']}").json()
            time.sleep(0.2)
            assert "pass begins" not in service.log.read_text(), "a plan alone is no pass"
            client.get(f"/maps/{row['id']}/map.tif").raise_for_status()
            digest = item["assets"]["map"]["file:checksum"][4:]  # behind the multihash's code and length
            client.post(f"/maps/{row['id']}/receipt", json={"sha256": digest}).raise_for_status()
        log = service.log
    text = until(lambda: "pass ended" in log.read_text() and log.read_text(), "no end of the pass in the log")
    assert re.search(rf"received {row['id']} 'har\\x1bbour': [\d.]+ kB, high", text)
    work = r"\d+ tiles?, [\d.]+ tiles/s while mapping, [\d.]+ s in all"
    assert re.search(rf"mapped {row['id']} 'har\\x1bbour': {work}, map [\d.]+ k?B", text)
    assert "pass begins: local" in text
    assert re.search(r"pass ended: local, maps acknowledged: 1 \([\d.]+ k?B\), in (under 1|\d+) s", text)
    assert "\x1b" not in text


def test_a_stop_before_the_service_serves_ends_it(tmp_path: Path) -> None:
    """The API's own process, with SIGTERM while it takes back what an inbox left."""
    write_model(tmp_path / "model")
    script = (
        "import os, signal, onboard.api.serve as serve\n"
        "serve.give_back_claims = lambda _: os.kill(os.getpid(), signal.SIGTERM)\n"
        "serve._serve(None)\n"
    )
    settings = {
        "ONBOARD_DATA_DIR": str(tmp_path / "data"),
        "ONBOARD_MODEL": str(tmp_path / "model"),
        "ONBOARD_PORT": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=os.environ | settings, capture_output=True, text=True,
        timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert (done.returncode, "serving on" in done.stdout) == (0, False), done.stderr


def test_a_pass_lasts_while_a_file_is_under_way_and_ends_after_silence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def lines() -> list[str]:
        return [record.message for record in caplog.records]

    passes = PassLog(quiet_s=0.05)
    with passes.transfer("station"):
        time.sleep(0.1)
        passes.end_quiet()
    passes.received("station", 1_000_000)
    passes.received("other", 1)
    passes.end_quiet()
    assert lines() == ["pass begins: station", "pass begins: other"]
    time.sleep(0.1)
    passes.end_quiet()
    assert lines()[2].startswith("pass ended: station, maps acknowledged: 1 (1.0 MB), in ")
    assert lines()[3].startswith("pass ended: other, maps acknowledged: 1 (1 B), in under 1 s")
    passes.received("station", 1)
    passes.close()
    assert len(lines()) == 6


def test_an_event_is_one_line_whoever_named_what_it_is_about_and_none_before_it_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Ledger(tmp_path / "ledger.sqlite", timeout_s=0.05) as ledger, Ledger(tmp_path / "ledger.sqlite") as other:
        ledger.events.log("warning", "scene-waits", "a\nname\x1b[2J waits", "s1")
        assert [record.message for record in caplog.records] == ["scene-waits s1: a\\nname\\x1b[2J waits"]
        assert ledger.events.page()[0].text == "a\nname\x1b[2J waits"
        caplog.clear()
        writes = DeferredWrites(ledger)
        writes.log_event("worker-died", "the worker ended", None)
        with other._database.writing():
            for _ in range(4):
                writes.turn()
        writes.turn()
        assert [event.kind for event in ledger.events.page()] == ["scene-waits", "worker-died"]
    assert sum("worker-died" in record.message for record in caplog.records) == 1
