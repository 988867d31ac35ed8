"""Makes models with heads from runs: all heads of one run, or one head for a model that exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from engines.manifest import Manifest, ManifestWithHeads
from engines.verify import read_golden_tile
from trainer.data.description import read_description
from trainer.errors import ExportRefused, SettingsRefused
from trainer.export.half import Ranges
from trainer.export.join import add_head, check_head_name, join_heads
from trainer.export.onnx import ExportPrecision
from trainer.export.package import (
    CalibrationRun,
    PackageRequest,
    Prepared,
    check_request,
    check_version,
    made_in,
    move_to,
    with_familiarity,
    write_folder,
)
from trainer.export.provenance import finetuning_of
from trainer.models.deploy import DeploySettings
from trainer.training.history import history


@dataclass(frozen=True)
class HeadOptions:
    """What one head of several has of its own.

    Attributes:
        deploy: how its logits become classes.
        calibration: runs and images that its temperature is fitted on.
        description: in a sentence; with nothing, its set and classes.
        notes: Markdown for its section of the card.
    """

    deploy: DeploySettings = field(default_factory=DeploySettings)
    calibration: tuple[CalibrationRun, ...] = ()
    description: str = ""
    notes: str = ""


def heads_of_run(run: Path, wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of a run's heads: those wanted in that order, else all in the run's.

    Raises:
        SettingsRefused: the run has one head, or not the ones that are wanted.
        CheckpointRefused: it is no finished finetuning.
    """
    settings = finetuning_of(history(run)[-1], run)
    names = tuple(settings.heads)
    if not names:
        raise SettingsRefused(
            "--heads", f"the run {settings.name} has one head: leave --heads out, or add the head to a model with "
            "--head-of MODEL --head NAME"
        )  # fmt: skip
    if unknown := [name for name in wanted if name not in names]:
        raise SettingsRefused(
            "--heads", f"no head {unknown[0]!r} in the run {settings.name}; there are {', '.join(names)}"
        )
    if len(set(wanted)) != len(wanted):
        raise SettingsRefused("--heads", f"{', '.join(wanted)}: a head is named twice")
    return tuple(wanted) or names


def package_heads(request: PackageRequest, heads: Mapping[str, HeadOptions]) -> list[Manifest]:
    """Writes a model with heads for each precision, or none.

    Args:
        request: of the model; its ``deploy``, ``calibration`` and ``head`` are not used.
        heads: of the run, by name; the first is the one that is used unless others are asked for.

    Raises:
        As :func:`trainer.export.package.package`; SettingsRefused for INT8 and twins too.
    """
    _check_precisions(request)
    check_request(request)
    for head in heads:
        check_head_name(head)
    # Settings and calibration of all heads first: what they refuse is refused before a file is written.
    prepared = {head: Prepared.of(_of_head(request, head, options)) for head, options in heads.items()}
    if "fp16" in request.precisions:
        # With ranges of its own, one head might want LayerNorm in FP32
        # and another in FP16: no common encoder would be left.
        ranges = Ranges.joined([item.measured() for item in prepared.values()])
        prepared = {head: replace(item, ranges=ranges) for head, item in prepared.items()}
    with made_in(request.out) as made:
        folders = {precision: _folders_of_heads(prepared, precision, made) for precision in request.precisions}
        if request.familiarity is not None:
            # The first head's folder gives the encoder, and the familiarity reads
            # the encoder alone: one fit serves all heads.
            with_familiarity(request.familiarity, [next(iter(parts.values())) for parts in folders.values()])
        written = []
        for precision, parts in folders.items():
            target = made / request.folder_name(precision)
            join_heads(
                parts, target, name=target.name, version=request.version, description=request.description,
                notes=request.notes,
            )  # fmt: skip
            written.append(target)
        manifests = [Manifest.load(folder) for folder in written]
        move_to(request.out, written)
    return manifests


def package_head(request: PackageRequest, model: Path, head: str) -> Manifest:
    """Adds a run's head to a model with heads, or puts it in the place of one that has the name.

    The head gets tile size, halo, precision and golden tile of the model, and its ground resolution where the run says
    none. The encoder's file stays as it is.

    Args:
        request: ``version`` of the model that is made, and ``out``, where a folder of the same name is made; the rest
            is of the head.
        model: folder of the model; it may be the one that is replaced.
        head: name in the model; of a run with several heads, also the name of the head there.

    Raises:
        ExportRefused: the run's encoder is another, or the model is of one graph or in INT8.
        As :func:`trainer.export.package.package`.
    """
    before = Manifest.load(model)
    check_head_name(head)
    check_version(request.version)
    if not isinstance(before, ManifestWithHeads):
        raise ExportRefused(f"{model} is a model of one graph: make one with heads of it first (trainer join)")
    if before.precision not in ("fp32", "fp16"):
        raise ExportRefused(f"{model} is in {before.precision.upper()}: heads are added in FP32 and FP16")
    # Two different models of one name and version could not be told apart.
    if before.version == request.version:
        raise SettingsRefused(
            "--version", f"{before.name} is {before.version} already: a changed model gets another one"
        )
    precision: ExportPrecision = "fp16" if before.precision == "fp16" else "fp32"
    prepared = Prepared.of(
        replace(
            request, name=head, head=head if finetuning_of(history(request.run)[-1], request.run).heads else None,
            tile_size=before.input.tile_size, smaller_tiles=before.input.tile_sides is not None,
            halo=before.halo, golden_tile=read_golden_tile(before, model)[0],
        )
    )  # fmt: skip
    if not request.description:
        own = replace(prepared.request, description=_description(request.run, head))
        prepared = replace(prepared, request=own)
    own_gsd, tested = prepared.settings.data.gsd_m, before.gsd_range_m
    if own_gsd is None or (tested is not None and tested[0] <= own_gsd <= tested[1]):
        # Tiles reach all heads at one resolution, the model's: one that was tested where the run's crops were, or that
        # of a run which says none.
        data = prepared.settings.data.model_copy(update={"gsd_m": before.gsd_m})
        prepared = replace(prepared, settings=prepared.settings.model_copy(update={"data": data}))
    if precision == "fp16":
        encoder = onnx.load_from_string(before.source.encoder.read_verified(model))
        # The encoder's file stays, so the head's export has to choose the widths that this file has.
        prepared = replace(prepared, ranges=prepared.measured().under(encoder))
    with made_in(request.out) as made:
        folder = _folders_of_heads({head: prepared}, precision, made)[head]
        target = made / model.name
        add_head(model, head, folder, target, version=request.version)
        manifest = Manifest.load(target)
        move_to(request.out, [target])
    return manifest


def _check_precisions(request: PackageRequest) -> None:
    if unfit := [precision for precision in request.precisions if precision.startswith("int8")]:
        raise SettingsRefused(
            "--precision", f"{unfit[0]} is fitted to each head, so that no encoder is left that they share; give fp32 "
            "or fp16, or export each head by itself"
        )  # fmt: skip
    if request.twin:
        raise SettingsRefused("--twin", "a model with heads has no graph of probabilities; export each head by itself")


def _of_head(request: PackageRequest, head: str, options: HeadOptions) -> PackageRequest:
    return replace(
        request, name=head, head=head, deploy=options.deploy, calibration=options.calibration, notes=options.notes,
        description=options.description or _description(request.run, head), familiarity=None,
    )  # fmt: skip


def _folders_of_heads(prepared: Mapping[str, Prepared], precision: ExportPrecision, made: Path) -> dict[str, Path]:
    """Writes a model folder of one graph for each head."""
    place = made / f"heads-{precision}"
    place.mkdir()
    return {head: place / write_folder(item, precision, place).name for head, item in prepared.items()}


def _description(run: Path, head: str) -> str:
    """The set and the classes of a head."""
    settings = finetuning_of(history(run)[-1], run)
    table = read_description(settings.heads[head].classes_of if settings.heads else settings.data.set)
    return f"{table.title}: {', '.join(item.title.lower() for item in table.classes)}."
