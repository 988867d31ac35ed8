"""The settings of the service by subject, each with its default, its range and its meaning.

Names carry their unit (``_s``, ``_w``, ``_bytes``, ``_px``); limits begin with ``max_`` or ``min_``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from onboard.scene.option_texts import bands_of, nodata_of, percentiles_of, polygon_formats

# Scheme, host and port, as the header Origin has them: a path there would never match.
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?|https?://\[[0-9A-Fa-f:]+\](:\d{1,5})?")
MIB, GIB = 1 << 20, 1 << 30


class ServiceSettings(BaseModel):
    """Address, inbox and processes."""

    host: str = Field("127.0.0.1", description="address to listen on; other than loopback needs tokens")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    inbox: Path | None = Field(None, description="folder whose GeoTIFFs a POST may name by {path}")
    watch_inbox: bool = Field(False, description="take every scene that appears in the inbox")
    heartbeat_timeout_s: float = Field(60.0, gt=0, description="silence after which a process is killed and replaced")
    restart_delay_s: float = Field(1.0, gt=0, description="first pause before a restart; it doubles each time")
    max_restart_delay_s: float = Field(60.0, gt=0, description="longest pause before a restart")
    max_crashes: int = Field(3, ge=1, description="crashes of the worker on one scene before it is quarantined")
    telemetry_root: Path = Field(Path("/"), description="file system whose /sys and /proc are read")
    sample_hz: float = Field(10.0, gt=0, le=100, description="samples of power a second")


class MappingSettings(BaseModel):
    """Model, engine and how every scene is read and mapped."""

    model: str | None = Field(None, description="shipped name, model folder or manifest (default: the shipped default)")
    heads: str = Field(
        "", description="heads of the model whose maps are made where a scene names none, like landcover,deepglobe "
        "(default: the model's first)",
    )  # fmt: skip
    backend: str = Field("auto", description="engine backend; auto: by a fixed rule; fastest: measured here")
    build_engine: bool = Field(True, description="build a TensorRT engine at the first start where there is none")
    threads: int | None = Field(None, ge=1, description="threads of the engine (default: all cores)")
    batch: int = Field(1, ge=1, description="tiles in one engine call")
    halo_px: int | None = Field(None, ge=0, description="pixels cut from tile edges (default: the model's)")
    confidence: bool = Field(False, description="also keep the model's confidence as confidence.tif")
    quicklook: Literal["side", "map", "off"] = Field(
        "side", description="picture of each map: scene, map, legend and scale; the map alone; none"
    )
    head_quicklook: Literal["side", "map", "off"] = Field(
        "side", description="the same, for the map of each head beside the first"
    )
    changes: bool = Field(
        False, description="compare each map with the newest earlier one here on its grid: what changed goes into the "
        "item and changes.tif",
    )  # fmt: skip
    polygons: str = Field(
        "", description="formats of polygons made of each map, like geoparquet,flatgeobuf (default: none)"
    )
    sieve_px: int = Field(0, ge=0, le=100_000, description="merge patches of fewer pixels into their neighbour")
    gsd_m: float | None = Field(None, gt=0, description="ground size of a pixel, metres, of scenes that do not say it")
    resolution: Literal["model", "scene"] = Field(
        "model", description="grid of maps of scenes read at another resolution: that the model saw, or the scene's"
    )
    bands: str = Field("", description="numbers of the model's bands in every scene, like 3,2,1 (default: by name)")
    stretch: str = Field("2,98", description="percentiles for scenes that are not uint8")
    nodata: str = Field("file", description="value that means no data; file: what the file says; none: no value at all")
    collar: bool = Field(True, description="take a border of one colour for no data")
    alpha: int | None = Field(None, ge=0, description="band that is a mask; 0: none is (default: what the file says)")

    @field_validator("bands", "stretch", "nodata")
    @classmethod
    def _readable(cls, text: str, info: ValidationInfo) -> str:
        read: Any = {"bands": bands_of, "stretch": percentiles_of, "nodata": nodata_of}[str(info.field_name)]
        # Bands may be empty: then their names decide. The other two have defaults that can be read.
        if text or info.field_name != "bands":
            value = read(text)
            if info.field_name == "stretch" and not 0 <= value[0] < value[1] <= 100:
                raise ValueError("give two percentiles like 2,98")
        return text

    @field_validator("polygons")
    @classmethod
    def _formats(cls, text: str) -> str:
        return ",".join(polygon_formats(text))


class IntegritySettings(BaseModel):
    """Checks against flipped bits, and recovery (docs/radiation.md)."""

    # At these defaults the checks cost under 3 % from about 150 tiles a scene on (docs/radiation.md).
    engine_check_tiles: int = Field(128, ge=1, description="tiles between checks of the engine by its own first answer")
    engine_check_minutes: float = Field(10.0, gt=0, description="longest time between two such checks")
    engine_reopen_hours: float | None = Field(None, gt=0, description="age at which the engine is opened afresh")
    engine_retry_s: float = Field(30.0, gt=0, description="pause before a lost engine is opened again")
    memory_scrub_s: float = Field(10.0, ge=0, description="seconds between checks of the engine's memory; 0: none")
    memory_scrub_small: bool = Field(True, description="check small blocks of memory too; see docs/radiation.md")
    map_scrub_bytes_per_s: float = Field(
        1e6, ge=0, description="rate at which maps without a receipt are read again; 0: not at all"
    )
    recompute_share: float = Field(0.0, ge=0, le=1, description="share of tiles computed twice; 1: all of them")
    recovery_command: str | None = Field(None, description="command run when the engine stays lost (a reboot, say)")
    recovery_interval_minutes: float = Field(60.0, gt=0, description="shortest time between two runs of it")


class StorageSettings(BaseModel):
    """Where data lie, and how much."""

    data_dir: Path = Field(Path("onboard-data"), description="folder of ledger, scenes, canvases and maps")
    # Scenes are taken above all of it, begun above half, under a quarter maps go for what runs.
    disk_reserve_bytes: int = Field(512 * MIB, ge=0, description="bytes kept free for finishing what runs")
    max_upload_bytes: int = Field(16 * GIB, ge=1, description="longest scene, bytes")
    areas: Path | None = Field(None, description="GeoJSON of areas of interest; what is pushed up counts instead")
    keep_scenes: bool = Field(False, description="keep scenes after they are mapped")


class PowerSettings(BaseModel):
    """Limits that the governor keeps; without any it is off (docs/telemetry.md)."""

    max_mean_power_w: float | None = Field(None, gt=0, description="mean power allowed over any window")
    power_window_s: float = Field(600.0, gt=0, description="length of that window")
    max_power_w: float | None = Field(None, gt=0, description="power allowed at any moment")
    max_orbit_energy_j: float | None = Field(None, gt=0, description="energy allowed an orbit, rest included")
    # 95 minutes, a low Earth orbit.
    orbit_s: float = Field(5700.0, gt=0, description="length of an orbit")
    max_temperature_c: float | None = Field(None, description="temperature at which work stops")
    resume_temperature_c: float | None = Field(
        None, description="temperature at which it continues (default: 2 below the maximum)"
    )
    quiet_hours: str = Field("", description="spans of the day (UTC) without work, like 06:00-07:30,22:00-01:00")
    # A tenth of the power window at most, or the mean cannot be kept within 2 % (power/governor.py).
    min_duty_period_s: float = Field(20.0, gt=0, description="shortest time of one span of work and one pause together")
    safe_duty: float = Field(0.25, ge=0, le=1, description="share of time worked while a limit's sensor is silent")
    urgent_margin: float = Field(0.1, ge=0, description="share by which urgent scenes may exceed mean power and energy")
    power_modes: str = Field("", description="power modes it may set by name, strongest first, like 40W,25W")


class LinkSettings(BaseModel):
    """Connections, transfers, and what is worth the downlink."""

    max_connections: int = Field(256, ge=1, description="connections at once; fewer where descriptors are few")
    max_uploads: int = Field(2, ge=1, description="uploads at the same time")
    max_streams: int = Field(4, ge=1, description="live telemetry streams at the same time")
    header_timeout_s: float = Field(10.0, gt=0, description="longest wait for a request's header, or a TLS handshake")
    body_timeout_s: float = Field(30.0, gt=0, description="longest wait for the next bytes of an upload")
    min_upload_bytes_per_s: float = Field(1000.0, ge=0, description="slower uploads are ended, after body_timeout_s")
    read_timeout_s: float = Field(30.0, gt=0, description="longest wait for a client to read on")
    min_read_bytes_per_s: float = Field(100.0, ge=0, description="slower readers are cut off, after read_timeout_s")
    weight_rarity: float = Field(1.0, ge=0, description="downlink: worth of a rare class, per bit of its rarity")
    weight_confidence: float = Field(0.5, ge=0, description="downlink: worth of a mean confidence of 1")
    weight_age: float = Field(1.0, ge=0, description="downlink: worth of a thousand ledger numbers of waiting")
    weight_base: float = Field(0.5, ge=0, description="downlink: worth of any valid pixel")
    # Of its content alone: what a map has waited counts in full, or it might wait for ever.
    unfamiliar_discount: float = Field(
        0.5, ge=0, le=1, description="downlink: share of its worth that a map loses where all its ground is unfamiliar"
    )
    changes_first: bool = Field(
        False, description="downlink: changes.tif in place of a map whose earlier map the ground has; the map itself "
        "where the ground asks for it (needs ONBOARD_CHANGES)",
    )  # fmt: skip
    quicklook_share: float = Field(0.25, ge=0, le=1, description="downlink: of a short budget, for quicklooks first")


class UplinkSettings(BaseModel):
    """Models that come up the link (docs/uplink.md)."""

    trust_root: Path | None = Field(None, description="root.json of `ground model keys`; without it no model is taken")
    max_model_failures: int = Field(3, ge=1, description="failures in a row after which the last good model takes over")
    max_model_check_s: float = Field(1800.0, gt=0, description="longest verification of a model that came up")
    max_model_memory_bytes: int = Field(4 * GIB, ge=1, description="most memory of a model in its verification")
    min_model_tiles_per_s: float = Field(0.0, ge=0, description="slowest model that passes its verification")
    # Off: a shadow takes power and heat that the maps then wait for (docs/uplink.md).
    shadow_scenes: int = Field(0, ge=0, description="scenes that a verified model maps tiles of beside the active one")
    shadow_share: float = Field(0.25, gt=0, le=1, description="share of a scene's batches that the shadow maps too")
    shadow_activate_agreement: float | None = Field(
        None, ge=0, le=1, description="agreement from which a shadowed model is activated by itself (default: never)"
    )


class SecuritySettings(BaseModel):
    """Who may do what, and how often."""

    tokens_file: Path | None = Field(None, description="tokens (default: DATA_DIR/tokens.json)")
    tls_certificate: Path | None = Field(None, description="PEM certificate chain; switches HTTPS on")
    tls_key: Path | None = Field(None, description="PEM key of the certificate")
    tls_client_ca: Path | None = Field(None, description="PEM authority; clients must then show a certificate of it")
    max_requests_per_s: float = Field(50.0, gt=0, description="requests a second for each token")
    requests_burst: int = Field(200, ge=1, description="requests at once for each token")
    cors_origins: str = Field(
        "", description="web origins whose scripts may read /stac and /maps, like https://a.org,https://b.org; *: any"
    )

    @field_validator("cors_origins")
    @classmethod
    def _web_origins(cls, text: str) -> str:
        origins = [part.strip() for part in text.split(",")] if text.strip() else []
        if not all(origin == "*" or _ORIGIN.fullmatch(origin) for origin in origins):
            raise ValueError("give origins like https://maps.example.org, without a path, with commas between, or *")
        # Browsers send scheme and host in small letters.
        return ",".join(origins).lower()


GROUPS: dict[str, type[BaseModel]] = {
    "service": ServiceSettings,
    "mapping": MappingSettings,
    "integrity": IntegritySettings,
    "storage": StorageSettings,
    "power": PowerSettings,
    "link": LinkSettings,
    "uplink": UplinkSettings,
    "security": SecuritySettings,
}

RENAMED = {
    "check_minutes": "engine_check_minutes",
    "check_tiles": "engine_check_tiles",
    "connections_at_once": "max_connections",
    "cool_c": "resume_temperature_c",
    "deaths": "max_crashes",
    "halo": "halo_px",
    "head_timeout_s": "header_timeout_s",
    "hot_c": "max_temperature_c",
    "mean_power_w": "max_mean_power_w",
    "orbit_energy_j": "max_orbit_energy_j",
    "peak_power_w": "max_power_w",
    "quiet": "quiet_hours",
    "read_bytes_per_s": "min_read_bytes_per_s",
    "recovery_minutes": "recovery_interval_minutes",
    "reopen_hours": "engine_reopen_hours",
    "requests_per_s": "max_requests_per_s",
    "reserve": "disk_reserve_bytes",
    "restart_most_s": "max_restart_delay_s",
    "restart_s": "restart_delay_s",
    "scrub_s": "memory_scrub_s",
    "scrub_small": "memory_scrub_small",
    "sieve": "sieve_px",
    "streams_at_once": "max_streams",
    "turn_s": "min_duty_period_s",
    "twice": "recompute_share",
    "upload_bytes_per_s": "min_upload_bytes_per_s",
    "upload_limit": "max_upload_bytes",
    "uploads_at_once": "max_uploads",
    "weight_guess": "unfamiliar_discount",
    "weight_rare": "weight_rarity",
    "weight_sure": "weight_confidence",
}
"""Names of an earlier version, refused with the name of today: a limit that is silently not set is a limit not kept."""
