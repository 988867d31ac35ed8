"""Accuracy at each place, also where the labels have other classes than the model.

Each place gives the IoU of the classes that its labels name without ambiguity, and their mean. A pixel whose label is a
set of classes is never a miss, and a false positive only for classes outside the set. Models are compared by the mean
over places, because a mean over pixels would be dominated by the largest place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses
from typing_extensions import Self

from engines.manifest import Manifest, PlaceFigure
from trainer.data.description import read_description
from trainer.data.sets import LabelledSet, open_set
from trainer.data.targets import HeadCodes
from trainer.errors import SettingsRefused
from trainer.evaluate.mappers import CONFIDENCE, Mapper, class_names, mapper_of_model
from trainer.export.card import write_card

BINS = 15
"""Of equal width, for the calibration error. Source: Guo et al., ICML 2017."""


class Place(BaseModel):
    """One place: images of a set, and the head that is compared with their labels.

    Attributes:
        name: in words.
        set, split, names: the images.
        head: of the model, compared with the labels.
        gsd_m: metres per pixel, in place of the set's own.
        classes: classes of the head to report; empty for all that the labels name without ambiguity. Leave out classes
            with too few pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    set: str
    split: str = "val"
    names: tuple[str, ...] = ()
    head: str
    gsd_m: float | None = Field(default=None, gt=0)
    classes: tuple[str, ...] = ()


class PlacesSettings(BaseModel):
    """The places, and the labelled set whose class table each head has.

    Raises:
        SettingsRefused: a class table cannot be read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    places: tuple[Place, ...]
    heads: dict[str, str]

    @model_validator(mode="after")
    def _names_tell_places_apart(self) -> Self:
        # Figures are known by name and head: one place would have those of the other, in the mean too.
        seen: set[tuple[str, str]] = set()
        for place in self.places:
            if (place.name, place.head) in seen:
                raise ValueError(f"{place.name}: two places of head {place.head} have this name; give each its own")
            seen.add((place.name, place.head))
        return self

    @model_validator(mode="after")
    def _places_name_heads_and_their_classes(self) -> Self:
        for place in self.places:
            if place.head not in self.heads:
                raise ValueError(f"{place.name}: no head {place.head!r} in `heads`; there are {', '.join(self.heads)}")
            # Looked up only where it is needed: most places report all classes.
            known = class_names(self.heads[place.head]) if place.classes else []
            # Ignored, a misspelt class would be missing in the place's mean, and nobody would see it.
            if unknown := [name for name in place.classes if name not in known]:
                raise ValueError(
                    f"{place.name}: no class {unknown[0]!r} in the head {place.head}; there are {', '.join(known)}"
                )
        return self


@dataclass(frozen=True)
class PlaceScores:
    """Scores of one place.

    Attributes:
        place: its name.
        head: that was compared with the labels.
        iou: of each class that some labels name without ambiguity.
        said: by class of the set's own labels, the share of its pixels predicted as each class of the head.
        images, pixels: number of images and of labelled pixels.
        ece: expected calibration error of the confidence over unambiguous labels; None without confidence.
    """

    place: str
    head: str
    iou: Mapping[str, float]
    said: Mapping[str, Mapping[str, float]]
    images: int
    pixels: int
    ece: float | None = None

    @property
    def figure(self) -> float:
        """Mean IoU over the classes above."""
        return float(np.mean(list(self.iou.values())))


class PlaceCount:
    """Counts of (code of the head's table, predicted class) and of (class of the set, predicted class)."""

    def __init__(self, labelled: LabelledSet, codes: HeadCodes, translation: str) -> None:
        self.codes = codes
        self.own = labelled.classes
        self.table = codes.table_of(labelled.description, translation)
        self.counts = np.zeros((len(labelled.classes) + 1, len(codes.classes) + 1), dtype=np.int64)
        self.sureness = np.zeros((3, BINS))  # by bin: pixels, sum of confidence, right ones

    def add(self, labels: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> None:
        """Count labels of the set, uint8 (H, W) with 0 = ignore, and predicted classes 0..K of the same shape."""
        columns = self.counts.shape[1]
        # A code above K would be counted as another class of the next label.
        if predicted.size and predicted.max() >= columns:
            raise ValueError(f"class {predicted.max()} predicted for head {self.codes.name} of {columns - 1} classes")
        # Both codes as one number, so that one bincount makes the table.
        pairs = labels.astype(np.int64).ravel() * columns + predicted.ravel()
        self.counts += np.bincount(pairs, minlength=self.counts.size).reshape(self.counts.shape)

    def add_confidence(
        self, labels: NDArray[np.uint8], predicted: NDArray[np.uint8], confidence: NDArray[np.uint8]
    ) -> None:
        """Counts the confidence, x 255, of pixels whose label is one class of the head; all arrays are (H, W)."""
        true = self.table[labels]
        # Above K stand sets of allowed classes, of which a single answer
        # is neither right nor wrong. Confidence 0 is no data.
        counted = (true > 0) & (true <= len(self.codes.classes)) & (confidence > 0)
        values = confidence[counted] / 255
        number = np.clip(np.ceil(values * BINS).astype(np.int64) - 1, 0, BINS - 1)
        right = true[counted] == predicted[counted]
        self.sureness += [np.bincount(number, weight, BINS) for weight in (np.ones(len(values)), values, right)]

    @property
    def calibration_error(self) -> float | None:
        """Expected calibration error: difference of confidence and accuracy of each bin, weighted by its pixels."""
        pixels, sure, right = self.sureness
        return float(np.abs(sure - right).sum() / pixels.sum()) if pixels.sum() else None

    def scores(self, place: str, images: int, classes: Sequence[str] = ()) -> PlaceScores:
        """The figures over what has been counted so far; ``classes``: those to report, all by default.

        Raises:
            SettingsRefused: there is no IoU of any of them.
        """
        names = [item.name for item in self.codes.classes]
        # Read here and not before: `table_of` above has added this set's codes.
        allowed = self.codes.allowed[self.table]  # (C + 1, K): by class of the set
        usable = self.table > 0
        iou = {}
        for place_of, name in enumerate(names):
            sure = usable & (self.table == place_of + 1)
            # No IoU rather than one of 0 for a class that the place does not have.
            if not sure.any() or not self.counts[sure].sum():
                continue
            by_label = self.counts[:, place_of + 1]
            hits, missed = by_label[sure].sum(), self.counts[sure].sum() - by_label[sure].sum()
            # A label that allows the class makes no false positive.
            wrong = by_label[usable & (allowed[:, place_of] == 0)].sum()
            iou[name] = float(hits / max(hits + missed + wrong, 1))
        iou = {name: value for name, value in iou.items() if not classes or name in classes}
        if not iou:
            # A mean of nothing would be "not a number", by which nothing can be chosen.
            wanted = ", ".join(classes or names)
            raise SettingsRefused(place, f"no labelled pixel of its images is one class alone of {wanted}: no figure")
        shares = {
            item.name: dict(zip(names, (self.counts[code, 1:] / self.counts[code].sum()).tolist(), strict=True))
            for code, item in enumerate(self.own, start=1)
            if self.counts[code].sum()
        }
        pixels = int(self.counts[1:].sum())
        return PlaceScores(place, self.codes.name, iou, shares, images, pixels, self.calibration_error)


def score_places(settings: PlacesSettings, mapper: Mapper, *, gsd_m: float | None = None) -> list[PlaceScores]:
    """Maps every image of every available place and computes its scores.

    Args:
        settings: the places.
        mapper: predicts an image; places of a head that it does not give are left out.
        gsd_m: images are resampled to this ground sampling distance and their maps back again; None: not resampled.

    Raises:
        SettingsRefused, DataMissing, DataRefused: as the sets raise them.
    """
    scores = []
    for place in settings.places:
        labelled = open_set(place.set)
        codes = HeadCodes(place.head, read_description(settings.heads[place.head]).classes)
        count = PlaceCount(labelled, codes, settings.heads[place.head])
        names = labelled.named(place.names) if place.names else labelled.split(place.split)
        own_gsd = place.gsd_m or labelled.description.gsd_m
        heads: set[str] = set()
        for name in names:
            scene = labelled.read(name)
            # Where either resolution is unknown the image is mapped as it is, as aboard.
            maps = _mapped_at(mapper, scene.pixels, 1.0 if gsd_m is None or own_gsd is None else own_gsd / gsd_m)
            heads |= set(maps)
            # The first image tells that the model has no such head; the others need not be mapped.
            if place.head not in maps:
                break
            count.add(scene.labels, maps[place.head])
            if (confidence := maps.get(place.head + CONFIDENCE)) is not None:
                count.add_confidence(scene.labels, maps[place.head], confidence)
        if place.head in heads:
            scores.append(count.scores(place.name, len(names), place.classes))
    return scores


def _mapped_at(mapper: Mapper, pixels: NDArray[np.uint8], zoom: float) -> Mapping[str, NDArray[np.uint8]]:
    """Maps of an image that was enlarged by ``zoom`` first, on the image's own grid."""
    height, width = pixels.shape[1:]
    size = (max(1, round(height * zoom)), max(1, round(width * zoom)))
    if size == (height, width):
        return mapper(pixels)
    # As on board: reduced by area averages, enlarged by cubic interpolation, which uint8 tensors do not support.
    source = torch.from_numpy(np.ascontiguousarray(pixels))[None].float()
    mode = "area" if zoom < 1 else "bicubic"
    # Cubics overshoot at edges, so they are clamped before they become bytes.
    resized = F.interpolate(source, size=size, mode=mode).round().clamp(0, 255).byte()[0].numpy()
    back = {}
    for head, codes in mapper(resized).items():
        grid = torch.from_numpy(np.ascontiguousarray(codes))[None, None]
        # Nearest, for classes and their confidence: neither may be mixed.
        back[head] = F.interpolate(grid, size=(height, width), mode="nearest-exact")[0, 0].numpy()
    return back


def score_heads(
    settings: PlacesSettings,
    folder: Path,
    *,
    gsd_m: float | None = None,
    threads: int | None = None,
    backend: str = "onnxruntime",
) -> list[PlaceScores]:
    """As :func:`score_places`, of a packaged model with heads: each place by its head, which has that name there.

    Raises:
        SettingsRefused: the model has none of the heads, or one of another class table.
    """
    manifest = Manifest.load(folder)
    heads = [head for head in settings.heads if head in manifest.head_names]
    if not heads:
        raise SettingsRefused(
            str(folder), f"its heads {', '.join(manifest.head_names)} are none of {', '.join(settings.heads)}"
        )
    scores: dict[tuple[str, str], PlaceScores] = {}
    for head in heads:
        view = manifest.with_heads([head])
        if [item.name for item in view.classes] != class_names(settings.heads[head]):
            raise SettingsRefused(
                f"heads.{head}", f"{folder}'s head of that name has the classes {', '.join(view.class_titles.values())}"
            )
        own = settings.model_copy(update={"places": tuple(place for place in settings.places if place.head == head)})
        # One engine a head, opened with this head alone: places of other heads then cost nothing.
        with mapper_of_model(folder, head, threads=threads, backend=backend, heads=(head,)) as mapper:
            scores |= {(item.place, head): item for item in score_places(own, mapper, gsd_m=gsd_m)}
    order = [(place.name, place.head) for place in settings.places]
    return [scores[key] for key in order if key in scores]


def record_places(folder: Path, scores: list[PlaceScores]) -> None:
    """Write figures into a packaged model's manifest and card; of a model with heads, each into its head's entry.

    Raises:
        ManifestError: the model's manifest cannot be read.
    """
    manifest = Manifest.load(folder)
    for head in manifest.head_names or ("",):
        figures = tuple(_figure_of(item) for item in scores if head in ("", item.head))
        if not figures:
            continue
        # Loaded anew: the heads before this one have been saved into it.
        manifest = Manifest.load(folder).with_heads([head] if head else []).model_copy(update={"places": figures})
        manifest.save(folder)
    write_card(manifest, folder)


def _figure_of(item: PlaceScores) -> PlaceFigure:
    return PlaceFigure(
        place=item.place, images=item.images, labelled_pixels=item.pixels,
        per_class_iou={name: round(value, 4) for name, value in item.iou.items()}, mean_iou=round(item.figure, 4),
        ece=None if item.ece is None else round(item.ece, 4),
    )  # fmt: skip


def mean_over_places(scores: list[PlaceScores]) -> float:
    """Mean of the places' figures, by which models are compared."""
    return float(np.mean([item.figure for item in scores]))


def places_table(scores: list[PlaceScores]) -> str:
    """Markdown table: one row per place, and the predictions where labels are sets of classes."""
    rows = [
        f"| {item.place} | {item.images} | {item.pixels / 1e6:.1f} | {item.figure:.3f} | "
        + ("" if item.ece is None else f"{item.ece:.3f}") + " | "
        + ", ".join(f"{name} {value:.3f}" for name, value in item.iou.items()) + " |"
        for item in scores
    ]  # fmt: skip
    head = ["| place | images | Mpx | mean IoU | ECE | IoU of each class |", "|---|---|---|---|---|---|"]
    predicted_shares = [
        f"- {item.place}: {name} was said to be "
        + ", ".join(f"{other} {share:.1%}" for other, share in shares.items() if share >= 0.0005)
        for item in scores for name, shares in item.said.items()
    ]  # fmt: skip
    return "\n".join([*head, *rows, "", f"Mean over places: {mean_over_places(scores):.4f}", "", *predicted_shares])


def places_json(scores: list[PlaceScores]) -> str:
    """The same as JSON."""
    rows = [
        {
            "place": item.place, "head": item.head, "images": item.images, "pixels": item.pixels,
            "figure": round(item.figure, 4), "ece": None if item.ece is None else round(item.ece, 4),
            "iou": {name: round(value, 4) for name, value in item.iou.items()},
            "said": {name: {k: round(v, 4) for k, v in shares.items()} for name, shares in item.said.items()},
        }
        for item in scores
    ]  # fmt: skip
    return json.dumps({"mean": round(mean_over_places(scores), 4), "places": rows}, indent=1)
