"""What a person at a terminal sees of a pass: whole lines, and a bar that makes way for them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pty
import re
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from ground.cli import main
from ground.show import Screen, size, status_lines, watch_line
from ground.text import LONGEST_LINE, visible
from tests.ground.liar import Liar, lying
from tests.onboard.service import ROOT


def seen(raw: bytes) -> list[str]:
    """Every line as it stood on the screen when the cursor left it: carriage returns begin it anew and overwrite."""
    lines = []
    for line in raw.decode().replace("\r\n", "\n").split("\n"):
        shown: list[str] = []
        for piece in line.split("\r"):
            shown[: len(piece)] = piece
        lines.append("".join(shown).rstrip())
    return lines


def test_the_bar_makes_way_for_lines(tmp_path: Path) -> None:
    maps = {f"m{number}": os.urandom(200_000) for number in range(4)}
    failed: list[str] = []

    def answer(link: socket.socket, head: str) -> None:
        data = maps["m1"]
        if not failed:  # a connection that breaks: a line about it comes while the bar is there
            failed.append(head)
            tag = hashlib.sha256(data).hexdigest()
            link.sendall(f'HTTP/1.1 200 OK\r\nETag: "{tag}"\r\nContent-Length: {len(data)}\r\n\r\n'.encode())
            link.sendall(data[:50_000])
            time.sleep(0.3)
            link.sendall(data[50_000:100_000])
            return
        Liar.send_file(link, head, data)

    with lying(maps) as liar:
        liar.answers["GET /maps/m1/map.tif"] = answer
        url = liar.url
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "ground.cli", "pull", liar.url, "--dest", str(tmp_path)]
        # A terminal of no size has no room for a bar.
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        process = subprocess.Popen(command, cwd=ROOT, stdout=theirs, stderr=theirs)
        os.close(theirs)
        raw = b""
        with contextlib.suppress(OSError):  # EIO at the end of it
            while some := os.read(ours, 65536):
                raw += some
        os.close(ours)
        assert process.wait(60) == 0, raw
    lines = [line for line in seen(raw) if line]
    whole = [rf"m{number}: 200,000 bytes, whole \(rare\)" for number in range(4)]
    trouble = rf"ground: {re.escape(url)}: .*; try 2 of 8 in 0\.\d s"
    last = r"4 maps and 0 other files, [\d.]+ [kM]?B.*"
    assert b"B/s" in raw  # the bar was there
    for pattern in (*whole, last):
        assert sum(re.fullmatch(pattern, line) is not None for line in lines) == 1, (pattern, lines)
    assert all(any(re.fullmatch(one, line) for one in (*whole, trouble, last)) for line in lines), lines
    assert any(re.fullmatch(trouble, line) for line in lines), lines


def test_text_of_others_cannot_move_a_terminal() -> None:
    assert visible("plain äöü °C 地図") == "plain äöü °C 地図"
    assert visible("a\x1b[2Jb\x07\x9b\x7f\r\n\t") == "a\\x1b[2Jb\\x07\\x9b\\x7f\\r\\n\\t"
    assert visible("\u202eevil\u2066\ufeff\u200b\u2028") == "\\u202eevil\\u2066\\ufeff\\u200b\\u2028"
    assert visible("\ud800\U000e0001") == "\\ud800\\U000e0001"
    assert visible("x" * 5000) == "x" * LONGEST_LINE + "..."


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_949, "99.9 kB"), (99_950, "100 kB"), (4_200_000, "4.2 MB"),
     (999_600, "1.0 MB"), (48.8e9, "48.8 GB"), (1234e9, "1234 GB")],
)  # fmt: skip
def test_bytes_are_told_in_the_unit_that_a_person_reads(number: float, text: str) -> None:
    assert size(number) == text


def snapshot(**more: Any) -> dict[str, Any]:
    """Of a service at rest."""
    reading = {"quantity": "memory_bytes", "value": 5.2e9, "unit": "By", "reason": "", "source": "processor"}
    short = {"quantity": "power_w", "value": 6.5, "unit": "W", "reason": "", "source": "ina3221", "rail": "VDD_IN"}
    return {
        "at": {"utc": "2026-11-30T12:00:00Z"}, "scene": None, "tiles_done": 0, "tiles_all": 0, "tiles_per_s": 0.97,
        "engine": {"state": "ready", "backend": "openvino-bf16", "precision": "bf16", "model": "m 1.0", "problem": ""},
        "scenes": {"queued": 0}, "disk": {"free_bytes": 5e10, "reserve_bytes": 1e9},
        "power": {"rail": None, "power_w": None, "net_w": None, "reason": "no source of power", "mode": None},
        "governor": {"state": "off", "why": ""}, "readings": [{**reading, "rail": "available"}, short],
    } | more  # fmt: skip


def test_a_speed_at_rest_says_that_it_is_the_mean_of_the_last_minute() -> None:
    assert "speed     0.97 tiles/s, mean of the last minute" in status_lines(snapshot())
    assert "idle  0.97 tiles/s in the last minute" in watch_line(snapshot())
    assert "- tiles/s" not in watch_line(snapshot(tiles_per_s=None))


@pytest.mark.parametrize(
    ("backend", "precision", "shown"),
    [("openvino-bf16", "bf16", "openvino-bf16"), ("openvino", "fp32", "openvino fp32"), ("", "", "")],
)
def test_the_precision_of_an_engine_is_said_once(backend: str, precision: str, shown: str) -> None:
    engine = {"state": "ready", "backend": backend, "precision": precision, "model": "m 1.0", "problem": ""}
    first = status_lines(snapshot(engine=engine))[0]
    assert first == "engine    " + " ".join(filter(None, ["ready", shown, "m 1.0"]))


def test_readings_stand_in_columns_under_the_names_of_people() -> None:
    assert status_lines(snapshot())[-2:] == [
        "memory  processor  available  5.2 GB",
        "power   ina3221    VDD_IN     6.5 W",
    ]
    assert status_lines(snapshot(readings=[]))[-1].startswith("governor")


def test_a_table_aligns_its_columns_and_is_plain_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.table([{"map": "a", "bytes": None, "whole": True}, {"map": "long\x1b", "bytes": 4_200_000, "whole": False}])
    assert capsys.readouterr().out.splitlines() == [
        "map        bytes  whole",
        "a              -  yes",
        "long\\x1b  4.2 MB  no",
    ]


def test_the_token_file_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GROUND_TOKEN_FILE", str(tmp_path / "missing.token"))
    assert main(["status", "http://127.0.0.1:1"]) == 2
    assert "missing.token" in capsys.readouterr().err
