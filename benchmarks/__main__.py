"""Runs the benchmarks and prints their figures: `python -m benchmarks [NAME ...] [--quick]`, all by default."""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

from benchmarks import (
    change,
    cluster,
    compression,
    efficientvit,
    familiarity_cost,
    heads,
    loader,
    pipeline,
    resolution,
    scaling,
    service,
    telemetry,
)
from engines.command_line import counted
from engines.cpu import processor


def _console(folder: Path, *, quick: bool) -> None:
    """Of the ground's console; its browser and the extra `dev` are needed for this one alone."""
    from benchmarks import console

    console.opening_times(folder, quick=quick)


def _polygons(folder: Path, *, quick: bool) -> None:
    """Of `ground polygons`; the extra `polygons` is needed for this one alone."""
    from benchmarks import polygons

    polygons.beside_gdal(folder, quick=quick)


def _uplink(folder: Path, *, quick: bool) -> None:
    """Of a retrained head; the extra `uplink` is needed for this one."""
    from benchmarks import uplink

    uplink.bytes_of_a_head(folder, quick=quick)


def _activation(folder: Path, *, quick: bool) -> None:
    """Of another model while scenes are mapped; the extra `uplink` is needed for this one."""
    from benchmarks import activation

    activation.downtime(folder, quick=quick)


BENCHMARKS = {
    "engine": pipeline.against_bare_engine,
    "free": pipeline.against_rasterio,
    "memory": pipeline.peak_memory,
    "maps": compression.map_sizes,
    "loader": loader.training_loader,
    "service": service.service_under_load,
    "telemetry": telemetry.telemetry,
    "scaling": scaling.cost_per_pixel,
    "resolution": resolution.at_the_models_resolution,
    "cluster": cluster.over_workers,
    "familiarity": familiarity_cost.cost_per_tile,
    "heads": heads.second_head,
    "console": _console,
    "polygons": _polygons,
    "change": change.bytes_of_changes,
    "uplink": _uplink,
    "activation": _activation,
    "roofline": efficientvit.predicted_beside_published,
}


def main() -> None:
    """Parses, prints the machine, runs what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    # The empty list among the choices: argparse holds the default of nargs="*" to them as well.
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], default=[], help="all by default")
    parser.add_argument("--quick", action="store_true", help="smaller scenes, fewer repeats: to see that it runs")
    parser.add_argument("--folder", type=Path, default=Path("out/bench"), help="where scenes and maps are put")
    arguments = parser.parse_args()
    # Scenes stay there from run to run: making the largest takes minutes.
    arguments.folder.mkdir(parents=True, exist_ok=True)
    # With every output: figures mean nothing without the machine.
    print(f"machine: {processor()}, {counted(os.cpu_count() or 1, 'core')}, Python {platform.python_version()}")
    for name in arguments.names or BENCHMARKS:
        print(f"\n== {name}", flush=True)
        BENCHMARKS[name](arguments.folder, quick=arguments.quick)


if __name__ == "__main__":
    main()
