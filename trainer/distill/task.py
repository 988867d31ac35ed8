"""Distillation as a task of the training loop: draws tiles and masks, returns named losses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.data.augment import Crop, augmented_image, resized_crop
from trainer.data.order import epoch_order
from trainer.distill.network import MaskCDKD
from trainer.distill.pictures import reconstruction_picture
from trainer.distill.schedule import Schedule
from trainer.distill.settings import DistillSettings
from trainer.errors import DataMissing, SettingsRefused
from trainer.models.masking import drawn_visible
from trainer.models.reconstruction import target_of
from trainer.models.teachers.build import build_teacher
from trainer.training.loop import fabric_of, run_to_end
from trainer.training.task import Batch, Slice

SHOWN = 3
"""Tiles in a picture of reconstructions."""


class DistillTask:
    """A :class:`trainer.training.task.Task` whose network is a :class:`MaskCDKD`.

    Args:
        settings: of the run.
        tiles: uint8 (3, S, S) each, S at least the crop's side; an epoch is all of them, in an order of its own.
    """

    saves_frozen = False  # the teacher's weights are where they came from

    def __init__(self, settings: DistillSettings, tiles: Sequence[NDArray[np.uint8]]) -> None:
        self.settings = settings
        self.tiles = tiles
        self.samples = len(tiles)
        self.schedule = Schedule(settings.schedule)
        torch.manual_seed(settings.seed)
        # Teachers first, since a random one draws from the generator.
        teachers = {name: build_teacher(teacher) for name, teacher in settings.teachers.items()}
        torch.manual_seed(settings.seed)  # again: the student starts alike whoever teaches it
        network = MaskCDKD(settings, teachers)
        network.student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # By number and thus the same on all processes, which must start with the same norms.
        first = torch.stack([self._drawn(number)[0] for number in range(min(self.samples, 8))])
        network.student.settle_norms(target_of(first, "normalised"))
        self.network: nn.Module = network

    def draw(self, part: Slice) -> Batch:
        """Pixels float (B, 3, S, S) of 0..255 and the visible tokens int64 (B, N_v)."""
        pixels, index = zip(
            *(self._drawn(part.step * part.stage.batch + number) for number in part.numbers), strict=True
        )
        return torch.stack(pixels).contiguous(memory_format=torch.channels_last), torch.stack(index)

    def losses(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Scalars "total", "alignment", "teacher" and "student", and the network's losses of each teacher."""
        named_losses: dict[str, Tensor] = network(*batch)
        student = named_losses["reconstruction_student"]
        if not self.settings.teachers:
            return {"total": student, "student": student}
        share = {name: teacher.weight for name, teacher in self.settings.teachers.items()}
        alignment = torch.stack([weight * named_losses[f"alignment_{name}"] for name, weight in share.items()]).sum()
        teacher = torch.stack([weight * named_losses[f"reconstruction_{name}"] for name, weight in share.items()]).sum()
        weights = self.schedule.weights
        total = weights.alignment * alignment + weights.teacher * teacher + weights.student * student
        apart = {name: value for name, value in named_losses.items() if name != "reconstruction_student"}
        return {"total": total, "alignment": alignment, "teacher": teacher, "student": student, **apart}

    def after_step(self, losses: dict[str, float]) -> dict[str, float | str]:
        """The ratio r, and the stage of the step."""
        if not self.settings.teachers:
            return {}
        stage = self.schedule.stage
        weights = sum(teacher.weight for teacher in self.settings.teachers.values())
        # Weights of the teachers are taken out: r compares a teacher with the student, not several with one.
        r = self.schedule.update(losses["teacher"] / weights, losses["student"])
        return {"r": r, "stage": stage}

    def state(self) -> dict[str, Any]:
        """State of the schedule."""
        return self.schedule.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores the schedule."""
        self.schedule.load_state(state)

    def show(self, folder: Path, step: int) -> None:
        """Reconstructions of the first tiles: ``folder``/reconstructions-STEP.png."""
        network = self.network
        if not isinstance(network, MaskCDKD):
            raise TypeError(f"the network is a {type(network).__name__}")
        device = next(network.parameters()).device
        pixels, index = zip(*(self._drawn(number) for number in range(min(SHOWN, self.samples))), strict=True)
        # Of the unwrapped network, on one process: a wrapper's forward would wait for the others.
        network.eval()
        shown = network.reconstructed(torch.stack(pixels).to(device), torch.stack(index).to(device))
        network.train()
        reconstruction_picture(shown, folder / f"reconstructions-{step:08d}.png", title=f"step {step}")

    def _drawn(self, number: int) -> tuple[Tensor, Tensor]:
        """Image and visible tokens of the ``number``-th sample of the run, wherever it is drawn."""
        settings, rng = self.settings, np.random.default_rng([self.settings.seed, number])
        epoch, place = divmod(number, self.samples)
        # Any sample of the run can be drawn by its number alone: this is what a resumed run relies on.
        order = epoch_order(self.samples, settings.seed, epoch)
        tile = np.asarray(self.tiles[int(order[place])])
        pixels = self._cropped(tile, rng)
        image, _ = resized_crop(Crop(pixels, np.zeros(pixels.shape[1:], np.uint8)), settings.crop)
        image = augmented_image(image, settings.augment, rng)
        side = settings.crop // settings.student.patch
        index = drawn_visible(side, side, ratio=settings.mask.ratio, kind=settings.mask.kind, rng=rng)
        return image, torch.from_numpy(index)

    def _cropped(self, tile: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """A window of the crop's side over the scale drawn, no larger than the tile."""
        _, height, width = tile.shape
        side, scale = self.settings.crop, self.settings.augment.scale
        if height < side or width < side:
            raise SettingsRefused(
                self.settings.name, f"crops of {side} pixels from tiles of {width} x {height}: use smaller crops"
            )
        # Without a scale nothing is drawn for it, so that the other numbers stay what they were.
        if scale != (1.0, 1.0):
            zoom = float(np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1]))))
            side = min(max(16, round(side / zoom)), height, width)
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        return tile[:, top : top + side, left : left + side]


def open_tiles(settings: DistillSettings) -> Sequence[NDArray[np.uint8]]:
    """The tiles of some settings, or their subset.

    Raises:
        DataMissing: none were named.
        DataRefused: the folder holds none.
    """
    if settings.tiles is None:
        raise DataMissing("tiles", "no folder named", "name one of `trainer tiles` in the configuration or by --tiles")
    from trainer.tiles.shard_reader import ShardDataset  # pyarrow: only who reads shards needs it

    shelf = ShardDataset(settings.tiles)
    return shelf if settings.subset is None else shelf.subset(settings.subset, seed=0)


def distill(settings: DistillSettings, folder: Path) -> None:
    """Opens the tiles, then resumes or starts the run in ``folder`` and trains to the end.

    Raises:
        TrainerError: see its tree.
    """
    fabric = fabric_of(settings)
    run_to_end(settings, DistillTask(settings, open_tiles(settings)), folder, fabric)
