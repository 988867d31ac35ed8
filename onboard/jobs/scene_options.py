"""Options by which the service reads every scene: its settings, since one payload's scenes are alike."""

from __future__ import annotations

from engines.manifest import Manifest
from onboard.scene.option_texts import bands_of, nodata_of, percentiles_of
from onboard.scene.probe import MappedAt
from onboard.scene.reader import SceneOptions
from onboard.scene.resolution import ModelResolution
from onboard.settings import Settings


def options_of(settings: Settings, manifest: Manifest) -> SceneOptions:
    """The scene options that the settings stand for; the same as those of `onboard process`."""
    return SceneOptions(
        bands=bands_of(settings.bands) if settings.bands else None,
        stretch_percentiles=percentiles_of(settings.stretch),
        collar=settings.collar,
        band_names=tuple(band.common_name or band.name for band in manifest.input.bands),
        nodata=nodata_of(settings.nodata),
        alpha=settings.alpha,
    )


def target_of(settings: Settings, manifest: Manifest) -> MappedAt:
    """What decides whether a scene is enlarged for the model."""
    return MappedAt(ModelResolution.of(manifest), settings.gsd_m)
