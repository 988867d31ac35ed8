"""`onboard report` on damaged files and in front of broken services: one line and exit code 2, no hang."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onboard import cli, history_cli
from tests.ground.liar import Liar, endless, lying, respond

COLUMNS: dict[str, list[Any]] = {
    "tick": [1000, 2000, 3000], "utc_s": [1.0, 2.0, 3.0], "samples": [10, 10, 10], "work:busy": [0.0, 1.0, 1.0],
    "power_w:a$b^{c}.min": [5.0, 6.0, 7.0], "power_w:a$b^{c}.mean": [5.0, 6.0, 7.0],
    "power_w:a$b^{c}.max": [5.0, 6.0, 7.0],
}  # fmt: skip


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "pictures" / "power"


def report(capsys: pytest.CaptureFixture[str], source: object, out: Path) -> tuple[int, str, str]:
    """Runs it in time; whatever it raises would be a traceback."""
    given: list[int] = []
    command = ["report", str(source), "--out", str(out)]
    thread = threading.Thread(target=lambda: given.append(cli.main(command)), daemon=True)
    thread.start()
    thread.join(60)
    assert given, "it hangs, or raised"
    text = capsys.readouterr()
    return given[0], text.out, text.err


def refused(capsys: pytest.CaptureFixture[str], source: object, out: Path) -> str:
    code, printed, err = report(capsys, source, out)
    assert (code, printed, len(err.splitlines())) == (2, "", 1), err
    return err


def write(path: Path, columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_what_is_good_is_drawn_whatever_a_rail_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: Path
) -> None:
    for values in (COLUMNS, COLUMNS | {"power_w:x": [1e300, float("inf"), float("nan")], "power_w:y": [None] * 3}):
        code, printed, err = report(capsys, write(tmp_path / "a.parquet", values), out)
        assert (code, err) == (0, "")
        assert "a$b^{c}" in printed
        assert out.with_name("power.png").is_file()


DAMAGED: dict[str, Any] = {
    "no tick": {"utc_s": [1.0]}, "texts": COLUMNS | {"utc_s": ["a", "b", "c"]},
    "texts as ticks": COLUMNS | {"tick": ["a", "b", "c"]}, "ticks that fall": COLUMNS | {"tick": [3, 2, 1]},
    "no ticks": COLUMNS | {"tick": [1, None, 3]}, "lists": COLUMNS | {"power_w:x": [[1.0], [], [2.0]]},
    "bytes": COLUMNS | {"power_w:x": [b"1", b"2", b"3"]}, "flags": COLUMNS | {"power_w:x": [True, False, True]},
    "an escape": COLUMNS | {"power_w:\x1b[31m": [1.0, 2.0, 3.0]}, "a long name": COLUMNS | {"n" * 500: [1.0, 2.0, 3.0]},
    "no rows": {name: values[:0] for name, values in COLUMNS.items()},
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_table_that_is_no_history_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: Path, kind: str
) -> None:
    refused(capsys, write(tmp_path / "a.parquet", DAMAGED[kind]), out)


@pytest.mark.parametrize("kind", ["pipe", "pipe in a folder", "folder", "cut", "noise", "empty", "missing", "name"])
def test_what_is_no_parquet_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: Path, kind: str
) -> None:
    path = tmp_path / "x" / "a.parquet"
    path.parent.mkdir()
    source: object = path
    if kind.startswith("pipe"):
        os.mkfifo(path)
        source = path.parent if "folder" in kind else path
    elif kind == "folder":
        source = path.parent
    elif kind == "name":
        source = "n" * 5000
    elif kind != "missing":
        whole = write(path, COLUMNS).read_bytes()
        path.write_bytes({"cut": whole[: len(whole) // 2], "noise": os.urandom(5000), "empty": b""}[kind])
    refused(capsys, source, out)


@pytest.mark.parametrize("where", ["power.png", "power.svg", "."])
def test_pictures_that_cannot_be_written_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: Path, where: str
) -> None:
    if where == ".":
        out.parent.write_bytes(b"")
    else:
        out.parent.mkdir()
        os.mkfifo(out.parent / where)
    refused(capsys, write(tmp_path / "a.parquet", COLUMNS), out)


@pytest.fixture
def liar() -> Iterator[Liar]:
    with lying() as liar:
        liar.answers |= {
            "GET /telemetry": respond({"power": {"idle_w": 5.0}}),
            "GET /telemetry/history": respond({"columns": COLUMNS, "next": None}),
        }
        yield liar


@pytest.mark.parametrize("option", ["--since", "--step", "--idle-w"])
def test_an_option_that_is_no_number_is_one_line(
    liar: Liar, capsys: pytest.CaptureFixture[str], out: Path, option: str
) -> None:
    assert cli.main(["report", liar.url, "--out", str(out), option, "nan"]) == 2
    assert capsys.readouterr().err == f"onboard: {option} is no number; see `onboard report --help`\n"


def test_since_infinity_is_all(liar: Liar, out: Path) -> None:
    assert cli.main(["report", liar.url, "--out", str(out), "--since", "inf"]) == 0


BAD_PAGES: list[Any] = [
    None, [], "x", {}, {"columns": None, "next": None}, {"columns": COLUMNS}, {"columns": [], "next": None},
    {"columns": COLUMNS | {"tick": 5}, "next": None}, {"columns": COLUMNS | {"utc_s": "abc"}, "next": None},
    {"columns": COLUMNS | {"samples": [1]}, "next": None}, {"columns": COLUMNS, "next": "x"},
    {"columns": COLUMNS, "next": -7}, {"columns": {name: [] for name in COLUMNS}, "next": 9},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD_PAGES)))
def test_a_page_of_another_form_is_one_line(
    liar: Liar, capsys: pytest.CaptureFixture[str], out: Path, number: int
) -> None:
    liar.answers["GET /telemetry/history"] = respond(json.dumps(BAD_PAGES[number]))
    refused(capsys, liar.url, out)


@pytest.mark.parametrize("body", [None, {}, {"power": None}, {"power": {"idle_w": "x"}}, {"power": {"idle_w": []}}])
def test_a_snapshot_of_another_form_is_one_line(
    liar: Liar, capsys: pytest.CaptureFixture[str], out: Path, body: object
) -> None:
    assert report(capsys, liar.url, out)[0] == 0
    liar.answers["GET /telemetry"] = respond(body)
    refused(capsys, liar.url, out)


def test_pages_without_end_and_answers_without_end_have_one(
    liar: Liar, capsys: pytest.CaptureFixture[str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_cli, "MOST_PAGES", 5)

    def ever_new(link: socket.socket, head: str) -> None:
        respond({"columns": COLUMNS, "next": len(liar.requests)})(link, head)

    liar.answers["GET /telemetry/history"] = ever_new
    assert "has no end" in refused(capsys, liar.url, out)
    assert len(liar.requests) == 5
    liar.answers["GET /telemetry/history"] = endless("200 OK", b" " * 65536)
    assert "answers without end" in refused(capsys, liar.url, out)


def test_a_token_does_not_follow_a_redirect(
    liar: Liar, capsys: pytest.CaptureFixture[str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONBOARD_TOKEN", "secret")
    with lying() as other:
        liar.answers["GET /telemetry/history"] = respond("", status=302, Location=f"{other.url}/telemetry/history")
        assert "answers 302" in refused(capsys, liar.url, out)
        assert other.requests == []
