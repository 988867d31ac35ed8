"""Who may import whom (docs: architecture). Imports are read from the source, so a lazy one counts too."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"onboard", "engines", "telemetry", "ground", "trainer"}
MAY_IMPORT = {
    "onboard": {"engines", "telemetry"},
    "trainer": {"engines", "onboard"},
    "engines": {"telemetry"},
    "telemetry": set(),
    "ground": set(),
}
ASKS_TELEMETRY = "engines/power.py"
FLOORS = ["cli", "api", "downlink", "jobs", "mapping", "scene", "errors"]
OWN_ADAPTER = {
    "torch": {"trainer"},
    "tensorrt": {"engines/tensorrt.py", "engines/trt.py"},
    "tensorrt_rtx": {"engines/trt.py"},
    # The teacher of soft labels has several heads and no manifest: the engines' adapter is not for it.
    "openvino": {"engines/openvino.py", "trainer/soften.py"},
    "pycuda": {"engines/tensorrt.py"},
    "jtop": {"telemetry/sources/jtop_process.py"},
    "pynvml": {"telemetry/sources/nvml.py"},
    "onnxruntime": {"engines/onnxrt.py", "trainer", "onboard/doctor.py"},
    "onnx": {"engines/edges.py", "engines/layers.py", "trainer"},
    "pyarrow": {"telemetry/table.py", "ground/telemetry.py", "trainer"},
    "matplotlib": {"telemetry/report.py", "trainer"},
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def sources() -> list[Path]:
    return [path for package in sorted(PACKAGES) for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_import_only_what_they_may(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    others = {name.split(".")[0] for name in imports(path)} & PACKAGES - {package}
    assert others <= MAY_IMPORT[package]
    if package == "engines" and str(path.relative_to(ROOT)) != ASKS_TELEMETRY:
        assert not others
    if package == "trainer":
        aboard = {name for name in imports(path) if name.startswith("onboard.")}
        assert all(name.split(".")[1] in {"scene", "mapping", "errors", "progress"} for name in aboard)


@pytest.mark.parametrize("path", sorted((ROOT / "onboard").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_aboard_imports_upwards(path: Path) -> None:
    floor = path.relative_to(ROOT).with_suffix("").parts[1]
    if floor not in FLOORS:
        return
    above = FLOORS[: FLOORS.index(floor)]
    named = {name.split(".")[1] for name in imports(path) if name.startswith("onboard.")}
    assert not named & set(above)


@pytest.mark.parametrize("library", sorted(OWN_ADAPTER))
def test_heavy_libraries_stay_in_their_adapter(library: str) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in sources()
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert all(any(user.startswith(place) for place in OWN_ADAPTER[library]) for user in users), users


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom onboard import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'rasterio', 'onnxruntime', 'torch', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
