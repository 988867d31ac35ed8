"""jtop: without its package, and with a stand-in that says what its docs say. The real one: test_jtop_real.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from telemetry.readings import Reading
from telemetry.sources.jtop import RETRY_S, SILENCE_S, Jtop

ROOT = Path(__file__).resolve().parents[2]
PROCESS = [sys.executable, "-m", "telemetry.sources.jtop_process"]
# After the documentation of jetson-stats 7.2 (jtop.power, .temperature, .gpu, .nvpmodel, .uptime): no recording.
STAND_IN = """
import sys, threading, time
from datetime import timedelta
class JtopException(Exception): pass
class _Mode:
    name, models, status = "25W", ["MAXN", "10W", "15W", "25W"], [True, False, True, True]
class jtop:
    turns, until, hangs_after, frozen = 0, 10**9, 10**9, False
    def __init__(self, interval): self._mode = _Mode()
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def ok(self):
        self.turns += 1
        if self.turns > self.hangs_after: threading.Event().wait()
        time.sleep(0.02)
        return self.turns <= self.until
    power = {"rail": {"VDD_SOC": {"volt": 19000, "curr": 200, "power": 3800, "avg": 1}},
             "tot": {"name": "VDD_IN", "volt": 19000, "curr": 1000, "power": 19000, "avg": 1}}
    temperature = {"cpu": {"temp": 48.5, "online": True}, "cv0": {"temp": -256, "online": False}}
    gpu = {"gpu": {"type": "integrated", "status": {"load": 87.3}}}
    @property
    def uptime(self): return timedelta(seconds=1 if self.frozen else self.turns)
    @property
    def nvpmodel(self): return self._mode
    @nvpmodel.setter
    def nvpmodel(self, name): self._mode.name = name
"""
Begin = Callable[..., Jtop]


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """Starts an adapter over the stand-in, changed by Python text, and waits for its first word."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    started: list[Jtop] = []

    def begin(change: str = "", **options: object) -> Jtop:
        (tmp_path / "jtop.py").write_text(f"{STAND_IN}\n{change}\n")
        source = Jtop(**options)  # type: ignore[arg-type]
        started.append(source)
        source.read()
        assert source.heard.wait(30)
        return source

    yield begin
    for one in started:
        one.close()


class Clock:
    """Monotonic time that tests push on."""

    ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


def told(source: Jtop) -> dict[str, Reading]:
    return {f"{one.quantity}:{one.rail}": one for one in source.read()}


def wait_until(source: Jtop, holds: Callable[[], bool]) -> None:
    """Waits for one word after the other; cleared before it looks, so that none is lost between."""
    source.heard.clear()
    while not holds():
        assert source.heard.wait(30)
        source.heard.clear()


def test_watts_heat_load_and_mode_of_the_stand_in(begun: Begin) -> None:
    before_s = time.monotonic()
    source = begun()
    found = told(source)
    assert found["power_w:VDD_IN"].value == 19.0
    assert found["power_w:VDD_SOC"].value == 3.8
    assert found["temperature_c:cpu"].value == 48.5
    assert found["load:gpu"].value == pytest.approx(0.873)
    assert (found["temperature_c:cv0"].value, found["temperature_c:cv0"].reason) == (None, "the sensor is switched off")
    assert before_s < found["power_w:VDD_IN"].at.monotonic_s < time.monotonic()
    assert source.mode() == ("25W", "")
    assert set(source.state().rails) == {"VDD_IN", "VDD_SOC", "cpu", "gpu"}


def test_a_power_that_no_board_draws_is_none(begun: Begin) -> None:
    found = told(begun("jtop.power['rail']['VDD_SOC']['power'] = 4_294_967_295"))
    assert (found["power_w:VDD_SOC"].value, found["power_w:VDD_SOC"].reason) == (None, "jtop says 4.29497e+06 W")
    assert found["power_w:VDD_IN"].value == 19.0


def test_a_sum_without_a_name_is_the_total(begun: Begin) -> None:
    source = begun("jtop.power = {'rail': {'CPU': {'power': 500}, 'GPU': {}}, 'tot': {'power': 500, 'avg': 0}}")
    found = told(source)
    assert (found["power_w:total"].value, found["power_w:CPU"].value) == (0.5, 0.5)
    assert (found["power_w:GPU"].value, found["power_w:GPU"].reason) == (None, "jtop gives no number")


def test_a_sum_of_no_rail_is_missing_and_not_zero_watts(begun: Begin) -> None:
    source = begun("jtop.power = {'rail': {}, 'tot': {'power': 0, 'avg': 0}}")
    assert (told(source)["power_w:total"].value, told(source)["power_w:total"].reason) == (None, "jtop gives no number")


def test_a_board_without_sensors_has_no_rails_and_says_so(begun: Begin) -> None:
    source = begun("jtop.power, jtop.temperature, jtop.gpu = {}, {}, {}")
    assert source.read() == []
    assert source.state().problem == "jtop gives no value"


@pytest.mark.parametrize("name", ["{}", "None"])
def test_a_board_without_a_mode_says_so(begun: Begin, name: str) -> None:
    assert begun(f"_Mode.name = property(lambda _: {name}['name'])").mode() == (None, "jtop names no mode")


def test_a_mode_is_set_by_name_and_only_one_that_may_be(begun: Begin) -> None:
    source = begun()
    assert "not among those" in source.set_mode("MAXN", ["15W"])
    assert "this board has no mode 40W" in source.set_mode("40W", ["40W"])
    assert "needs a reboot" in source.set_mode("10W", ["10W"])
    assert source.set_mode("15W", ["15W"]) == ""
    wait_until(source, lambda: source.mode()[0] == "15W")


def test_a_mode_that_jtop_refuses_after_all_leaves_the_rest_alone(begun: Begin) -> None:
    refuse = "def refused(self, name): self.__class__.temperature = {'asked': 1.0}; raise JtopException('no')"
    source = begun(f"{refuse}\njtop.nvpmodel = jtop.nvpmodel.setter(refused)")
    assert source.set_mode("15W", ["15W"]) == ""
    wait_until(source, lambda: "temperature_c:asked" in told(source))
    assert source.mode() == ("25W", "")


def test_a_process_that_dies_is_a_reason_at_once_and_is_started_again(begun: Begin) -> None:
    clock = Clock()
    source = begun(clock=clock)
    first = source._process
    assert first is not None
    first.kill()
    wait_until(source, lambda: not source.read())
    assert source.state().problem == "jtop's process ended with status -9"
    assert source.mode() == (None, "jtop's process ended with status -9")
    assert "ended" in source.set_mode("15W", ["15W"])
    source.read()
    assert source._process is first  # too early to try again
    clock.ahead_s += RETRY_S
    source.heard.clear()
    source.read()
    assert source._process is not first
    assert source.heard.wait(30)
    assert source.state().found


def test_a_process_that_hangs_is_silent_and_is_replaced(begun: Begin) -> None:
    clock = Clock()
    source = begun("jtop.hangs_after = 1", clock=clock)
    first = source._process
    assert first is not None
    assert source.mode() == ("25W", "")
    clock.ahead_s += SILENCE_S + 1
    assert source.read() == []
    assert "silent for 5 s" in source.state().problem
    assert source.mode() == (None, source.state().problem)
    assert first.poll() is None
    clock.ahead_s += RETRY_S
    source.heard.clear()
    source.read()
    assert first.poll() is not None
    assert source.heard.wait(30)
    assert source.state().found


def test_a_process_that_never_says_a_word_is_silent() -> None:
    clock = Clock()
    source = Jtop([sys.executable, "-c", "input()"], clock)
    try:
        assert (source.read(), source.state().problem) == ([], "it has not answered yet")
        clock.ahead_s += SILENCE_S + 1
        assert "silent" in source.state().problem
    finally:
        source.close()


def test_what_is_not_ours_on_the_pipe_is_left_out(begun: Begin) -> None:
    source = begun("""print('3'); print('[]'); print('{"watts": 1}'); print('{', flush=True)""")
    assert told(source)["power_w:VDD_IN"].value == 19.0


def test_a_program_that_is_not_there_is_a_reason() -> None:
    source = Jtop(["/nowhere/python"])
    assert source.read() == []
    assert source.state().problem == "cannot be started: No such file or directory"


@pytest.mark.parametrize(
    ("raised", "problem", "remedy"),
    [
        ("JtopException('The jtop.service is not active. Please run:\\nsudo')", "Please run: sudo", "jtop.service"),
        ("JtopException('I can\\'t access jtop.service.')", "can't access", "jtop group"),
        ("JtopException('Mismatch version jtop service: [4.3.2]')", "4.3.2", "major and minor"),
        ("EOFError()", "jtop: EOFError", "restart"),
    ],
)
def test_whatever_jtop_raises_is_a_problem_with_its_remedy(
    begun: Begin, raised: str, problem: str, remedy: str
) -> None:
    state = begun(f"def raising(self): raise {raised}\njtop.__enter__ = raising").state()
    assert problem in state.problem
    assert remedy in state.remedy


def lines_of(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> subprocess.Popen[str]:
    (tmp_path / "jtop.py").write_text(f"{STAND_IN}\n{change}\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    return subprocess.Popen(PROCESS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_service_that_gives_the_same_again_and_again_is_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lines_of("jtop.frozen, jtop.until = True, 5", tmp_path, monkeypatch) as process:
        assert process.stdout is not None
        lines = [json.loads(line) for line in process.stdout]
    assert [set(line) & {"watts", "problem"} for line in lines] == [{"watts"}, {"problem"}]
    assert "has sent nothing" in lines[1]["problem"]


def test_the_process_ends_with_its_input_whatever_jtop_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lines_of("jtop.hangs_after = 1", tmp_path, monkeypatch) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert "watts" in process.stdout.readline()
        assert process.poll() is None
        process.stdin.close()
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()


def _without(package: str) -> Sequence[str]:
    code = f"import sys; sys.modules[{package!r}] = None; from telemetry.sources.jtop_process import main; main()"
    return [sys.executable, "-c", code]


def test_without_the_package_it_says_how_to_get_it(begun: Begin) -> None:
    source = begun(command=_without("jtop"))
    state = source.state()
    assert (state.found, state.problem) == (False, "jetson-stats is not installed")
    assert "jetson" in state.remedy
    assert source.mode() == (None, "jetson-stats is not installed")


def test_a_package_without_what_it_needs_is_not_called_missing(begun: Begin) -> None:
    problem = begun("import no_such_module").state().problem
    assert problem == "jetson-stats cannot be imported: No module named 'no_such_module'"


def test_our_process_never_imports_it() -> None:
    code = "import sys, telemetry.discover; print('jtop' in sys.modules, 'pynvml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
