"""NVML with a stand-in for pynvml after its documented functions; the library itself needs a driver."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from telemetry.sources.nvml import RETRY_S, Nvml, ecc_state


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        self.value = value
        super().__init__({3: "Not Supported", 15: "GPU is lost", 9: "Driver Not Loaded"}[value])


class StandIn(ModuleType):
    """A stand-in for pynvml: functions that answer, or raise the NVMLError they are given, for all GPUs or by index.

    As in NVML, what a GPU answers is settled when the library starts, and it starts anew only after its last user left.
    """

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM, NVML_ERROR_GPU_IS_LOST = 0, 1, 15

    def __init__(self, **answers: object) -> None:
        super().__init__("pynvml")
        self.answers, self.users = answers, 0
        self.__dict__.update(
            nvmlDeviceGetCount=lambda: self._asked("count"),
            nvmlDeviceGetHandleByIndex=lambda index: (self._asked("handle", index), index)[1],
            nvmlDeviceGetPowerUsage=lambda index: self._asked("power", index),
            nvmlDeviceGetTemperature=lambda index, _kind: self._asked("heat", index),
            nvmlDeviceGetUtilizationRates=lambda index: SimpleNamespace(gpu=self._asked("load", index)),
            nvmlDeviceGetClockInfo=lambda index, _kind: self._asked("clock", index),
            nvmlDeviceGetCurrentClocksThrottleReasons=lambda index: self._asked("throttle", index),
        )

    def _asked(self, name: str, index: int = 0) -> Any:
        value = self._settled.get(name, NVMLError(3))
        if isinstance(value, list):
            value = value[index]
        if isinstance(value, Exception):
            raise value
        return value

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.users:
            self._settled = dict(self.answers)
        self._asked("init")
        self.users += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.users -= 1


def stand_in(**answers: object) -> StandIn:
    return StandIn(**({"init": None, "handle": None} | answers))


def test_a_gpu_says_watts_heat_load_clock_and_throttling(monkeypatch: pytest.MonkeyPatch) -> None:
    made = stand_in(count=1, power=71500, heat=44, load=98, clock=1410, throttle=0x4 | 0x1)
    monkeypatch.setitem(sys.modules, "pynvml", made)
    told = {one.quantity: one.value for one in Nvml().read()}
    assert told == {"power_w": 71.5, "temperature_c": 44.0, "load": 0.98, "clock_hz": 1.41e9, "throttle_state": 1.0}


def test_what_is_not_supported_has_a_reason_and_is_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", stand_in(count=1))
    source = Nvml()
    assert {(one.value, one.reason) for one in source.read()} == {(None, "nvml: not supported")}
    assert not source.state().found


@pytest.mark.parametrize(("reasons", "state"), [(0x0, 0.0), (0x1 | 0x2, 0.0), (0x4, 1.0), (0x1 | 0x40, 1.0)])
def test_idleness_and_wanted_clocks_are_no_throttling(
    monkeypatch: pytest.MonkeyPatch, reasons: int, state: float
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", stand_in(count=1, throttle=reasons))
    assert {one.quantity: one.value for one in Nvml().read()}["throttle_state"] == state


def test_one_missing_quantity_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", stand_in(count=1, power=50000, heat=44, load=0, clock=345))
    missing = {one.quantity: one.reason for one in Nvml().read() if one.value is None}
    assert missing == {"throttle_state": "nvml: not supported"}


def test_a_gpu_that_falls_off_the_bus_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    made = stand_in(count=1, power=NVMLError(15))
    monkeypatch.setitem(sys.modules, "pynvml", made)
    source = Nvml(clock=lambda: now[0])
    assert source.read()[0].reason == "nvml: gpu is lost"
    assert source.read() == []
    state = source.state()
    assert (state.problem, state.remedy) == ("gpu-0: nvml: gpu is lost", "reset the GPU or restart the machine")
    made.answers["power"] = 50000
    now[0] += RETRY_S - 1
    assert source.read() == []
    now[0] += 1
    assert source.read()[0].value == 50.0
    source.close()
    assert made.users == 0


@pytest.mark.parametrize("where", ["power", "handle"])
def test_a_lost_gpu_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    now = [100.0]
    made = stand_in(**({"count": 2, "power": [50000, 60000]} | {where: [NVMLError(15), 60000]}))
    monkeypatch.setitem(sys.modules, "pynvml", made)
    source = Nvml(clock=lambda: now[0])
    source.read()
    assert {one.rail: one.value for one in source.read() if one.quantity == "power_w"} == {"gpu-1": 60.0}
    made.answers |= {"power": [50000, 60000], "handle": None}
    now[0] += RETRY_S
    power = {one.rail: one.value for one in source.read() if one.quantity == "power_w"}
    assert power == {"gpu-0": 50.0, "gpu-1": 60.0}


def test_a_function_that_the_package_lacks_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    made = stand_in(count=1, heat=44)
    del made.__dict__["nvmlDeviceGetPowerUsage"]
    monkeypatch.setitem(sys.modules, "pynvml", made)
    told = {one.quantity: one for one in Nvml().read()}
    assert "nvmlDeviceGetPowerUsage" in told["power_w"].reason
    assert told["temperature_c"].value == 44.0


def test_no_gpu_is_a_problem_and_holds_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    made = stand_in(count=0)
    monkeypatch.setitem(sys.modules, "pynvml", made)
    source = Nvml(clock=lambda: now[0])
    assert source.state().problem == "NVML shows no GPU"
    now[0] += RETRY_S
    source.read()
    assert made.users == 1
    source.close()
    assert made.users == 0


def test_what_was_wrong_before_is_not_said_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    made = stand_in(init=NVMLError(9), count=1)
    monkeypatch.setitem(sys.modules, "pynvml", made)
    source = Nvml(clock=lambda: now[0])
    assert "install the NVIDIA driver" in source.state().remedy
    made.answers["init"] = None
    now[0] += RETRY_S
    state = source.state()
    assert "NotSupported" in state.problem
    assert "Jetson" in state.remedy


def test_the_real_package_without_a_driver() -> None:
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed here: pip install nvidia-ml-py")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        state = Nvml().state()
        assert state.problem.startswith("nvml: ")
        assert "driver" in state.remedy
    else:
        assert Nvml().state().found or Nvml().read()


def test_no_package_and_no_driver_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "nvidia-ml-py is not installed" in Nvml().state().problem
    monkeypatch.setitem(sys.modules, "pynvml", stand_in(init=NVMLError(9)))
    state = Nvml().state()
    assert "driver not loaded" in state.problem
    assert state.remedy


def test_the_rest_of_an_installation_is_no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", ModuleType("pynvml"))
    assert Nvml().read() == []
    assert "not installed" in Nvml().state().problem
    assert "not installed" in ecc_state()
