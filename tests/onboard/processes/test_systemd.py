"""systemd's protocol, by a socket of ours."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from onboard.processes.systemd import Systemd


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["file", "abstract"])
def heard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """An address as systemd gives it, and its end."""
    name = f"@onboard-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")[-100:]
    if not name.startswith(("@", "/")):
        pytest.skip("the temporary folder's path is too long for a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind("\0" + name[1:] if name.startswith("@") else name)
        end.setblocking(False)
        yield name, end


def words(end: socket.socket) -> list[bytes]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(end.recv(100))
    return found


def test_it_is_told_what_it_asks_for_and_children_do_not_hear_of_it(heard: tuple[str, socket.socket]) -> None:
    name, end = heard
    environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid()), "PATH": "/"}
    clock = Clock()
    systemd = Systemd(environment, clock)
    assert environment == {"PATH": "/"}
    for _ in range(3):
        systemd.ready()
    assert words(end) == [b"READY=1"]
    for seconds, expected in ((0, [b"WATCHDOG=1"]), (14.9, []), (0.2, [b"WATCHDOG=1"]), (100, [b"WATCHDOG=1"])):
        clock.now += seconds
        systemd.alive()
        assert words(end) == expected
    systemd.stopping()
    assert words(end) == [b"STOPPING=1"]


@pytest.mark.parametrize("watchdog", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}])
def test_a_watchdog_that_is_not_ours_hears_nothing(heard: tuple[str, socket.socket], watchdog: dict[str, str]) -> None:
    name, end = heard
    Systemd({"NOTIFY_SOCKET": name} | watchdog).alive()
    assert words(end) == []


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/nothing/here", "WATCHDOG_USEC": "1"}])
def test_without_systemd_nothing_happens(environment: dict[str, str]) -> None:
    systemd = Systemd(environment)
    systemd.ready()
    systemd.alive()
    systemd.stopping()


def test_what_was_not_taken_is_said_again(heard: tuple[str, socket.socket]) -> None:
    name, end = heard
    systemd = Systemd({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "2"})
    for _ in range(1000):  # until its queue is full
        systemd.alive()
    systemd.ready()
    assert b"READY=1" not in words(end)
    systemd.ready()
    assert words(end) == [b"READY=1"]
