"""Writes soft labels of a trained network for whole sets, labelled or not, to train a smaller network on.

Each image is predicted at one or more ground sampling distances and mirrored; the probabilities are averaged. Images
whose file exists are skipped, so an interrupted run resumes.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses
from tqdm import tqdm

from engines.files import replace_file
from trainer.config import FinetuneSettings, SetSettings
from trainer.data.sets import LabelledSet, open_set
from trainer.data.soft_labels import SoftFacts, claim_folder, file_name
from trainer.export.onnx import segmenter_of
from trainer.models.segmenter import Segmenter
from trainer.training.checkpoint import read_average
from trainer.training.precision import fast_inference

CELL_M = 2.0
"""Approximate side of a cell of soft labels in metres: the logits are no finer at the resolutions used."""
_WINDOW, _HALO = 1024, 128
"""Pixels: larger images are predicted in windows that overlap by twice the halo."""


@dataclass(frozen=True)
class SoftenRequest:
    """The sets to make soft labels for.

    Attributes:
        run: folder of a finished finetuning, the teacher.
        sets: as in a configuration; ``soft`` is the folder of each set's soft labels.
        gsd_m: ground sampling distances at which each image is predicted, in metres; every second one is mirrored.
        largest_enlargement: limit of an image's enlargement.
    """

    run: Path
    sets: tuple[SetSettings, ...]
    gsd_m: tuple[float, ...] = (0.8,)
    largest_enlargement: float = 1.25


def soften(request: SoftenRequest, *, quiet: bool = False) -> int:
    """Writes the soft labels of every image that has none; returns the number written.

    Raises:
        CheckpointRefused: the run has no averaged weights.
        SettingsRefused, DataMissing: as the sets raise them.
        DataRefused: likewise; a folder holds soft labels of another teacher, or made with other heads, stride or views.
    """
    settings, segmenter = segmenter_of(request.run)
    network = Teacher(segmenter.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    heads = dict(zip(settings.heads, _classes(settings), strict=True))
    teacher = f"{settings.name} {_digest(request.run)[:16]}"
    # All folders before the first image: predicting takes hours.
    work = [_Work.of(item, request, heads, teacher) for item in request.sets if item.soft is not None]
    done = 0
    for item in work:
        for name in tqdm(item.missing(), desc=item.labelled.name, unit="image", disable=quiet or None):
            pixels = item.labelled.read(name).pixels
            cells = soft_labels(network, pixels, item.zooms, settings.model.student.grain, item.stride)
            _write(item.folder / file_name(name), cells)
            done += 1
    return done


@dataclass(frozen=True)
class _Work:
    """A set's images, and the folder of their soft labels."""

    labelled: LabelledSet
    names: tuple[str, ...]
    folder: Path
    stride: int
    zooms: tuple[float, ...]

    @classmethod
    def of(cls, item: SetSettings, request: SoftenRequest, heads: dict[str, int], teacher: str) -> _Work:
        assert item.soft is not None  # noqa: S101 -- asked before
        labelled = open_set(item.set, item.root)
        names = labelled.named(item.names) if item.names else labelled.split(item.split)
        # The stride of a set has to be one for all of its images: the folder's facts say it once.
        gsd = item.gsd_m or labelled.description.gsd_m or request.gsd_m[0]
        stride = max(1, int(CELL_M / gsd))
        zooms = tuple(min(gsd / wanted, request.largest_enlargement) for wanted in request.gsd_m)
        views_m = tuple(round(gsd / zoom, 6) for zoom in zooms)
        claim_folder(item.soft, SoftFacts(heads, stride, teacher, views_m))
        return cls(labelled, names, item.soft, stride, zooms)

    def missing(self) -> list[str]:
        return [name for name in self.names if not (self.folder / file_name(name)).exists()]


class Teacher:
    """A network in eval mode, run by OpenVINO where that is installed: several times as fast as PyTorch on a CPU.

    One graph is compiled for each image size and kept.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self._compiled: dict[tuple[int, ...], Callable[[Tensor], list[Tensor]]] = {}

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Logits of every head of float images (B, 3, H, W) of 0..255."""
        shape = tuple(images.shape)
        if shape not in self._compiled:
            # Sizes are constants of the exported graph.
            self._compiled[shape] = self._by_openvino(images) or self._by_torch
        return self._compiled[shape](images)

    def _by_torch(self, images: Tensor) -> list[Tensor]:
        with fast_inference():
            logits = self.segmenter.all_logits(images.contiguous(memory_format=torch.channels_last))
        return [item.float() for item in logits]

    def _by_openvino(self, images: Tensor) -> Callable[[Tensor], list[Tensor]] | None:
        try:
            import openvino  # type: ignore[import-untyped, import-not-found, unused-ignore]
        except ImportError:
            return None
        with tempfile.TemporaryDirectory(prefix="soften-") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter: sizes are constants here, and that is meant
            path = Path(folder) / "teacher.onnx"
            torch.onnx.export(_AllLogits(self.segmenter).eval(), (images,), path, opset_version=17, dynamo=False)
            # Images come one at a time.
            options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
            compiled = openvino.Core().compile_model(str(path), "CPU", options)

        def run(given: Tensor) -> list[Tensor]:
            outputs = compiled(given.contiguous().numpy())
            return [torch.from_numpy(outputs[port].astype(np.float32)) for port in compiled.outputs]

        return run


class _AllLogits(nn.Module):
    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return self.segmenter.all_logits(pixels)


@torch.no_grad()
def soft_labels(
    network: Teacher, pixels: NDArray[np.uint8], zooms: Sequence[float], grain: int, stride: int
) -> NDArray[np.uint8]:
    """Probabilities x 255 of the classes of all heads, uint8 (K, ceil(H / stride), ceil(W / stride)).

    Args:
        network: the teacher.
        pixels: uint8 (3, H, W).
        zooms: by how much the image is enlarged for each view; every second view is mirrored.
        grain: what the network's sides must be multiples of.
        stride: pixels a side of a cell.
    """
    _, height, width = pixels.shape
    size = (-(-height // stride), -(-width // stride))
    image = torch.from_numpy(np.ascontiguousarray(pixels))[None]
    total = torch.zeros(0)
    for place, zoom in enumerate(zooms):
        view = image
        # A small image is at least one grain, the least that the network takes.
        wanted = (max(grain, round(height * zoom)), max(grain, round(width * zoom)))
        if wanted != (height, width):
            view = F.interpolate(image, size=wanted, mode="bilinear", align_corners=False, antialias=True)
        mirrored = place % 2 == 1
        seen = _probabilities(network, view.flip(-1) if mirrored else view, grain)
        seen = F.interpolate(seen.flip(-1) if mirrored else seen, size=size, mode="bilinear", align_corners=False)
        total = seen if total.numel() == 0 else total + seen
    return (255.0 * total[0] / len(zooms)).round().byte().numpy()


def _probabilities(network: Teacher, image: Tensor, grain: int) -> Tensor:
    """Float32 (1, K, H/4, W/4) of uint8 (1, 3, H, W), by windows where it is large."""
    _, _, height, width = image.shape
    out = torch.zeros(0)
    for (top, bottom), (left, right), seen in _windows(height, width, grain):
        part = image[:, :, seen[0] : seen[1], seen[2] : seen[3]]
        rows, columns = part.shape[2:]
        side = -(-max(rows, columns) // grain) * grain  # square: few sizes, few graphs
        # Replicated, since zeros would be a black border of another class.
        part = F.pad(part.float(), (0, side - columns, 0, side - rows), mode="replicate")
        logits = network(part)
        shape = (part.shape[2] // 4, part.shape[3] // 4)
        fine = [F.interpolate(item, size=shape, mode="bilinear", align_corners=False) for item in logits]
        probability = torch.cat([item.softmax(dim=1) for item in fine], dim=1)
        if out.numel() == 0:
            out = torch.zeros((1, probability.shape[1], -(-height // 4), -(-width // 4)))
        # The halo is cut off: there the network saw half of its context.
        # Windows start at multiples of 4, the logits' stride.
        inner = probability[:, :, (top - seen[0]) // 4 :, (left - seen[2]) // 4 :]
        rows, columns = -(-(bottom - top) // 4), -(-(right - left) // 4)
        out[:, :, top // 4 : top // 4 + rows, left // 4 : left // 4 + columns] = inner[:, :, :rows, :columns]
    return out


def _windows(height: int, width: int, grain: int) -> Iterator[tuple[tuple[int, int], tuple[int, int], tuple[int, ...]]]:
    """Parts (top, bottom), (left, right) that tile the image, and the window (t, b, l, r) to see each in."""
    step = max(grain, _WINDOW - 2 * _HALO)
    for top in range(0, height, step):
        for left in range(0, width, step):
            bottom, right = min(height, top + step), min(width, left + step)
            seen = (max(0, top - _HALO), min(height, bottom + _HALO), max(0, left - _HALO), min(width, right + _HALO))
            yield (top, bottom), (left, right), seen


def _classes(settings: FinetuneSettings) -> list[int]:
    return [settings.model.classes, *(head.classes for head in settings.model.heads.values())]


def _digest(run: Path) -> str:
    """SHA-256 of the averaged weights."""
    digest = hashlib.sha256()
    for name, value in sorted(read_average(run).items()):
        digest.update(name.encode())
        digest.update(value.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _write(path: Path, cells: NDArray[np.uint8]) -> None:
    """Writes the file by one rename, durably: its being there is all that a resumed run asks."""
    content = io.BytesIO()
    np.save(content, cells)
    replace_file(path, content.getvalue())
