"""Settings of the service: environment variables with one prefix, checked at the start, each with its meaning."""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from onboard.errors import OptionsRefused
from onboard.scene.option_texts import bands_of, nodata_of, percentiles_of

PREFIX = "ONBOARD_"
MIB, GIB = 1 << 20, 1 << 30


class Settings(BaseSettings):
    """Everything `onboard serve` can be told; `onboard settings` prints it with values and defaults."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    data_dir: Path = Field(Path("onboard-data"), description="folder of ledger, scenes, canvases and maps")
    host: str = Field("127.0.0.1", description="address to listen on; other than loopback needs tokens")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    tokens_file: Path | None = Field(None, description="tokens (default: DATA_DIR/tokens.json)")
    tls_certificate: Path | None = Field(None, description="PEM certificate chain; switches HTTPS on")
    tls_key: Path | None = Field(None, description="PEM key of the certificate")
    tls_client_ca: Path | None = Field(None, description="PEM authority; clients must then show a certificate of it")

    model: str | None = Field(None, description="shipped name, model folder or manifest (default: the shipped default)")
    backend: str = Field("auto", description="engine backend; auto: by a fixed rule; fastest: measured here")
    build_engine: bool = Field(True, description="build a TensorRT engine at the first start where there is none")
    threads: int | None = Field(None, ge=1, description="threads of the engine (default: all cores)")
    batch: int = Field(1, ge=1, description="tiles in one engine call")
    halo: int | None = Field(None, ge=0, description="pixels cut from tile edges (default: the model's)")
    confidence: bool = Field(False, description="also keep the model's confidence as confidence.tif")
    sieve: int = Field(0, ge=0, le=100_000, description="merge patches of fewer pixels")
    gsd_m: float | None = Field(None, gt=0, description="ground size of a pixel, metres, of scenes that do not say it")
    resolution: Literal["model", "scene"] = Field(
        "model", description="grid of maps of scenes read at another resolution: that the model saw, or the scene's"
    )
    bands: str = Field("", description="numbers of the model's bands in every scene, like 3,2,1 (default: by name)")
    stretch: str = Field("2,98", description="percentiles for scenes that are not uint8")
    nodata: str = Field("file", description="value that means no data; file: what the file says; none: no value at all")
    collar: bool = Field(True, description="take a border of one colour for no data")
    alpha: int | None = Field(None, ge=0, description="band that is a mask; 0: none is (default: what the file says)")

    inbox: Path | None = Field(None, description="folder whose GeoTIFFs may be named by {path} and are taken by itself")
    watch_inbox: bool = Field(False, description="take what appears in the inbox")
    upload_limit: int = Field(16 * GIB, ge=1, description="longest scene, bytes")
    uploads_at_once: int = Field(2, ge=1, description="uploads at the same time")
    upload_bytes_per_s: float = Field(1000.0, ge=0, description="slowest upload waited for, over body_timeout_s")
    body_timeout_s: float = Field(30.0, gt=0, description="longest wait for the next bytes of an upload")
    head_timeout_s: float = Field(10.0, gt=0, description="longest wait for a request's head, and for a TLS handshake")
    read_bytes_per_s: float = Field(100.0, ge=0, description="slowest reader that is waited for, over read_timeout_s")
    read_timeout_s: float = Field(30.0, gt=0, description="longest wait for a client to read on")
    connections_at_once: int = Field(256, ge=1, description="connections at once; fewer where descriptors are few")
    requests_per_s: float = Field(50.0, gt=0, description="requests a second for each token")
    requests_burst: int = Field(200, ge=1, description="requests at once for each token")
    reserve: int = Field(512 * MIB, ge=0, description="bytes kept free for finishing what runs")
    keep_scenes: bool = Field(False, description="keep scenes after they are mapped")

    weight_rare: float = Field(1.0, ge=0, description="downlink: worth of a rare class, per bit it is unlikely by")
    weight_sure: float = Field(0.5, ge=0, description="downlink: worth of a mean confidence of 1")
    weight_age: float = Field(1.0, ge=0, description="downlink: worth of a thousand ledger numbers of waiting")
    weight_base: float = Field(0.5, ge=0, description="downlink: worth of any valid pixel")
    weight_guess: float = Field(
        0.5, ge=0, le=1, description="downlink: share of its worth that a map loses where all its ground is unfamiliar"
    )
    quicklook_share: float = Field(0.25, ge=0, le=1, description="downlink: of a short budget, for quicklooks first")

    heartbeat_timeout_s: float = Field(60.0, gt=0, description="silence after which the worker is killed")
    restart_s: float = Field(1.0, gt=0, description="first pause before a restart; doubles up to restart_most_s")
    restart_most_s: float = Field(60.0, gt=0, description="longest pause before a restart")
    deaths: int = Field(3, ge=1, description="deaths of the worker on one scene before it is quarantined")
    check_minutes: float = Field(10.0, gt=0, description="minutes between checks of the engine by its golden tile")
    check_tiles: int = Field(128, ge=1, description="tiles between checks of the engine by its own first answer")
    scrub_small: bool = Field(True, description="small pieces of memory are looked at too; see docs/radiation.md")
    scrub_s: float = Field(10.0, ge=0, description="seconds between looks at the engine's constants in memory; 0: none")
    twice: float = Field(0.0, ge=0, le=1, description="share of tiles computed twice; 1: all of them")
    reopen_hours: float | None = Field(None, gt=0, description="age at which the engine is opened afresh from disk")
    map_scrub_bytes_per_s: float = Field(
        1e6, ge=0, description="rate at which maps without a receipt are read again; 0: not at all"
    )
    engine_retry_s: float = Field(30.0, gt=0, description="pause before a lost engine is opened again")
    recovery_command: str | None = Field(None, description="run when the engine stays lost (a reboot, say)")
    recovery_minutes: float = Field(60.0, gt=0, description="least minutes between two runs of recovery_command")

    telemetry_root: Path = Field(Path("/"), description="file system whose /sys and /proc are read")
    sample_hz: float = Field(10.0, gt=0, le=100, description="samples of power a second")
    streams_at_once: int = Field(4, ge=1, description="live telemetry streams at the same time")

    mean_power_w: float | None = Field(None, gt=0, description="governor: mean power allowed over any window")
    power_window_s: float = Field(600.0, gt=0, description="governor: length of that window")
    peak_power_w: float | None = Field(None, gt=0, description="governor: power allowed at any moment")
    orbit_energy_j: float | None = Field(None, gt=0, description="governor: energy allowed an orbit, rest included")
    orbit_s: float = Field(5700.0, gt=0, description="governor: length of an orbit")
    hot_c: float | None = Field(None, description="governor: temperature at which work stops")
    cool_c: float | None = Field(None, description="governor: temperature at which it goes on (default: 2 below)")
    quiet: str = Field("", description="governor: spans of the day (UTC) without work, like 06:00-07:30,22:00-01:00")
    safe_duty: float = Field(0.25, ge=0, le=1, description="governor: share worked while a limit's sensor is silent")
    turn_s: float = Field(20.0, gt=0, description="governor: least seconds of work and rest together")
    urgent_margin: float = Field(0.1, ge=0, description="governor: share by which urgent scenes may overdraw")
    power_modes: str = Field("", description="governor: modes it may set by name, strongest first, like 40W,25W")

    @field_validator("bands", "stretch", "nodata")
    @classmethod
    def _readable(cls, text: str, info: ValidationInfo) -> str:
        read: Any = {"bands": bands_of, "stretch": percentiles_of, "nodata": nodata_of}[str(info.field_name)]
        if text or info.field_name != "bands":
            value = read(text)
            if info.field_name == "stretch" and not 0 <= value[0] < value[1] <= 100:
                raise ValueError("give two percentiles like 2,98")
        return text

    @field_validator("data_dir", "inbox", "tokens_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @property
    def tokens_path(self) -> Path:
        """Where tokens are kept."""
        return self.tokens_file or self.data_dir / "tokens.json"

    @property
    def scenes_dir(self) -> Path:
        """A folder a scene."""
        return self.data_dir / "scenes"

    @property
    def maps_dir(self) -> Path:
        """A folder a map."""
        return self.data_dir / "maps"

    @property
    def canvases_dir(self) -> Path:
        """A folder a scene that is being mapped."""
        return self.data_dir / "canvases"

    @property
    def telemetry_dir(self) -> Path:
        """History and calibration."""
        return self.data_dir / "telemetry"

    @property
    def ledger_path(self) -> Path:
        """The SQLite file."""
        return self.data_dir / "ledger.sqlite"


@dataclass(frozen=True)
class SettingLine:
    """One setting as `onboard settings` shows it."""

    key: str
    value: Any
    default: Any
    meaning: str


def read_settings(**given: Any) -> Settings:
    """Settings of the environment; ``given`` ones win.

    Raises:
        OptionsRefused: an ONBOARD_ variable that is none of them, or a value that cannot be.
    """
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    for key in os.environ:
        if key.upper().startswith(PREFIX) and key.upper() not in known:
            near = difflib.get_close_matches(key.upper(), known, 1)
            hint = f"did you mean {near[0]}?" if near else "`onboard settings` lists them"
            raise OptionsRefused(f"there is no setting {key}", hint)
    try:
        return Settings(**given)
    except ValidationError as error:
        row = error.errors()[0]
        name = PREFIX + str(row["loc"][0]).upper().removeprefix(PREFIX) if row["loc"] else PREFIX
        problem = f"{name} is {row.get('input')!r}: {row['msg']}"
        raise OptionsRefused(problem, "`onboard settings` says what it means") from None


def setting_lines(settings: Settings) -> list[SettingLine]:
    """Every setting with its value, default and meaning, in their order."""
    return [
        SettingLine(PREFIX + name.upper(), getattr(settings, name), field.default, field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def settings_as_json(settings: Settings) -> str:
    """For programs."""
    rows = [line.__dict__ for line in setting_lines(settings)]
    return json.dumps(rows, indent=1, default=str)


def settings_as_text(settings: Settings) -> str:
    """For people: a changed value is marked with a star."""
    lines = setting_lines(settings)
    width = max(len(line.key) for line in lines)
    shown = []
    for line in lines:
        mark = " " if line.value == line.default else "*"
        default = "" if mark == " " else f" (default: {line.default})"
        shown.append(f"{mark} {line.key:<{width}}  {line.value}{default}\n  {'':<{width}}  {line.meaning}")
    return "\n".join(shown)
