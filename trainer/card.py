"""The model card: the manifest's facts for people, and what no figure says."""

from __future__ import annotations

from pathlib import Path

from engines.manifest import Evaluation, Manifest

CARD = "MODEL_CARD.md"
NOTES = "notes.md"


def write_card(manifest: Manifest, folder: Path) -> None:
    """Write the card of a model folder anew, with the folder's notes at its end."""
    notes = folder / NOTES
    (folder / CARD).write_text(card(manifest, notes.read_text() if notes.is_file() else ""))


def card(manifest: Manifest, notes: str) -> str:
    """Markdown of the card. ``notes`` are the hand-written parts, markdown with its own headings."""
    facts = [
        ("Input", f"{', '.join(band.name for band in manifest.input.bands)}, uint8, "
                  f"{manifest.input.tile_size} x {manifest.input.tile_size} pixels; {manifest.input.value_scaling}"),
        ("Output", "class codes (uint8) and the probability of the best class x 255 (uint8)"),
        ("Halo", f"{manifest.halo} pixels at tile edges are thrown away"),
        ("Parameters", f"{manifest.total_parameters or 0:,}"),
        ("File", f"{manifest.model.bytes / 1e6:.1f} MB, {manifest.precision.upper()}, ONNX opset {manifest.opset}"),
        ("SHA-256", f"`{manifest.model.sha256}`"),
    ]  # fmt: skip
    parts = [
        f"# {manifest.name} {manifest.version}\n\n{manifest.description}",
        "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in facts),
        "## Architecture\n\n" + manifest.architecture,
        "## Classes\n\n| code | class | colour |\n|---|---|---|\n"
        + "\n".join(f"| {item.code} | {item.title} | `{item.color}` |" for item in manifest.classes)
        + "\n\nCode 0 is no data; the model never says it.",
        "## Accuracy\n\n" + _accuracy(manifest),
        _training(manifest),
        notes.strip(),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _accuracy(manifest: Manifest) -> str:
    if not manifest.evaluation:
        return "Not measured yet."
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
