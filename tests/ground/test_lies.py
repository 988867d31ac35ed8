"""A station in front of lying satellites, portals and broken servers: bounded, in words, and nothing good is lost."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ground import cli, folders, station
from ground.errors import AskedWrong, DiskFailed, GroundError, LinkDown
from ground.link import LONGEST_RETRY_AFTER_S, TRIES, Link, Window, WindowClosed
from ground.station import Station
from ground.transfer import Tally, Wanted, fetch
from tests.ground.liar import PROBLEM, Liar, endless, lying, respond

DATA = bytes(range(256)) * 400
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def liar() -> Iterator[Liar]:
    with lying({"m1": DATA}) as liar:
        yield liar


def link_to(liar: Liar, **options: Any) -> Link:
    return Link(liar.url, **{"sleep": lambda _: None, "stall_s": 0.5, **options})


def wanted_in(folder: Path, begun: int = 0, length: int = len(DATA)) -> Wanted:
    wanted = Wanted("/maps/m1/map.tif", folder / "m1" / "map.tif", DIGEST, len(DATA), length)
    wanted.part.parent.mkdir(parents=True)
    if begun:
        wanted.part.write_bytes(DATA[:begun])
    return wanted


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """A command in this process: whatever it raises would be a traceback."""
    try:
        code = cli.main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("fields", ["200 OK", "200 OK\r\nContent-Length: 9000000000000"])
def test_an_answer_without_end_is_given_up(liar: Liar, fields: str) -> None:
    liar.answers["GET /telemetry"] = endless(f"{fields}\r\nContent-Type: application/json", b" " * 65536)
    with link_to(liar) as link, pytest.raises(LinkDown, match="has more than 16,777,216 bytes"):
        link.json("GET", "/telemetry")
    assert link.window.received <= TRIES * (17 << 20)


@pytest.mark.parametrize("status", ["404 Not Found", "503 Busy"])
def test_an_error_without_end_is_given_up(liar: Liar, tmp_path: Path, status: str) -> None:
    answer = endless(f"{status}\r\nContent-Type: application/problem+json", b"x" * 4096)
    liar.answers |= {"GET /maps/m1/map.tif": answer, "GET /downlink/plan": answer}
    with link_to(liar) as link:
        with pytest.raises(LinkDown, match="more than 65,536 bytes"):
            fetch(link, wanted_in(tmp_path), Tally())
        link.failures = 0
        with pytest.raises(LinkDown, match="more than 65,536 bytes"):
            link.json("GET", "/downlink/plan")
    assert link.window.received <= 2 * TRIES * (80 << 10)


@pytest.mark.parametrize("where", ["head", "json", "error", "file"])
def test_bytes_that_drip_are_given_up_without_a_window(liar: Liar, tmp_path: Path, where: str) -> None:
    heads = {
        "head": b"HTTP/1.1 200 OK\r\nX: ", "json": b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n",
        "error": b"HTTP/1.1 404 No\r\nContent-Length: 10000\r\n\r\n",
        "file": f'HTTP/1.1 200 OK\r\nETag: "{DIGEST}"\r\nContent-Length: {len(DATA)}\r\n\r\n'.encode(),
    }  # fmt: skip

    def answer(link: socket.socket, _: str) -> None:
        link.sendall(heads[where])
        liar.drip(link, b"a", 0.1)

    liar.answers |= {"GET /maps/m1/map.tif": answer, "GET /telemetry": answer}
    begun = time.monotonic()
    with link_to(liar) as link, pytest.raises(LinkDown):
        if where == "file":
            fetch(link, wanted_in(tmp_path), Tally())
        else:
            link.json("GET", "/telemetry")
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("where", ["head", "body"])
def test_a_window_closes_in_the_midst_of_an_answer(liar: Liar, where: str) -> None:
    def answer(link: socket.socket, _: str) -> None:
        link.sendall(b"HTTP/1.1 200 OK\r\n" + (b"X: " if where == "head" else b"Content-Length: 1000000\r\n\r\n"))
        liar.drip(link, b"a" * 1000, 0.01 if where == "head" else 0.0005)

    liar.answers["GET /downlink/plan"] = answer
    begun = time.monotonic()
    with link_to(liar, window=Window(seconds=1.5), stall_s=60.0) as link, pytest.raises(WindowClosed):
        link.json("GET", "/downlink/plan")
    assert time.monotonic() - begun < 30
    liar.answers["GET /downlink/plan"] = endless("200 OK", b" " * 1000)
    with link_to(liar, window=Window(bytes=5000)) as link, pytest.raises(WindowClosed):
        link.json("GET", "/downlink/plan")
    assert link.window.received <= 5000 + 65536


@pytest.mark.parametrize("status", [200, 206])
@pytest.mark.parametrize("length", [len(DATA), 5000])
def test_no_file_grows_beyond_what_was_promised(liar: Liar, tmp_path: Path, status: int, length: int) -> None:
    begun = 1000
    start = begun if status == 206 else 0

    def answer(link: socket.socket, _: str) -> None:
        said = f"Content-Range: bytes {begun}-{1 << 40}/{1 << 40}\r\n" if status == 206 else ""
        link.sendall(f'HTTP/1.1 {status} OK\r\nETag: "{DIGEST}"\r\n{said}\r\n'.encode() + DATA[start:])
        while True:
            link.sendall(bytes(65536))

    liar.answers["GET /maps/m1/map.tif"] = answer
    wanted, tally = wanted_in(tmp_path, begun, length), Tally()
    with link_to(liar) as link:
        fetch(link, wanted, tally)
    if length == len(DATA):
        assert wanted.target.read_bytes() == DATA
    else:
        assert wanted.part.read_bytes() == DATA[:length]
    assert tally.received == length - start


PORTALS = {
    "page": respond("<html>log in</html>", kind="text/html"),
    "page with a tag": respond("<html>log in</html>", kind="text/html", ETag='"abc"'),
    "redirect": respond("", status=302, Location="http://portal.example/login"),
    "not found": respond("<html>no</html>", status=404, kind="text/html"),
    "forbidden": respond("<html>no</html>", status=403, kind="text/html"),
    "log in": respond("<html>no</html>", status=511, kind="text/html"),
    "no range": respond("<html>no</html>", status=416, kind="text/html"),
    "nothing": respond("", status=204),
}


@pytest.mark.parametrize("portal", PORTALS)
def test_a_portal_costs_nothing_that_is_here(liar: Liar, tmp_path: Path, portal: str) -> None:
    liar.answers |= {"GET /maps/m1/map.tif": PORTALS[portal], "POST /maps/m1/receipt": PORTALS[portal]}
    wanted = wanted_in(tmp_path, 1000)
    with link_to(liar) as link, pytest.raises(LinkDown):
        fetch(link, wanted, Tally())
    assert wanted.part.read_bytes() == DATA[:1000]
    del liar.answers["GET /maps/m1/map.tif"]
    with link_to(liar) as link, pytest.raises(LinkDown):
        Station(link, tmp_path).pull()
    assert wanted.target.read_bytes() == DATA
    assert not (tmp_path / "m1" / "receipt.json").exists()  # a page that says 404 is no word of the satellite's
    del liar.answers["POST /maps/m1/receipt"]
    with link_to(liar) as link:
        assert Station(link, tmp_path).pull().receipts == ["m1"]


def test_a_whole_answer_that_breaks_off_leaves_the_good_part(liar: Liar, tmp_path: Path) -> None:
    def answer(link: socket.socket, _: str) -> None:
        link.sendall(f'HTTP/1.1 200 OK\r\nETag: "{DIGEST}"\r\nContent-Length: {len(DATA)}\r\n\r\nx'.encode())

    liar.answers["GET /maps/m1/map.tif"] = answer
    wanted = wanted_in(tmp_path, 50_000)
    with link_to(liar) as link, pytest.raises(LinkDown):
        fetch(link, wanted, Tally())
    assert wanted.part.read_bytes() == DATA[:50_000]


@pytest.mark.parametrize("asked", ["9" * 3000, "999999999", "-5", "nan", "Fri, 31 Dec 9999 23:59:59 GMT", "\u0663"])
def test_what_a_satellite_asks_to_wait_is_bounded(liar: Liar, asked: str) -> None:
    def answer(link: socket.socket, _: str) -> None:
        link.sendall(b"HTTP/1.1 429 Slow\r\nContent-Length: 0\r\nRetry-After: " + asked.encode() + b"\r\n\r\n")

    liar.answers["GET /telemetry"] = answer
    waits: list[float] = []
    with link_to(liar, sleep=waits.append) as link, pytest.raises(LinkDown, match="answers 429"):
        link.json("GET", "/telemetry")
    assert len(waits) == TRIES - 1
    assert max(waits) <= LONGEST_RETRY_AFTER_S


def test_plans_that_name_ever_new_maps_have_an_end(liar: Liar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(station, "MOST_PLANS", 5)

    def plan(link: socket.socket, head: str) -> None:
        name = f"n{len(liar.requests)}"
        liar.maps[name] = name.encode()
        respond({"items": [liar.planned(name)], "left_out": 0})(link, head)

    liar.answers["GET /downlink/plan"] = plan
    lines: list[str] = []
    with link_to(liar) as link:
        report = Station(link, tmp_path, lines.append).pull()
    assert (len(report.maps), report.left) == (5, 1)
    assert lines[-1] == "the satellite made 5 plans in this pass; the next pass goes on"


ROW = {"map": "m1", "asset": "map.tif", "sha256": "0" * 64, "bytes": 10, "length": 10, "reason": ""}
BAD_ROWS: list[Any] = [
    None, 1, "row", [], {}, ROW | {"map": "../x"}, ROW | {"map": ".."}, ROW | {"map": "a\n"}, ROW | {"map": None},
    ROW | {"asset": "receipt.json"}, ROW | {"asset": "coarse.tif"}, ROW | {"asset": "x.part"},
    ROW | {"asset": "/etc/passwd"}, ROW | {"sha256": "0" * 63}, ROW | {"sha256": 7}, ROW | {"bytes": -1},
    ROW | {"bytes": 0, "length": 0}, ROW | {"length": 11}, ROW | {"length": 0}, ROW | {"bytes": 1e300},
    ROW | {"bytes": float("inf")}, ROW | {"bytes": float("nan")}, ROW | {"bytes": "10"}, ROW | {"bytes": True},
    ROW | {"bytes": 10**30, "length": 10**30}, ROW | {"length": 2.5},
]  # fmt: skip
BAD_PLANS: list[Any] = [
    None, [], "plan", 7, {}, {"items": None, "left_out": 0}, {"items": {}, "left_out": 0}, {"items": []},
    {"items": [], "left_out": -1}, {"items": [], "left_out": "many"},
    *({"items": [row], "left_out": 0} for row in BAD_ROWS),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD_PLANS)))
def test_a_plan_of_another_form_is_one_line(
    liar: Liar, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    liar.answers["GET /downlink/plan"] = respond(json.dumps(BAD_PLANS[number]))
    code, out, err = run(capsys, "pull", liar.url, "--dest", str(tmp_path / "dest"))
    assert (code, out) == (2, "")
    assert "is not as it should be" in err
    assert len(err.splitlines()) == 1
    assert list((tmp_path / "dest").iterdir()) == []


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000, b'"\\ud800'], ids=range(6))
def test_what_is_no_json_counts_as_no_answer(liar: Liar, body: bytes) -> None:
    liar.answers["GET /telemetry"] = respond(body, kind="text/html")
    with link_to(liar) as link, pytest.raises(LinkDown, match="text/html that is no JSON: is there a portal between"):
        link.json("GET", "/telemetry")


def test_a_plan_beyond_the_disk_fetches_nothing(liar: Liar, tmp_path: Path) -> None:
    row = liar.planned("m1", bytes=1 << 49, length=1 << 49)
    liar.answers["GET /downlink/plan"] = respond({"items": [row], "left_out": 0})
    with link_to(liar) as link, pytest.raises(DiskFailed, match="more than are free"):
        Station(link, tmp_path / "dest").pull()
    assert "GET /maps/m1/map.tif" not in liar.requests


@pytest.mark.parametrize("answer", [None, [], {}, {"map": "m1"}, {"map": "m1", "received": "yes"}])
def test_a_receipt_of_another_form_is_none(liar: Liar, tmp_path: Path, answer: object) -> None:
    liar.answers["POST /maps/m1/receipt"] = respond(answer)
    with link_to(liar) as link, pytest.raises(AskedWrong):
        Station(link, tmp_path).pull()
    assert not (tmp_path / "m1" / "receipt.json").exists()
    assert (tmp_path / "m1" / "map.tif").read_bytes() == DATA


EVIL = "\x1b]0;owned\x07\x1b[31mred\x9b2J\u202egnp\r\nsecond\ud800"


def test_escapes_of_the_satellite_are_written_out(
    liar: Liar, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = json.loads(json.dumps(SNAPSHOT).replace("SAID", json.dumps(EVIL)[1:-1]))
    item = {
        "id": EVIL, "assets": {"map": {"file:size": 5}},
        "properties": {"datetime": EVIL, "title": EVIL, "onboard:priority": EVIL, "onboard:received": False,
                       "onboard:sequence": 1},
    }  # fmt: skip
    liar.answers |= {
        "GET /downlink/plan": respond({"items": [liar.planned("m1", reason=EVIL)], "left_out": 0}),
        "GET /telemetry": respond(snapshot), "GET /maps": respond({"features": [item], "links": []}),
    }  # fmt: skip
    dest = tmp_path / "dest"
    (dest / "a\x1b[31mb").mkdir(parents=True)
    texts = []
    for arguments in (
        ("pull", liar.url, "--dest", str(dest)), ("status", liar.url), ("watch", liar.url, "--count", "1"),
        ("ls", liar.url), ("ls", "--dest", str(dest)),
    ):  # fmt: skip
        code, out, err = run(capsys, *arguments)
        assert code == 0, err
        texts += [out, err]
    liar.answers["GET /downlink/plan"] = respond({"detail": EVIL}, status=403, kind=PROBLEM)
    texts += run(capsys, "pull", liar.url, "--dest", str(dest))[1:]
    for text in texts:
        assert not [char for char in text if not char.isprintable() and char != "\n"], text
    assert sum("\\x1b[31mred" in text for text in texts) == 5
    assert "second" in texts[-1]


SNAPSHOT = {
    "at": {"utc": "SAID"}, "engine": {"state": "SAID", "backend": "b", "precision": "p", "model": "m", "problem": ""},
    "scene": "SAID", "tiles_done": 1, "tiles_all": 2, "tiles_per_s": 1.0, "scenes": {"SAID": 1, "queued": 0},
    "disk": {"free_bytes": 1, "reserve_bytes": 1},
    "power": {"rail": "SAID", "power_w": 1.0, "net_w": None, "reason": "", "mode": "SAID"},
    "governor": {"state": "SAID", "why": "SAID"},
    "readings": [{"quantity": "SAID", "value": None, "unit": "W", "reason": "SAID", "source": "s", "rail": "r"}],
}  # fmt: skip
SPOILT: list[Any] = [
    None, [], {}, *({key: value for key, value in SNAPSHOT.items() if key != left} for left in SNAPSHOT),
    SNAPSHOT | {"readings": 5}, SNAPSHOT | {"tiles_done": "x"}, SNAPSHOT | {"scenes": []}, SNAPSHOT | {"power": None},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(SPOILT)))
def test_a_snapshot_of_another_form_is_one_line(liar: Liar, capsys: pytest.CaptureFixture[str], number: int) -> None:
    liar.answers["GET /telemetry"] = respond(SPOILT[number])
    for arguments in (("status", liar.url), ("watch", liar.url, "--count", "1")):
        code, out, err = run(capsys, *arguments)
        assert (code, out, len(err.splitlines())) == (2, "", 1)


@pytest.mark.parametrize(
    "page",
    [None, {}, {"features": [{}], "links": []}, {"features": {}, "links": []}, {"features": [], "links": [{}]},
     {"features": [], "links": [{"rel": "next"}]}],
)  # fmt: skip
def test_a_list_of_maps_of_another_form_is_one_line(
    liar: Liar, capsys: pytest.CaptureFixture[str], page: object
) -> None:
    liar.answers["GET /maps"] = respond(page)
    code, out, err = run(capsys, "ls", liar.url)
    assert (code in (1, 2), out, len(err.splitlines())) == (True, "", 1)


def test_a_server_that_is_down_is_told_at_once_and_at_every_try() -> None:
    lines: list[str] = []
    told_before_waiting: list[int] = []
    with (
        Link("http://127.0.0.1:9", told=lines.append, sleep=lambda _: told_before_waiting.append(len(lines))) as link,
        pytest.raises(LinkDown),
    ):
        link.json("GET", "/telemetry")
    assert told_before_waiting == list(range(1, TRIES))
    assert lines[0].startswith("http://127.0.0.1:9: no connection ([Errno 111] Connection refused); try 2 of 8 in 0.")


def test_retries_are_lines_of_the_terminal_unless_it_is_to_be_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("pull", "http://127.0.0.1:9", "--dest", str(tmp_path), "--window", "0.9s")
    code, out, err = run(capsys, *arguments)
    assert code == 4
    assert err.splitlines()[0].startswith("ground: http://127.0.0.1:9: no connection")
    code, out, err = run(capsys, *arguments, "--quiet")
    assert (code, out, err) == (4, "", "ground: nothing came through in this pass\n")


def test_after_a_pass_without_maps_scenes_to_come_are_asked_for_once_and_within_the_window(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def dead(link: socket.socket, _: str) -> None:
        """The link dies just then."""

    def dripping(link: socket.socket, _: str) -> None:
        link.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n")
        satellite.drip(link, b" " * 1000, 0.005)

    arguments = ("--dest", str(tmp_path), "--stall", "60s", "--window", "2s")
    with lying() as satellite:
        satellite.answers["GET /telemetry"] = respond(SNAPSHOT | {"scenes": {"queued": 2, "running": 1}})
        code, out, err = run(capsys, "pull", satellite.url, *arguments)
        assert (code, err) == (0, "")
        assert out.endswith("\n3 scenes still to be mapped aboard: pull again later\n")
        for answer in (dead, dripping, respond("busy", status=503), respond([]), respond("portal", kind="text/html")):
            satellite.answers["GET /telemetry"] = answer
            satellite.requests.clear()
            code, out, err = in_time(run, capsys, "pull", satellite.url, *arguments)
            assert (code, err, len(out.splitlines())) == (0, "", 1)
            assert satellite.requests.count("GET /telemetry") == 1


@pytest.mark.parametrize("name", ["map.tif", "map.tif.{digest}.part", "receipt.json.new", "receipt.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_in_the_folder_of_maps_hangs_nothing(
    liar: Liar, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    path = tmp_path / "m1" / name.format(digest=DIGEST[:16])
    path.parent.mkdir()
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    code, _, err = in_time(run, capsys, "pull", liar.url, "--dest", str(tmp_path))
    assert code in (0, 1)
    assert len(err.splitlines()) <= 1
    assert in_time(run, capsys, "ls", "--dest", str(tmp_path))[0] == 0


def in_time(function: Any, *arguments: Any) -> Any:
    """What it gives; it must not hang."""
    given: list[Any] = []
    thread = threading.Thread(target=lambda: given.append(function(*arguments)), daemon=True)
    thread.start()
    thread.join(30)
    assert given, "it hangs, or raised"
    return given[0]


def test_a_token_comes_from_a_file_or_a_pipe_and_nothing_else(
    liar: Liar, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_TOKEN_WAIT_S", 0.2)
    seen: list[str] = []

    def answer(link: socket.socket, head: str) -> None:
        seen.append(head)
        respond({})(link, head)

    liar.answers["GET /telemetry"] = answer
    reading, writing = os.pipe()
    os.write(writing, b"secret-1\n")
    os.close(writing)
    assert run(capsys, "status", liar.url, "--token-file", f"/dev/fd/{reading}", "--json")[0] == 0
    os.close(reading)
    assert "Bearer secret-1\r\n" in seen[0]
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").write_bytes(b"\n")
    (tmp_path / "binary").write_bytes(b"\xff\x00secret")
    (tmp_path / "two").write_bytes(b"one\ntwo")
    (tmp_path / "long").write_bytes(b"a" * 5000)
    for name in ("pipe", "empty", "binary", "two", "long", "missing", ""):
        code, _, err = in_time(run, capsys, "status", liar.url, "--token-file", str(tmp_path / name))
        assert (code, len(err.splitlines())) == (2, 1), (name, err)
    assert len(seen) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        *(("pull", url, "--dest", "x") for url in ("http://x:99999", "http://", "http://[::1", "x")),
        *(("pull", "http://x", "--dest", "x", *more) for more in (
            ("--bytes", "9" * 400 + "G"), ("--window", "0"), ("--stall", "0"))),
        ("watch", "http://x", "--every", "9" * 400), ("watch", "http://x", "--count", "-1"),
        ("telemetry", "http://x", "--dest", "x", "--step", "1e999"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert (code, len(err.splitlines())) == (2, 1), err


def test_a_folder_that_cannot_be_is_one_line(liar: Liar, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    code, _, err = run(capsys, "pull", liar.url, "--dest", str(tmp_path / "file"))
    assert (code, len(err.splitlines())) == (1, 1)
    with contextlib.suppress(GroundError):
        folders.held_maps(tmp_path / "file")


def areas_of(name: str, **changed: object) -> dict[str, Any]:
    """What `ground areas push` reads, and what a service answers."""
    facts = {"name": name, "classes": [], "priority": "high", "alert_points": None} | changed
    return {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": None, "properties": facts}]}


@pytest.mark.parametrize("over", [0, 1])
def test_areas_are_measured_as_they_are_sent(
    liar: Liar, tmp_path: Path, capsys: pytest.CaptureFixture[str], over: int
) -> None:
    """Up to the service's 64 KiB of compact UTF-8, however the file spells them."""
    room = (1 << 16) - len(json.dumps(areas_of(""), separators=(",", ":")))
    document = areas_of("地" * (room // 3) + "a" * (room % 3 + over))
    lengths = []

    def taken(link: socket.socket, head: str) -> None:
        length = int(re.search(r"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
        lengths.append(length)
        assert "content-type: application/json" in head.lower()
        respond(areas_of("a"))(link, head)

    liar.answers |= {"GET /areas": respond(areas_of("a")), "PUT /areas": taken}
    for text in (json.dumps(document), json.dumps(document, indent=2), json.dumps(document, ensure_ascii=False)):
        path = tmp_path / "areas.geojson"
        path.write_text(text, encoding="utf-8")
        code, _, err = run(capsys, "areas", "push", liar.url, str(path))
        if over:
            assert (code, "more than 65,536 bytes; simplify the areas" in err) == (2, True)
    assert lengths == ([] if over else [1 << 16] * 3)


@pytest.mark.parametrize(
    "text", ["{", '{"a": NaN}', '{"a": 1e999}', '"\\ud800"', "[" * 60_000, "9" * 5000, "\xff", " " * (1 << 21)]
)
def test_what_cannot_be_areas_is_refused_before_anything_is_asked(
    liar: Liar, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "areas.geojson").write_bytes(text.encode("latin-1"))
    code, out, err = run(capsys, "areas", "push", liar.url, str(tmp_path / "areas.geojson"))
    assert (code, out, len(err.splitlines()), liar.requests) == (2, "", 1, [])
