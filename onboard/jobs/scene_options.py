"""How the service reads every scene: by its settings, for a payload's scenes are all of one make."""

from __future__ import annotations

from engines.manifest import Manifest
from onboard.scene.option_texts import bands_of, nodata_of, percentiles_of
from onboard.scene.reader import SceneOptions
from onboard.settings import Settings


def options_of(settings: Settings, manifest: Manifest) -> SceneOptions:
    """What `onboard process` has as options of the scene."""
    return SceneOptions(
        bands=bands_of(settings.bands) if settings.bands else None,
        stretch_percentiles=percentiles_of(settings.stretch),
        collar=settings.collar,
        band_names=tuple(band.common_name or band.name for band in manifest.input.bands),
        nodata=nodata_of(settings.nodata),
        alpha=settings.alpha,
    )
