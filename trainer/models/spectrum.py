"""Amplitude and phase of a feature grid, and the fusion of streams in 4Ds that uses them.

Source: Tang et al., "Direct Distillation between Different Domains" (4Ds), ECCV 2024 (arXiv 2401.06826): the phase
holds what is common to domains, the amplitude what is a domain's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

LEAST_AMPLITUDE = 1e-5
"""Below it a coefficient has no phase worth following, and its gradient would be without bound. Source: 4Ds' code."""

TEMPERATURE = 0.1
"""Of the softmax over the streams' amplitudes. Source: 4Ds' code."""


def spectrum_of(grid: Tensor) -> Tensor:
    """(B, h, w, D) real to complex64 of the same shape: the 2D Fourier transform of each channel over h and w."""
    # No half-precision transform takes sides that are no power of two.
    return torch.fft.fft2(grid.float(), dim=(1, 2))  # type: ignore[no-any-return]


def phasor_of(spectrum: Tensor) -> Tensor:
    """e^(i phase), the spectrum with every amplitude made 1 (less where there is next to none)."""
    return spectrum / spectrum.abs().clamp_min(LEAST_AMPLITUDE)


class FourierFusion(nn.Module):
    """The frozen stream's phase with a learned mixture of all streams' amplitudes, in place of a gate or a sum.

    4Ds mixes two streams, the frozen one and its one adapter's; the mixture here has one share for each of the Z.
    """

    def __init__(self, streams: int) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.zeros(streams))

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        """Streams (B, h, w, D), the frozen one first, to (B, h, w, D)."""
        share = (self.share / TEMPERATURE).softmax(dim=0)
        spectra = [spectrum_of(stream) for stream in streams]
        amplitude = torch.stack([part * spectrum.abs() for part, spectrum in zip(share, spectra, strict=True)]).sum(0)
        fused = torch.fft.ifft2(phasor_of(spectra[0]) * amplitude, dim=(1, 2))
        # Amplitudes are even and phases odd in frequency, so the imaginary part is nothing but rounding.
        return fused.real.to(streams[0].dtype)  # type: ignore[no-any-return]
