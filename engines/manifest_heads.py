"""The manifest of a model with heads (schema version 2): one encoder, and a small graph for each map that reads it.

The encoder's file goes from tiles to features (and familiarity), a head's file from features to classes and
confidence. Both are ordinary ONNX files; engines.heads_graph joins those that are wanted.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from engines.manifest_fields import (
    Classes,
    ModelFile,
    ModelInput,
    ModelOutput,
    Part,
    Precision,
    Slug,
    Text,
    UtcTime,
    check_figures,
)
from engines.manifest_records import (
    Acceptance,
    Agreement,
    Calibration,
    Cost,
    Evaluation,
    Familiarity,
    GoldenTile,
    PlaceFigure,
    Training,
)

RESERVED = ("map", "confidence", "quicklook", "item", "golden", "encoder", "model")
"""Names that are no head's: files beside a head's map or beside its graph have them."""


class Encoder(ModelFile):
    """The encoder's ONNX file.

    Attributes:
        features: names of its outputs that heads read.
        total_parameters: of the encoder; None where they were not counted.
        cost: of one tile, without heads.
    """

    features: Annotated[tuple[Text, ...], Field(min_length=1)]
    total_parameters: Annotated[int, Field(ge=0)] | None = None
    cost: Cost | None = None


class Head(Part):
    """One head: the graph from the encoder's features to one map.

    Attributes:
        name: that requests, files and assets use.
        model: the head's ONNX file; its inputs are features of the encoder, by their names.
        encoder_sha256: of the encoder that it was trained on.
        output: names of the file's output tensors.
        golden: file with the reference's `classes` of the model's golden tile.
        terms: uses that the licences of its own training data allow; empty where no restriction is known.
        The others are as in :class:`engines.manifest.Manifest`.
    """

    name: Slug
    description: str = ""
    architecture: str = ""
    model: ModelFile
    encoder_sha256: str
    output: ModelOutput
    classes: Classes
    total_parameters: Annotated[int, Field(ge=0)] | None = None
    training: Training | None = None
    evaluation: tuple[Evaluation, ...] = ()
    golden: GoldenTile
    agreement: Agreement | None = None
    calibration: Calibration | None = None
    cost: Cost | None = None
    acceptance: tuple[Acceptance, ...] = ()
    terms: str = ""
    places: tuple[PlaceFigure, ...] = ()

    @model_validator(mode="after")
    def _figures_are_of_its_classes(self) -> Head:
        check_figures(self.classes, [row.per_class_iou for row in self.evaluation])
        check_figures(self.classes, [row.per_class_iou for row in self.places])
        return self

    def accepts(self, precision: str, own: str) -> bool:
        """Whether an engine of this precision may be used; ``own`` is the file's."""
        measured = [item for item in self.acceptance if item.precision == precision]
        return all(item.passed for item in measured) and (bool(measured) or precision == own)


class HeadsManifest(Part):
    """The file of schema version 2.

    Attributes:
        precision, opset, input, halo, gsd_m, gsd_range_m, familiarity: of the encoder, and so of all heads.
        golden: the golden tile, with the packed tile of engines.integrity.packed_tile; the heads have their answers.
        heads: the first is the one that is used unless others are asked for.
    """

    schema_version: Literal[2]
    name: Slug
    version: Slug
    created: UtcTime
    description: str = ""
    architecture: str = ""
    encoder: Encoder
    input: ModelInput
    halo: Annotated[int, Field(ge=0)]
    precision: Precision
    opset: Annotated[int, Field(ge=1)]
    training: Training | None = None
    golden: GoldenTile
    gsd_m: Annotated[float, Field(gt=0)] | None = None
    gsd_range_m: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    terms: str = ""
    familiarity: Familiarity | None = None
    heads: Annotated[tuple[Head, ...], Field(min_length=1, max_length=16)]

    @model_validator(mode="after")
    def _heads_fit(self) -> HeadsManifest:
        names = [head.name for head in self.heads]
        # Head x has files and assets x-confidence and x-quicklook: a head of such a name would clash with them.
        if taken := [name for name in names if name in RESERVED or name.endswith(("-confidence", "-quicklook"))]:
            raise ValueError(f"a head is named {taken[0]}, which files of every map are named: give it another name")
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"heads given twice: {', '.join(repeated)}")
        for head in self.heads:
            # Another encoder's features may have the same shapes: the graphs would join, and the map be nonsense.
            if head.encoder_sha256 != self.encoder.sha256:
                raise ValueError(
                    f"head {head.name} was trained on another encoder ({head.encoder_sha256[:12]}) than this model's "
                    f"({self.encoder.sha256[:12]})"
                )
        files = [entry.file for entry in self.files]
        if repeated := sorted({file for file in files if files.count(file) > 1}):
            raise ValueError(f"files named twice: {', '.join(repeated)}")
        return self

    @property
    def files(self) -> tuple[ModelFile | GoldenTile, ...]:
        """Every file of the model."""
        heads = [entry for head in self.heads for entry in (head.model, head.golden)]
        return (self.encoder, self.golden, *heads)
