"""The two rivals against their equations, written out token by token and coefficient by coefficient."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.distill.separation import FourierSeparation, MutualInformation, SeparationKind, build_separation
from trainer.models.mmoa import MMoA, MMoASettings
from trainer.models.spectrum import FourierFusion

KINDS: tuple[SeparationKind, ...] = ("fourier", "mutual_information")


def _np(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def _slow_spectrum(channel: np.ndarray) -> np.ndarray:
    """The Fourier sum of one channel (h, w), a coefficient at a time."""
    rows, columns = channel.shape
    out = np.zeros((rows, columns), dtype=complex)
    for u in range(rows):
        for v in range(columns):
            for y in range(rows):
                for x in range(columns):
                    out[u, v] += channel[y, x] * cmath.exp(-2j * math.pi * (u * y / rows + v * x / columns))
    return out


def _slow_inverse(spectrum: np.ndarray) -> np.ndarray:
    return np.asarray(_slow_spectrum(spectrum.conj()).conj() / spectrum.size)


def test_the_fourier_loss_is_the_weighed_distance_of_phases() -> None:
    loss = FourierSeparation(4, reduction=2)
    teacher, student = torch.randn(2, 15, 4), torch.randn(2, 15, 4)
    squeeze, excite = _np(loss.squeeze.weight), _np(loss.excite.weight)
    expected = []
    for t, s in zip(_np(teacher).reshape(2, 3, 5, 4), _np(student).reshape(2, 3, 5, 4), strict=True):
        theirs = [np.angle(_slow_spectrum(t[..., c])) for c in range(4)]
        ours = [np.angle(_slow_spectrum(s[..., c])) for c in range(4)]
        # A real sum that rounds to -0 i has phase -pi in one precision and pi in another; both coefficients that are
        # real by symmetry on a grid of odd sides come down to the first one.
        for phase in theirs:
            phase[0, 0] = abs(phase[0, 0])
        mean = np.array([phase.mean() for phase in theirs])
        weight = 1 / (1 + np.exp(-(excite @ np.maximum(squeeze @ mean, 0))))
        weight = weight / weight.mean()
        expected += [weight[c] * np.mean(2 - 2 * np.cos(theirs[c] - ours[c])) for c in range(4)]
    assert float(loss(teacher, student, (3, 5)).detach()) == pytest.approx(np.mean(expected), rel=1e-4)


def test_the_fourier_loss_sees_phases_and_no_amplitudes() -> None:
    loss = FourierSeparation(4)
    teacher = torch.randn(2, 15, 4)
    assert float(loss(teacher, teacher * torch.tensor([1.0, 2.0, 5.0, 0.1]), (3, 5)).detach()) < 1e-9
    assert float(loss(teacher, -teacher, (3, 5)).detach()) == pytest.approx(4, rel=1e-4)


def test_phases_a_turn_apart_are_near() -> None:
    """Angles of pi - e and -pi + e are 2e apart, not 2 pi - 2e."""
    loss = FourierSeparation(1)
    wave = torch.arange(6) * 2 * math.pi / 6
    near = [(wave + math.pi + shift).cos().reshape(1, 6, 1) + 3 for shift in (-0.01, 0.01)]
    assert float(loss(*near, (1, 6)).detach()) < 1e-3


def test_the_channels_of_the_fourier_loss_weigh_one_on_average() -> None:
    loss = FourierSeparation(8, reduction=2)
    for parameter in loss.parameters():
        torch.nn.init.normal_(parameter, std=3)
    phasor = torch.polar(torch.ones(5, 3, 3, 8), 3 * torch.randn(5, 3, 3, 8))
    weight = loss.channel_weight(phasor)
    torch.testing.assert_close(weight.mean(dim=1), torch.ones(5))
    assert weight.std() > 0.05


def test_fourier_fusion_keeps_the_frozen_phase_and_mixes_amplitudes() -> None:
    fusion = FourierFusion(3)
    with torch.no_grad():
        fusion.share.copy_(torch.tensor([0.1, 0.0, -0.05]))
    streams = [torch.randn(2, 4, 3, 2) for _ in range(3)]
    share = np.exp(np.array([1.0, 0.0, -0.5]))
    share = share / share.sum()
    fused = _np(fusion(streams))
    for sample in range(2):
        for channel in range(2):
            spectra = [_slow_spectrum(_np(stream[sample, ..., channel])) for stream in streams]
            amplitude = sum(part * np.abs(spectrum) for part, spectrum in zip(share, spectra, strict=True))
            expected = _slow_inverse(amplitude * np.exp(1j * np.angle(spectra[0])))
            assert np.abs(expected.imag).max() < 1e-9
            np.testing.assert_allclose(fused[sample, ..., channel], expected.real, rtol=1e-4, atol=1e-5)


def test_fourier_fusion_stands_in_the_place_of_the_gate() -> None:
    mmoa = MMoA(16, MMoASettings(fusion="fourier"))
    tokens, frozen = torch.randn(1, 4, 4, 16), torch.randn(1, 4, 4, 16)
    streams = [frozen, *(adapter(tokens) for adapter in mmoa.adapters)]
    assert mmoa.gate is None
    assert mmoa.spectral is not None
    torch.testing.assert_close(mmoa(tokens, frozen), mmoa.spectral(streams))
    mmoa(tokens, frozen).square().mean().backward()
    assert all(parameter.grad is not None for parameter in mmoa.parameters())
    pinned = MMoA(16, MMoASettings(fusion="fourier", pin_gate=True))
    assert torch.equal(pinned(tokens, frozen), frozen)


def _slow_entropy(matrix: np.ndarray) -> float:
    """Renyi's of order 2 by its definition, over eigenvalues: 1 / (1 - 2) log2 sum of lambda^2."""
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues.sum() == pytest.approx(1)
    return float(-np.log2((eigenvalues**2).sum()))


def _slow_gram(rows: np.ndarray) -> np.ndarray:
    count = len(rows)
    out = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            out[i, j] = rows[i] @ rows[j] / (np.linalg.norm(rows[i]) * np.linalg.norm(rows[j])) / count
    return out


def _slow_relations(loss: MutualInformation, tokens: np.ndarray) -> np.ndarray:
    p = {key: _np(value) for key, value in loss.state_dict().items()}
    normed = (tokens - tokens.mean(1, keepdims=True)) / np.sqrt(tokens.var(1, keepdims=True) + 1e-5)
    normed = normed * p["norm.weight"] + p["norm.bias"]
    out = np.zeros((len(tokens), len(tokens)))
    for i, one in enumerate(normed):
        for j, other in enumerate(normed):
            q, k = p["q.weight"] @ one + p["q.bias"], p["k.weight"] @ other + p["k.bias"]
            out[i, j] = one @ other + q @ k / math.sqrt(tokens.shape[1])
    return out


def test_the_mutual_information_loss_is_that_of_the_entropies() -> None:
    loss = MutualInformation(6, compression=0.7, distillation=1.3)
    teacher, student = torch.randn(2, 8, 6), torch.randn(2, 8, 6)
    expected = []
    for t, s in zip(_np(teacher), _np(student), strict=True):
        theirs, ours = (_slow_gram(_slow_relations(loss, tokens)) for tokens in (t, s))
        both = theirs * ours
        shared = _slow_entropy(theirs) + _slow_entropy(ours) - _slow_entropy(both / np.trace(both))
        triple = _slow_gram(t) * theirs
        kept = _slow_entropy(theirs) - _slow_entropy(triple / np.trace(triple))
        expected.append(0.7 * kept - 1.3 * shared)
    assert float(loss(teacher, student, (2, 4)).detach()) == pytest.approx(np.mean(expected), rel=1e-4)


def test_a_student_with_the_teachers_relations_shares_more_than_another() -> None:
    loss = MutualInformation(16, compression=0)
    teacher = torch.randn(2, 24, 16)
    same, other = loss(teacher, 3 * teacher, (4, 6)), loss(teacher, torch.randn(2, 24, 16), (4, 6))
    assert float(same.detach()) < float(other.detach()) - 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_batch_is_the_mean_of_its_images_losses(kind: SeparationKind) -> None:
    loss = build_separation(kind, 8)
    teacher, student = torch.randn(3, 12, 8), torch.randn(3, 12, 8)
    alone = [loss(teacher[i : i + 1], student[i : i + 1], (3, 4)) for i in range(3)]
    torch.testing.assert_close(loss(teacher, student, (3, 4)), torch.stack(alone).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_both_sides_and_following_them_makes_the_loss_smaller(kind: SeparationKind) -> None:
    loss = build_separation(kind, 8)
    teacher, student = (torch.randn(2, 12, 8, requires_grad=True) for _ in range(2))
    before = loss(teacher, student, (3, 4))
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (teacher, student, *loss.parameters()))
    assert teacher.grad is not None
    assert student.grad is not None
    assert teacher.grad.abs().max() > 0
    optimiser = torch.optim.Adam([student], lr=0.05)
    for _ in range(50):
        optimiser.zero_grad()
        loss(teacher.detach(), student, (3, 4)).backward()
        optimiser.step()
    assert float(loss(teacher, student, (3, 4)).detach()) < float(before.detach()) - 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_or_zero_grid_gives_finite_gradients(kind: SeparationKind) -> None:
    loss = build_separation(kind, 8)
    student = torch.zeros(1, 12, 8, requires_grad=True)
    value = loss(torch.ones(1, 12, 8), student, (3, 4))
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
