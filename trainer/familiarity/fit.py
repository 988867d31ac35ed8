"""`trainer familiarity`: fits the statistics, sets the scale on held-out places, writes both to a model folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from engines.backends.onnxruntime import OnnxRuntimeEngine
from engines.files import synced_file, synced_folder
from engines.heads_graph import graph_of
from engines.manifest import Familiarity, Manifest, ManifestWithHeads, ModelFile, Precision
from engines.verify import golden_tiles
from trainer.errors import ExportRefused, SettingsRefused
from trainer.export.card import write_card
from trainer.familiarity.corruptions import CORRUPTIONS, HeldOut, ImageCells, corruption_odds, log_odds
from trainer.familiarity.graph import OUTPUT, carried_over, feature_names, with_familiarity
from trainer.familiarity.imagery import CellReader, Images, overlap
from trainer.familiarity.statistics import THRESHOLD, Floats, Statistics, fitted, scale_of
from trainer.profile.onnx_graph import cost_of

if TYPE_CHECKING:
    from engines.engine import Engine

MOST_RATIO: dict[Precision, float] = {"fp32": 1.02, "fp16": 1.1, "bf16": 1.25, "int8": 1.25}
"""Of an engine's figure of the golden tile to the reference's; docs/familiarity.md has what was measured."""
LEAST_TILES = 3
"""Held out: with fewer a scale is none."""

ReportLine = Callable[[str], None]


@dataclass(frozen=True)
class FamiliarityRequest:
    """Imagery for the statistics, and held-out imagery for the scale.

    Attributes:
        model: folder, changed in place.
        fit: training imagery; each entry gets its own prototype.
        holdout: imagery of similar places that is not in ``fit``.
        in_turn: instead of ``holdout``, each image is left out of the fit once, and these set the scale.
        features: names of tensors, in place of the trunk's.
        most: largest number of tiles of each entry.
        version: of the model from now on; as before where not given.
        threads: of ONNX Runtime.
    """

    model: Path
    fit: tuple[Images, ...]
    holdout: tuple[Images, ...] = ()
    in_turn: bool = False
    features: tuple[str, ...] = ()
    most: int = 200
    version: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if not self.fit:
            raise SettingsRefused("--fit", "there is no imagery to fit on: give SET:NAME,NAME")
        if bool(self.holdout) == self.in_turn:
            raise SettingsRefused("--holdout", "no held-out place: give SET:NAME,NAME, or --in-turn, and not both")
        if twice := overlap(self.fit, self.holdout):
            raise SettingsRefused("--holdout", f"{twice[0]} is also fitted on: a held-out place is another one")
        if self.in_turn and sum(len(images.names) for images in self.fit) < 2:
            raise SettingsRefused("--in-turn", "one image cannot be left out of itself: give --holdout SET:NAME,NAME")


def add_familiarity(request: FamiliarityRequest, report: ReportLine = lambda _: None) -> Manifest:
    """Fits, checks that classes and confidence do not change, and writes model, manifest and card.

    Raises:
        SettingsRefused, DataMissing, DataRefused: as the sets raise them; too little imagery.
        ExportRefused: the graph lacks the features, or its classes changed.
        ManifestError, ModelMismatch: the model folder is incomplete.
    """
    manifest = _of_one_graph(request.model)
    model = onnx.load_from_string(manifest.model.read_verified(request.model))
    side, halo = manifest.input.tile_size, manifest.halo
    features = feature_names(model, side, request.features)
    reader = CellReader(model, features, request.threads)

    def cells_of(images: Images) -> ImageCells:
        report(f"reading {images.described()}")
        return reader.read_all(images, side=side, halo=halo, most=request.most)

    if request.in_turn:
        by_image = [[cells_of(replace(images, names=(name,))) for name in images.names] for images in request.fit]
        sets = [ImageCells.joined(cells) for cells in by_image]
        # Each image by statistics of all others; the graph gets those of all images.
        given = held_out_in_turn(by_image)
    else:
        sets = [cells_of(images) for images in request.fit]
        given = _held_out(sets, ImageCells.joined([cells_of(images) for images in request.holdout]))
    if len(given.distances) < LEAST_TILES:
        raise SettingsRefused(
            "--holdout", f"{len(given.distances)} tiles of held-out places are too few, give {LEAST_TILES}"
        )
    telling, held_out = given.telling(), given.tile_distances()
    for number, corruption in enumerate(CORRUPTIONS):
        if number not in [told for told, _, _ in telling]:
            report(f"{corruption.name}: not told apart, left out")
    # Held-out tiles choose which directions stay and how they are
    # scaled; the directions themselves are of all fitted tiles.
    statistics = replace(_fitted(sets), corruptions=corruption_odds(_directions(sets), telling))
    scale = scale_of(held_out)
    facts = Familiarity(
        output=OUTPUT,
        threshold=THRESHOLD,
        fitted_on=f"{_described(request.fit)}; {sum(len(cells.clean) for cells in sets)} tiles",
        held_out="each image of these, by statistics of the others" if request.in_turn
        else _described(request.holdout),
        held_out_tiles=len(held_out),
        wrongly_unfamiliar=round(float((scale.familiarity(held_out) < THRESHOLD).mean()), 4),
    )  # fmt: skip
    changed = with_familiarity(model, features, statistics, scale)
    return _written(request.model, manifest, changed, facts, version=request.version)


def carry_over(folder: Path, source: Path, *, version: str | None = None) -> Manifest:
    """Copies the familiarity output from another precision of the same network, which may be a model with heads.

    Raises:
        ExportRefused: the source has none, or is another network.
        ManifestError, ModelMismatch: a model folder is not whole.
    """
    manifest, given = _of_one_graph(folder), Manifest.load(source)
    if given.familiarity is None:
        raise ExportRefused(f"{given.name} has no familiarity to take over: fit it there first")
    model = onnx.load_from_string(manifest.model.read_verified(folder))
    if isinstance(given, ManifestWithHeads):
        # Parameters are counted otherwise in its parts; the tensors are compared below.
        same = manifest.classes in [head.classes for head in given.source.heads]
    else:
        _finish_earlier(source, given)
        same = (manifest.total_parameters, manifest.classes) == (given.total_parameters, given.classes)
    donor = onnx.load_from_string(graph_of(given, source))
    if not same:
        raise ExportRefused(f"these statistics are of another network: {given.name} has other parameters or classes")
    changed = carried_over(model, donor)
    return _written(folder, manifest, changed, given.familiarity, version=version, reference=source)


def _of_one_graph(folder: Path) -> Manifest:
    """The manifest of a model of one graph: in a model with heads the encoder's digest is what the heads hold on to."""
    manifest = Manifest.load(folder)
    if manifest.head_names:
        raise ExportRefused(
            f"{folder} has heads, and its encoder's file is not changed any more: fit before joining, on the model "
            "that gives the encoder (trainer join), or with trainer export --heads --familiarity"
        )
    _finish_earlier(folder, manifest)
    return manifest


def _fitted(sets: Sequence[ImageCells]) -> Statistics:
    try:
        return fitted([cells.clean.reshape(-1, cells.clean.shape[-1]) for cells in sets])
    except ValueError as error:
        raise SettingsRefused("--fit", f"{error}: give more imagery") from error


def _directions(sets: Sequence[ImageCells]) -> list[tuple[Floats, float]]:
    return [log_odds(sets, number) for number in range(len(CORRUPTIONS))]


def _held_out(sets: Sequence[ImageCells], cells: ImageCells) -> HeldOut:
    return HeldOut.of(cells, _fitted(sets).cell_distances(cells.clean), _directions(sets))


def held_out_in_turn(by_image: Sequence[Sequence[ImageCells]]) -> HeldOut:
    """What each image's tiles give by statistics of all others.

    Args:
        by_image: for each entry that was fitted on, the cells of each of its images.
    """
    held_out = []
    for group, cells in enumerate(by_image):
        for left_out in range(len(cells)):
            others = [
                ImageCells.joined([given for at, given in enumerate(images) if (number, at) != (group, left_out)])
                # An entry of one image is left out with it: a prototype of nothing cannot be made.
                for number, images in enumerate(by_image) if number != group or len(images) > 1
            ]  # fmt: skip
            held_out.append(_held_out(others, cells[left_out]))
    return HeldOut.joined(held_out)


def _described(given: Sequence[Images]) -> str:
    return "; ".join(images.described() for images in given)


def _written(
    folder: Path, manifest: Manifest, model: onnx.ModelProto, facts: Familiarity, *, version: str | None,
    reference: Path | None = None,
) -> Manifest:  # fmt: skip
    """The changed file in the folder, after a look at what it says; or nothing is changed."""
    partial = _partial(folder, manifest)
    try:
        onnx.save(model, partial)
        entry = ModelFile.of(partial)
        facts = facts.model_copy(update={"most_ratio": MOST_RATIO, "golden": None})
        changed = manifest.model_copy(update={"model": entry, "familiarity": facts})
        # On the file beside the model: until here nothing has changed.
        golden = _checked(manifest, changed, folder, reference)
        # The manifest that is saved next leads to these bytes, so they have to be durable before it.
        synced_file(partial)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    facts = facts.model_copy(update={"golden": golden})
    update: dict[str, object] = {
        "model": entry.model_copy(update={"file": manifest.model.file}), "familiarity": facts,
    }  # fmt: skip
    if version is not None:
        update["version"] = version
    changed = manifest.model_copy(update=update)
    # The manifest first: after a kill before the next line it names the file that
    # lies beside the model, by which the next run knows it (see _finish_earlier).
    changed.save(folder)
    partial.replace(folder / manifest.model.file)
    synced_folder(folder)
    # The cost is counted on the folder as engines open it, and is then saved with the rest.
    if manifest.cost is not None:
        changed = changed.model_copy(update={"cost": cost_of(folder)})
        changed.save(folder)
    write_card(changed, folder)
    return changed


def _partial(folder: Path, manifest: Manifest) -> Path:
    return folder / (manifest.model.file + ".part")


def _finish_earlier(folder: Path, manifest: Manifest) -> None:
    """Puts the file that the manifest names in its place, where a run was killed between the two."""
    partial = _partial(folder, manifest)
    if partial.is_file() and ModelFile.of(partial).sha256 == manifest.model.sha256:
        partial.replace(folder / manifest.model.file)


def _checked(before: Manifest, after: Manifest, folder: Path, reference: Path | None) -> float | None:
    """The reference's figure of the golden tile; None without such a tile.

    Raises:
        ExportRefused: its classes or confidence changed, or another precision gives another familiarity.
    """
    with OnnxRuntimeEngine(before, folder) as old, OnnxRuntimeEngine(after, folder) as new:
        tiles = golden_tiles(old, 1)
        expected, actual = old.infer(tiles), new.infer(tiles)
        if (expected.classes != actual.classes).any() or _differ(expected.confidence, actual.confidence):
            raise ExportRefused("classes or confidence of the golden tile changed: the graph was not only added to")
        given = _figure(new, actual.familiarity)
    if before.golden is None:
        return None
    if reference is None:
        return given
    wanted = Manifest.load(reference).familiarity
    if wanted is None or wanted.golden is None:
        return given
    # A ratio and not a difference: far from the training imagery familiarity falls with the inverse of the distance.
    most = MOST_RATIO[after.precision]
    if not wanted.golden / most <= given <= wanted.golden * most:
        raise ExportRefused(
            f"familiarity of the golden tile is {given:.4g} and {wanted.golden:.4g} where it was fitted: these "
            "statistics are of another network, or this precision needs a fit of its own"
        )
    return wanted.golden


def _differ(first: NDArray[np.uint8] | None, second: NDArray[np.uint8] | None) -> bool:
    if first is None or second is None:
        return first is not second
    return not np.array_equal(first, second)


def _figure(engine: Engine, familiarity: Floats | None) -> float:
    if familiarity is None or not 0 < float(familiarity[0]) <= 1:
        raise ExportRefused(f"{engine.manifest.name} gives no figure of the golden tile: {familiarity}")
    return float(familiarity[0])
