"""Two alternatives to the gate from the paper's comparison of domain separation, as alignment losses.

Both take the teacher's and the student's features, projected to the same width, on the compact grid, and return a
scalar to be minimised. They work within each image, so that the loss of a batch is the mean over its images for any
number of processes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from trainer.models.spectrum import phasor_of, spectrum_of

SeparationKind = Literal["fourier", "mutual_information"]


class Separation(nn.Module, ABC):
    """An alignment loss with trainable weights, for one pair of depths."""

    @abstractmethod
    def forward(self, teacher: Tensor, student: Tensor, grid: tuple[int, int]) -> Tensor:
        """The loss, a float32 scalar, with gradients for both sides (detach the teacher for one direction only).

        Args:
            teacher: (B, N_v, D), row-major on ``grid``.
            student: the same shape: projected to the teacher's width.
            grid: rows and columns of the compact grid.
        """


class FourierSeparation(Separation):
    """Aligns the phases of the student's features over the grid with the teacher's, and ignores amplitudes.

    Channels are weighted by a squeeze-and-excitation of the teacher's phases. For the teacher's side (its frozen phase
    with an adapted amplitude) set ``fusion: fourier`` in the teacher's MMoA.

    Source: Tang et al., "Direct Distillation between Different Domains" (4Ds), ECCV 2024, and its code
    (tangjialiang97/4Ds, ``distiller_zoo/mergekd.py``). Three things differ. The distance of two phases is that of
    their points on the circle, 2 - 2 cos(difference), which for small differences is its square: the difference of
    angles itself, as in the code, jumps where an angle passes pi. The channels' weights have mean 1: they are learned,
    and would otherwise learn to be zero. Depths are not concatenated: their widths and grids here are one, and each
    pair has a loss of its own.
    """

    def __init__(self, width: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, width // reduction)
        self.squeeze = nn.Linear(width, hidden, bias=False)
        self.excite = nn.Linear(hidden, width, bias=False)

    def forward(self, teacher: Tensor, student: Tensor, grid: tuple[int, int]) -> Tensor:
        """See :meth:`Separation.forward`."""
        # The transform wants 32 bits, see trainer/models/spectrum.py.
        with torch.autocast(teacher.device.type, enabled=False):
            theirs, ours = (
                phasor_of(spectrum_of(features.float().unflatten(1, grid)))  # type: ignore[no-untyped-call]
                for features in (teacher, student)
            )
            distance = (theirs - ours).abs().square().mean(dim=(1, 2))
            return (self.channel_weight(theirs) * distance).mean()

    def channel_weight(self, phasor: Tensor) -> Tensor:
        """(B, D) of mean 1 over the channels, from complex (B, h, w, D)."""
        mean = phasor.angle().mean(dim=(1, 2))
        weight = torch.sigmoid(self.excite(F.relu(self.squeeze(mean))))
        return weight / weight.mean(dim=1, keepdim=True)


class MutualInformation(Separation):
    """Maximises the mutual information of teacher's and student's token relations, and compresses the relations.

    With R(Z) the relations of every token of an image to all others (a row each, of length 1), G(.) the Gram matrix of
    rows divided by its trace and S_2(G) = -log2 |G|_F^2 the matrix-based Renyi entropy of order 2:

    - distillation: -I(R_T; R_S) = -S_2(G_T) - S_2(G_S) + S_2(G_T o G_S), o the Hadamard product, again of trace 1;
    - compression: I(Z_T; R_T) without S_2(Z_T), which no relation changes: S_2(G_T) - S_2(G(Z_T) o G_T).

    R(Z) = LN(Z) LN(Z)^T + q(LN(Z)) k(LN(Z))^T / sqrt(D), with one q and k for both sides.

    Source: Zhang et al., "InfoSAM: Fine-Tuning the Segment Anything Model from An Information-Theoretic Perspective",
    ICML 2025 (arXiv 2505.21920) and its code (MuyaoYuan/InfoSAM); the entropy: Sanchez Giraldo et al., IEEE Trans. Inf.
    Theory 61 (2015), and Yu et al., IEEE TPAMI 42 (2020). Two things differ. InfoSAM relates SAM's image tokens to the
    tokens of its mask decoder; there is none here, so tokens relate to each other. Its samples are the images of a
    batch; here they are the tokens of an image: a batch of 4 images is too small to estimate an entropy, and splitting
    it over processes would change the estimate.
    """

    def __init__(self, width: int, *, compression: float = 1.0, distillation: float = 1.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.compression = compression
        self.distillation = distillation

    def forward(self, teacher: Tensor, student: Tensor, grid: tuple[int, int]) -> Tensor:  # noqa: ARG002 -- no places
        """See :meth:`Separation.forward`; it is the same for every order of the tokens."""
        # Entropies are differences of logarithms of sums over N^2 entries: too much for half precision.
        with torch.autocast(teacher.device.type, enabled=False):
            theirs, ours = gram(self.relations(teacher.float())), gram(self.relations(student.float()))
            shared = entropy(theirs) + entropy(ours) - entropy(joint(theirs, ours))
            mutual = entropy(theirs) - entropy(joint(gram(teacher.float()), theirs))
            return (self.compression * mutual - self.distillation * shared).mean()

    def relations(self, tokens: Tensor) -> Tensor:
        """R(Z): (B, N_v, D) to (B, N_v, N_v)."""
        normed = self.norm(tokens)
        learned = self.q(normed) @ self.k(normed).transpose(1, 2) / math.sqrt(tokens.shape[-1])
        return normed @ normed.transpose(1, 2) + learned  # type: ignore[no-any-return]


def gram(rows: Tensor) -> Tensor:
    """Gram matrix of rows made of length 1, of trace 1: (B, N, M) to (B, N, N)."""
    # Rows of length 1 make a diagonal of ones, so that dividing by their number gives trace 1.
    unit = F.normalize(rows, dim=-1)
    return unit @ unit.transpose(1, 2) / rows.shape[1]


def joint(first: Tensor, second: Tensor) -> Tensor:
    """Hadamard product of two Gram matrices, of trace 1 again: that of both variables together."""
    product = first * second
    return product / product.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]


def entropy(matrix: Tensor) -> Tensor:
    """Matrix-based Renyi entropy of order 2, in bits: (B, N, N) symmetric of trace 1 to (B,)."""
    return -matrix.square().sum(dim=(1, 2)).log2()


def build_separation(kind: SeparationKind, width: int) -> Separation:
    """The alternative alignment loss named ``kind`` for features of ``width``."""
    return FourierSeparation(width) if kind == "fourier" else MutualInformation(width)
