"""What a signed list says: models, each with its files, their digests and sizes.

A list is TUF's targets metadata. A target's path is NAME/VERSION/FILE; the targets of one NAME/VERSION are one model,
and its manifest.json is among them. Everything in a list was signed together, so nothing can be mixed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from engines.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES
from onboard.models.errors import ListRefused

LARGEST_FILE = 4 << 30
MOST_FILES = 40
"""Of one model: 16 heads with their golden answers, the encoder, its golden tile and the manifest are 35."""
MOST_MODELS = 64
_SIGN = "sign the folder with `ground model sign`"
# No name begins with a dot or holds a slash: no target is a hidden file or leads out of its folder.
_SLUG = r"[a-z0-9][a-z0-9_.-]{0,63}"
_PATH = re.compile(rf"({_SLUG})/({_SLUG})/([A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SignedFile:
    """A file by digest and size."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class SignedModel:
    """A model of a signed list.

    Attributes:
        id: SHA-256 of its manifest.json.
        name, version: of its path; the manifest must say the same.
        files: by file name, manifest.json among them.
    """

    id: str
    name: str
    version: str
    files: Mapping[str, SignedFile]


def models_of(targets: Mapping[str, tuple[int, Mapping[str, str]]]) -> list[SignedModel]:
    """Models of a list whose signatures were checked.

    Args:
        targets: by path, length and digests (by algorithm, hex) of each target.

    Raises:
        ListRefused: a path, digest or size is none, or a model has no manifest.
    """
    grouped: dict[tuple[str, str], dict[str, SignedFile]] = {}
    for path, (length, hashes) in targets.items():
        match, sha256 = _PATH.fullmatch(path), hashes.get("sha256", "")
        if match is None:
            raise ListRefused(f"target {path[:200]!r} is no NAME/VERSION/FILE", _SIGN)
        if not _SHA256.fullmatch(sha256):
            raise ListRefused(f"target {path} has no SHA-256", _SIGN)
        # The size is signed too: an upload knows where it ends.
        if not 1 <= length <= LARGEST_FILE:
            raise ListRefused(f"target {path} has {length:,} bytes", f"files have 1 to {LARGEST_FILE:,}")
        grouped.setdefault((match[1], match[2]), {})[match[3]] = SignedFile(sha256, length)
    if len(grouped) > MOST_MODELS:
        raise ListRefused(f"it names {len(grouped)} models", f"name {MOST_MODELS} at most: leave old ones out")
    models = [_model(name, version, files) for (name, version), files in grouped.items()]
    for model in models:
        # The manifest's digest is the model's id in the ledger.
        twins = [other for other in models if other.id == model.id]
        if len(twins) > 1:
            raise ListRefused(f"{model.name} {model.version} has the manifest of another model", "sign each model anew")
    return models


def _model(name: str, version: str, files: Mapping[str, SignedFile]) -> SignedModel:
    manifest = files.get(MANIFEST_NAME)
    if manifest is None:
        raise ListRefused(f"{name} {version} has no {MANIFEST_NAME}", _SIGN)
    if manifest.bytes > MAX_MANIFEST_BYTES:
        raise ListRefused(f"the manifest of {name} {version} has {manifest.bytes:,} bytes", "export the model again")
    if len(files) > MOST_FILES:
        raise ListRefused(f"{name} {version} has {len(files)} files", f"{MOST_FILES} at most")
    return SignedModel(manifest.sha256, name, version, files)
