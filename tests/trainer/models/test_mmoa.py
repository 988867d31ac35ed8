"""MMoA against its equations, written out position by position, and against its own claims about masks and gates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.models.masked_conv import MaskedConv, active_mean
from trainer.models.mmoa import MMoA, MMoASettings

WIDTH = 16
SMALL = MMoASettings(fine=(1, 2), coarse=(3,), bottleneck=4, squeeze=2)


def _np(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.detach().double().numpy()


def _gelu(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x)
    return np.asarray(e / e.sum())


def _slow_conv(grid: np.ndarray, weight: np.ndarray, dilation: int, *, depthwise: bool) -> np.ndarray:
    """grid (C, h, w), one output value at a time, zero padding, then GELU."""
    channels, rows, columns = grid.shape
    outputs, _, kernel, _ = weight.shape
    out = np.zeros((outputs, rows, columns))
    for o in range(outputs):
        for y in range(rows):
            for x in range(columns):
                for i in range(kernel):
                    for j in range(kernel):
                        v, u = y + (i - kernel // 2) * dilation, x + (j - kernel // 2) * dilation
                        if 0 <= v < rows and 0 <= u < columns:
                            seen = [o] if depthwise else range(channels)
                            out[o, y, x] += sum(weight[o, place, i, j] * grid[c, v, u] for place, c in enumerate(seen))
    return _gelu(out)


def _slow_adapter(
    adapter: torch.nn.Module, tokens: np.ndarray, dilations: tuple[int, ...], *, pool: bool
) -> np.ndarray:
    a: dict[str, np.ndarray] = {key: _np(value) for key, value in adapter.state_dict().items()}
    grid = _gelu(tokens @ a["down.weight"].T + a["down.bias"]).transpose(2, 0, 1)
    branches = []
    for number, dilation in enumerate(dilations):
        deep = _slow_conv(grid, a[f"pyramid.depthwise.{number}.weight"], dilation, depthwise=True)
        branches.append(_slow_conv(deep, a[f"pyramid.pointwise.{number}.weight"], 1, depthwise=False))
    if pool:
        mean = grid.mean(axis=(1, 2))[:, None, None]
        branches.append(np.broadcast_to(_slow_conv(mean, a["pyramid.pool.weight"], 1, depthwise=False), grid.shape))
    grid = _slow_conv(np.concatenate(branches), a["pyramid.fuse.weight"], 1, depthwise=False)
    squeezed = np.maximum(grid.mean(axis=(1, 2)) @ a["excitation.squeeze.weight"].T + a["excitation.squeeze.bias"], 0)
    excited = 1 / (1 + np.exp(-(squeezed @ a["excitation.excite.weight"].T + a["excitation.excite.bias"])))
    grid = _slow_conv(grid * excited[:, None, None], a["smooth.weight"], 1, depthwise=True)
    return np.asarray(grid.transpose(1, 2, 0) @ a["up.weight"].T + a["up.bias"])


def _slow_gate(gate: torch.nn.Module, token: np.ndarray) -> np.ndarray:
    weights = {key: _np(value) for key, value in gate.state_dict().items()}
    q, k, v = (weights[f"{name}.weight"] @ token for name in "qkv")
    streams = len(q)
    attention = np.stack([_softmax(q[i] * k / math.sqrt(streams)) for i in range(streams)])
    return _softmax(attention @ v)


def test_the_block_is_the_sum_of_its_weighed_streams() -> None:
    mmoa = MMoA(WIDTH, SMALL)
    tokens, frozen = 3 * torch.randn(2, 5, 6, WIDTH), torch.randn(2, 5, 6, WIDTH)
    out = _np(mmoa(tokens, frozen))
    assert mmoa.gate is not None
    for sample in range(2):
        x = _np(tokens[sample])
        fine = _slow_adapter(mmoa.adapters[0], x, (1, 2), pool=True)
        coarse = _slow_adapter(mmoa.adapters[1], x, (3,), pool=True)
        for row in range(5):
            for column in range(6):
                w = _slow_gate(mmoa.gate, x[row, column])
                expected = (
                    w[0] * _np(frozen[sample, row, column]) + w[1] * fine[row, column] + w[2] * coarse[row, column]
                )
                np.testing.assert_allclose(out[sample, row, column], expected, rtol=1e-4, atol=1e-5)


def test_single_scale_and_additive_are_one_convolution_and_a_plain_sum() -> None:
    mmoa = MMoA(WIDTH, MMoASettings(adapters="single", fusion="additive", squeeze=2))
    tokens, frozen = torch.randn(1, 4, 4, WIDTH), torch.randn(1, 4, 4, WIDTH)
    expected = _np(frozen[0]) + _slow_adapter(mmoa.adapters[0], _np(tokens[0]), (1,), pool=False)
    np.testing.assert_allclose(_np(mmoa(tokens, frozen)[0]), expected, rtol=1e-4, atol=1e-5)
    assert mmoa.gate is None


def test_the_gate_pinned_or_without_adapters_gives_the_frozen_stream() -> None:
    tokens, frozen = torch.randn(1, 4, 4, WIDTH), torch.randn(1, 4, 4, WIDTH)
    for settings in (
        MMoASettings(pin_gate=True),
        MMoASettings(pin_gate=True, fusion="additive"),
        MMoASettings(adapters="none"),
        MMoASettings(gate_init="sam"),
    ):
        assert torch.equal(MMoA(WIDTH, settings)(tokens, frozen), frozen), settings


def test_a_gate_that_starts_at_sam_learns_to_let_the_adapters_in() -> None:
    mmoa = MMoA(WIDTH, MMoASettings(gate_init="sam", squeeze=1))
    tokens, frozen, goal = (torch.randn(1, 4, 4, WIDTH) for _ in range(3))
    optimiser = torch.optim.Adam(mmoa.parameters(), lr=1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        ((mmoa(tokens, frozen) - goal) ** 2).mean().backward()
        optimiser.step()
    assert mmoa.weights(tokens)[..., 1:].abs().min() > 0
    assert all(parameter.grad is not None for parameter in mmoa.parameters())
    assert all(p.grad.abs().max() > 0 for p in mmoa.adapters.parameters() if p.grad is not None)


def test_gate_weights_sum_to_one_and_start_near_a_third() -> None:
    weight = MMoA(WIDTH, MMoASettings()).weights(torch.randn(50, 4, 4, WIDTH))
    torch.testing.assert_close(weight.sum(-1), torch.ones(50, 4, 4))
    assert (weight.mean(dim=(0, 1, 2)) - 1 / 3).abs().max() < 0.1


def test_dilations_scale_with_the_grid_only_where_told() -> None:
    def dilations(settings: MMoASettings) -> list[int]:
        modules = MMoA(WIDTH, settings).modules()
        return [m.dilation[0] for m in modules if isinstance(m, MaskedConv) and m.groups > 1 and m.dilation[0]]

    assert dilations(MMoASettings()) == [1, 3, 5, 1, 7, 9, 11, 1]
    assert dilations(MMoASettings(grid=16)) == [1, 2, 3, 1, 4, 5, 6, 1]
    assert dilations(MMoASettings(grid=64)) == [2, 6, 10, 1, 14, 18, 22, 1]
    assert dilations(MMoASettings(grid=8)) == [1, 1, 1, 1, 2, 2, 3, 1]


def test_no_convolution_has_a_bias() -> None:
    convolutions = [m for m in MMoA(WIDTH, SMALL).modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 2 * 3 + (2 * 2) + 2
    assert all(m.bias is None for m in convolutions)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_masked_convolution_leaves_inactive_positions_zero(kernel: int) -> None:
    active = (torch.rand(2, 1, 6, 7) > 0.5).float()
    grid = torch.randn(2, 4, 6, 7) * active
    out = MaskedConv(4, 5, kernel)(grid, active)
    assert (out * (1 - active) == 0).all()
    assert (out * active != 0).any()


def test_active_mean_is_over_active_positions() -> None:
    active = torch.tensor([[1, 0], [1, 1]]).float()[None, None]
    grid = torch.tensor([[3.0, 100.0], [6.0, 9.0]])[None, None]
    assert active_mean(grid, active).item() == 6.0
    assert active_mean(grid).item() == 29.5
    assert active_mean(grid, torch.zeros_like(active)).item() == 0.0


def test_what_lies_at_an_inactive_position_reaches_no_active_one() -> None:
    mmoa = MMoA(WIDTH, SMALL)
    active = (torch.rand(1, 1, 6, 6) > 0.4).float()
    seen = active[0, 0].bool()
    tokens, frozen = torch.randn(1, 6, 6, WIDTH), torch.randn(1, 6, 6, WIDTH)
    other = torch.where(seen[..., None], tokens[0], torch.randn(6, 6, WIDTH))[None]
    assert torch.equal(mmoa(tokens, frozen, active)[0][seen], mmoa(other, frozen, active)[0][seen])
    assert not torch.equal(mmoa(tokens, frozen)[0][seen], mmoa(other, frozen)[0][seen])
