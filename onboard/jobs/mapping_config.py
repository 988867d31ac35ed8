"""The model and the options under which scenes are mapped: with the scene's bytes they decide the map."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.manifest import Manifest
from engines.open import manifest_path
from onboard.jobs.heads import usual_heads, with_wanted_heads
from onboard.jobs.scene_store import HEADS
from onboard.mapping.journal import identity_bytes
from onboard.settings import Settings

_SCENE = ("bands", "stretch", "nodata", "collar", "alpha", "gsd_m", "resolution")


@dataclass(frozen=True)
class MappingConfig:
    """Model and options under which scenes are mapped now.

    Attributes:
        model: SHA-256 of the model file, or of the files that map: of a model with heads, encoder and heads.
        options: canonical JSON.
        manifest: of the model.
    """

    model: str
    options: str
    manifest: Manifest

    @classmethod
    def of(cls, settings: Settings, model: Path | None = None) -> MappingConfig:
        """Reads the manifest alone: no runtime is loaded, so the API may ask.

        Args:
            settings: of the service.
            model: folder of the active model; None for the one that the settings name.

        Raises:
            EngineError: there is no such model, or its manifest is damaged.
        """
        manifest = usual_heads(Manifest.load(Path(manifest_path(settings.model if model is None else model))), settings)
        options = {
            "halo": manifest.halo if settings.halo_px is None else settings.halo_px,
            "sieve": settings.sieve_px,
            "confidence": settings.confidence,
            # Those as by default are left out: keys given before there were such settings stay.
            **{name: getattr(settings, name) for name in _SCENE if getattr(settings, name) != _default(name)},
            **({} if manifest.gsd_m is None else {"model_gsd_m": [manifest.gsd_m, manifest.gsd_range_m]}),
        }
        return cls(manifest.model.sha256, identity_bytes(options).decode(), manifest)

    def asking(self, heads: Sequence[str]) -> MappingConfig:
        """The same for a scene whose deliverer named these heads; a head that the model lacks is left out."""
        if not heads:
            return self
        manifest = with_wanted_heads(self.manifest, heads)
        # As asked for, with heads that this model lacks: the scene keeps its wish while other models come and go.
        options = json.loads(self.options) | {HEADS: list(heads)}
        return MappingConfig(manifest.model.sha256, identity_bytes(options).decode(), manifest)


def _default(name: str) -> Any:
    return Settings.model_fields[name].default
