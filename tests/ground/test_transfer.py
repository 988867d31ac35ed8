"""Answers that a satellite should not give, from a server that gives them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from ground.errors import LinkDown, MapDamaged
from ground.link import Link
from ground.transfer import Superseded, Tally, Wanted, fetch

DATA = bytes(range(256)) * 100
DIGEST = hashlib.sha256(DATA).hexdigest()
SHORT = 20_000


class Handler(BaseHTTPRequestHandler):
    """Serves DATA, wrongly."""

    way: ClassVar[str] = ""
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        begin = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
        type(self).asked.append(self.headers["Range"])
        first = len(self.asked) == 1
        body, said = DATA[begin:], f"bytes {begin}-{len(DATA) - 1}/{len(DATA)}"
        if self.way == "shifted" and first:
            body, said = DATA[begin + 5 :], f"bytes {begin + 5}-{len(DATA) - 1}/{len(DATA)}"
        if self.way == "earlier":
            body, said = DATA[begin // 2 :], f"bytes {begin // 2}-{len(DATA) - 1}/{len(DATA)}"
        if self.way == "damaged" or (self.way == "damaged once" and first):
            body = bytes(len(body))
        if self.way == "busy" and first:
            self.send_response(429)
            self.send_header("Retry-After", "0")
            self.end_headers()
            return
        if self.way == "cut short":
            body = DATA[begin:SHORT]
            if not body:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{SHORT}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206)
        self.send_header("ETag", f'"{"a" * 64}"' if self.way == "another" else f'"{DIGEST}"')
        if self.way != "silent":
            self.send_header("Content-Range", said)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def link() -> Iterator[Link]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Handler.asked.clear()
    with Link(f"http://127.0.0.1:{server.server_address[1]}", sleep=lambda _: None) as link:
        yield link
    server.shutdown()
    thread.join()
    server.server_close()


def wanted_in(folder: Path, begun: int = 0) -> Wanted:
    wanted = Wanted("/maps/m/map.tif", folder / "m" / "map.tif", DIGEST, len(DATA), len(DATA))
    if begun:
        wanted.part.parent.mkdir()
        wanted.part.write_bytes(DATA[:begun])
    return wanted


@pytest.mark.parametrize("way", ["", "shifted", "earlier", "damaged once", "busy"])
def test_the_file_is_whole_in_the_end(link: Link, tmp_path: Path, way: str) -> None:
    Handler.way = way
    wanted, tally = wanted_in(tmp_path, begun=1000), Tally()
    fetch(link, wanted, tally)
    assert wanted.target.read_bytes() == DATA
    assert list(wanted.target.parent.iterdir()) == [wanted.target]
    assert Handler.asked[0] == f"bytes=1000-{len(DATA) - 1}"
    assert (tally.repeated > 0) == (way in ("earlier", "damaged once"))


def test_what_arrives_wrong_twice_is_told_and_never_put_in_place(link: Link, tmp_path: Path) -> None:
    Handler.way = "damaged"
    wanted = wanted_in(tmp_path)
    with pytest.raises(MapDamaged, match="arrived with SHA-256"):
        fetch(link, wanted, Tally())
    assert list(wanted.target.parent.iterdir()) == []


def test_a_file_that_ends_too_early_aboard_is_damaged_and_costs_the_next_pass_one_request(
    link: Link, tmp_path: Path
) -> None:
    Handler.way = "cut short"
    wanted, tally = wanted_in(tmp_path), Tally()
    for _ in range(2):
        with pytest.raises(MapDamaged, match=r"arrived with 20,000 bytes and an end, promised was 25,600 bytes"):
            fetch(link, wanted, tally)
    assert (tally.received, len(Handler.asked)) == (SHORT, 3)
    assert not wanted.target.exists()


def test_a_part_of_another_version_is_not_continued(link: Link, tmp_path: Path) -> None:
    Handler.way = "another"
    wanted = wanted_in(tmp_path, begun=1000)
    with pytest.raises(Superseded):
        fetch(link, wanted, Tally())
    assert wanted.part.read_bytes() == DATA[:1000]  # until that version is fetched: this one may come back


def test_an_answer_that_does_not_say_what_it_is_counts_as_none(link: Link, tmp_path: Path) -> None:
    Handler.way = "silent"
    with pytest.raises(LinkDown, match="without Content-Range"):
        fetch(link, wanted_in(tmp_path), Tally())
