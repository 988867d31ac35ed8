"""The model card in Markdown: the manifest's figures, and notes on limits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from engines.manifest import Cost, Evaluation, Head, HeadsManifest, Manifest, ManifestWithHeads

CARD = "MODEL_CARD.md"
NOTES = "notes.md"


def notes_of(head: str) -> str:
    """File with the notes of one head of a model."""
    return f"{head}.{NOTES}"


def write_card(manifest: Manifest, folder: Path) -> None:
    """Writes the card of a model folder from its manifest, with the folder's notes at the end."""
    if isinstance(manifest, ManifestWithHeads):
        whole = manifest.whole
        notes = {head.name: _text_of(folder / notes_of(head.name)) for head in whole.heads}
        text = card_of_heads(whole, _text_of(folder / NOTES), notes)
    else:
        text = card(manifest, _text_of(folder / NOTES))
    (folder / CARD).write_text(text, encoding="utf-8")


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def card_of_heads(whole: HeadsManifest, notes: str, head_notes: Mapping[str, str]) -> str:
    """Markdown of the card of a model with heads: what all share, then a section for each head.

    Args:
        whole: the manifest's file.
        notes: on the model, markdown with its own headings.
        head_notes: by name of the head; their headings go a level down.
    """
    model = ManifestWithHeads.of(whole)
    encoder = whole.encoder
    facts = [
        *_input_facts(model),
        ("Heads", ", ".join(head.name for head in whole.heads) + "; the first is used unless others are asked for"),
        ("Familiarity", "of each tile, by the encoder (float32)" if whole.familiarity else "none"),
        *_ground(model),
    ]
    of_encoder = [
        ("File", f"`{encoder.file}`, {encoder.bytes / 1e6:.1f} MB"),
        ("Precision", f"{whole.precision.upper()}, ONNX opset {whole.opset}"),
        ("Parameters", f"{encoder.total_parameters or 0:,}"), *_cost(encoder.cost), ("SHA-256", f"`{encoder.sha256}`"),
        ("Features that heads read", ", ".join(f"`{name}`" for name in encoder.features)),
    ]  # fmt: skip
    parts = [
        f"# {whole.name} {whole.version}\n\n{whole.description}".strip(),
        _facts(facts),
        "## Encoder\n\n" + _facts(of_encoder),
        f"## Terms\n\n{whole.terms}" if whole.terms else "",
        _familiarity(model),
        _training(model) if whole.training == whole.heads[0].training else "",
        *(_head(whole, head, head_notes.get(head.name, "")) for head in whole.heads),
        notes.strip(),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(whole: HeadsManifest, head: Head, notes: str) -> str:
    """The section of one head."""
    view = ManifestWithHeads.of(whole, [head.name])
    facts = [
        # The familiarity is an output of the encoder and stands in the model's own section.
        ("Output", _output(view.model_copy(update={"familiarity": None}))),
        ("File", f"`{head.model.file}`, {head.model.bytes / 1e6:.2f} MB"),
        ("Parameters", f"{head.total_parameters or 0:,}"), *_cost(head.cost), ("SHA-256", f"`{head.model.sha256}`"),
    ]  # fmt: skip
    parts = [
        _classes(view),
        f"## Architecture\n\n{head.architecture}" if head.architecture else "",
        f"## Terms\n\n{head.terms}" if head.terms not in ("", whole.terms) else "",
        "## Accuracy\n\n" + _accuracy(view),
        _places(view),
        _agreement(view, head.model.file),
        _calibration(view),
        _training(view) if head.training not in (None, whole.training) else "",
        notes.strip(),
    ]
    below = [re.sub(r"^#", "##", part, flags=re.MULTILINE) for part in parts if part]
    return "\n\n".join([f"## Head {head.name}\n\n{head.description}".strip(), _facts(facts), *below])


def _facts(rows: Sequence[tuple[str, str]]) -> str:
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def _cost(cost: Cost | None) -> list[tuple[str, str]]:
    if cost is None:
        return []
    return [("Cost of a tile", f"{cost.flops / 1e9:.2f} GFLOP, {cost.bytes_moved / 1e6:.0f} MB moved in FP16")]


def _smaller_sides(manifest: Manifest) -> str:
    sides = manifest.input.sides
    if len(sides) > 3 and sides == tuple(range(sides[0], sides[-1] + 1, sides[1] - sides[0])):
        return f" (or sides from {sides[0]} on in steps of {sides[1] - sides[0]})"
    smaller = ", ".join(map(str, sides[:-1]))
    return f" (or sides of {smaller})" if smaller else ""


def _input_facts(manifest: Manifest) -> list[tuple[str, str]]:
    return [
        ("Input", f"{', '.join(band.name for band in manifest.input.bands)}, uint8, "
                  f"{manifest.input.tile_size} x {manifest.input.tile_size} pixels{_smaller_sides(manifest)}; "
                  f"{manifest.input.value_scaling}"),
        ("Halo", f"{manifest.halo} pixels at tile edges are thrown away"),
    ]  # fmt: skip


def _classes(manifest: Manifest) -> str:
    return (
        "## Classes\n\n| code | class | colour |\n|---|---|---|\n"
        + "\n".join(f"| {item.code} | {item.title} | `{item.color}` |" for item in manifest.classes)
        + "\n\nCode 0 is no data; the model never says it."
    )


def card(manifest: Manifest, notes: str) -> str:
    """Markdown of the card. ``notes`` are the hand-written parts, markdown with its own headings."""
    given, halo = _input_facts(manifest)
    facts = [
        given,
        ("Output", _output(manifest)),
        halo,
        ("Parameters", f"{manifest.total_parameters or 0:,}"),
        ("File", f"{manifest.model.bytes / 1e6:.1f} MB, {manifest.precision.upper()}, ONNX opset {manifest.opset}"),
        *_ground(manifest),
        ("SHA-256", f"`{manifest.model.sha256}`"),
        *_twin(manifest),
    ]  # fmt: skip
    parts = [
        f"# {manifest.name} {manifest.version}\n\n{manifest.description}",
        _facts(facts),
        "## Architecture\n\n" + manifest.architecture,
        _classes(manifest),
        f"## Terms\n\n{manifest.terms}" if manifest.terms else "",
        "## Accuracy\n\n" + _accuracy(manifest),
        _places(manifest),
        _agreement(manifest),
        _calibration(manifest),
        _familiarity(manifest),
        _training(manifest),
        notes.strip(),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _ground(manifest: Manifest) -> list[tuple[str, str]]:
    if manifest.gsd_m is None:
        return []
    tested = manifest.gsd_range_m
    range_in_words = "" if tested is None else f"; tested from {tested[0]:g} to {tested[1]:g} m"
    return [("Ground resolution", f"made for {manifest.gsd_m:g} m a pixel{range_in_words}")]


def _places(manifest: Manifest) -> str:
    if not manifest.places:
        return ""
    titles = {item.name: item.title for item in manifest.classes}
    rows = [
        f"| {row.place} | {row.images} | {row.labelled_pixels / 1e6:.1f} | "
        + ", ".join(f"{titles[name]} {value:.3f}" for name, value in row.per_class_iou.items())
        + f" | **{row.mean_iou:.3f}** | "
        + ("" if row.ece is None else f"{row.ece:.3f}")
        + " |"
        for row in manifest.places
    ]
    mean = sum(row.mean_iou for row in manifest.places) / len(manifest.places)
    return (
        "## Accuracy by place\n\nWhole scenes or blocks of scenes that no training saw, mapped by the pipeline that "
        "flies (`trainer places MODEL`). IoU of the classes that a place's labels are sure of; where a label allows "
        "several classes, none of them counts as wrong. ECE: expected calibration error of the confidence.\n\n"
        "| place | images | Mpx | IoU | mean | ECE |\n|---|---|---|---|---|---|\n"
        + "\n".join(rows) + f"\n\nMean over places: **{mean:.3f}**."
    )  # fmt: skip


def _familiarity(manifest: Manifest) -> str:
    facts = manifest.familiarity
    if facts is None:
        return ""
    text = (
        "## When it does not know\n\nEach tile gets a familiarity from 0 to 1: of tiles of known places that the "
        f"statistics had not seen, the share that is at least as unlike the training imagery. Below {facts.threshold:g}"
        f" a tile is unfamiliar. Fitted on {facts.fitted_on}; scale set by {facts.held_out} ({facts.held_out_tiles} "
        f"tiles, {facts.wrongly_unfamiliar:.1%} of them below). docs/familiarity.md says what it misses."
    )
    if not facts.cases:
        return text
    rows = "\n".join(
        f"| {case.name} | {case.tiles} | {case.auroc:.3f} | {case.unfamiliar:.0%} |" for case in facts.cases
    )
    return f"{text}\n\n| imagery | tiles | AUROC against known places | unfamiliar |\n|---|---|---|---|\n{rows}"


def _output(manifest: Manifest) -> str:
    layers = "class codes (uint8)"
    if manifest.output.confidence is not None:
        layers += " and the probability of the class said x 255 (uint8)"
    return layers if manifest.familiarity is None else layers + "; how familiar the tile is (float32, one a tile)"


def _twin(manifest: Manifest) -> list[tuple[str, str]]:
    twin = manifest.probabilities
    if twin is None:
        return []
    facts = (
        f"`{twin.file}`, {twin.bytes / 1e6:.1f} MB, same weights and input, for those who blend tiles: `{twin.output}`"
    )
    return [("Twin", facts + " float32 (N, classes, S, S); not run aboard")]


def _agreement(manifest: Manifest, file: str | None = None) -> str:
    # A model may lack these figures. It gets no table then, rather than one of zeros.
    rows = [(file or manifest.model.file, manifest.agreement)]
    if manifest.probabilities is not None:
        rows.append((manifest.probabilities.file, manifest.probabilities.agreement))
    lines = [
        f"| {file} | {manifest.precision.upper()} | {agreement.tiles} | {100 * (1 - agreement.same_class):.4f} % | "
        f"{_share(agreement.probability_change, 5)} | {_share(agreement.reference_miou, 5)} | "
        f"{_share(agreement.miou, 5)} |"
        for file, agreement in rows
        if agreement is not None
    ]
    if not lines:
        return ""
    return (
        "## Agreement with PyTorch\n\nThe file on ONNX Runtime's CPU beside the network in FP32, on the middle tile of "
        "scenes it was fitted on (so mIoU there says nothing of its accuracy).\n\n"
        "| file | precision | tiles | other class | mean change of probability | mIoU PyTorch | mIoU ONNX |\n"
        "|---|---|---|---|---|---|---|\n" + "\n".join(lines)
    )


def _calibration(manifest: Manifest) -> str:
    calibration = manifest.calibration
    if calibration is None:
        return ""
    # With one scene there are no others to fit on.
    left_out = "" if calibration.ece_left_out is None else (
        f", and {calibration.ece_left_out:.4f} with each scene's temperature fitted on the other scenes"
    )  # fmt: skip
    bins = zip(calibration.reliability_before, calibration.reliability_after, strict=True)
    rows = "\n".join(
        f"| {before.lower:.3f} to {before.upper:.3f} | {before.pixels:,} | {_share(before.confidence)} | "
        f"{_share(before.accuracy)} | {after.pixels:,} | {_share(after.confidence)} | {_share(after.accuracy)} |"
        for before, after in bins
    )
    return (
        f"## Calibration\n\nConfidence is softmax(logits / {calibration.temperature:.4f}) of the class said. Fitted on "
        f"{calibration.pixels:,} labelled pixels: {calibration.data}. Expected calibration error (15 bins of equal "
        f"width) {calibration.ece_before:.4f} at temperature 1, {calibration.ece_after:.4f} at this one{left_out}. "
        f"Negative log likelihood of the true class {calibration.nll_before:.4f} before, "
        f"{calibration.nll_after:.4f} after.\n\n"
        "| confidence | pixels before | mean | right | pixels after | mean | right |\n|---|---|---|---|---|---|---|\n"
        + rows
    )


def _share(value: float | None, digits: int = 3) -> str:
    return "none" if value is None else f"{value:.{digits}f}"


def _accuracy(manifest: Manifest) -> str:
    if not manifest.evaluation:
        return "By place, below." if manifest.places else "Not measured yet."
    titles = [item.title for item in manifest.classes]
    head = ["split", *(f"IoU {title}" for title in titles), "mIoU", "OA", "mF1"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += [_row(row, manifest) for row in manifest.evaluation]
    lines += [f"\n{row.split}: {row.data_set}. {row.notes}".rstrip() for row in manifest.evaluation]
    return "\n".join(lines)


def _row(row: Evaluation, manifest: Manifest) -> str:
    ious = [row.per_class_iou.get(item.name) for item in manifest.classes]
    cells = [row.split, *("none" if iou is None else f"{iou:.3f}" for iou in ious)]
    return "| " + " | ".join([*cells, f"**{row.miou:.3f}**", f"{row.oa:.3f}", f"{row.mf1:.3f}"]) + " |"


def _training(manifest: Manifest) -> str:
    training = manifest.training
    if training is None:
        return ""
    data = "\n".join(
        f"- {item.name}, {item.license}{': ' + item.use if item.use else ''}" for item in training.data_sets
    )
    settings = "\n".join(f"| {name} | {value} |" for name, value in training.hyperparameters.items())
    return (
        f"## Training\n\n{training.notes}\n\nData:\n{data}\n\n| setting | value |\n|---|---|\n"
        f"| epochs (pixels seen / labelled pixels) | {training.epochs:.1f} |\n{settings}\n"
        f"| seed | {training.seed} |\n| commit | `{training.commit}` |\n\nLicence of the weights: {training.license}."
    )
