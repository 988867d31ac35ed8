"""`onboard doctor`: what this machine can do, and what is missing and why."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines.command_line import bytes_text, counted
from engines.cpu import usable_cores
from engines.errors import EngineError
from engines.manifest import Manifest
from engines.open import backend_states, default_model, shipped_models
from onboard.errors import OptionsRefused
from onboard.settings import read_settings
from telemetry.discover import is_jetson, main_rail, scope_of, sources
from telemetry.sources.jtop import Jtop
from telemetry.sources.nvpmodel import power_mode
from telemetry.sources.thermal import hottest_of

_JTOP_S = 5.0
"""Longest wait for jtop's first word."""
_BETWEEN_S = 0.2
"""Between two reads: the watts of a counter of joules are the mean between them. It counts in steps of a millisecond:
at once after the first read it would say 0 W."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: what it is about: "machine", "backend", "model", "power", "disk".
        name: of the thing.
        found: what is there; empty where it is missing.
        missing: what is missing, why, and what to do; empty where it is there.
    """

    topic: str
    name: str
    found: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Report:
    """All findings, in the order of their topics."""

    findings: tuple[Finding, ...]

    @property
    def can_map(self) -> bool:
        """Whether a backend and a sound default model are here."""
        topics = {finding.topic for finding in self.findings if finding.found}
        return {"backend", "model", "default"} <= topics

    def as_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"can_map": self.can_map, "findings": [asdict(finding) for finding in self.findings]}


def diagnose(root: Path | None = None, disk: Path = Path()) -> Report:
    """Looks at the machine.

    Args:
        root: of the file system that telemetry reads; None for the service's own (ONBOARD_TELEMETRY_ROOT).
        disk: a folder on the disk that maps are to be written to; its nearest existing parent is asked.
    """
    steps = (_machine(), _backends(), _models(), _measured_by_settings(root), _disk(disk))
    return Report(tuple(finding for step in steps for finding in step))


def render(report: Report) -> str:
    """The report as text, one line a finding."""
    width = max(len(finding.name) for finding in report.findings)
    lines, topic = [], ""
    for finding in report.findings:
        heading = finding.topic if finding.topic != topic else ""
        topic = finding.topic
        mark, text = ("ok", finding.found) if finding.found else ("--", f"missing: {finding.missing}")
        lines.append(f"{heading:<12} {mark} {finding.name:<{width}}  {text}")
    lines.append("")
    lines.append("This machine can map scenes." if report.can_map else "This machine cannot map scenes yet: see above.")
    return "\n".join(lines)


def _machine() -> Iterator[Finding]:
    import numpy as np
    import rasterio

    memory = bytes_text(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    usable = counted(usable_cores(), "core")
    yield Finding("machine", "processor", f"{platform.machine()}, {usable} usable, {memory} of memory")
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, rasterio {rasterio.__version__}"
    yield Finding("machine", "software", f"{versions}, GDAL {rasterio.__gdal_version__}")
    with rasterio.Env() as env:
        drivers = set(env.drivers())
    for driver in ("GTiff", "COG", "WEBP"):
        missing = "" if driver in drivers else "this GDAL was built without it; install rasterio's own wheel"
        yield Finding("machine", f"GDAL {driver}", "" if missing else "there", missing)


def _backends() -> Iterator[Finding]:
    for state in backend_states():
        yield Finding("backend", state.name, state.version or "", "" if state.version else str(state.problem))


def _models() -> Iterator[Finding]:
    models = shipped_models()
    if not models:
        yield Finding("model", "shipped", missing="no model came with this software; install it again")
    for name, folder in models.items():
        try:
            manifest = Manifest.load(folder)
            # The digests too: a file damaged on its way aboard is better found here than by the service.
            manifest.check_files(folder)
        except EngineError as error:
            yield Finding("model", name, missing=str(error))
            continue
        classes = ", ".join(manifest.class_titles.values())
        yield Finding("model", name, f"{manifest.version}, {manifest.precision}, SHA-256 as in its manifest; {classes}")
    try:
        yield Finding("default", "model", default_model())
    except EngineError as error:
        yield Finding("default", "model", missing=str(error))


def _measured_by_settings(root: Path | None) -> Iterator[Finding]:
    """By the root that is given, else by the service's; settings that cannot be read are a finding like others."""
    if root is None:
        try:
            root = read_settings().telemetry_root
        except OptionsRefused as error:
            yield Finding("settings", "service", missing=str(error))
            root = Path("/")
    if not root.is_dir():
        yield Finding("measured", "root", missing=f"there is no folder {root}; correct ONBOARD_TELEMETRY_ROOT")
    elif root != Path("/"):
        yield Finding("measured", "root", f"{root} (ONBOARD_TELEMETRY_ROOT)")
    yield from _measured(root)


def _measured(root: Path) -> Iterator[Finding]:
    available = sources(root, with_jtop=is_jetson(root))
    for source in available:
        if isinstance(source, Jtop):
            source.read()
            # The first read only starts jtop's process; values come with its first message.
            source.heard.wait(_JTOP_S)
    for source in available:
        state = source.state()
        period = "" if not state.found else f", every {source.period_s:g} s"
        yield Finding(
            "measured", state.name, ", ".join(state.rails) + period if state.found else "",
            "" if state.found else f"{state.problem}; {state.remedy}",
        )  # fmt: skip
    for source in available:
        source.read()
    time.sleep(_BETWEEN_S)
    readings = [reading for source in available for reading in source.read()]
    best, hottest = main_rail(readings), hottest_of(readings)
    if best is not None:
        covers = {"module": "the whole module", "package": "the processor only", "gpu": "the GPU only"}[scope_of(best)]
        yield Finding("measured", "power", f"{best.value:.2f} W by {best.source} ({best.rail}: {covers})")
    else:
        remedy = "maps will say that no energy was measured; a power limit is replaced by a fixed duty cycle"
        yield Finding("measured", "power", missing=f"no source of power; {remedy}")
    if hottest.value is not None:
        yield Finding("measured", "hottest zone", f"{hottest.value:.1f} °C ({hottest.rail})")
    mode, reason = power_mode(root)
    if mode is not None or is_jetson(root):
        yield Finding("measured", "power mode", mode or "", "" if mode else reason)
    for source in available:
        source.close()


def _disk(folder: Path) -> Iterator[Finding]:
    whole = folder.absolute()
    existing = next(path for path in (whole, *whole.parents) if _is_there(path))
    # Of the nearest folder that exists: mapping makes --out, this command makes nothing.
    free = shutil.disk_usage(existing).free
    # One byte a pixel for the canvas and about half of that while the COG is made.
    yield Finding("disk", str(folder), f"{bytes_text(free)} free, room for a scene of about {free / 1.5e6:,.0f} Mpx")
    if not os.access(existing, os.W_OK):
        yield Finding("disk", "writing", missing=f"{existing} is not writable; choose another --out")


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    # A folder above it is closed to this user: one that can be seen is further up.
    except PermissionError:
        return False
