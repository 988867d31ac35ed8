"""The model that the settings name, shipped with the software: the last resort, and a base for differences."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engines.manifest import Manifest
from engines.open import manifest_path, shipped_models
from onboard.jobs.ledger import Ledger
from onboard.jobs.model_store import ModelRow
from onboard.settings import Settings


@dataclass(frozen=True)
class AboardFile:
    """A file that is aboard without having come up the link."""

    path: Path
    name: str
    sha256: str
    bytes: int


def shipped_row(settings: Settings) -> ModelRow:
    """The row of the model that the settings name.

    Raises:
        EngineError: there is none, or its manifest is damaged.
    """
    path = Path(manifest_path(settings.model))
    manifest = Manifest.load(path)
    files = {file.name: {"sha256": file.sha256, "bytes": file.bytes} for file in files_of(path)}
    model_id = str(files[path.name]["sha256"])
    return ModelRow(
        model_id, 0, manifest.name, manifest.version, "shipped", "standby", "shipped: the last resort", files
    )


def note_shipped(settings: Settings, ledger: Ledger) -> None:
    """At a start: the settings' model has a row, and is active where no other model is.

    Raises:
        EngineError: there is no such model, or its manifest is damaged.
    """
    row, known = shipped_row(settings), ledger.models.get
    held = known(row.id)
    # Only where a row has to change: each write wears the flash.
    if held is None or held.origin != "shipped" or ledger.models.active_id() is None:
        ledger.models.note_shipped(row)


def files_of(manifest: Path) -> Iterator[AboardFile]:
    """Files of a model's folder that are used aboard: its manifest, and those that it names.

    Raises:
        EngineError: the manifest is damaged.
        OSError: it cannot be read.
    """
    content = manifest.read_bytes()
    # The manifest names all other files by their digests, and itself by none.
    yield AboardFile(manifest, manifest.name, hashlib.sha256(content).hexdigest(), len(content))
    for entry in Manifest.load(manifest).files:
        path = manifest.parent / entry.file
        yield AboardFile(path, entry.file, entry.sha256, path.stat().st_size)


def files_aboard(settings: Settings) -> dict[str, AboardFile]:
    """Files of all models that are shipped, and of the settings' one, by digest; what cannot be read is left out."""
    manifests = [
        Path(manifest_path(settings.model)),
        *(folder / "manifest.json" for folder in shipped_models().values()),
    ]
    files: dict[str, AboardFile] = {}
    for manifest in manifests:
        try:
            files |= {file.sha256: file for file in files_of(manifest)}
        except Exception:  # noqa: BLE001, PERF203, S112 -- a model that is damaged is no base, and stops nothing
            continue
    return files
