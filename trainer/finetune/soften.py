"""Writes soft labels of one or several trained networks for whole sets, labelled or not, to train a smaller one on.

Each image is predicted at one or more ground sampling distances and mirrored; the probabilities are averaged, over the
networks too. Images whose file exists are skipped, so an interrupted run resumes.
"""

from __future__ import annotations

import hashlib
import io
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from trainer.errors import SettingsRefused
from trainer.export.onnx import segmenter_of
from trainer.models.segmenter import Segmenter
from trainer.models.student import StudentSettings
from trainer.training.checkpoint import read_average
from trainer.training.precision import fast_inference

CELL_M = 2.0
"""Approximate side of a cell of soft labels in metres: the logits are no finer at the resolutions used."""
_WINDOW, _HALO = 1024, 128
"""Pixels: larger images are predicted in windows that overlap by twice the halo."""
_STRIDE = 4
"""Of the grid that the probabilities of windows are joined on, in pixels."""


@dataclass(frozen=True)
class SoftenRequest:
    """The sets to make soft labels for.

    Attributes:
        run: folder of a finished finetuning, the teacher, whose heads the soft labels have.
        sets: as in a configuration; ``soft`` is the folder of each set's soft labels.
        gsd_m: ground sampling distances at which each image is predicted, in metres; every second one is mirrored.
        largest_enlargement: limit of an image's enlargement.
        others: runs of further teachers; each head is the mean over all teachers that have it.
        root: folder of the data sets, for sets that name none of their own.
    """

    run: Path
    sets: tuple[SetSettings, ...]
    gsd_m: tuple[float, ...] = (0.8,)
    largest_enlargement: float = 1.25
    others: tuple[Path, ...] = ()
    root: Path | None = None


def soften(request: SoftenRequest, *, quiet: bool = False) -> int:
    """Writes the soft labels of every image that has none; returns the number written.

    Raises:
        CheckpointRefused: the run has no averaged weights.
        SettingsRefused: as the sets raise it; or no set has ``soft``, or two images would have one file.
        DataMissing: as the sets raise it.
        DataRefused: likewise; a folder holds soft labels of another teacher, or made with other heads, stride or views.
    """
    if not any(item.soft for item in request.sets):
        raise SettingsRefused("data.sets", "none of them has `soft`, the folder that its soft labels go to")
    teachers = [Teacher.of(run) for run in (request.run, *request.others)]
    heads = teachers[0].heads
    for run, teacher in zip(request.others, teachers[1:], strict=True):
        _check_heads(run, teacher.heads, heads)
    name = " and ".join(teacher.name for teacher in teachers)
    # All folders before the first image: predicting takes hours.
    work = [_Work.of(item, request, heads, name) for item in request.sets if item.soft is not None]
    _check_files(work)
    done = 0
    for item in work:
        for image in tqdm(item.missing(), desc=item.labelled.name, unit="image", disable=quiet or None):
            pixels = item.labelled.read(image).pixels
            cells = [soft_labels(teacher, pixels, item.zooms, item.stride) for teacher in teachers]
            _write(item.folder / file_name(image), _mean(cells, [teacher.heads for teacher in teachers]))
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
        labelled = open_set(item.set, item.root or request.root)
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


def _check_files(work: Sequence[_Work]) -> None:
    """Raises SettingsRefused where two images would have one file: the second would be taken for done."""
    images: dict[Path, Path] = {}
    for item in work:
        for name in item.names:
            file, image = item.folder.resolve() / file_name(name), item.labelled.image_path(name).resolve()
            if (other := images.setdefault(file, image)) != image:
                raise SettingsRefused(
                    str(item.folder), f"the soft labels of {other} and of {image} would be one file, {file.name}: give "
                    "each set a folder of its own (`soft`)",
                )  # fmt: skip


class Teacher:
    """A network in eval mode, run by OpenVINO where that is installed: several times as fast as PyTorch on a CPU.

    One graph is compiled for each image size and kept.

    Attributes:
        heads: its classes by head, in order.
        name: of its run, and the digest of its weights.
        grain: what the sides of its images must be multiples of, in pixels.
        window, halo: larger images are seen in windows of this side, of which the halo is cut off.
    """

    def __init__(self, segmenter: Segmenter, heads: Mapping[str, int], name: str) -> None:
        self.segmenter = segmenter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.heads, self.name = dict(heads), name
        student = segmenter.settings.student
        # Whole cells of the grid that windows are joined on: a patch of 14 pixels is not.
        self.grain = math.lcm(student.grain, _STRIDE)
        self.window, self.halo = _WINDOW, _HALO
        if isinstance(student, StudentSettings) and student.window is None:
            # No larger than its table of positions: beyond that it would be stretched, and attention is quadratic.
            self.window = min(_WINDOW, student.positions * student.patch // self.grain * self.grain)
            self.halo = min(_HALO, self.window // 8)
        self._compiled: dict[tuple[int, ...], Callable[[Tensor], list[Tensor]]] = {}

    @classmethod
    def of(cls, run: Path) -> Teacher:
        """The averaged network of a run.

        Raises:
            CheckpointRefused: the run has no averaged weights.
        """
        settings, segmenter = segmenter_of(run)
        heads = dict(zip(settings.heads, _classes(settings), strict=True))
        return cls(segmenter, heads, f"{settings.name} {_digest(run)[:16]}")

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
def soft_labels(network: Teacher, pixels: NDArray[np.uint8], zooms: Sequence[float], stride: int) -> NDArray[np.uint8]:
    """Probabilities x 255 of the classes of all heads, uint8 (K, ceil(H / stride), ceil(W / stride)).

    Args:
        network: the teacher.
        pixels: uint8 (3, H, W).
        zooms: by how much the image is enlarged for each view; every second view is mirrored.
        stride: pixels a side of a cell.
    """
    _, height, width = pixels.shape
    size = (-(-height // stride), -(-width // stride))
    image = torch.from_numpy(np.ascontiguousarray(pixels))[None]
    total = torch.zeros(0)
    for place, zoom in enumerate(zooms):
        view = image
        # A small image is at least one grain, the least that the network takes.
        wanted = (max(network.grain, round(height * zoom)), max(network.grain, round(width * zoom)))
        if wanted != (height, width):
            view = F.interpolate(image, size=wanted, mode="bilinear", align_corners=False, antialias=True)
        mirrored = place % 2 == 1
        seen = _probabilities(network, view.flip(-1) if mirrored else view)
        seen = F.interpolate(seen.flip(-1) if mirrored else seen, size=size, mode="bilinear", align_corners=False)
        total = seen if total.numel() == 0 else total + seen
    return (255.0 * total[0] / len(zooms)).round().byte().numpy()


def _probabilities(network: Teacher, image: Tensor) -> Tensor:
    """Float32 (1, K, H/4, W/4) of uint8 (1, 3, H, W), by windows where it is large."""
    _, _, height, width = image.shape
    out = torch.zeros(0)
    for (top, bottom), (left, right), seen in _windows(height, width, network):
        part = image[:, :, seen[0] : seen[1], seen[2] : seen[3]]
        rows, columns = part.shape[2:]
        side = -(-max(rows, columns) // network.grain) * network.grain  # square: few sizes, few graphs
        # Replicated, since zeros would be a black border of another class.
        part = F.pad(part.float(), (0, side - columns, 0, side - rows), mode="replicate")
        logits = network(part)
        shape = (part.shape[2] // _STRIDE, part.shape[3] // _STRIDE)
        fine = [F.interpolate(item, size=shape, mode="bilinear", align_corners=False) for item in logits]
        probability = torch.cat([item.softmax(dim=1) for item in fine], dim=1)
        if out.numel() == 0:
            out = torch.zeros((1, probability.shape[1], -(-height // _STRIDE), -(-width // _STRIDE)))
        # The halo is cut off: there the network saw half of its context.
        # Windows start at multiples of 4, the logits' stride.
        first, second = top // _STRIDE, left // _STRIDE
        inner = probability[:, :, first - seen[0] // _STRIDE :, second - seen[2] // _STRIDE :]
        rows, columns = -(-(bottom - top) // _STRIDE), -(-(right - left) // _STRIDE)
        out[:, :, first : first + rows, second : second + columns] = inner[:, :, :rows, :columns]
    return out


def _windows(
    height: int, width: int, network: Teacher
) -> Iterator[tuple[tuple[int, int], tuple[int, int], tuple[int, ...]]]:
    """Parts (top, bottom), (left, right) that tile the image, and the window (t, b, l, r) to see each in."""
    halo = network.halo // _STRIDE * _STRIDE
    step = max(_STRIDE, (network.window - 2 * halo) // _STRIDE * _STRIDE)
    for top in range(0, height, step):
        for left in range(0, width, step):
            bottom, right = min(height, top + step), min(width, left + step)
            seen = (max(0, top - halo), min(height, bottom + halo), max(0, left - halo), min(width, right + halo))
            yield (top, bottom), (left, right), seen


def _check_heads(run: Path, heads: Mapping[str, int], wanted: Mapping[str, int]) -> None:
    """Raises SettingsRefused unless a further teacher has a head of the first one, with as many classes."""
    both = heads.keys() & wanted.keys()
    if not both:
        raise SettingsRefused(f"--teacher {run}", f"it has none of the first teacher's heads ({', '.join(wanted)})")
    for name in sorted(both):
        if heads[name] != wanted[name]:
            raise SettingsRefused(
                f"--teacher {run}", f"its head {name} has {heads[name]} classes, the first teacher's {wanted[name]}"
            )


def _mean(cells: Sequence[NDArray[np.uint8]], heads: Sequence[Mapping[str, int]]) -> NDArray[np.uint8]:
    """Each head of the first teacher as the mean over all that have it, uint8 (K, h, w)."""
    if len(cells) == 1:
        return cells[0]
    parts = [
        dict(zip(own, np.split(each, np.cumsum(list(own.values()))[:-1]), strict=True))
        for each, own in zip(cells, heads, strict=True)
    ]
    means = [np.mean([part[name] for part in parts if name in part], axis=0) for name in heads[0]]
    return np.concatenate(means).round().astype(np.uint8)


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
