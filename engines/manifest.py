"""The manifest: what a model is, what it takes, what it says, where it came from and how good it is.

Names follow STAC MLM v1.5 where it has one (Source: stac-extensions.github.io/mlm): `name`, `architecture`,
`total_parameters`, `hyperparameters`, `input` with `name`, `bands`, `data_type`, `value_scaling`, and `output` are
mlm: fields. Classes are classification:classes with `code` for `value` and "#rrggbb" for `color_hint`.
`model` and `golden` are what file:checksum and file:size say of an asset.
"""

from __future__ import annotations

import builtins
import hashlib
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from engines.errors import ManifestError, ModelMismatch

MANIFEST_NAME = "manifest.json"
# A manifest is some kilobytes; what is larger is another file.
MAX_MANIFEST_BYTES = 1 << 20

Precision: TypeAlias = Literal["fp32", "bf16", "fp16", "int8"]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Sha256: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="lower-case hex")]
# Lower case and no separators: it becomes a folder's name, a tag and an identifier.
Slug: TypeAlias = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
FileName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
Text: TypeAlias = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(_Part):
    """A file beside the manifest, held to its digest."""

    file: FileName
    sha256: Sha256

    def read_verified(self, folder: Path) -> bytes:
        """The file's bytes, read once, so that what was hashed is what is used.

        Raises:
            ModelMismatch: the file is missing, or its SHA-256 is another.
        """
        path = folder / self.file
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelMismatch(path, "the file", given=_os_reason(error), required=f"sha256 {self.sha256}") from error
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise ModelMismatch(path, "sha256", given=found, required=self.sha256)
        return content


class ModelFile(FileEntry):
    """The ONNX file (the asset of role mlm:model)."""

    bytes: Annotated[int, Field(ge=1, description="file size")]

    def read_verified(self, folder: Path) -> builtins.bytes:
        """See FileEntry; the size is held to as well."""
        content = super().read_verified(folder)
        if len(content) != self.bytes:
            raise ModelMismatch(folder / self.file, "size", given=f"{len(content)} bytes", required=f"{self.bytes}")
        return content

    @classmethod
    def of(cls, path: Path) -> ModelFile:
        """Entry for a file as it lies on disk."""
        content = path.read_bytes()
        return cls(file=path.name, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


class Band(_Part):
    """One band by its meaning; `common_name` as in STAC's eo:common_name."""

    name: Slug
    common_name: Slug


class ModelInput(_Part):
    """What goes in: uint8 (N, bands, tile_size, tile_size), N free.

    Attributes:
        name: of the graph's input tensor.
        bands: in the order of the tensor's second axis.
        tile_size: pixels.
        value_scaling: what is done to the values and where, in words; it happens inside the graph.
    """

    name: Text = "tiles"
    bands: Annotated[tuple[Band, ...], Field(min_length=1)]
    tile_size: Annotated[int, Field(ge=1, le=16384)]
    data_type: Literal["uint8"] = "uint8"
    value_scaling: Text


class ModelOutput(_Part):
    """Names of the graph's output tensors, each uint8 (N, S, S); `confidence` None where there is none."""

    classes: Text = "classes"
    confidence: Text | None = None


class ClassInfo(_Part):
    """One class of the map: `code` is the pixel value, `name` the identifier, `title` for people."""

    code: Annotated[int, Field(ge=1, le=255)]
    name: Slug
    title: Text
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$", description="#rrggbb")]


class DataSet(_Part):
    """Imagery or labels that training used; `use` says for what."""

    name: Text
    license: Text
    use: str = ""


class Training(_Part):
    """Where the weights came from: enough to repeat or to doubt them.

    Attributes:
        license: of the weights.
        commit: of the code that trained.
    """

    data_sets: tuple[DataSet, ...]
    license: Text
    commit: Text
    seed: int
    epochs: Annotated[float, Field(ge=0)]
    hyperparameters: dict[str, bool | int | float | str] = {}
    notes: str = ""


class Evaluation(_Part):
    """How good it is on one split; all figures are shares 0..1.

    Attributes:
        per_class_iou: class name to IoU, None for a class that the split does not have.
        miou: mean IoU over the classes; oa: overall accuracy; mf1: mean F1.
    """

    data_set: Text
    split: Text
    per_class_iou: dict[str, Share | None]
    miou: Share
    oa: Share
    mf1: Share
    notes: str = ""


class GoldenTile(FileEntry):
    """A tile and what the reference said of it: an .npz with `tile` uint8 (bands, S, S) and `classes` uint8 (S, S).

    Attributes:
        least_agreement: precision to the share of pixels an engine of it must repeat.
    """

    least_agreement: Annotated[dict[Precision, Share], Field(min_length=1)]


class Agreement(_Part):
    """How far the ONNX file, on ONNX Runtime's CPU, says what the network said in FP32 where it was trained.

    Attributes:
        tiles: real tiles that both were run on, whole.
        same_class: share of pixels with the same class.
        probability_change: mean difference of the confidence (0..1), or of the twin's probabilities.
        reference_miou: of the network against the tiles' labels; miou: of the file. None where tiles had no labels.
    """

    tiles: Annotated[int, Field(ge=1)]
    same_class: Share
    probability_change: Share | None = None
    reference_miou: Share | None = None
    miou: Share | None = None


class TwinFile(ModelFile):
    """An ONNX file of the same weights and input that gives class probabilities, for those who blend tiles.

    Not run aboard and not needed there: a model without this file beside it flies all the same.

    Attributes:
        output: name of the graph's only output, float32 (N, K, S, S), codes 1..K in order, summing to 1 over K;
            calibrated as the confidence is, and before any smoothing.
    """

    output: Text = "probabilities"
    agreement: Agreement | None = None


class ReliabilityBin(_Part):
    """Pixels whose confidence lay in (lower, upper]: their number, mean confidence, and share that was right."""

    lower: Share
    upper: Share
    pixels: Annotated[int, Field(ge=0)]
    confidence: Share | None
    accuracy: Share | None


class Calibration(_Part):
    """What the confidence is worth as a probability of being right.

    Attributes:
        temperature: that logits are divided by inside the graph.
        data: what it was fitted on, in words.
        held_out: whether the weights it was fitted with had never seen these labels.
        pixels: labelled ones.
        nll_before, nll_after: mean negative log likelihood of the true class, in nats, at temperature 1 and at this.
        ece_before, ece_after: expected calibration error of the class said, 15 bins of equal width.
        ece_left_out: the same with each scene's temperature fitted on the other scenes; None with one scene.
        reliability_before, reliability_after: the bins.
    """

    temperature: Annotated[float, Field(gt=0)]
    data: Text
    held_out: bool
    pixels: Annotated[int, Field(ge=1)]
    nll_before: Annotated[float, Field(ge=0)]
    nll_after: Annotated[float, Field(ge=0)]
    ece_before: Share
    ece_after: Share
    ece_left_out: Share | None = None
    reliability_before: tuple[ReliabilityBin, ...]
    reliability_after: tuple[ReliabilityBin, ...]


class Cost(_Part):
    """What one tile costs, counted on the graph by `trainer profile`.

    Attributes:
        flops: whole: two of each multiply-add, attention's products with them.
        bytes_moved: inputs, weights and outputs of every layer at two bytes a number, norms and activations fused.
    """

    flops: Annotated[int, Field(ge=0)]
    bytes_moved: Annotated[int, Field(ge=0)]


class Acceptance(_Part):
    """What a precision costs, measured against the FP32 reference before launch.

    Attributes:
        precision: of the engine that was held to the reference.
        backend: and its version, as measured.
        data: labelled scenes, in words; `tiles` of them.
        pixel_agreement: share of pixels with the reference's class; `worst_tile` in the worst tile.
        miou_reference, miou: of both on the labels, of the same pixels.
        most_loss: of mIoU that is allowed.
    """

    precision: Precision
    backend: Text
    data: Text
    tiles: Annotated[int, Field(ge=1)]
    pixel_agreement: Share
    worst_tile: Share
    miou_reference: Share
    miou: Share
    most_loss: Share

    @property
    def passed(self) -> bool:
        """Whether the loss is within what is allowed."""
        return self.miou_reference - self.miou <= self.most_loss


class PlaceFigure(_Part):
    """Accuracy at one place that the model has not seen.

    Attributes:
        place: in words.
        images, labelled_pixels: how many.
        per_class_iou: of the classes that the place's labels are sure of.
        mean_iou: over these.
        ece: expected calibration error of the confidence there; None where it was not looked at.
    """

    place: Text
    images: Annotated[int, Field(ge=1)]
    labelled_pixels: Annotated[int, Field(ge=1)]
    per_class_iou: dict[Slug, Share]
    mean_iou: Share
    ece: Share | None = None


class FamiliarityCase(_Part):
    """How well one kind of imagery is told from known places.

    Attributes:
        name: in words.
        tiles: so many of it.
        auroc: probability that one of its tiles is less familiar than a tile of a known place.
        unfamiliar: share of its tiles below the threshold.
    """

    name: Text
    tiles: Annotated[int, Field(ge=1)]
    auroc: Share
    unfamiliar: Share


class Familiarity(_Part):
    """How a tile is told that is unlike the training imagery.

    Attributes:
        output: name of the graph's output, float32 (N,): the share of known tiles of places that the statistics had
            not seen which are at least as far from the training imagery.
        threshold: tiles below it are unfamiliar.
        least_valid: share of a tile's pixels that must hold data for its figure to count.
        fitted_on: imagery that the statistics are of, in words.
        held_out: imagery that the scale was set by, in words.
        held_out_tiles: so many of it; `wrongly_unfamiliar` of them are below the threshold.
        golden: the figure of the golden tile by the reference; None without one.
        most_ratio: precision to the factor by which an engine's figure of the golden tile may differ.
        cases: measured kinds of imagery.
    """

    output: Text = "familiarity"
    threshold: Annotated[float, Field(gt=0, lt=1)]
    least_valid: Share = 0.5
    fitted_on: Text
    held_out: Text
    held_out_tiles: Annotated[int, Field(ge=1)]
    wrongly_unfamiliar: Share
    golden: Annotated[float, Field(gt=0, le=1)] | None = None
    most_ratio: dict[Precision, Annotated[float, Field(ge=1)]] = {}
    cases: tuple[FamiliarityCase, ...] = ()


class Manifest(_Part):
    """A model's description, beside its file.

    Attributes:
        created: UTC.
        halo: pixels at a tile's edges whose prediction is thrown away, less than half a tile.
        classes: codes 1..K in order; 0 is "no data" and not listed.
        precision: of the weights and arithmetic in the file.
        opset: of the ONNX file.
        agreement: of the file with the network it was made from.
        calibration: of the confidence; None where it was not looked at.
        probabilities: the twin, None where there is none.
        cost: of one tile; None where it was not counted.
        acceptance: of precisions below the reference's; see `accepts`.
        gsd_m: ground resolution the model is made for, metres a pixel; None where that is not known.
        gsd_range_m: lowest and highest ground resolution that it was tested at, metres a pixel.
        terms: what the terms of the training data allow, in plain words; empty: nothing is known against any use.
        places: accuracy by place.
        familiarity: of the output that says how like the training imagery a tile is; None where there is none.
    """

    schema_version: Literal[1] = 1
    name: Slug
    version: Slug
    created: AwareDatetime
    description: str = ""
    architecture: str = ""
    total_parameters: Annotated[int, Field(ge=0)] | None = None
    model: ModelFile
    input: ModelInput
    output: ModelOutput
    halo: Annotated[int, Field(ge=0)]
    classes: Annotated[tuple[ClassInfo, ...], Field(min_length=1, max_length=255)]
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

    @field_validator("created")
    @classmethod
    def _in_utc(cls, created: datetime) -> datetime:
        return created.astimezone(timezone.utc)

    @field_validator("classes")
    @classmethod
    def _codes_and_names(cls, classes: tuple[ClassInfo, ...]) -> tuple[ClassInfo, ...]:
        codes = [item.code for item in classes]
        if codes != list(range(1, len(classes) + 1)):
            raise ValueError(f"codes are {codes}, number them 1..{len(classes)} in order")
        for what, values in (("names", [c.name for c in classes]), ("titles", [c.title for c in classes])):
            if twice := sorted({value for value in values if values.count(value) > 1}):
                raise ValueError(f"{what} given twice: {', '.join(twice)}")
        return classes

    @model_validator(mode="after")
    def _parts_agree(self) -> Manifest:
        if 2 * self.halo >= self.input.tile_size:
            raise ValueError(f"halo {self.halo} is not less than half the tile of {self.input.tile_size}")
        if self.golden is not None and self.precision not in self.golden.least_agreement:
            raise ValueError(f"golden.least_agreement says nothing of the model's own precision, {self.precision}")
        names = {item.name for item in self.classes}
        figures = [row.per_class_iou for row in self.evaluation] + [row.per_class_iou for row in self.places]
        for per_class_iou in figures:
            if unknown := sorted(set(per_class_iou) - names):
                raise ValueError(f"evaluation names classes that the model has not: {', '.join(unknown)}")
        if self.gsd_range_m is not None:
            low, high = self.gsd_range_m
            if not low <= (self.gsd_m or low) <= high:
                raise ValueError(f"gsd_range_m {low} to {high} must rise and hold gsd_m, {self.gsd_m}")
        return self

    def accepts(self, precision: Precision) -> bool:
        """Whether an engine of this precision may fly.

        In another precision than the file's own only if labelled data were looked at; in none that failed there.
        """
        measured = [item for item in self.acceptance if item.precision == precision]
        return all(item.passed for item in measured) and (bool(measured) or precision == self.precision)

    @property
    def class_titles(self) -> dict[int, str]:
        """Code to title, without 0."""
        return {item.code: item.title for item in self.classes}

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Reads a manifest file, or the one in a model's folder.

        Raises:
            ManifestError: one line naming file, key, what is wrong and what to do.
        """
        file = path / MANIFEST_NAME if path.is_dir() else path
        try:
            with file.open("rb") as source:
                raw = source.read(MAX_MANIFEST_BYTES + 1)
        except OSError as error:
            raise ManifestError(file, "", _os_reason(error), "name a model folder or its manifest.json") from error
        if len(raw) > MAX_MANIFEST_BYTES:
            raise ManifestError(file, "", f"larger than {MAX_MANIFEST_BYTES} bytes", "name a manifest.json")
        try:
            return cls.model_validate_json(raw, strict=True)
        except ValidationError as error:
            raise _manifest_error(file, error) from error

    def to_json(self) -> str:
        """The file's text; `Manifest.load` of it gives an equal manifest."""
        return self.model_dump_json(indent=2) + "\n"

    def save(self, folder: Path) -> Path:
        """Writes manifest.json into a model's folder; returns its path."""
        path = folder / MANIFEST_NAME
        path.write_text(self.to_json(), encoding="utf-8")
        return path


def _manifest_error(file: Path, error: ValidationError) -> ManifestError:
    faults = error.errors(include_url=False, include_input=False)
    first = faults[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    problem = " ".join(first["msg"].removeprefix("Value error, ").split()) + more
    return ManifestError(file, key, problem, _REMEDIES.get(first["type"], "mend this value or copy the model again"))


_REMEDIES = {
    "json_invalid": "the file is damaged; copy the model's folder again",
    "missing": "add this key, or update the tool that wrote the manifest",
    "extra_forbidden": "remove this key, or update this software if the model is newer",
    "literal_error": "update this software if the model is newer, else mend the value",
}


def _os_reason(error: OSError) -> str:
    return f"not readable ({error.strerror})" if error.strerror else "not readable"
