"""NVML with a stand-in for pynvml after its documented functions; the library itself needs a driver."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from telemetry.sources.nvml import RETRY_S, Nvml


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        self.value = value
        super().__init__({3: "Not Supported", 15: "GPU is lost", 9: "Driver Not Loaded"}[value])


def stand_in(**answers: object) -> ModuleType:
    """Functions that answer, or raise the NVMLError they are given."""

    def asked(name: str) -> object:
        value = answers.get(name, NVMLError(3))
        if isinstance(value, Exception):
            raise value
        return value

    module = ModuleType("pynvml")
    module.__dict__.update(
        NVMLError=NVMLError, NVML_TEMPERATURE_GPU=0, NVML_CLOCK_SM=1, NVML_ERROR_GPU_IS_LOST=15,
        nvmlInit=lambda: asked("init"), nvmlShutdown=lambda: None, nvmlDeviceGetCount=lambda: asked("count"),
        nvmlDeviceGetHandleByIndex=lambda index: index, nvmlDeviceGetPowerUsage=lambda _: asked("power"),
        nvmlDeviceGetTemperature=lambda *_: asked("heat"),
        nvmlDeviceGetUtilizationRates=lambda _: SimpleNamespace(gpu=asked("load")),
        nvmlDeviceGetClockInfo=lambda *_: asked("clock"),
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda _: asked("throttle"),
    )  # fmt: skip
    return module


def test_a_gpu_says_watts_heat_load_clock_and_throttling(monkeypatch: pytest.MonkeyPatch) -> None:
    made = stand_in(init=None, count=1, power=71500, heat=44, load=98, clock=1410, throttle=0x4 | 0x1)
    monkeypatch.setitem(sys.modules, "pynvml", made)
    told = {one.quantity: one.value for one in Nvml().read()}
    assert told == {"power_w": 71.5, "temperature_c": 44.0, "load": 0.98, "clock_hz": 1.41e9, "throttle_state": 1.0}


def test_what_is_not_supported_has_a_reason_and_is_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", stand_in(init=None, count=1))
    source = Nvml()
    assert {(one.value, one.reason) for one in source.read()} == {(None, "nvml: not supported")}
    assert not source.state().found


def test_a_gpu_that_falls_off_the_bus_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setitem(sys.modules, "pynvml", stand_in(init=None, count=1, power=NVMLError(15)))
    source = Nvml(clock=lambda: now[0])
    assert source.read()[0].reason == "nvml: gpu is lost"
    assert source.read() == []
    monkeypatch.setitem(sys.modules, "pynvml", stand_in(init=None, count=1, power=50000))
    now[0] += RETRY_S
    assert source.read()[0].value == 50.0


def test_the_real_package_without_a_driver() -> None:
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed here")
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
