"""Processes that stop, hang or cannot start: real ones, watched by the real supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from onboard.jobs.ledger import Ledger
from onboard.processes.deferred_writes import DeferredWrites
from tests.onboard.service import ROOT, Served, running, until, write_scene
from tests.tiny_model import write_model

SUPERVISE = """
import sys
from onboard.processes.supervisor import Supervisor
from onboard.settings import read_settings
Supervisor(read_settings(), [sys.executable, "-c", sys.argv[1]], None).run()
"""
HOLDS_THE_LOCK = """
import os, sqlite3, sys, time
lives = os.path.join(os.environ["ONBOARD_DATA_DIR"], "lives")
with open(lives, "a") as file:
    file.write(".")
out = int(sys.argv[sys.argv.index("--heartbeat") + 1])
base = sqlite3.connect(os.path.join(os.environ["ONBOARD_DATA_DIR"], "ledger.sqlite"), isolation_level=None)
os.write(out, b"alive\\n")
if os.path.getsize(lives) == 1:
    base.execute("BEGIN IMMEDIATE")
    time.sleep(3600)
while True:
    os.write(out, b"alive\\n")
    time.sleep(0.2)
"""
BEATS_SLOWLY = """
import os, sys, time
out = int(sys.argv[sys.argv.index("--heartbeat") + 1])
with open(os.path.join(os.environ["ONBOARD_DATA_DIR"], "lives"), "a") as file:
    file.write(f"{os.getpid()}\\n")
while True:
    os.write(out, b"alive\\n")
    time.sleep(0.4)
"""


def environment(data: Path, **settings: str) -> dict[str, str]:
    model = data.parent / "model"
    if "ONBOARD_MODEL" not in settings and not model.exists():
        write_model(model)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ONBOARD_")}
    return kept | {"ONBOARD_DATA_DIR": str(data), "ONBOARD_MODEL": str(model), "ONBOARD_PORT": "0"} | settings


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def kinds(served: Served) -> list[str]:
    with served.ledger() as ledger:
        return [event.kind for event in ledger.events.page(limit=1000)]


def test_a_worker_that_hangs_with_the_ledgers_lock_is_killed_and_the_supervisor_lives(tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = environment(data, ONBOARD_HEARTBEAT_TIMEOUT_S="1.5", ONBOARD_RESTART_DELAY_S="0.05")
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, HOLDS_THE_LOCK], cwd=ROOT, env=settings, stderr=subprocess.DEVNULL
    )
    try:
        lives = data / "lives"
        until(lambda: lives.exists() and lives.stat().st_size >= 2, "the hung worker was not replaced", 20)

        def told() -> bool:
            with Ledger(data / "ledger.sqlite") as ledger:
                return {"worker-silent", "worker-died"} <= {event.kind for event in ledger.events.page()}

        until(told, "no event")
        assert supervisor.poll() is None
    finally:
        supervisor.terminate()
        assert supervisor.wait(30) == 0


def test_children_of_a_service_that_stood_still_are_not_killed(tmp_path: Path) -> None:
    """A paused container stops all of its processes at once: none of them is at fault."""
    data = tmp_path / "data"
    settings = environment(data, ONBOARD_HEARTBEAT_TIMEOUT_S="2")
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, BEATS_SLOWLY], cwd=ROOT, env=settings, stderr=subprocess.DEVNULL
    )
    try:
        lives = data / "lives"
        until(lambda: lives.exists() and lives.read_text().endswith("\n"), "no worker", 20)
        worker = int(lives.read_text())
        time.sleep(1)  # it has spoken by now: before its first line a child has a minute
        for process in (supervisor.pid, worker):
            os.kill(process, signal.SIGSTOP)
        time.sleep(3)
        for process in (supervisor.pid, worker):
            os.kill(process, signal.SIGCONT)
        time.sleep(2)
        assert lives.read_text() == f"{worker}\n"
        # One that stays silent afterwards is killed as ever.
        os.kill(worker, signal.SIGSTOP)
        until(lambda: lives.read_text() != f"{worker}\n", "the stopped worker stays", 20)
    finally:
        supervisor.terminate()
        assert supervisor.wait(30) == 0


def test_events_wait_while_the_ledger_is_locked(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite", 0.05) as ledger, closing(sqlite3.connect(ledger.path)) as other:
        backlog = DeferredWrites(ledger)
        other.execute("BEGIN IMMEDIATE")
        for number in range(3):
            backlog.log_event("worker-silent", f"{number}", None)
            backlog.turn()
        assert ledger.events.page() == []
        other.rollback()
        backlog.turn()
        backlog.turn()
        assert [event.text for event in ledger.events.page()] == ["0", "1", "2"]


def test_a_stopped_api_is_killed_and_another_answers(tmp_path: Path) -> None:
    settings = {"ONBOARD_HEARTBEAT_TIMEOUT_S": "5", "ONBOARD_PORT": free_port()}
    with running(tmp_path / "data", **settings) as served, served.client(timeout=2) as client:
        stopped = served.children()["api"]
        os.kill(stopped, signal.SIGSTOP)
        until(lambda: served.children().get("api", stopped) != stopped, "the stopped API stays")

        def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return client.get("/health/live").status_code == 200
            return False

        until(answers, "no API answers")
        assert "api-silent" in kinds(served)
        assert "worker-silent" not in kinds(served)


def test_stopped_sampling_is_killed_and_measured_again(tmp_path: Path) -> None:
    settings = {"ONBOARD_HEARTBEAT_TIMEOUT_S": "5"}
    with running(tmp_path / "data", **settings) as served:
        stopped = until(lambda: served.children().get("sampling"), "nothing samples")
        os.kill(stopped, signal.SIGSTOP)
        until(lambda: served.children().get("sampling", stopped) != stopped, "the stopped sampling stays")
        until(lambda: "sampling-silent" in kinds(served), "no event")


def test_a_ledger_damaged_while_running_is_built_again_without_an_operator(tmp_path: Path) -> None:
    with running(tmp_path / "data", ONBOARD_PORT=free_port()) as served, served.client() as client:
        posted = served.post(write_scene(tmp_path / "scene.tif", 60))
        served.wait_for(posted["id"], "mapped")
        with served.ledger() as ledger:
            until(lambda: ledger.checkpoint(1.0), "the log is never empty")
        path = served.data / "ledger.sqlite"
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (size - 4096))

        def rebuilt() -> bool:
            with contextlib.suppress(httpx.TransportError):
                assert client.get("/events").status_code in (200, 503)
                return (served.data / "ledger.damaged-1.sqlite").exists()
            return False

        until(rebuilt, "the damaged ledger stays")

        def mapped() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return bool(client.get(f"/scenes/{posted['id']}").json().get("state") == "mapped")
            return False

        until(mapped, "the map did not come back")
        assert "ledger-rebuilt" in kinds(served)


def test_nothing_of_the_ledger_is_left_in_its_log_at_the_end(tmp_path: Path) -> None:
    with running(tmp_path / "data") as served:
        with served.client() as client:
            for path in ("/events", "/scenes", "/maps"):
                assert client.get(path).status_code == 200
        wal = served.data / "ledger.sqlite-wal"
        assert wal.exists()
        served.stop()
        assert not wal.exists()


def test_systemd_hears_that_the_service_is_ready_alive_and_stopping(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(f"{folder}/notify")
        words: list[bytes] = []

        def listen() -> None:
            while word := end.recv(100):
                words.append(word)

        listening = threading.Thread(target=listen)
        listening.start()
        settings = {"NOTIFY_SOCKET": f"{folder}/notify", "WATCHDOG_USEC": "1000000"}
        with running(tmp_path / "data", **settings) as served, served.client() as client:
            until(lambda: b"READY=1" in words, "never ready")
            assert set(words) == {b"READY=1", b"WATCHDOG=1"}
            assert client.get("/health/live").status_code == 200
            assert served.process is not None
            served.process.send_signal(signal.SIGSTOP)  # a supervisor that hangs falls silent
            before = -1
            while before != len(words):
                before = len(words)
                time.sleep(2)
            served.process.send_signal(signal.SIGCONT)
            until(lambda: len(words) > before, "silent for ever")
            served.stop()
        end.shutdown(socket.SHUT_RD)
        listening.join()
        assert b"STOPPING=1" in words
        assert words.count(b"READY=1") == 1


def refusal(data: Path, **settings: str) -> str:
    """The one line that `onboard serve` ends with."""
    done = subprocess.run(
        [sys.executable, "-m", "onboard.cli", "serve"], cwd=ROOT, env=environment(data, **settings),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("onboard: ")
    return line


def test_an_address_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        line = refusal(tmp_path / "data", ONBOARD_PORT=port)
    assert f"127.0.0.1:{port} cannot be listened on: address already in use" in line
    assert "set ONBOARD_HOST and ONBOARD_PORT" in line


@pytest.mark.parametrize(
    ("name", "is_file", "words"),
    [
        (".", True, "a file stands in its way"),
        ("scenes", True, "a file stands in its way"),
        ("maps", True, "a file stands in its way"),
        ("telemetry", True, "a file stands in its way"),
        ("ledger.sqlite", False, "is a folder, and a file is kept there; move it away"),
        ("ledger.sqlite-wal", False, "is a folder"),
        ("supervisor.lock", False, "is a folder"),
        ("worker.lock", False, "is a folder"),
    ],
)
def test_a_data_folder_that_cannot_be_used_is_said_in_one_line(
    tmp_path: Path, name: str, is_file: bool, words: str
) -> None:
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_file:
        if path.exists():
            path.rmdir()
        path.write_bytes(b"not a folder")
    else:
        path.mkdir()
    line = refusal(tmp_path / "data")
    assert words in line
    assert str(path) in line


def test_a_data_folder_below_a_file_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    write_model(tmp_path / "model")
    line = refusal(tmp_path / "file" / "data", ONBOARD_MODEL=str(tmp_path / "model"))
    assert "a file stands in its way" in line


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A file system that is mounted read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_read_only_data_folder_is_said_in_one_line(read_only: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    for data in (read_only, read_only / "data"):
        line = refusal(data, ONBOARD_MODEL=str(model))
        assert "cannot be written: it is mounted read-only; set ONBOARD_DATA_DIR" in line


def test_a_child_that_its_settings_keep_from_starting_ends_the_service(tmp_path: Path) -> None:
    settings = environment(tmp_path / "data")
    done = subprocess.run(
        [sys.executable, "-c", SUPERVISE, "import sys; sys.exit(2)"],
        cwd=ROOT, env=settings, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the worker cannot work with these settings" in done.stderr
