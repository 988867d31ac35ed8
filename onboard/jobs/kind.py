"""What decides a map besides its scene: the model, and the options of the service."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.manifest import Manifest
from engines.open import manifest_path
from onboard.mapping.journal import identity_bytes
from onboard.settings import Settings

_SCENE = ("bands", "stretch", "nodata", "collar", "alpha", "gsd_m", "resolution")


@dataclass(frozen=True)
class MapKind:
    """Model and options under which scenes are mapped now.

    Attributes:
        model: SHA-256 of the model file.
        options: canonical JSON.
        manifest: of the model.
    """

    model: str
    options: str
    manifest: Manifest

    @classmethod
    def of(cls, settings: Settings) -> MapKind:
        """Reads the manifest alone: no runtime is loaded, so the API may ask.

        Raises:
            EngineError: there is no such model, or its manifest is damaged.
        """
        manifest = Manifest.load(Path(manifest_path(settings.model)))
        options = {
            "halo": manifest.halo if settings.halo is None else settings.halo,
            "sieve": settings.sieve,
            "confidence": settings.confidence,
            # Those as by default are left out: keys given before there were such settings stay.
            **{name: getattr(settings, name) for name in _SCENE if getattr(settings, name) != _default(name)},
            **({} if manifest.gsd_m is None else {"model_gsd_m": [manifest.gsd_m, manifest.gsd_range_m]}),
        }
        return cls(manifest.model.sha256, identity_bytes(options).decode(), manifest)


def _default(name: str) -> Any:
    return Settings.model_fields[name].default
