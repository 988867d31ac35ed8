"""Which number format a run gets. The processors are faked: what they say of their instructions is set here."""

from __future__ import annotations

import platform

import numpy as np
import pytest
import torch

from trainer.config import MachineSettings
from trainer.evaluate.mappers import mapper_of_network
from trainer.finetune.soften import Teacher
from trainer.models.plain import FpnSettings, PlainSettings
from trainer.models.segmenter import Segmenter, SegmenterSettings
from trainer.training.precision import precision_of


def processor(
    patch: pytest.MonkeyPatch, kind: str, *, avx512_bf16: bool = False, amx: bool = False, arm: bool = False
) -> None:
    patch.setattr(torch.cuda, "is_available", lambda: False)
    patch.setattr(platform, "machine", lambda: kind)
    patch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    patch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: arm)


@pytest.mark.parametrize(
    ("kind", "instructions", "expected"),
    [
        ("x86_64", {}, "32-true"),
        ("x86_64", {"arm": True}, "32-true"),  # AVX-512 alone: oneDNN converts
        ("x86_64", {"avx512_bf16": True}, "bf16-mixed"),
        ("x86_64", {"amx": True}, "bf16-mixed"),
        ("aarch64", {}, "32-true"),
        ("aarch64", {"arm": True}, "bf16-mixed"),
    ],
)
def test_auto_is_bfloat16_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, kind: str, instructions: dict[str, bool], expected: str
) -> None:
    processor(monkeypatch, kind, **instructions)
    assert precision_of(MachineSettings()) == expected
    assert precision_of(MachineSettings(precision="32-true")) == "32-true"


def test_a_gpu_decides_unless_the_cpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, "x86_64")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    assert precision_of(MachineSettings()) == "bf16-mixed"
    assert precision_of(MachineSettings(accelerator="cpu")) == "32-true"


def test_asked_for_and_only_emulated_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    processor(monkeypatch, "x86_64")
    assert precision_of(MachineSettings(precision="bf16-mixed")) == "bf16-mixed"
    assert "only emulates bfloat16" in caplog.text
    caplog.clear()
    processor(monkeypatch, "x86_64", amx=True)
    assert precision_of(MachineSettings(precision="bf16-mixed")) == "bf16-mixed"
    assert not caplog.text


@pytest.mark.parametrize("fast", [False, True])
def test_networks_that_predict_on_a_cpu_take_bfloat16_only_where_it_is_fast(
    monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    processor(monkeypatch, "x86_64", amx=fast)
    student = PlainSettings(kind="plain", widths=(8, 8, 8, 8, 8), blocks=(0, 0, 1, 0))
    network = Segmenter(
        SegmenterSettings(student=student, decoder=FpnSettings(kind="fpn", widths=(8, 8, 8, 8)), classes=2)
    )
    used = []
    network.student.register_forward_pre_hook(lambda *_: used.append(torch.is_autocast_enabled("cpu")))
    mapper_of_network(network.eval(), ["landcover"], 32)(np.zeros((3, 64, 64), np.uint8))
    Teacher(network, {"landcover": 2}, "made")._by_torch(torch.zeros((1, 3, 64, 64)))
    assert used == [fast, fast]
