"""Takes some heads out of a model with heads, as a model by themselves: the same files, byte for byte."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from engines.manifest import Manifest, ManifestWithHeads
from trainer.errors import ExportRefused, SettingsRefused
from trainer.export.card import NOTES, notes_of
from trainer.export.in_place import new_folder
from trainer.export.join import finish, valid_manifest
from trainer.export.package import check_name


def extract_heads(
    model: Path, heads: Sequence[str], out: Path, *, name: str, gsd_range_m: tuple[float, float] | None = None,
    notes: str | None = None,
) -> Manifest:  # fmt: skip
    """Writes a model of these heads, on the same encoder and of the same version.

    Args:
        model: folder of a model with heads.
        heads: to be taken, the first of them is used unless others are asked for.
        out: the folder to make, or to replace.
        name: of the model that is made.
        gsd_range_m: ground resolutions at which these heads were tested, metres a pixel; None: those of the model.
        notes: Markdown for its card; None: the head's own, of one head, else none.

    Raises:
        SettingsRefused: the name is none, the model has no such head, the range does not hold its ground resolution, or
            it would take its own place.
        ExportRefused: it is a model of one graph.
        ManifestError, ModelMismatch: the model is not whole.
    """
    check_name(name)
    if out.resolve() == model.resolve():
        raise SettingsRefused("--out", f"{out} is the model itself, which would lose its other heads; give another one")
    before = Manifest.load(model)
    if not isinstance(before, ManifestWithHeads):
        raise ExportRefused(f"{model} is a model of one graph, which has no heads to take")
    by_name = {head.name: head for head in before.source.heads}
    if unknown := [head for head in heads if head not in by_name]:
        raise SettingsRefused("HEAD", f"{model} has no head {unknown[0]!r}; it has {', '.join(by_name)}")
    if gsd_range_m is not None and before.gsd_m is not None and not gsd_range_m[0] <= before.gsd_m <= gsd_range_m[1]:
        low, high = gsd_range_m
        raise SettingsRefused(
            "--gsd-range", f"{low:g} to {high:g} m does not hold the {before.gsd_m:g} m that {before.name} is made for"
        )
    # A damaged file must not be copied into a model that then looks whole.
    before.check_files(model)
    taken = tuple(by_name[head] for head in dict.fromkeys(heads))
    source = before.source
    with new_folder(out) as made:
        for entry in (source.encoder, source.golden, *(e for head in taken for e in (head.model, head.golden))):
            shutil.copyfile(model / entry.file, made / entry.file)
        own = {head.name: model / notes_of(head.name) for head in taken}
        if notes is None and len(own) == 1 and (only := next(iter(own.values()))).is_file():
            notes = only.read_text(encoding="utf-8")
        if notes:
            (made / NOTES).write_text(notes, encoding="utf-8")
        for path in own.values() if len(own) > 1 else ():
            if path.is_file():
                shutil.copyfile(path, made / path.name)
        changed: dict[str, object] = {
            "name": name,
            "created": datetime.now(timezone.utc).replace(microsecond=0),
            "heads": taken,
        }
        if gsd_range_m is not None:
            changed["gsd_range_m"] = gsd_range_m
        finish(valid_manifest(**dict(source) | changed), made)
    return Manifest.load(out)
