"""`ground telemetry` on damaged folders and in front of broken services: one line, no hang, nothing kept is lost."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ground import telemetry
from ground.console.history import HistoryFiles
from ground.telemetry import TelemetryStation
from telemetry.report import figures_of
from telemetry.table import Table
from tests.ground.liar import Answer, Liar, lying, respond
from tests.ground.test_lies import in_time, run

EVENTS = {"events": [{"sequence": 1, "text": "a"}, {"sequence": 2, "text": "b"}], "next": None, "acknowledged": 2}
HISTORY: dict[str, Any] = {
    "step_s": 60.0, "now": 120_000, "next": None,
    "columns": {"tick": [60_000, 120_000], "utc_s": [1.5, 2.5], "samples": [600, 600], "power_w:x.mean": [1.0, None]},
}  # fmt: skip


@pytest.fixture
def liar() -> Iterator[Liar]:
    with lying() as liar:
        liar.answers |= {"GET /events": respond(EVENTS), "GET /telemetry/history": respond(HISTORY)}
        yield liar


def pull(capsys: pytest.CaptureFixture[str], liar: Liar, dest: Path) -> tuple[int, str, str]:
    code, out, err = in_time(run, capsys, "telemetry", liar.url, "--dest", str(dest))
    return code, out, err


def test_what_is_good_is_kept(liar: Liar, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = pull(capsys, liar, tmp_path)
    assert (code, err) == (0, "")
    assert out.startswith("2 rows of history and 2 events in ")
    assert [json.loads(line)["text"] for line in (tmp_path / "events.jsonl").read_text().splitlines()] == ["a", "b"]
    assert json.loads((tmp_path / "state.json").read_text()) == {"tick": 120_000, "event": 2, "epoch": 0}


STATES = [
    b"", b"{", b"[]", b"null", b"7", b"{}x", b'{"tick": "x", "event": 0, "epoch": 0}', b'{"tick": 1.5, "event": 0}',
    b'{"tick": null, "event": null, "epoch": 0}', b'{"tick": -1, "event": 0, "epoch": 0}',
    b'{"tick": 1e400, "event": 0, "epoch": 0}', b'{"tick": null, "event": true, "epoch": 0}', b"\xff\xfe\0",
    b"[" * 100_000, b'{"tick": null, "event": ' + b"9" * 5000 + b"}", b" " * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("number", [*range(len(STATES)), "pipe", "folder", "loop"])
def test_a_damaged_state_is_one_line(
    liar: Liar, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int | str
) -> None:
    path = tmp_path / "state.json"
    if isinstance(number, int):
        path.write_bytes(STATES[number])
    elif number == "pipe":
        os.mkfifo(path)
    elif number == "folder":
        path.mkdir()
    else:
        path.symlink_to(path)
    code, out, err = pull(capsys, liar, tmp_path)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "all is pulled again" in err


@pytest.mark.parametrize("name", ["events.jsonl", "history", "state.json.new"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "file"])
def test_what_stands_in_the_way_is_one_line(
    liar: Liar, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"")
    code, _, err = pull(capsys, liar, tmp_path)
    assert code in (0, 1)
    assert len(err.splitlines()) == code


@pytest.mark.parametrize(
    "tail",
    [b"garbage\n", b'{"sequence": 1}\ngarbage\n', b'{"sequence": "x"}\n', b"[]\n\n", b'{"seq', b"\xff\n", b"7\n"],
)
def test_damaged_events_keep_no_new_ones_out(
    liar: Liar, tmp_path: Path, capsys: pytest.CaptureFixture[str], tail: bytes
) -> None:
    (tmp_path / "events.jsonl").write_bytes(tail)
    assert pull(capsys, liar, tmp_path)[0] == 0
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert json.loads(lines[-1])["sequence"] == 2
    assert tail.startswith(b'{"seq') or tail.splitlines()[0] in lines


BAD_EVENTS: list[Any] = [
    None, [], {}, EVENTS | {"events": None}, EVENTS | {"events": [{}]}, EVENTS | {"events": [{"sequence": "1"}]},
    EVENTS | {"events": [1]}, EVENTS | {"next": "x"}, EVENTS | {"acknowledged": None},
    EVENTS | {"events": [{"sequence": float("inf")}]}, EVENTS | {"events": [{"sequence": -1}]},
]  # fmt: skip
COLUMNS: dict[str, Any] = HISTORY["columns"]
BAD_COLUMNS: list[dict[str, Any]] = [
    {"tick": None}, {"tick": [1]}, {"tick": [2, 1]}, {"tick": ["a", "b"]}, {"tick": [1, None]},
    {"tick": [1.5, 2.5]}, {"tick": [1, 2**70]}, {"utc_s": "xy"}, {"utc_s": [1]},
    {"samples": [1.5, 2]}, {"samples": [2**70, 1]}, {"power_w:x": [[1], [2]]}, {"power_w:x": [{}, {}]},
    {"": [1, 2]}, {"n" * 300: [1, 2]},
]  # fmt: skip
BAD_HISTORIES: list[Any] = [
    None, [], {}, HISTORY | {"columns": None}, HISTORY | {"columns": {}}, HISTORY | {"columns": []},
    *(HISTORY | {"columns": COLUMNS | change} for change in BAD_COLUMNS),
    HISTORY | {"now": "x"}, HISTORY | {"step_s": None}, HISTORY | {"next": []}, HISTORY | {"step_s": float("nan")},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD_EVENTS)))
def test_events_of_another_form_are_one_line(
    liar: Liar, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    liar.answers["GET /events"] = respond(BAD_EVENTS[number])
    code, out, err = pull(capsys, liar, tmp_path)
    assert (code, out, len(err.splitlines())) == (2, "", 1)


@pytest.mark.parametrize("number", range(len(BAD_HISTORIES)))
def test_a_history_of_another_form_is_one_line(
    liar: Liar, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    liar.answers["GET /telemetry/history"] = respond(BAD_HISTORIES[number])
    code, out, err = pull(capsys, liar, tmp_path)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert list((tmp_path / "history").iterdir()) == []


@pytest.mark.parametrize("way", ["no events", "same events", "ever new events", "no rows", "same rows", "lost again"])
def test_pages_that_never_end_have_an_end(
    liar: Liar, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(telemetry, "MOST_PAGES", 20)

    def ever_new(link: socket.socket, head: str) -> None:
        number = len(liar.requests)
        respond({"events": [{"sequence": number}], "next": number, "acknowledged": 1 << 60})(link, head)

    empty: dict[str, Any] = {name: [] for name in COLUMNS}
    answers = {
        "no events": ("GET /events", respond(EVENTS | {"events": [], "next": 5})),
        "same events": ("GET /events", respond(EVENTS | {"next": 2})),
        "ever new events": ("GET /events", ever_new),
        "no rows": ("GET /telemetry/history", respond(HISTORY | {"columns": empty, "next": 5})),
        "same rows": ("GET /telemetry/history", respond(HISTORY | {"next": 5})),
        "lost again": ("GET /telemetry/history", respond(HISTORY | {"next": 5, "now": 5})),
    }
    liar.answers |= dict([answers[way]])
    code, out, err = pull(capsys, liar, tmp_path)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert len(liar.requests) <= 25


def history_of(first: int, last: int, *, step_s: float = 1.0, **changed: Any) -> Answer:
    """A page of 10 W from one second to another."""
    seconds = [first + step_s * number for number in range(int((last - first) / step_s) + 1)]
    columns = {
        "tick": [int(1000 * second) for second in seconds], "utc_s": [1.8e9 + second for second in seconds],
        "samples": [1] * len(seconds), "power_w:x.mean": [10.0] * len(seconds),
        "power_w:x.max": [10.0] * len(seconds),
    }  # fmt: skip
    page = {"step_s": step_s, "now": 1000 * last, "next": None, "columns": columns}
    return respond(page | changed)


def joules(folder: Path) -> tuple[float, float]:
    """As the console has it, and as the report has it."""
    shown = HistoryFiles(folder).curves(None, None, 10, 5700.0)["rails"][0]["energy_j"]
    return shown, figures_of(Table.read_parquet(folder / "history")).rails[0].energy_j


def test_a_page_that_is_pulled_again_takes_the_place_of_its_shorter_self(
    liar: Liar, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cut between a page and the note of it, and a history that has grown at the next pass."""
    for last in (99, 149):
        liar.answers["GET /telemetry/history"] = history_of(0, last)
        (tmp_path / "state.json").unlink(missing_ok=True)
        assert pull(capsys, liar, tmp_path)[0] == 0
    assert [path.name for path in (tmp_path / "history").iterdir()] == ["000-000000000000000-000000000149000.parquet"]
    assert joules(tmp_path) == pytest.approx((1500, 1500))


def test_a_page_that_lacks_rows_of_an_earlier_one_removes_nothing_and_rows_count_once(
    liar: Liar, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = [history_of(0, 149), history_of(0, 99), history_of(50, 249)]
    for number, page in enumerate(pages, start=1):
        liar.answers["GET /telemetry/history"] = page
        (tmp_path / "state.json").unlink(missing_ok=True)
        assert pull(capsys, liar, tmp_path)[0] == 0
        assert len(list((tmp_path / "history").iterdir())) == number
    assert joules(tmp_path) == pytest.approx((2500, 2500))
    # It reaches further, in rows of a minute that are not those of a second.
    liar.answers["GET /telemetry/history"] = history_of(0, 300, step_s=60.0)
    (tmp_path / "state.json").unlink()
    assert pull(capsys, liar, tmp_path)[0] == 0
    assert len(list((tmp_path / "history").iterdir())) == 4


def test_another_history_stays_one_where_a_pass_is_cut_or_the_state_is_lost(
    liar: Liar, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    liar.answers |= {"GET /events": respond(EVENTS | {"events": []}), "GET /telemetry/history": history_of(0, 99)}
    assert pull(capsys, liar, tmp_path)[0] == 0

    def cut(station: TelemetryStation, state: telemetry.State) -> None:
        if state.epoch and state.tick is not None:
            raise KeyboardInterrupt
        keep(station, state)

    def grown(link: socket.socket, head: str) -> None:
        history_of(100 if "since=99000" in head else 0, 199)(link, head)

    # It was begun afresh aboard, and the command is cut between its first page and the note of it.
    liar.answers["GET /telemetry/history"] = history_of(0, 49)
    keep = TelemetryStation._keep
    with monkeypatch.context() as patch:
        patch.setattr(TelemetryStation, "_keep", cut)
        assert pull(capsys, liar, tmp_path)[0] == 130
    liar.answers["GET /telemetry/history"] = grown
    assert pull(capsys, liar, tmp_path)[0] == 0
    (tmp_path / "state.json").unlink()
    assert pull(capsys, liar, tmp_path)[0] == 0
    names = ["000-000000000000000-000000000099000.parquet", "001-000000000000000-000000000199000.parquet"]
    assert sorted(path.name for path in (tmp_path / "history").iterdir()) == names
    assert json.loads((tmp_path / "state.json").read_text())["epoch"] == 1


@pytest.mark.parametrize(
    "torn", [b'{"sequence": 2, "text": "' + b"a" * 200_000, b"a" * (3 << 16), b"a" * ((1 << 16) - 4)]
)
def test_a_torn_line_of_any_length_is_cut_and_the_next_event_stands_alone(
    liar: Liar, tmp_path: Path, capsys: pytest.CaptureFixture[str], torn: bytes
) -> None:
    for before in (b"", b'{"sequence": 1}\n'):
        (tmp_path / "state.json").unlink(missing_ok=True)
        (tmp_path / "events.jsonl").write_bytes(before + torn)
        assert pull(capsys, liar, tmp_path)[0] == 0
        lines = (tmp_path / "events.jsonl").read_text().splitlines()
        assert [json.loads(line)["sequence"] for line in lines] == [1, 2]


def test_events_longer_than_is_usual_are_not_repeated(
    liar: Liar, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cut between the lines and the note of them."""
    long = [{"sequence": number, "text": "a" * 200_000} for number in (1, 2)]
    liar.answers["GET /events"] = respond(EVENTS | {"events": long})
    for damage in (b"", b"garbage\n", b"g" * 200_000 + b"\n"):
        (tmp_path / "state.json").unlink(missing_ok=True)
        with (tmp_path / "events.jsonl").open("ab") as file:
            file.write(damage)
        assert pull(capsys, liar, tmp_path)[0] == 0
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["sequence"] for line in lines if line.startswith(b"{")] == [1, 2]
    assert len(lines) == 4
