"""A bias for each class, fitted on labelled images so that the mean over places of the mean IoU is highest.

A network that learns by cross-entropy with weighted classes is not at its best IoU where its logits are largest. What
`trainer export --bias` adds to them costs nothing aboard. Fit on images that training saw, or on a part kept for it;
never on those that report the accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.data.description import read_description
from trainer.data.sets import open_set
from trainer.data.targets import HeadCodes
from trainer.errors import SettingsRefused
from trainer.evaluate.mappers import heads_of_run, padded_logits
from trainer.evaluate.places import PlaceCount, PlaceScores, PlacesSettings
from trainer.export.onnx import segmenter_of

STEPS: Final = (0.4, 0.2, 0.1)
"""Logits by which each bias is moved in turn; the last is the resolution of the answer."""
ROUNDS: Final = 20
"""Over all classes, at most, for each step; in practice it rests after three to five."""


@dataclass(frozen=True)
class PlaceLogits:
    """Logits of a place's pixels, one for each cell of the decoder's stride, and their labels.

    Attributes:
        place: its name.
        classes: to report, as :class:`trainer.evaluate.places.Place` has them.
        logits: float32 (N, K).
        labels: uint8 (N,), codes of the set, none 0.
        images: number of images.
        count: empty counts of the place.
    """

    place: str
    classes: tuple[str, ...]
    logits: NDArray[np.float32]
    labels: NDArray[np.uint8]
    images: int
    count: PlaceCount

    def scores(self, bias: NDArray[np.float32]) -> PlaceScores:
        """The figures with a bias (K,)."""
        self.count.counts[:] = 0
        self.count.add(self.labels, ((self.logits + bias).argmax(axis=1) + 1).astype(np.uint8))
        return self.count.scores(self.place, self.images, self.classes)


@dataclass(frozen=True)
class FittedBiases:
    """The biases of a head.

    Attributes:
        head: its name.
        biases: logits to add to each class; that of the first is 0, since only differences count.
        before, after: scores of each place without and with them.
    """

    head: str
    biases: dict[str, float]
    before: list[PlaceScores]
    after: list[PlaceScores]

    def options(self, *, of_heads: bool) -> str:
        """What `trainer export` is to be given; ``of_heads``: of a model with heads."""
        prefix = f"{self.head}:" if of_heads else ""
        return " ".join(f"--bias {prefix}{name}={value:g}" for name, value in self.biases.items() if value)


def read_logits(settings: PlacesSettings, run: Path, head: str, *, every: int = 1) -> list[PlaceLogits]:
    """Logits of a run's averaged network on every N-th image of the places of a head.

    Raises:
        SettingsRefused: the run, or the places, have no such head, or one of other classes; or a place has no pixel
            with a label of use.
        CheckpointRefused: the run has no averaged weights.
        DataMissing, DataRefused: as the sets raise them.
    """
    facts, segmenter = segmenter_of(run)
    names = heads_of_run(facts, run, settings.heads)
    if head not in names:
        raise SettingsRefused("--head", f"{run} has no head {head}; it has {', '.join(names)}")
    segmenter = segmenter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    grain = facts.model.student.grain
    chosen = [place for place in settings.places if place.head == head]
    if not chosen:
        raise SettingsRefused("--config", f"none of its places is of head {head}")
    found = []
    for place in chosen:
        labelled = open_set(place.set)
        count = PlaceCount(labelled, HeadCodes(head, read_description(settings.heads[head]).classes),
                           settings.heads[head])  # fmt: skip
        images = (labelled.named(place.names) if place.names else labelled.split(place.split))[::every]
        logits, labels = [], []
        for name in images:
            scene = labelled.read(name)
            values = padded_logits(segmenter, scene.pixels, grain)[names.index(head)][0].numpy()
            # A cell of the decoder's stride stands for the pixel in its middle.
            stride = -(-scene.pixels.shape[1] // grain) * grain // values.shape[1]
            known = scene.labels[stride // 2 :: stride, stride // 2 :: stride]
            seen = values[:, : known.shape[0], : known.shape[1]]
            logits.append(seen.reshape(len(seen), -1).T[known.ravel() > 0])
            labels.append(known[known > 0])
        found.append(
            PlaceLogits(
                place.name, place.classes, np.concatenate(logits), np.concatenate(labels), len(images), count
            )
        )  # fmt: skip
    for item in found:
        item.scores(np.zeros(len(item.count.codes.classes), dtype=np.float32))  # refused before a fit on nothing
    return found


def fit_biases(places: Sequence[PlaceLogits]) -> FittedBiases:
    """The biases with the highest mean over places of the mean IoU, by moving one after the other.

    Args:
        places: of one head.
    """
    classes = [item.name for item in places[0].count.codes.classes]
    bias = np.zeros(len(classes), dtype=np.float32)

    def figure(tried: NDArray[np.float32]) -> float:
        return float(np.mean([place.scores(tried).figure for place in places]))

    best = figure(bias)
    for step in STEPS:
        for _ in range(ROUNDS):
            before = best
            for number in range(len(classes)):
                for move in (-step, step):
                    tried = bias.copy()
                    tried[number] += move
                    if (value := figure(tried)) > best:
                        best, bias = value, tried
            if best == before:
                break
    # Only differences count: of all equal sets of biases the one that leaves the first class alone.
    bias = bias - bias[0]
    named = {name: round(float(value), 1) for name, value in zip(classes, bias, strict=True)}
    rounded = np.asarray(list(named.values()), dtype=np.float32)
    zero = np.zeros_like(bias)
    return FittedBiases(
        places[0].count.codes.name, named, [place.scores(zero) for place in places],
        [place.scores(rounded) for place in places],
    )  # fmt: skip
