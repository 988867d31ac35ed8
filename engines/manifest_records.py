"""Parts of a manifest that say how a model was made and what was measured: training, accuracy, calibration, cost."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from engines.manifest_fields import FileEntry, ModelFile, Part, Precision, Share, Slug, Text


class DataSet(Part):
    """Imagery or labels that training used, and for what (`use`)."""

    name: Text
    license: Text
    use: str = ""


class Training(Part):
    """Provenance of the weights: enough to repeat the training.

    Attributes:
        license: of the weights.
        commit: of the code that trained.
    """

    data_sets: tuple[DataSet, ...]
    license: Text
    commit: Text
    seed: int
    epochs: Annotated[float, Field(ge=0)]
    hyperparameters: dict[str, bool | int | float | str] = Field(default_factory=dict)
    notes: str = ""


class Evaluation(Part):
    """Accuracy on one split; all figures are shares 0..1.

    Attributes:
        per_class_iou: class name to IoU, None for a class that the split does not have.
        miou: mean IoU over the classes; oa: overall accuracy; mf1: mean F1.
    """

    data_set: Text
    split: Text
    # None and not 0: a class that the split lacks must not count as one that was missed.
    per_class_iou: dict[str, Share | None]
    miou: Share
    oa: Share
    mf1: Share
    notes: str = ""


class GoldenTile(FileEntry):
    """A tile with the reference's classes: an .npz of `tile` uint8 (bands, S, S) and `classes` uint8 (S, S).

    Attributes:
        least_agreement: by precision, the smallest share of pixels that must have the reference's class.
    """

    least_agreement: Annotated[dict[Precision, Share], Field(min_length=1)]


class Agreement(Part):
    """Agreement of the ONNX file, run by ONNX Runtime on a CPU, with the trained network in PyTorch and FP32.

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
    """A second ONNX file with the same weights and input that outputs class probabilities, for blending of tiles.

    Not used on board: a model works without this file.

    Attributes:
        output: name of the graph's only output, float32 (N, K, S, S), codes 1..K in order, summing to 1 over K;
            calibrated as the confidence is, and before any smoothing.
    """

    output: Text = "probabilities"
    agreement: Agreement | None = None


class ReliabilityBin(Part):
    """Pixels whose confidence lay in (lower, upper]: their number, mean confidence, and share that was right."""

    lower: Share
    upper: Share
    pixels: Annotated[int, Field(ge=0)]
    confidence: Share | None
    accuracy: Share | None


class Calibration(Part):
    """How well the confidence predicts the probability of a correct class.

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


class Cost(Part):
    """Cost of one tile, counted on the graph by `trainer profile`.

    Attributes:
        flops: two per multiply-add, attention's products included.
        bytes_moved: inputs, weights and outputs of every layer at two bytes per number, norms and activations fused.
    """

    flops: Annotated[int, Field(ge=0)]
    bytes_moved: Annotated[int, Field(ge=0)]


class Acceptance(Part):
    """Accuracy loss of one precision, measured against the FP32 reference before launch.

    Attributes:
        precision: of the engine that was compared.
        backend: of that engine, with its version.
        data: the labelled scenes, in words; `tiles` is their number of tiles.
        pixel_agreement: share of pixels with the reference's class; `worst_tile`: the same in the worst tile.
        miou_reference, miou: of the reference and of the engine, on the same labelled pixels.
        most_loss: largest accepted loss of mIoU.
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
        """Whether the loss is accepted."""
        return self.miou_reference - self.miou <= self.most_loss


class PlaceFigure(Part):
    """Accuracy at one place that was not in the training data.

    Attributes:
        place: in words.
        images, labelled_pixels: their numbers.
        per_class_iou: of the classes that the place's labels name without ambiguity.
        mean_iou: over these.
        ece: expected calibration error of the confidence; None where it was not measured.
    """

    place: Text
    images: Annotated[int, Field(ge=1)]
    labelled_pixels: Annotated[int, Field(ge=1)]
    per_class_iou: dict[Slug, Share]
    mean_iou: Share
    ece: Share | None = None


class FamiliarityCase(Part):
    """How well familiarity separates one kind of imagery from known places.

    Attributes:
        name: the kind of imagery, in words.
        tiles: their number.
        auroc: probability that one of its tiles is less familiar than a tile of a known place.
        unfamiliar: share of its tiles below the threshold.
    """

    name: Text
    tiles: Annotated[int, Field(ge=1)]
    auroc: Share
    unfamiliar: Share


class Familiarity(Part):
    """Detection of tiles that are unlike the training imagery (docs/familiarity.md).

    Attributes:
        output: name of the graph's output, float32 (N,): share of the held-out tiles that are at least as far from the
            training imagery as this tile.
        threshold: tiles below it are unfamiliar.
        least_valid: smallest share of valid pixels for a tile's familiarity to count.
        fitted_on: imagery of the statistics, in words.
        held_out: imagery that set the scale, in words.
        held_out_tiles: number of its tiles; `wrongly_unfamiliar`: the share of them below the threshold.
        golden: the reference's familiarity of the golden tile; None without one.
        most_ratio: by precision, the largest factor between an engine's familiarity of the golden tile and `golden`.
        cases: results for several kinds of imagery.
    """

    output: Text = "familiarity"
    threshold: Annotated[float, Field(gt=0, lt=1)]
    least_valid: Share = 0.5
    fitted_on: Text
    held_out: Text
    held_out_tiles: Annotated[int, Field(ge=1)]
    wrongly_unfamiliar: Share
    # Above 0, since engines are held to a factor of it.
    golden: Annotated[float, Field(gt=0, le=1)] | None = None
    most_ratio: dict[Precision, Annotated[float, Field(ge=1)]] = Field(default_factory=dict)
    cases: tuple[FamiliarityCase, ...] = ()
