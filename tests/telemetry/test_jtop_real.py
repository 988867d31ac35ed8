"""jtop by the real jetson-stats package, in a process of its own: without its service, and with a stand-in for it."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from telemetry.sources.jtop import Jtop

if importlib.util.find_spec("jtop") is None:
    pytest.skip("jetson-stats is not installed here: pip install jetson-stats", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
SERVICE = Path(__file__).with_name("stand_in_jtop_service.py")
# The package knows one socket, /run/jtop.sock, that a test must not make.
ON_A_SOCKET = (
    "import sys; from jtop import service; service.JTOP_PIPE = sys.argv[1]; "
    "from telemetry.sources.jtop_process import main; main()"
)
Serve = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jtop.sock"


@pytest.fixture
def source(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jtop]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    made = Jtop([sys.executable, "-c", ON_A_SOCKET, str(path)])
    yield made
    made.close()


@pytest.fixture
def serve(path: Path) -> Iterator[Serve]:
    """Starts the stand-in service and waits until it listens."""
    started: list[subprocess.Popen[str]] = []

    def begin(version: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(SERVICE), str(path), version]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in started:
        with process:
            process.kill()


def heard(source: Jtop) -> Jtop:
    source.read()
    assert source.heard.wait(30)
    return source


def test_no_socket_says_to_start_the_service(source: Jtop) -> None:
    state = heard(source).state()
    assert "jtop.service is not active" in state.problem
    assert state.remedy.startswith("start jtop.service; in a container mount")


def test_a_socket_that_refuses_says_to_start_the_service(source: Jtop, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    state = heard(source).state()
    assert "jtop.service is not active" in state.problem
    assert state.remedy.startswith("start jtop.service; in a container mount")


def test_another_version_says_which_and_what_to_install(source: Jtop, serve: Serve) -> None:
    serve("0.9.9")
    state = heard(source).state()
    assert "Mismatch version jtop service: [0.9.9]" in state.problem
    assert "major and minor" in state.remedy


def test_the_real_client_hears_a_stand_in_service_and_sets_its_mode_without_force(source: Jtop, serve: Serve) -> None:
    serve("own")
    told = {f"{one.quantity}:{one.rail}": one for one in heard(source).read()}
    assert {name: one.value for name, one in told.items()} == {
        "power_w:VDD_IN": 19.0, "power_w:VDD_SOC": 3.8, "temperature_c:cpu": 48.5, "temperature_c:cv0": None,
        "load:gpu": 0.5,
    }  # fmt: skip
    assert source.mode() == ("25W", "")
    assert "needs a reboot" in source.set_mode("10W", ["10W"])
    assert source.set_mode("15W", ["15W"]) == ""
    source.heard.clear()
    while source.mode()[0] != "15W":
        assert source.heard.wait(30)
        source.heard.clear()


def test_a_service_that_dies_is_a_problem(source: Jtop, serve: Serve) -> None:
    service = serve("own")
    assert heard(source).state().found
    service.kill()
    source.heard.clear()
    while source.read():
        assert source.heard.wait(30)
        source.heard.clear()
    state = source.state()
    assert state.problem.startswith("jtop")
    assert "jtop.service" in state.remedy
