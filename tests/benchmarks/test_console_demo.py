"""The demonstration of the console ends at once, and says in one line that its satellite is gone."""

from __future__ import annotations

import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks.console_demo import Demo
from tests.ground.liar import lying, respond


def demo_of(folder: Path, url: str) -> Demo:
    """Without a service."""
    for role in ("ground", "operator", "ingest"):
        (folder / f"{role}.token").write_text("secret")
    return Demo(folder, url=url, pause_s=0.1)


def free_url() -> str:
    """Where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_a_satellite_that_is_gone_is_one_line_and_not_one_a_try(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    demo = demo_of(tmp_path, free_url())
    demo.keep_passing()
    time.sleep(2)
    begin = time.monotonic()
    demo.__exit__()
    assert time.monotonic() - begin < 5
    printed, error = capfd.readouterr()
    assert printed.splitlines() == [f"the satellite at {demo.url} is not reachable: no passes until it answers"]
    assert error == ""


def test_what_a_pass_says_of_its_tries_goes_into_a_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The service answers, and then breaks: as where it stops while the station asks."""
    with lying() as liar:
        liar.answers["GET /health/live"] = respond({})
        demo = demo_of(tmp_path, liar.url)
        liar.answers["GET /events"] = lambda link, _: link.close()
        thread = threading.Thread(target=demo.pull, args=(free_url(), "--window", "1s"))
        thread.start()
        log = tmp_path / "passes.log"
        end = time.monotonic() + 60
        while not (log.exists() and "try 2 of 8" in log.read_text()) and time.monotonic() < end:
            time.sleep(0.1)
        demo.__exit__()
        thread.join(10)
    assert not thread.is_alive()
    assert "try 2 of 8" in log.read_text()
    assert capfd.readouterr() == ("", "")


def test_a_command_that_runs_ends_with_the_demonstration(tmp_path: Path) -> None:
    demo = demo_of(tmp_path, free_url())
    codes: list[int] = []
    command = [sys.executable, "-c", "import time; time.sleep(300)"]
    thread = threading.Thread(target=lambda: codes.append(demo._ran(command)))
    thread.start()
    time.sleep(1)
    demo.__exit__()
    thread.join(10)
    assert codes
    assert codes[0] != 0
