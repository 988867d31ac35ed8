"""The manifest of a model: its files, input, outputs, classes, provenance and measured accuracy.

Names follow STAC MLM v1.5 where it has one (Source: stac-extensions.github.io/mlm): `name`, `architecture`,
`total_parameters`, `hyperparameters`, `input` with `name`, `bands`, `data_type`, `value_scaling`, and `output` are
mlm: fields. Classes are classification:classes with `code` for `value` and "#rrggbb" for `color_hint`.
`model` and `golden` are what file:checksum and file:size say of an asset.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from engines.errors import HeadsRefused, ManifestError
from engines.files import replace_file
from engines.manifest_fields import (
    Band,
    Classes,
    ClassInfo,
    FileEntry,
    FileName,
    ModelFile,
    ModelInput,
    ModelOutput,
    Part,
    Precision,
    Sha256,
    Share,
    Slug,
    Text,
    UtcTime,
    check_figures,
    os_reason,
)
from engines.manifest_heads import Encoder, Head, HeadsManifest
from engines.manifest_records import (
    Acceptance,
    Agreement,
    Calibration,
    Cost,
    DataSet,
    Evaluation,
    Familiarity,
    FamiliarityCase,
    GoldenTile,
    PlaceFigure,
    ReliabilityBin,
    Training,
    TwinFile,
)

__all__ = [
    "MANIFEST_NAME", "Acceptance", "Agreement", "Band", "Calibration", "ClassInfo", "Cost", "DataSet", "Encoder",
    "Evaluation", "Familiarity", "FamiliarityCase", "FileEntry", "FileName", "GoldenTile", "Head", "HeadsManifest",
    "Manifest", "ManifestWithHeads", "ModelFile", "ModelInput", "ModelOutput", "PlaceFigure", "Precision",
    "ReliabilityBin", "Sha256", "Share", "Slug", "Text", "Training", "TwinFile",
]  # fmt: skip

MANIFEST_NAME = "manifest.json"
# A manifest has some kilobytes; a larger file is not one.
MAX_MANIFEST_BYTES = 1 << 20


class Manifest(Part):
    """A model's description, beside its file.

    Attributes:
        created: UTC.
        halo: width of a tile's border whose prediction is discarded, in pixels; less than half a tile.
        classes: codes 1..K in order; 0 is "no data" and not listed.
        precision: of the weights and arithmetic in the file.
        opset: of the ONNX file.
        agreement: of the file with the network it was exported from.
        calibration: of the confidence; None where it was not measured.
        probabilities: a second graph that outputs probabilities; None where there is none.
        cost: of one tile; None where it was not counted.
        acceptance: of precisions below the reference's; see `accepts`.
        gsd_m: ground sampling distance the model is made for, metres per pixel; None where it is not known.
        gsd_range_m: smallest and largest ground sampling distance that it was tested at, metres per pixel.
        terms: uses that the licences of the training data allow, in words; empty where no restriction is known.
        places: accuracy by place.
        familiarity: None where the model has no such output.
    """

    schema_version: Literal[1, 2] = 1
    name: Slug
    version: Slug
    created: UtcTime
    description: str = ""
    architecture: str = ""
    total_parameters: Annotated[int, Field(ge=0)] | None = None
    model: ModelFile
    input: ModelInput
    output: ModelOutput
    halo: Annotated[int, Field(ge=0)]
    classes: Classes
    precision: Precision
    opset: Annotated[int, Field(ge=1)]
    training: Training | None = None
    evaluation: tuple[Evaluation, ...] = ()
    golden: GoldenTile | None = None
    agreement: Agreement | None = None
    calibration: Calibration | None = None
    probabilities: TwinFile | None = None
    cost: Cost | None = None
    acceptance: tuple[Acceptance, ...] = ()
    gsd_m: Annotated[float, Field(gt=0)] | None = None
    gsd_range_m: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    terms: str = ""
    places: tuple[PlaceFigure, ...] = ()
    familiarity: Familiarity | None = None

    @model_validator(mode="after")
    def _parts_agree(self) -> Manifest:
        # With half a tile of halo a tile would have no core.
        if 2 * self.halo >= self.input.tile_size:
            raise ValueError(f"halo {self.halo} is not less than half the tile of {self.input.tile_size}")
        # Without its own precision in that table no engine of this file could pass.
        if self.golden is not None and self.precision not in self.golden.least_agreement:
            raise ValueError(f"golden.least_agreement says nothing of the model's own precision, {self.precision}")
        check_figures(self.classes, [row.per_class_iou for row in self.evaluation])
        check_figures(self.classes, [row.per_class_iou for row in self.places])
        if self.gsd_range_m is not None:
            low, high = self.gsd_range_m
            if not low <= (self.gsd_m or low) <= high:
                raise ValueError(f"gsd_range_m {low} to {high} must rise and hold gsd_m, {self.gsd_m}")
        return self

    def accepts(self, precision: Precision) -> bool:
        """Whether an engine of this precision may be used.

        The file's own precision needs no acceptance test; another one needs a passed test. A failed one refuses any.
        """
        measured = [item for item in self.acceptance if item.precision == precision]
        return all(item.passed for item in measured) and (bool(measured) or precision == self.precision)

    @property
    def class_titles(self) -> dict[int, str]:
        """Code to title, without 0."""
        return {item.code: item.title for item in self.classes}

    @property
    def head_names(self) -> tuple[str, ...]:
        """Of all heads of the model; none for a model of one graph."""
        return ()

    @property
    def opened_heads(self) -> tuple[Head, ...]:
        """The heads that are asked for, the first one's facts stand in this manifest; none for a model of one graph."""
        return ()

    @property
    def further_heads(self) -> tuple[Head, ...]:
        """The heads that are asked for beside the first."""
        return self.opened_heads[1:]

    @property
    def golden_answers(self) -> dict[str, GoldenTile]:
        """The reference's classes of the golden tile, by head; the head of a model of one graph is ""."""
        return {} if self.golden is None else {"": self.golden}

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Every file that a folder of this model needs aboard."""
        return (self.model,) if self.golden is None else (self.model, self.golden)

    def check_files(self, folder: Path) -> None:
        """Reads every file of the model and compares digests and sizes.

        Raises:
            ModelMismatch: a file is missing, or is another.
        """
        for entry in self.files:
            entry.read_verified(folder)

    def with_heads(self, names: Sequence[str]) -> Manifest:
        """This manifest for an engine that gives these heads, in this order; for the model's first head with none.

        Raises:
            HeadsRefused: the model has no such head, or one is named twice.
        """
        if refusal := refusal_of_heads(names, (), f"{self.name} {self.version}"):
            raise HeadsRefused(*refusal)
        return self

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Reads a manifest file, or the one in a model's folder. A model with heads is seen by its first head.

        Raises:
            ManifestError: one line naming file, key, what is wrong and what to do.
        """
        file = path / MANIFEST_NAME if path.is_dir() else path
        try:
            with file.open("rb") as source:
                # One byte too many tells that the file is too large, whatever its size.
                raw = source.read(MAX_MANIFEST_BYTES + 1)
        except OSError as error:
            raise ManifestError(file, "", os_reason(error), "name a model folder or its manifest.json") from error
        if len(raw) > MAX_MANIFEST_BYTES:
            raise ManifestError(file, "", f"larger than {MAX_MANIFEST_BYTES} bytes", "name a manifest.json")
        try:
            # Strict: a number in quotes is a mistake of the file. The schema is asked for before.
            if _version_of(raw) == 2:
                return ManifestWithHeads.of(HeadsManifest.model_validate_json(raw, strict=True))
            return cls.model_validate_json(raw, strict=True)
        except ValidationError as error:
            raise _manifest_error(file, error) from error

    def to_json(self) -> str:
        """The file's text; `Manifest.load` of it gives an equal manifest."""
        return self.model_dump_json(indent=2) + "\n"

    def save(self, folder: Path) -> Path:
        """Writes manifest.json into a model's folder; returns its path."""
        path = folder / MANIFEST_NAME
        # By a rename: `engines verify --record` writes it anew beside a model that may be in service.
        replace_file(path, self.to_json().encode())
        return path


def refusal_of_heads(names: Sequence[str], known: Sequence[str], model: str) -> tuple[str, str] | None:
    """What is wrong with the heads that were asked for, and what to do; None where nothing is.

    Args:
        names: asked for; none is always right.
        known: of the model; none where it is one graph.
        model: name and version.
    """
    if not names or (len(set(names)) == len(names) and set(names) <= set(known)):
        return None
    if not known:
        return f"there is no head {names[0]}", f"the model {model} has no heads: leave the option out"
    has = f"the model {model} has {', '.join(known)}"
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        return f"there is no head {unknown}", has
    twice = next(name for name in names if list(names).count(name) > 1)
    return f"the head {twice} is named twice", f"{has}: name each once at most"


class ManifestWithHeads(Manifest):
    """A model with heads as an engine opens it: the fields of Manifest are those of the first head asked for.

    Attributes:
        model: stands for all files that are joined: `sha256` is a digest over theirs, `bytes` their sum, `file` the
            encoder's.
        source: what its file says, with all heads.
        opened: names of the heads asked for.
    """

    source: HeadsManifest
    opened: Annotated[tuple[str, ...], Field(min_length=1)]

    @classmethod
    def of(cls, source: HeadsManifest, names: Sequence[str] = ()) -> ManifestWithHeads:
        """The view of some heads, of the first without names.

        Raises:
            HeadsRefused: there is no such head, or one is named twice.
        """
        by_name = {head.name: head for head in source.heads}
        names = tuple(names) or (source.heads[0].name,)
        if refusal := refusal_of_heads(names, tuple(by_name), f"{source.name} {source.version}"):
            raise HeadsRefused(*refusal)
        heads = [by_name[name] for name in names]
        first = heads[0]
        parts = (source.encoder, *(head.model for head in heads))
        cost = _sum_of_costs([source.encoder.cost, *(head.cost for head in heads)])
        counts = [source.encoder.total_parameters, *(head.total_parameters for head in heads)]
        facts = {
            name: getattr(first, name)
            for name in ("classes", "evaluation", "agreement", "calibration", "acceptance", "places")
        }
        shared = ("name", "version", "created", "input", "halo", "precision", "opset", "gsd_m", "gsd_range_m", "terms",
                  "familiarity", "golden")  # fmt: skip
        return cls(
            schema_version=2, source=source, opened=names,
            description=" ".join(filter(None, [source.description, first.description])),
            architecture=" ".join(filter(None, [source.architecture, first.architecture])),
            total_parameters=None if None in counts else sum(count or 0 for count in counts),
            model=ModelFile(
                file=source.encoder.file, sha256=_digest_of(parts), bytes=sum(part.bytes for part in parts)
            ),
            output=output_in_graph(first), training=first.training or source.training, cost=cost,
            **facts, **{name: getattr(source, name) for name in shared},
        )  # fmt: skip

    @property
    def head_names(self) -> tuple[str, ...]:
        """See Manifest."""
        return tuple(head.name for head in self.source.heads)

    @property
    def opened_heads(self) -> tuple[Head, ...]:
        """See Manifest."""
        by_name = {head.name: head for head in self.source.heads}
        return tuple(by_name[name] for name in self.opened)

    @property
    def golden_answers(self) -> dict[str, GoldenTile]:
        """See Manifest."""
        return {head.name: head.golden for head in self.opened_heads}

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """See Manifest: those of all heads, asked for or not."""
        return self.source.files

    def with_heads(self, names: Sequence[str]) -> Manifest:
        """See Manifest."""
        return type(self).of(self.source, names)

    def accepts(self, precision: Precision) -> bool:
        """See Manifest: every head that is asked for has to."""
        return all(head.accepts(precision, self.precision) for head in self.opened_heads)

    @property
    def whole(self) -> HeadsManifest:
        """All heads, with what was changed of the first one asked for."""
        first = self.opened_heads[0].model_copy(
            update={
                name: getattr(self, name) for name in ("evaluation", "agreement", "calibration", "acceptance", "places")
            }
        )
        heads = tuple(first if head.name == first.name else head for head in self.source.heads)
        changed = {name: getattr(self, name) for name in ("gsd_m", "gsd_range_m", "terms", "familiarity")}
        return self.source.model_copy(update={"heads": heads, **changed})

    def to_json(self) -> str:
        """See Manifest: all heads, with what was changed of the first one asked for."""
        return self.whole.model_dump_json(indent=2) + "\n"


def output_in_graph(head: Head) -> ModelOutput:
    """Names of a head's outputs in the graph that joins it to the encoder."""
    confidence = head.output.confidence
    return ModelOutput(
        classes=f"{head.name}/{head.output.classes}", confidence=confidence and f"{head.name}/{confidence}"
    )


def _digest_of(parts: Sequence[ModelFile]) -> str:
    """Hex digest of the files that are joined, in their order."""
    # In the order of the outputs, and of opened heads alone: the others change no map.
    return hashlib.sha256("\n".join(part.sha256 for part in parts).encode()).hexdigest()


def _sum_of_costs(costs: Sequence[Cost | None]) -> Cost | None:
    known = [cost for cost in costs if cost is not None]
    # A sum without a part that nobody counted would look like a cost.
    if len(known) < len(costs):
        return None
    return Cost(flops=sum(cost.flops for cost in known), bytes_moved=sum(cost.bytes_moved for cost in known))


def _version_of(raw: bytes) -> object:
    """The schema's version; None where the text is no JSON object."""
    try:
        facts = json.loads(raw)
    except ValueError:
        return None
    return facts.get("schema_version") if isinstance(facts, dict) else None


def _manifest_error(file: Path, error: ValidationError) -> ManifestError:
    faults = error.errors(include_url=False, include_input=False)
    first = faults[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    # pydantic writes "Value error, " before the text of a ValueError of ours.
    problem = " ".join(first["msg"].removeprefix("Value error, ").split()) + more
    return ManifestError(file, key, problem, _REMEDIES.get(first["type"], "correct this value or copy the model again"))


_REMEDIES = {
    "json_invalid": "the file is damaged; copy the model's folder again",
    "missing": "add this key, or update the tool that wrote the manifest",
    "extra_forbidden": "remove this key, or update this software if the model is newer",
    "literal_error": "update this software if the model is newer, else correct the value",
}
