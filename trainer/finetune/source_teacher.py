"""Trains a SAM-shaped teacher on a labelled source domain, for use where SAM's weights are not available.

It learns two tasks at once: the scene category of UC Merced images, and the class of every pixel of synthetic
landscapes. Optionally it learns a third: to predict the feature maps of a network trained on ImageNet, since two
thousand labels are few for a transformer. The teacher so has a domain, and a domain gap to other imagery. The result is
a transformers folder like SAM's own.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses
from transformers import SamVisionModel
from typing_extensions import Self

from engines.metrics import Confusion
from trainer.config import ColourSettings, RunSettings
from trainer.data.augment import Crop, recoloured, resized_crop, turned
from trainer.data.labelled import CropSampler, made_scenes
from trainer.data.sets import data_root
from trainer.errors import DataMissing
from trainer.models.lite_stem import LiteStem
from trainer.models.normalisation import DEVIATION, MEAN
from trainer.models.reconstruction import target_of
from trainer.models.teachers.sam_weights import random_encoder
from trainer.models.teachers.settings import SamShape
from trainer.models.upernet import resized
from trainer.training.checkpoint import load_weights, read_average
from trainer.training.loop import fabric_of, run_to_end
from trainer.training.task import Batch, Slice, StatelessTask

log = logging.getLogger(__name__)
LANDSCAPE_CLASSES = 5
HELD_OUT = 10
"""Every 10th image of a folder is held out for reporting."""


class SourceSettings(RunSettings):
    """Settings of a run. Half of a batch are UC Merced images, half are synthetic landscapes of ``seeds``.

    Crops smaller than ``shape.image`` show less ground and use a random corner of the position table: five crops of 14
    tokens a side cost as much as one of 32. The last stage trains on the whole size.

    ``seen_by``: weights of EfficientNet-Lite2 (a file, or "imagenet" for the package's) whose feature maps the tokens
    must predict as well.
    """

    shape: SamShape
    root: Path | None = None
    images: str = "ucmerced"
    seeds: tuple[int, ...] = tuple(range(3001, 3009))
    held_out_seed: int = 3100
    scale: tuple[float, float] = (0.5, 2.0)
    colour: ColourSettings = ColourSettings()
    seen_by: Path | Literal["imagenet"] | None = None

    @model_validator(mode="after")
    def _even(self) -> Self:
        patch, whole = self.shape.patch, self.shape.image
        if any(stage.batch % 2 or stage.crop % patch or stage.crop > whole for stage in self.stages):
            raise ValueError(f"stages must have even batches, and crops of whole patches of {patch}, {whole} at most")
        return self


class ImageNetTarget(nn.Module):
    """Frozen EfficientNet-Lite2 as a regression target: feature maps of strides 8, 16 and 32, on one grid."""

    strides = (8, 16, 32)

    def __init__(self, weights: Path | str) -> None:
        super().__init__()
        self.stem = LiteStem("lite2", 1, MEAN, DEVIATION)
        self.stem.load(weights)
        self.requires_grad_(False)
        self.channels = sum(self.stem.trunk.channels[stride] for stride in self.strides)

    @torch.no_grad()
    def forward(self, image: Tensor, side: int) -> Tensor:
        """Normalised images (B, 3, S, S) to (B, side, side, channels), each channel of mean 0 and deviation 1."""
        maps = self.stem.trunk(image * self.stem.scale + self.stem.shift)
        seen = torch.cat([resized(maps[stride], (side, side)) for stride in self.strides], dim=1).float()
        # Maps of three strides differ in size; standardised, none outweighs the others in the loss.
        deviation, mean = torch.std_mean(seen, dim=(0, 2, 3), keepdim=True)
        return ((seen - mean) / (deviation + 1e-3)).permute(0, 2, 3, 1)


class SourceNetwork(nn.Module):
    """The encoder, with a linear layer for scene categories on the mean token and one for classes on each token.

    With ``seen_by`` also a linear layer that predicts the features of :class:`ImageNetTarget` at each token. The
    attributes' names are keys of saved checkpoints.
    """

    def __init__(self, shape: SamShape, places: int, seen_by: Path | str | None = None) -> None:
        super().__init__()
        self.encoder = random_encoder(shape)
        self.norm = nn.LayerNorm(shape.width)
        self.place = nn.Linear(shape.width, places)
        self.ground = nn.Linear(shape.width, LANDSCAPE_CLASSES)
        self.seer = None if seen_by is None else ImageNetTarget(seen_by)
        self.sight = None if self.seer is None else nn.Linear(shape.width, self.seer.channels)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Outputs for pixels (B, 3, S, S) of 0..255.

        Returns:
            "place", logits (B, categories); "ground", logits (B, 5, S/patch, S/patch); in training with ``seen_by``
            also "sight", the scalar loss of the predicted features.
        """
        image = target_of(pixels, "normalised")
        # Part by part, since the whole encoder takes images of one size only.
        tokens = self.encoder.patch_embed.projection(image).permute(0, 2, 3, 1)
        if self.encoder.pos_embed is not None:
            tokens = tokens + _corner(self.encoder.pos_embed, tokens.shape[1], drawn=self.training)
        for layer in self.encoder.layers:
            mixed = layer(tokens)
            tokens = mixed[0] if isinstance(mixed, tuple) else mixed
        tokens = self.norm(tokens)
        outputs = {"place": self.place(tokens.mean(dim=(1, 2))), "ground": self.ground(tokens).permute(0, 3, 1, 2)}
        if self.training and self.seer is not None and self.sight is not None:
            outputs["sight"] = F.mse_loss(self.sight(tokens).float(), self.seer(image, tokens.shape[1]))
        return outputs


def _corner(table: Tensor, side: int, *, drawn: bool) -> Tensor:
    """A ``side`` x ``side`` part of a position table (1, S, S, D): the top left one, or a random one if ``drawn``."""
    spare = table.shape[1] - side
    # From torch's generator, which the loop seeds by the step.
    top, left = (int(torch.randint(spare + 1, ())) if drawn and spare else 0 for _ in range(2))
    return table[:, top : top + side, left : left + side]


class SourceTask(StatelessTask):
    """A :class:`trainer.training.task.Task`. ``places`` are uint8 (3, H, W) images by kind."""

    samples = None
    saves_frozen = True

    def __init__(self, settings: SourceSettings, places: dict[str, list[NDArray[np.uint8]]]) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.places = [
            (code, image)
            for code, images in enumerate(places.values())
            for number, image in enumerate(images)
            if number % HELD_OUT
        ]
        self.network: nn.Module = SourceNetwork(settings.shape, len(places), settings.seen_by)
        self.ground = CropSampler(
            made_scenes(settings.seeds), classes=LANDSCAPE_CLASSES, balanced=0.5, seed=settings.seed
        )

    def draw(self, part: Slice) -> Batch:
        """Pixels (B, 3, S, S), scene category (B,) or -1, and classes (B, S, S), 0 where unlabelled."""
        drawn = [self._drawn(part.step, number, part.stage.crop) for number in part.numbers]
        pixels, place, classes = zip(*drawn, strict=True)
        return torch.stack(pixels), torch.tensor(place), torch.stack(classes)

    def _drawn(self, step: int, number: int, side: int) -> tuple[Tensor, int, Tensor]:
        rng = np.random.default_rng([self.settings.seed, step, number])
        # By the image's number, so that it does not depend on the split of a batch over processes.
        if number % 2:
            image, classes = resized_crop(self.ground.draw(side, self.settings.scale, rng), side)
            image, classes = turned(image, classes, rng)
            return recoloured(image, self.settings.colour, rng), -1, classes.long()
        code, whole = self.places[int(rng.integers(len(self.places)))]
        extent = int(rng.integers(min(whole.shape[1:]) * 3 // 4, min(whole.shape[1:]) + 1))
        # A smaller crop shows less ground, not the same ground smaller: pixels keep their size.
        extent = extent * side // self.settings.shape.image
        top, left = (int(rng.integers(length - extent + 1)) for length in whole.shape[1:])
        crop = whole[:, top : top + extent, left : left + extent]
        image, classes = resized_crop(Crop(crop, np.zeros(crop.shape[1:], np.uint8)), side)
        image, classes = turned(image, classes, rng)
        return recoloured(image, self.settings.colour, rng), code, classes.long()

    def losses(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of categories and of labelled pixels, and the feature loss; "total" is their sum."""
        pixels, place, classes = batch
        outputs: dict[str, Tensor] = network(pixels)
        logits = resized(outputs["ground"].float(), (classes.shape[-2], classes.shape[-1]))
        losses = {
            # Each image has one kind of label; -1 marks what it does not have.
            "place": F.cross_entropy(outputs["place"].float(), place, ignore_index=-1),
            "ground": F.cross_entropy(logits, classes - 1, ignore_index=-1),
        }
        if "sight" in outputs:
            losses["sight"] = outputs["sight"]
        return {"total": torch.stack(list(losses.values())).sum(), **losses}


def read_places(folder: Path) -> dict[str, list[NDArray[np.uint8]]]:
    """Images of a folder of folders, one a kind of place, uint8 (3, H, W) each, sorted by name.

    Raises:
        DataMissing: there are none.
    """
    places: dict[str, list[NDArray[np.uint8]]] = {}
    for path in sorted(folder.glob("*/*.jp*g")):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        places.setdefault(path.parent.name, []).append(np.ascontiguousarray(pixels))
    if not places:
        raise DataMissing(folder, "no JPEG in folders by kind of place")
    return places


def train_source_teacher(settings: SourceSettings, folder: Path, out: Path) -> dict[str, float]:
    """Trains, writes the averaged encoder to ``out``, and returns its accuracy on held-out data of its own domain.

    Returns:
        "place_accuracy", the share of correctly classified held-out images; "ground_miou" on a landscape of another
        seed.

    Raises:
        TrainerError: see its tree.
    """
    fabric = fabric_of(settings)
    places = read_places(data_root(settings.root) / settings.images)
    task = SourceTask(settings, places)
    run_to_end(settings, task, folder, fabric)
    # A new network for the averaged weights: the run's own holds the last step's.
    network = SourceNetwork(settings.shape, len(places), settings.seen_by)
    load_weights(network, read_average(folder), folder)
    _save(network, out)
    figures = {
        "place_accuracy": _place_accuracy(network, places, settings.shape.image),
        "ground_miou": _ground_miou(network, settings),
    }
    log.info("source teacher: %s", figures)
    return figures


def _save(network: SourceNetwork, out: Path) -> None:
    """Saves as transformers does; the neck, which is not used here, keeps its random weights."""
    model = SamVisionModel(network.encoder.config)
    model.vision_encoder.load_state_dict(network.encoder.state_dict())
    model.save_pretrained(out)


@torch.inference_mode()
def _place_accuracy(network: SourceNetwork, places: dict[str, list[NDArray[np.uint8]]], side: int) -> float:
    network.eval()
    right = total = 0
    for code, images in enumerate(places.values()):
        crops = [Crop(image, np.zeros(image.shape[1:], np.uint8)) for image in images[::HELD_OUT]]
        pixels = torch.stack([resized_crop(_square(crop), side)[0] for crop in crops]).float()
        right += int((network(pixels)["place"].argmax(dim=1) == code).sum())
        total += len(crops)
    return right / total


def _square(crop: Crop) -> Crop:
    side = min(crop.labels.shape)
    return Crop(crop.pixels[:, :side, :side], crop.labels[:side, :side])


@torch.inference_mode()
def _ground_miou(network: SourceNetwork, settings: SourceSettings) -> float:
    (scene,) = made_scenes([settings.held_out_seed])
    side, confusion = settings.shape.image, Confusion(LANDSCAPE_CLASSES)
    for top in range(0, scene.labels.shape[0] - side + 1, side):
        for left in range(0, scene.labels.shape[1] - side + 1, side):
            window = (slice(top, top + side), slice(left, left + side))
            pixels = torch.from_numpy(scene.pixels[:, window[0], window[1]].copy())[None].float()
            predicted = resized(network(pixels)["ground"], (side, side)).argmax(dim=1)[0] + 1
            confusion.add(scene.labels[window], predicted.byte().numpy())
    return confusion.scores().miou
