"""jtop: without its package, with the real package and no service, and with a stand-in that says what its docs say."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from telemetry.sources.jtop import RETRY_S, SILENCE_S, Jtop

ROOT = Path(__file__).resolve().parents[2]
# After the documentation of jetson-stats 7.2 (jtop.power, .temperature, .gpu, .nvpmodel): no recording.
STAND_IN = '''
import sys, time
class JtopException(Exception): pass
class _Mode:
    name, models = "25W", ["MAXN", "10W", "15W", "25W"]
class jtop:
    def __init__(self, interval): self._mode, self.turns = _Mode(), 0
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def ok(self):
        time.sleep(0.02)
        return True
    power = {"rail": {"VDD_SOC": {"volt": 19000, "curr": 200, "power": 3800, "avg": 1}},
             "tot": {"name": "VDD_IN", "volt": 19000, "curr": 1000, "power": 19000, "avg": 1}}
    temperature = {"cpu": {"temp": 48.5, "online": True}, "cv0": {"temp": -256, "online": False}}
    gpu = {"gpu": {"type": "integrated", "status": {"load": 87.3}}}
    @property
    def nvpmodel(self): return self._mode
    @nvpmodel.setter
    def nvpmodel(self, name): self._mode.name = name
'''


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Jtop]]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    found: list[Jtop] = []
    yield found
    for one in found:
        one.close()


def begun(started: list[Jtop], **options: object) -> Jtop:
    source = Jtop(**options)  # type: ignore[arg-type]
    started.append(source)
    source.read()
    assert source.heard.wait(30)
    return source


def test_watts_heat_load_and_mode_of_the_stand_in(tmp_path: Path, started: list[Jtop]) -> None:
    (tmp_path / "jtop.py").write_text(STAND_IN)
    source = begun(started)
    told = {f"{one.quantity}:{one.rail}": one for one in source.read()}
    assert told["power_w:VDD_IN"].value == 19.0
    assert told["power_w:VDD_SOC"].value == 3.8
    assert told["load:gpu"].value == pytest.approx(0.873)
    assert (told["temperature_c:cv0"].value, told["temperature_c:cv0"].reason) == (None, "the sensor is switched off")
    assert source.mode() == ("25W", "")
    assert source.state().found


def test_a_mode_is_set_by_name_and_only_one_that_may_be(tmp_path: Path, started: list[Jtop]) -> None:
    (tmp_path / "jtop.py").write_text(STAND_IN)
    source = begun(started)
    assert "not among those" in source.set_mode("10W", ["15W"])
    assert "this board has no mode 40W" in source.set_mode("40W", ["40W"])
    assert source.set_mode("15W", ["15W"]) == ""
    while source.mode()[0] != "15W":
        source.heard.clear()
        assert source.heard.wait(30)


def test_a_process_that_dies_or_is_silent_is_a_reason_and_is_started_again(
    tmp_path: Path, started: list[Jtop]
) -> None:
    (tmp_path / "jtop.py").write_text(STAND_IN)
    now = [0.0]

    def clock() -> float:
        import time

        return time.monotonic() + now[0]

    source = begun(started, clock=clock)
    first = source._process
    assert first is not None
    first.kill()
    first.wait()
    now[0] += SILENCE_S + 1
    assert source.read() == []
    assert "silent" in source.state().problem
    now[0] += RETRY_S
    source.heard.clear()
    source.read()
    assert source._process is not first
    assert source.heard.wait(30)


def _without(package: str) -> Sequence[str]:
    code = f"import sys; sys.modules[{package!r}] = None; from telemetry.sources.jtop_process import main; main()"
    return [sys.executable, "-c", code]


def test_without_the_package_it_says_how_to_get_it(started: list[Jtop]) -> None:
    source = begun(started, command=_without("jtop"))
    state = source.state()
    assert (state.found, state.problem) == (False, "jetson-stats is not installed")
    assert "jetson" in state.remedy
    assert source.mode() == (None, "jetson-stats is not installed")


def test_the_real_package_without_its_service(started: list[Jtop]) -> None:
    if importlib.util.find_spec("jtop") is None:
        pytest.skip("jetson-stats is not installed here: pip install jetson-stats")
    source = begun(started)
    assert not source.state().found
    assert "jtop" in source.state().problem


def test_our_process_never_imports_it() -> None:
    code = "import sys, telemetry.discover; print('jtop' in sys.modules, 'pynvml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
