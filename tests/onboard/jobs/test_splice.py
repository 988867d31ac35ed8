from __future__ import annotations

import errno
import hashlib
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from onboard.errors import StorageError
from onboard.jobs.pace import Pace, TooSlow
from onboard.jobs.splice import LUMP, Pipe, SocketSource, hash_behind, sync_behind

DATA = os.urandom(3_000_001)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection: SO_RCVLOWAT is TCP's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
    with near, far:
        yield near, far


def received(far: socket.socket, path: Path, *, left: int, timeout_s: float = 30.0) -> bytes:
    """What a file holds that takes so many bytes; its digest is checked."""
    file, digest = os.open(path, os.O_RDWR | os.O_CREAT), hashlib.sha256()
    source = SocketSource(far, left, Pace(timeout_s, 0))
    try:
        with Pipe() as pipe, hash_behind(file, digest, at=0, path=path) as hashes, source.in_lumps():
            size = 0
            while source.left:
                count = source.move(pipe.into)
                pipe.drain(file, count, path)
                size += count
                hashes.wrote(size)
    finally:
        os.close(file)
    assert digest.digest() == hashlib.sha256(path.read_bytes()).digest()
    return path.read_bytes()


def sent(near: socket.socket, data: bytes) -> threading.Thread:
    thread = threading.Thread(target=near.sendall, args=(data,))
    thread.start()
    return thread


def test_a_body_reaches_the_file_and_what_follows_it_stays_in_the_socket(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    near, far = pair
    thread = sent(near, DATA + b"next")
    assert received(far, tmp_path / "a", left=len(DATA)) == DATA
    thread.join()
    far.settimeout(5)
    assert far.recv(10) == b"next"
    # Whoever reads the socket afterwards is woken by a single byte.
    assert far.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


def test_a_file_system_that_takes_no_pages_gets_bytes(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, refused = os.splice, []

    def picky(source: int, target: int, count: int) -> int:
        if stat.S_ISREG(os.fstat(target).st_mode):
            refused.append(count)
            raise OSError(errno.EINVAL, "no pages")
        return whole(source, target, count)

    monkeypatch.setattr(os, "splice", picky)
    near, far = pair
    thread = sent(near, DATA)
    assert received(far, tmp_path / "a", left=len(DATA)) == DATA
    assert refused
    thread.join()


def test_a_client_that_stops_is_given_up_but_a_slow_one_is_not(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    near, far = pair
    near.sendall(DATA[: LUMP // 2])  # less than a wait is woken for
    with pytest.raises(TooSlow):
        received(far, tmp_path / "a", left=LUMP, timeout_s=0.2)
    assert (tmp_path / "a").read_bytes() == DATA[: LUMP // 2]  # what was there was taken before


def test_a_connection_that_ends_early_is_told(pair: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    near, far = pair
    near.sendall(DATA[:1000])
    near.close()
    with pytest.raises(ConnectionError):
        received(far, tmp_path / "a", left=2000)


def test_a_start_can_be_read_by_itself(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    near.sendall(b"abcdef")
    source = SocketSource(far, 6, Pace(5, 0))
    assert (source.read(4), source.read(9), source.read(1), source.left) == (b"abcd", b"ef", b"", 0)


def test_a_disk_that_fails_behind_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: int) -> None:
        raise OSError(errno.EIO, "bad disk")

    monkeypatch.setattr(os, "fdatasync", fails)
    file = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    os.write(file, b"x")
    try:
        with (
            pytest.raises(StorageError, match="bad disk"),
            sync_behind(file, at=0, path=tmp_path / "a") as syncs,
        ):
            syncs.wrote(1)
        with (
            pytest.raises(StorageError, match="shorter"),
            hash_behind(file, hashlib.sha256(), at=0, path=tmp_path / "a") as hashes,
        ):
            hashes.wrote(2)
    finally:
        os.close(file)
