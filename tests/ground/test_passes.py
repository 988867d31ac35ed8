"""The log of passes, and whether a pass is going on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ground.errors import GroundError
from ground.passes import LOG, PassLog, is_going_on, pass_going_on, read_passes
from ground.station import PassReport
from tests.ground.liar import lying, respond
from tests.ground.test_lies import run
from tests.onboard.service import ROOT, until


def test_a_pass_leaves_one_line_and_damaged_lines_cost_no_other(tmp_path: Path) -> None:
    PassLog(tmp_path).write(PassReport(maps=["a", "b"], files=6, received_bytes=1234, left=2, window_closed=True))
    with (tmp_path / LOG).open("ab") as file:
        file.write(b'{"began": 7}\n\xff\n[]\n{"maps": 1e400}\n')
    PassLog(tmp_path).write(PassReport(), "no answer in 8 tries")
    first, second = read_passes(tmp_path)
    assert (first.maps, first.files, first.received_bytes, first.left, first.window_closed) == (2, 6, 1234, 2, True)
    assert (second.maps, second.problem) == (0, "no answer in 8 tries")
    assert read_passes(tmp_path / "none") == []


def test_a_log_that_is_no_plain_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOG)
    assert read_passes(tmp_path) == []
    with pytest.raises(OSError, match=r"no plain file|No such device"):
        PassLog(tmp_path).write(PassReport())


def test_pull_logs_the_pass_and_not_what_was_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with lying() as liar:
        liar.answers["GET /downlink/plan"] = respond({"items": [], "left_out": 0})
        assert run(capsys, "pull", liar.url, "--dest", str(tmp_path / "maps"), "--quiet")[0] == 0
        assert len(read_passes(tmp_path / "maps")) == 1
        liar.answers["GET /downlink/plan"] = respond({"items": 7})
        assert run(capsys, "pull", liar.url, "--dest", str(tmp_path / "maps"), "--quiet")[0] == 2
        assert len(read_passes(tmp_path / "maps")) == 1


def test_a_log_that_cannot_be_written_is_one_line_and_fails_no_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / LOG).mkdir()
    with lying() as liar:
        liar.answers["GET /downlink/plan"] = respond({"items": [], "left_out": 0})
        code, _, err = run(capsys, "pull", liar.url, "--dest", str(tmp_path), "--quiet")
    assert (code, len(err.splitlines())) == (0, 1)
    assert "the pass is not logged" in err


def test_a_pass_that_was_killed_does_not_go_on(tmp_path: Path) -> None:
    assert not is_going_on(tmp_path)
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom ground.passes import pass_going_on\n"
        "with pass_going_on(Path(sys.argv[1])):\n    time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    until(lambda: is_going_on(tmp_path), "the pass is not seen")
    with pass_going_on(tmp_path):  # a second one is not kept waiting
        assert is_going_on(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: not is_going_on(tmp_path), "a dead pass goes on")


def test_a_pass_that_breaks_off_is_logged_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> PassReport:
        raise GroundError("the link is down")

    monkeypatch.setattr("ground.station.Station.pull", broken)
    with lying() as liar:
        code, _, err = run(capsys, "pull", liar.url, "--dest", str(tmp_path), "--quiet")
    assert (code, len(err.splitlines())) == (1, 1)
    assert [row.problem for row in read_passes(tmp_path)] == ["the link is down"]


@pytest.mark.parametrize("torn", [b'{"began": "2026-11-02T08:00:00Z", "sec', b"\xff", b"{}"])
def test_a_line_that_a_cut_has_torn_costs_no_pass_after_it(tmp_path: Path, torn: bytes) -> None:
    PassLog(tmp_path).write(PassReport(maps=["a"]))
    with (tmp_path / LOG).open("ab") as file:
        file.write(torn)
    PassLog(tmp_path).write(PassReport(maps=["a", "b"]))
    PassLog(tmp_path).write(PassReport())
    assert [row.maps for row in read_passes(tmp_path)] == [1, 2, 0]


def test_a_pass_that_is_interrupted_is_logged_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (KeyboardInterrupt(), RuntimeError()):

        def broken(*_: object, error: BaseException = error) -> PassReport:
            raise error

        monkeypatch.setattr("ground.station.Station.pull", broken)
        with lying() as liar, contextlib.suppress(RuntimeError):
            assert run(capsys, "pull", liar.url, "--dest", str(tmp_path), "--quiet")[0] == 130
    assert [row.problem for row in read_passes(tmp_path)] == ["interrupted", "RuntimeError"]


def test_a_reason_of_half_a_character_is_logged_like_any_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a satellite's text, or of a folder whose name is no UTF-8."""

    def broken(*_: object) -> PassReport:
        raise GroundError("full: a\ud800b \udcff \x1b[31m")

    monkeypatch.setattr("ground.station.Station.pull", broken)
    with lying() as liar:
        code, _, err = run(capsys, "pull", liar.url, "--dest", str(tmp_path), "--quiet")
    assert (code, len(err.splitlines())) == (1, 1)
    assert [row.problem for row in read_passes(tmp_path)] == [r"full: a\ud800b \udcff \x1b[31m"]


def test_another_ones_lock_keeps_no_pass_waiting(tmp_path: Path) -> None:
    """Whoever looks holds the folder for a moment, and a program of somebody else may hold it for ever."""
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    began: list[bool] = []

    def one_pass() -> None:
        with pass_going_on(tmp_path):
            began.append(True)

    thread = threading.Thread(target=one_pass, daemon=True)
    thread.start()
    thread.join(60)
    os.close(held)
    assert began
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    look = threading.Timer(0.2, os.close, [held])
    look.start()
    with pass_going_on(tmp_path):
        look.join()
        assert is_going_on(tmp_path), "a moment's look costs the pass its mark"


@pytest.mark.parametrize("name", [LOG, "Passes.JSONL", "Catalog.json"])
def test_a_map_with_the_name_of_the_stations_own_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with lying({"m1": b"x"}) as liar:
        liar.answers["GET /downlink/plan"] = respond({"items": [liar.planned("m1", map=name)], "left_out": 0})
        code, _, err = run(capsys, "pull", liar.url, "--dest", str(tmp_path), "--quiet")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "the ground's own files" in err
    assert not (tmp_path / name).exists()
