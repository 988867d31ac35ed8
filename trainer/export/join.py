"""Makes one model with heads of several model folders of one encoder, and adds heads to one that stands."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from pydantic import ValidationError

from engines.backends.onnxruntime import OnnxRuntimeEngine
from engines.engine import Tiles
from engines.graph_sides import has_open_sides, with_sides
from engines.manifest import Encoder, Head, HeadsManifest, Manifest, ManifestWithHeads, ModelFile, ModelInput
from engines.verify import read_golden, read_golden_tile, verify_golden, write_answer
from trainer.errors import ExportRefused, SettingsRefused
from trainer.export.card import NOTES, notes_of, write_card
from trainer.export.in_place import new_folder
from trainer.export.package import check_name, check_version
from trainer.export.split import SplitGraph, same_network, split
from trainer.profile.onnx_graph import cost_of_part

ENCODER = "encoder.onnx"


@dataclass(frozen=True)
class _Part:
    """A model folder of one graph, cut where its encoder ends; ``sized`` for one tile of the usual size, to count."""

    folder: Path
    manifest: Manifest
    graph: SplitGraph
    sized: SplitGraph

    @classmethod
    def of(cls, folder: Path) -> _Part:
        manifest = Manifest.load(folder)
        if manifest.head_names:
            raise ExportRefused(f"{folder} has heads already: name model folders of one graph")
        if manifest.golden is None:
            raise ExportRefused(f"{folder} has no golden tile: export it with one")
        model = onnx.load_from_string(manifest.model.read_verified(folder))
        outputs = [name for name in (manifest.output.classes, manifest.output.confidence) if name]
        graph = split(model, outputs)
        sized = split(with_sides(model, manifest.input.tile_size), outputs) if has_open_sides(model) else graph
        return cls(folder, manifest, graph, sized)


def join_heads(
    folders: Mapping[str, Path], out: Path, *, name: str, version: str, description: str = "", notes: str = ""
) -> HeadsManifest:
    """Writes a model with heads.

    Args:
        folders: model folders of one graph by the name of their head; the first gives encoder, familiarity and golden
            tile.
        out: the folder to make, or to replace.
        name: of the model.
        version: of the model.
        description: of the model, in a sentence.
        notes: Markdown for the model's card; those of the folders stand under their heads.

    Raises:
        ExportRefused: the encoders differ, or the folders are not of one precision, input and halo.
        SettingsRefused: a name or the version is none.
        ManifestError, ModelMismatch: a folder is not whole.
    """
    check_name(name)
    check_version(version)
    for head in folders:
        check_head_name(head)
    parts = {head: _Part.of(folder) for head, folder in folders.items()}
    first = next(iter(parts.values()))
    for head, part in parts.items():
        _check_same_encoder(head, part, first.manifest, first.graph.encoder)
    tile = read_golden_tile(first.manifest, first.folder)
    with new_folder(out) as made:
        network = _with_all_features(first, parts.values())
        (made / ENCODER).write_bytes(network.SerializeToString())
        golden = first.manifest.golden
        assert golden is not None  # noqa: S101 -- checked by _Part
        # One golden tile for the whole model: all heads answer the same
        # pixels, so one pass of the encoder checks them all.
        shutil.copyfile(first.folder / golden.file, made / golden.file)
        entry = ModelFile.of(made / ENCODER)
        features = tuple(dict.fromkeys(name for part in parts.values() for name in part.graph.features))
        encoder = Encoder(
            **entry.model_dump(),
            features=features,
            total_parameters=_parameters(network),
            cost=cost_of_part(first.sized.encoder),
        )
        manifest = valid_manifest(
            schema_version=2, name=name, version=version,
            created=datetime.now(timezone.utc).replace(microsecond=0), description=description, encoder=encoder,
            input=_common_input([part.manifest.input for part in parts.values()]), halo=first.manifest.halo,
            precision=first.manifest.precision, opset=first.manifest.opset, training=first.manifest.training,
            golden=golden, gsd_m=first.manifest.gsd_m, gsd_range_m=first.manifest.gsd_range_m,
            terms=first.manifest.terms, familiarity=first.manifest.familiarity,
            heads=tuple(_head(head, part, encoder.sha256, tile, made) for head, part in parts.items()),
        )  # fmt: skip
        if notes:
            (made / NOTES).write_text(notes, encoding="utf-8")
        finish(manifest, made)
    return manifest


def add_head(model: Path, name: str, folder: Path, out: Path, *, version: str) -> HeadsManifest:
    """Writes a model with one head more, or with another in the place of one that has the name.

    Args:
        model: folder of a model with heads.
        name: of the head.
        folder: model folder of one graph, trained on the same encoder.
        out: the folder to make, or to replace.
        version: of the model that is made.

    Raises:
        ExportRefused: the encoders differ, or the head reads features that the encoder's file does not give.
    """
    before = Manifest.load(model)
    if not isinstance(before, ManifestWithHeads):
        raise ExportRefused(f"{model} is a model of one graph: make one with heads of it first (trainer join)")
    check_head_name(name)
    source, part = before.source, _Part.of(folder)
    encoder = onnx.load_from_string(source.encoder.read_verified(model))
    _check_same_encoder(name, part, before, encoder)
    if missing := [feature for feature in part.graph.features if feature not in source.encoder.features]:
        raise ExportRefused(f"head {name} reads {missing[0]}, which the encoder's file does not give")
    # A damaged file must not be copied into a model that then looks whole.
    before.check_files(model)
    with new_folder(out) as made:
        # Files are copied as they are, byte by byte: their digests are what
        # others compare, and aboard only the new head goes up.
        kept = [head for head in source.heads if head.name != name]
        for entry in (source.encoder, source.golden, *(e for head in kept for e in (head.model, head.golden))):
            shutil.copyfile(model / entry.file, made / entry.file)
        for notes in (NOTES, *(notes_of(head.name) for head in kept)):
            if (model / notes).is_file():
                shutil.copyfile(model / notes, made / notes)
        head = _head(name, part, source.encoder.sha256, read_golden_tile(before, model), made)
        # The order counts: the first head is the one that is used unless others are asked for.
        places = [head if old.name == name else old for old in source.heads]
        heads = tuple(places if len(kept) < len(source.heads) else [*places, head])
        created = datetime.now(timezone.utc).replace(microsecond=0)
        common = _common_input([source.input, part.manifest.input])
        manifest = valid_manifest(
            **dict(source) | {"version": version, "created": created, "input": common, "heads": heads}
        )
        finish(manifest, made)
    return manifest


def check_head_name(name: str) -> None:
    """Refuses what is no name of a head: its files are NAME.onnx and NAME.golden.npz.

    Raises:
        SettingsRefused: with what a name is.
    """
    check_name(name, "--head", "name of a head")
    if f"{name}.onnx" == ENCODER:
        raise SettingsRefused("--head", f"{name} is the encoder's own: give the head another name")


def _common_input(inputs: Sequence[ModelInput]) -> ModelInput:
    """The input of a model of these parts, which differ in their tiles' sides at most: it has the sides of them all."""
    sides = sorted(set(inputs[0].sides).intersection(*(item.sides for item in inputs)))
    return inputs[0].model_copy(update={"tile_sides": tuple(sides) if len(sides) > 1 else None})


def valid_manifest(**fields: object) -> HeadsManifest:
    """The manifest's file.

    Raises:
        ExportRefused: the heads do not fit together.
    """
    try:
        return HeadsManifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ExportRefused(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error


def _check_same_encoder(head: str, part: _Part, wanted: Manifest, encoder: onnx.ModelProto) -> None:
    given = part.manifest
    # Things that an engine has once for all heads, since the encoder runs once.
    facts = ("precision", "opset", "halo", "gsd_m")
    other = [name for name in facts if getattr(given, name) != getattr(wanted, name)]
    # Sides may differ: the model takes those that all its parts take.
    if given.input.model_copy(update={"tile_sides": None}) != wanted.input.model_copy(update={"tile_sides": None}):
        other.append("input")
    if other:
        raise ExportRefused(f"head {head}: {part.folder} has another {other[0]} than the model's encoder")
    if not same_network(part.graph.encoder, encoder):
        raise ExportRefused(
            f"head {head}: the encoder of {part.folder} has other weights or layers: finetune the head on this "
            "model's encoder, frozen (trainer finetune --encoder RUN)"
        )


def _head(name: str, part: _Part, encoder_sha256: str, tile: Tiles, folder: Path) -> Head:
    """Writes a head's file and answers; gives its entry."""
    path = folder / f"{name}.onnx"
    path.write_bytes(part.graph.head.SerializeToString())
    facts = part.manifest
    golden = facts.golden
    assert golden is not None  # noqa: S101 -- checked by _Part
    answer = write_answer(folder, name, _answer(part, tile), dict(golden.least_agreement))
    if (part.folder / NOTES).is_file() and (notes := (part.folder / NOTES).read_text(encoding="utf-8")):
        (folder / notes_of(name)).write_text(notes, encoding="utf-8")
    return Head(
        name=name, description=facts.description, architecture=facts.architecture, model=ModelFile.of(path),
        encoder_sha256=encoder_sha256, output=facts.output, classes=facts.classes,
        total_parameters=_parameters(part.graph.head), training=facts.training, evaluation=facts.evaluation,
        golden=answer, agreement=facts.agreement, calibration=facts.calibration, acceptance=facts.acceptance,
        terms=facts.terms, places=facts.places, cost=cost_of_part(part.sized.head),
    )  # fmt: skip


def _answer(part: _Part, tile: Tiles) -> NDArray[np.uint8]:
    """The reference's classes of the model's golden tile: recorded, or by ONNX Runtime where the tile is another."""
    own, classes = read_golden(part.manifest, part.folder)
    # Recorded by PyTorch in FP32, which is better than what any engine computes again.
    if np.array_equal(own, tile):
        return classes
    with OnnxRuntimeEngine(part.manifest, part.folder) as engine:
        computed: NDArray[np.uint8] = engine.infer(tile).classes[0]
    return computed


def _with_all_features(first: _Part, parts: Iterable[_Part]) -> onnx.ModelProto:
    """The first part's encoder, which also gives what only other heads read of it."""
    model = onnx.ModelProto()
    model.CopyFrom(first.graph.encoder)
    given = {port.name for port in model.graph.output}
    for part in parts:
        ports = {port.name: port for port in part.graph.encoder.graph.output}
        for name in part.graph.features:
            if name not in given:
                model.graph.output.append(ports[name])
                given.add(name)
    return model


def _parameters(model: onnx.ModelProto) -> int:
    """Numbers in the constants of layers; those of the familiarity are statistics and do not count."""
    sizes = [item.dims for item in model.graph.initializer if not item.name.startswith("/familiarity/")]
    return sum(int(np.prod(dims, dtype=np.int64)) for dims in sizes if len(dims) > 0)


def finish(manifest: HeadsManifest, folder: Path) -> None:
    """Writes manifest and card, and looks whether the joined graph gives the recorded answers."""
    view = ManifestWithHeads.of(manifest)
    view.save(folder)
    write_card(view, folder)
    # Here and not aboard is the place to find out that the joined graph does not answer as its parts did.
    engine = OnnxRuntimeEngine(view.with_heads(view.head_names), folder)
    with engine:
        verify_golden(engine)
