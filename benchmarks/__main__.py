"""Runs the benchmarks and prints their figures: `python -m benchmarks [NAME ...] [--quick]`, all by default."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from importlib import import_module
from pathlib import Path

from benchmarks import missing_package
from engines.command_line import counted
from engines.cpu import processor

# Imported when it runs: most need no torch, and each extra is needed for some alone.
BENCHMARKS = {
    "engine": "pipeline.against_bare_engine",
    "free": "pipeline.against_rasterio",
    "memory": "pipeline.peak_memory",
    "maps": "compression.map_sizes",
    "loader": "loader.training_loader",
    "service": "service.service_under_load",
    "telemetry": "telemetry.telemetry",
    "scaling": "scaling.cost_per_pixel",
    "sides": "sides.saved_and_changed",
    "resolution": "resolution.at_the_models_resolution",
    "cluster": "cluster.over_workers",
    "familiarity": "familiarity_cost.cost_per_tile",
    "heads": "heads.second_head",
    "console": "console.opening_times",
    "polygons": "polygons.beside_gdal",
    "change": "change.bytes_of_changes",
    "uplink": "uplink.bytes_of_a_head",
    "activation": "activation.downtime",
    "roofline": "efficientvit.predicted_beside_published",
}
"""By name, module and function."""


def main() -> int:
    """Parses, prints the machine, runs what was asked for; 2 where a package is missing."""
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
        module, _, function = BENCHMARKS[name].partition(".")
        try:
            getattr(import_module(f"benchmarks.{module}"), function)(arguments.folder, quick=arguments.quick)
        except ModuleNotFoundError as error:
            # A module of our own that is missing is a fault of the program and keeps its traceback.
            if (missing := missing_package(error)) is None:
                raise
            print(f"benchmarks: {missing}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
