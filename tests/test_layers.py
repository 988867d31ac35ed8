"""Who may import whom (docs: architecture). Imports are read from the source, so a lazy one counts too."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"onboard", "engines", "telemetry", "ground", "trainer", "products"}
MAY_IMPORT = {
    "onboard": {"engines", "telemetry", "products"},
    "trainer": {"engines", "onboard"},
    "engines": {"telemetry"},
    "telemetry": set(),
    "ground": {"products"},
    "products": set(),
}
ASKS_TELEMETRY = "engines/profiling/power.py"
FLOORS = [
    {"cli"},
    {"alive", "batch_cli", "doctor", "history_cli", "mapping_options", "summary_text", "token_cli"},
    {"api"},
    {"downlink", "processes"},
    {"models"},
    {"jobs", "power"},
    {"mapping", "settings"},
    {"setting_groups"},
    {"scene"},
    {"files"},
    {"errors", "parent", "progress"},
]
"""Of the package onboard, top floor first: a room imports itself and lower floors, never a neighbour."""
OWN_ADAPTER = {
    "torch": {"trainer"},
    "tensorrt": {"engines/tensorrt/runner.py", "engines/tensorrt/runtime.py"},
    "tensorrt_rtx": {"engines/tensorrt/runtime.py"},
    # The teacher of soft labels has several heads and no manifest: the engines' adapter is not for it.
    "openvino": {"engines/backends/openvino.py", "trainer/finetune/soften.py"},
    "pycuda": {"engines/tensorrt/driver.py"},
    "cuda": {"engines/tensorrt/driver.py"},
    "jtop": {"telemetry/sources/jtop_process.py"},
    "pynvml": {"telemetry/sources/nvml.py"},
    "onnxruntime": {"engines/backends/onnxruntime.py", "trainer", "onboard/doctor.py"},
    "onnx": {
        "engines/graph_sides.py",
        "engines/heads_graph.py",
        "engines/tensorrt/graph_io.py",
        "engines/profiling/layers.py",
        "trainer",
    },
    "pyarrow": {
        "telemetry/table.py",
        "ground/telemetry.py",
        "ground/console/rows.py",
        "ground/item_table.py",
        "products/polygons/files.py",
        "products/polygons/write.py",
        "trainer",
    },
    "shapely": {"products/polygons"},
    "pyogrio": {"products/polygons/files.py", "products/polygons/write.py"},
    "scipy": {"products/polygons/patches.py"},
    "rio_tiler": {"ground/console/tiles.py", "ground/console/serve.py"},
    "matplotlib": {"telemetry/report.py", "trainer"},
}


COMPUTED_IMPORTS = {"engines/loading.py", "engines/tensorrt/runtime.py"}
"""Files that import modules by a name in a variable: what loads runtimes, and TensorRT beside TensorRT for RTX."""


def imports(path: Path) -> set[str]:
    """Modules that a file imports: by statement, and by name through importlib."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module)
            modules.update(f"{node.module}.{alias.name}" for alias in node.names if node.module in PACKAGES)
        elif isinstance(node, ast.Call) and _called(node) in {"import_module", "__import__", "load_package"}:
            named = node.args[0] if node.args else None
            if isinstance(named, ast.Constant):
                modules.add(str(named.value))
            else:
                modules.add("(computed)")
    return modules


def _called(node: ast.Call) -> str:
    """Name of the function called, without the module it is taken from."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


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
        assert all(name.split(".")[1] in {"scene", "mapping", "files", "errors", "progress"} for name in aboard)


@pytest.mark.parametrize("path", sorted((ROOT / "onboard").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_of_onboard_imports_lower_floors_only(path: Path) -> None:
    room = path.relative_to(ROOT).with_suffix("").parts[1]
    imported = {name.split(".")[1] for name in imports(path) if name.startswith("onboard.")}
    if room == "__init__":
        assert not imported
        return
    floor = next((number for number, rooms in enumerate(FLOORS) if room in rooms), None)
    assert floor is not None, f"{room} has no floor: add it to FLOORS"
    below = set().union(*FLOORS[floor + 1 :])
    assert imported <= below | {room}, f"{path.name}: {sorted(imported - below - {room})} lie on its floor or above"


def test_modules_imported_by_a_computed_name_are_known() -> None:
    computed = {str(path.relative_to(ROOT)) for path in sources() if "(computed)" in imports(path)}
    assert computed <= COMPUTED_IMPORTS


@pytest.mark.parametrize(
    "code",
    [
        "import importlib\nimportlib.import_module('onboard.api.app')",
        "from importlib import import_module\nimport_module('onboard.api.app')",
        "__import__('onboard.api.app')",
        "from onboard.api import app",
        "from onboard import api",
    ],
)
def test_an_import_is_seen_however_it_is_written(code: str, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(code, encoding="utf-8")
    assert any(name.startswith("onboard.api") for name in imports(path))


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
