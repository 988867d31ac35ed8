"""Temperature scaling of the confidence on held-out labels, and the calibration error before and after.

Logits are divided by the temperature before the softmax. The predicted class does not change: it is the one chosen
after smoothing over neighbours (trainer/models/deploy.py), and the confidence is the tempered probability of that
class. So the temperature is fitted to the network's probability of the true class, and the calibration error is
measured on the confidence of the predicted class.

Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engines.manifest import Calibration, ReliabilityBin
from trainer.data.labelled import IGNORE, LabelledScene
from trainer.errors import ExportRefused, SettingsRefused
from trainer.models.deploy import DeploySegmenter, DeploySettings
from trainer.models.segmenter import Segmenter

BINS = 15
"""Of equal width. Source: Guo et al."""
# A fit that would leave these bounds is of a network that is never wrong, or that knows nothing.
LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.05, 20.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """Labelled cells of one scene, with the network's logits and the true classes of their pixels.

    Attributes:
        scene: its name.
        logits: float32 (M, K), of cells.
        counts: (M, K) labelled pixels of each true class in a cell, at least one.
        predicted: int64 (M,), channel of the predicted class.
    """

    scene: str
    logits: NDArray[np.float32]
    counts: NDArray[np.uint16]
    predicted: NDArray[np.int64]

    @property
    def pixels(self) -> int:
        """Number of labelled pixels."""
        return int(self.counts.sum(dtype=np.int64))


def evidence_of(
    segmenter: Segmenter, scene: LabelledScene, settings: DeploySettings, *, side: int, halo: int, most: int
) -> Evidence:
    """Runs up to ``most`` tiles of ``side`` pixels, spread evenly over a scene, and collects the cells inside the halo.

    Raises:
        SettingsRefused: nothing in its tiles is labelled.
    """
    scene = _at_least_a_tile(scene, side)
    deploy, classes = DeploySegmenter(segmenter, settings).eval(), segmenter.settings.classes
    logits, counts, chosen = [], [], []
    for top, left in _places(scene, side, halo, most):
        # A window of an array has gaps between its rows.
        tile = np.ascontiguousarray(scene.pixels[:, top : top + side, left : left + side])
        with torch.inference_mode():
            cells, index = deploy.cells(torch.from_numpy(tile[None]))
        true = _counted(scene.labels[top : top + side, left : left + side], classes, settings.cell)
        # Only cells wholly inside the halo: a map keeps no other, and at
        # a tile's edge the network sees half of its context.
        inner = slice(-(-halo // settings.cell), (side - halo) // settings.cell)
        inside = np.zeros(true.shape[:-1], dtype=np.bool_)
        inside[inner, inner] = true[inner, inner].sum(axis=-1) > 0
        logits.append(cells[0].permute(1, 2, 0).numpy()[inside])
        counts.append(true[inside])
        chosen.append(index[0, 0].numpy()[inside])
    evidence = Evidence(scene.name, np.concatenate(logits), np.concatenate(counts), np.concatenate(chosen))
    if evidence.pixels == 0:
        raise SettingsRefused(scene.name, "no pixel of its tiles is labelled: nothing to calibrate on")
    return evidence


def fitted_temperature(evidence: Sequence[Evidence]) -> float:
    """The temperature with the smallest negative log likelihood of the true classes.

    The likelihood is convex in 1 / temperature, so Newton's method with bisection as fallback finds the minimum.

    Raises:
        ExportRefused: the minimum is not within the bounds, as for a random network or one without errors.
    """
    low, high = 1 / MOST_TEMPERATURE, 1 / LEAST_TEMPERATURE
    if _slopes(evidence, low)[0] >= 0 or _slopes(evidence, high)[0] <= 0:
        raise ExportRefused(
            f"no temperature between {LEAST_TEMPERATURE} and {MOST_TEMPERATURE} fits; calibrate on other scenes"
        )
    # From temperature 1, where a network stands that was never calibrated.
    inverse = 1.0
    for _ in range(100):
        slope, bend = _slopes(evidence, inverse)
        # The minimum stays between the bounds, so that a Newton step that leaves them is replaced by a bisection.
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / bend if bend > 0 else low
        following = step if low < step < high else (low + high) / 2
        if abs(following - inverse) <= 1e-7 * inverse:
            break
        inverse = following
    return 1 / following


def calibration_of(evidence: Sequence[Evidence], *, data: str, held_out: bool) -> Calibration:
    """Fits the temperature on all scenes; reports likelihood and calibration error before and after.

    Args:
        evidence: by scene.
        data: the scenes, in words.
        held_out: whether the weights were trained without these labels.
    """
    temperature = fitted_temperature(evidence)
    before = reliability([(scene, 1.0) for scene in evidence])
    after = reliability([(scene, temperature) for scene in evidence])
    left_out = None
    if len(evidence) > 1:
        # Each scene at the temperature of the others: the error on what was fitted to says little of other places.
        others = [
            (scene, fitted_temperature([other for other in evidence if other is not scene])) for scene in evidence
        ]
        left_out = calibration_error(reliability(others))
    return Calibration(
        temperature=temperature,
        data=data,
        held_out=held_out,
        pixels=sum(scene.pixels for scene in evidence),
        nll_before=likelihood_loss(evidence, 1.0),
        nll_after=likelihood_loss(evidence, temperature),
        ece_before=calibration_error(before),
        ece_after=calibration_error(after),
        ece_left_out=left_out,
        reliability_before=before,
        reliability_after=after,
    )


def reliability(evidence: Sequence[tuple[Evidence, float]]) -> tuple[ReliabilityBin, ...]:
    """Pixels by confidence of the predicted class in bins (lower, upper], each scene at its own temperature."""
    pixels, sure, right = np.zeros(BINS), np.zeros(BINS), np.zeros(BINS)
    for scene, temperature in evidence:
        rows = np.arange(len(scene.predicted))
        confidence = np.exp(_log_probabilities(scene.logits, 1 / temperature)[rows, scene.predicted])
        # Bins are closed above: a confidence of 1 belongs to the last, and one of 0 would fall below the first.
        number = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
        weight = scene.counts.sum(axis=1, dtype=np.float64)
        pixels += np.bincount(number, weight, BINS)
        sure += np.bincount(number, weight * confidence, BINS)
        right += np.bincount(number, scene.counts[rows, scene.predicted].astype(np.float64), BINS)
    return tuple(
        ReliabilityBin(
            lower=number / BINS,
            upper=(number + 1) / BINS,
            pixels=int(pixels[number]),
            # Sums of floats may come out a little above the number of pixels; the manifest wants 0 to 1.
            confidence=min(1.0, sure[number] / pixels[number]) if pixels[number] else None,
            accuracy=right[number] / pixels[number] if pixels[number] else None,
        )
        for number in range(BINS)
    )


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error: mean over pixels of the difference between a bin's confidence and its accuracy."""
    total = sum(item.pixels for item in bins)
    apart = sum(
        item.pixels * abs(item.confidence - item.accuracy)
        for item in bins
        if item.confidence is not None and item.accuracy is not None
    )
    return apart / total


def likelihood_loss(evidence: Sequence[Evidence], temperature: float) -> float:
    """Mean negative log likelihood of the labelled pixels' classes, nats."""
    total = -sum(float((scene.counts * _log_probabilities(scene.logits, 1 / temperature)).sum()) for scene in evidence)
    return total / sum(scene.pixels for scene in evidence)


def _slopes(evidence: Sequence[Evidence], inverse: float) -> tuple[float, float]:
    """First and second derivative of the summed loss by 1 / temperature: E_p[z] - z_true, and the variance of z."""
    slope = bend = 0.0
    for scene in evidence:
        probability = np.exp(_log_probabilities(scene.logits, inverse))
        weight = scene.counts.sum(axis=1, dtype=np.float64)
        mean = (probability * scene.logits).sum(axis=1)
        slope += float((weight * mean).sum() - (scene.counts * scene.logits.astype(np.float64)).sum())
        bend += float((weight * ((probability * scene.logits**2).sum(axis=1) - mean**2)).sum())
    return slope, bend


def _log_probabilities(logits: NDArray[np.float32], inverse: float) -> Floats:
    # In 64 bits: the derivatives are sums over millions of cells, and Newton's method divides one by the other.
    scaled = logits.astype(np.float64) * inverse
    # exp of the largest is then 1, and none overflows.
    scaled -= scaled.max(axis=1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))


def _counted(labels: NDArray[np.uint8], classes: int, cell: int) -> NDArray[np.uint16]:
    """Labelled pixels by class in each cell: (S, S) codes to (S/cell, S/cell, K)."""
    rows, columns = labels.shape[0] // cell, labels.shape[1] // cell
    cells = labels.reshape(rows, cell, columns, cell)
    return np.stack([(cells == code).sum(axis=(1, 3)) for code in range(1, classes + 1)], axis=2).astype(np.uint16)


def _at_least_a_tile(scene: LabelledScene, side: int) -> LabelledScene:
    """A scene of at least a tile: a smaller one is padded as in flight, and what is added is unlabelled."""
    height, width = scene.labels.shape
    if height >= side and width >= side:
        return scene
    high, wide = max(height, side), max(width, side)
    pixels = np.stack([np.pad(band, ((0, high - height), (0, wide - width)), mode="reflect") for band in scene.pixels])
    labels = np.full((high, wide), IGNORE, dtype=np.uint8)
    labels[:height, :width] = scene.labels
    return LabelledScene(scene.name, pixels, labels)


def _places(scene: LabelledScene, side: int, halo: int, most: int) -> list[tuple[int, int]]:
    """Up to ``most`` top left corners, of tiles whose kept parts lie side by side, evenly along them."""
    height, width = scene.labels.shape
    step = side - 2 * halo
    places = [(top, left) for top in range(0, height - side + 1, step) for left in range(0, width - side + 1, step)]
    chosen = np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int))
    return [places[number] for number in chosen]
