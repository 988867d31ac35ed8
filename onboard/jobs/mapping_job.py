"""A scene of the ledger as a request to `map_scene`, and the finished map as rows of the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from engines.command_line import bytes_text, counted
from engines.manifest import Manifest
from onboard.jobs.intake import facts_of
from onboard.jobs.ledger import Ledger
from onboard.jobs.scene_folder import scene_file
from onboard.jobs.scene_options import options_of
from onboard.jobs.scene_store import SceneRow
from onboard.mapping.changes import EarlierMap, EarlierMaps
from onboard.mapping.run import MapRequest, MapSummary
from onboard.scene.areas import Area
from onboard.scene.option_texts import polygon_formats
from onboard.scene.resolution import ResolutionOptions
from onboard.settings import Settings

MOST_EARLIER: Final = 1000
"""Maps among which an earlier one is looked for, the last ones published."""


def map_request_of(
    settings: Settings,
    row: SceneRow,
    manifest: Manifest,
    areas: tuple[Area, ...] = (),
    earlier: EarlierMaps | None = None,
) -> MapRequest:
    """The request for this row, by the service's settings and the model of the open engine.

    Args:
        settings: of the service.
        row: of the scene.
        manifest: of the model.
        areas: of interest.
        earlier: maps that the new one is compared with.
    """
    return MapRequest(
        scene=scene_file(settings.scenes_dir / row.id),
        out=settings.maps_dir,
        work=settings.canvases_dir,
        name=row.id,
        scene_sha256=row.sha256,
        title=row.name,
        acquired=row.acquired,
        scene_options=options_of(settings, manifest),
        resolution=ResolutionOptions(default_gsd_m=settings.gsd_m, grid=settings.resolution),
        confidence=settings.confidence,
        sieve_px=settings.sieve_px,
        quicklook=settings.quicklook,
        head_quicklook=settings.head_quicklook,
        batch=settings.batch,
        halo=settings.halo_px,
        # The folder has the scene's own id: what stands there can only be an earlier map of this scene.
        overwrite=True,
        areas=areas,
        earlier=earlier,
        polygons=polygon_formats(settings.polygons),
        # The item keeps what the ledger knew of the scene: a map whose ledger is lost is adopted by it.
        own={"delivery": facts_of(row)},
    )


def earlier_maps(settings: Settings, ledger: Ledger, row: SceneRow) -> EarlierMaps | None:
    """The maps here that a scene's map is compared with, the newest scene first; None where the setting is off."""
    if not settings.changes:
        return None

    def find() -> list[EarlierMap]:
        found = [
            EarlierMap(settings.maps_dir / held.id, held.item)
            for held in ledger.maps.newest(MOST_EARLIER)
            if held.id != row.id
        ]
        return sorted(found, key=lambda earlier: earlier.time, reverse=True)  # stable: else the last one published

    return EarlierMaps(find, key="newest")


def figures_of(summary: MapSummary, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of a finished mapping for the scene's row: tiles, seconds, energy and temperature."""
    return {
        "tiles": summary.tiles, "tiles_empty": summary.tiles_empty, "tiles_resumed": summary.tiles_resumed,
        "mapping_s": round(summary.mapping_s, 3), "seconds": round(summary.seconds, 3),
        "stages_s": {name: round(value, 3) for name, value in summary.stages_s.items()},
        "pixels": summary.scene_pixels, "tiles_per_s": summary.tiles_per_s,
        "unfamiliar_share": summary.familiarity.share,
        **measured,
    }  # fmt: skip


def shares_of(summary: MapSummary, manifest: Manifest) -> dict[str, Mapping[str, float]]:
    """By head, shares of the map's pixels by class; the head of a model of one graph is ""."""
    # "The map" of the summary is that of the first head; further heads have their own shares.
    first = manifest.opened_heads[0].name if manifest.opened_heads else ""
    return {first: summary.class_shares, **{head.name: head.class_shares for head in summary.further}}


def mapped_line(summary: MapSummary, measured: Mapping[str, Any]) -> str:
    """A finished mapping in one line of the log: tiles, seconds, energy where it was measured, the map's bytes."""
    rate = "" if summary.tiles_per_s is None else f", {summary.tiles_per_s:.2f} tiles/s while mapping"
    energy = measured.get("energy_j")
    joules = "" if energy is None else f", {energy:.0f} J"
    tiles, size = counted(summary.tiles, "tile"), bytes_text(summary.map_bytes)
    return f"{tiles}{rate}, {summary.seconds:.1f} s in all{joules}, map {size}"
