"""The wheel, installed into an empty environment: it maps, serves and pulls without the repository."""

from __future__ import annotations

import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.onboard.service import DEADLINE_S, ROOT, until, write_scene

SOURCES = ("onboard", "engines", "telemetry", "ground", "products", "trainer", "pyproject.toml", "README.md", "LICENSE")


def run(*command: object, cwd: Path) -> str:
    """Standard output of a command that must succeed, in an environment that knows nothing of the repository."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return kept | {"OMP_NUM_THREADS": "1"} | more


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that has our wheel; its dependencies are those of the environment of the tests."""
    pytest.importorskip("setuptools", minversion="77", reason="setuptools 77 makes the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    sources, here = folder / "sources", folder / "environment"
    sources.mkdir()
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, sources / name, ignore=shutil.ignore_patterns("__pycache__", "weights"))
        else:
            shutil.copy(path, sources / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
    run(*pip, "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, sources, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", here, cwd=folder)
    python = here / "bin" / "python"
    # Path lines of a .pth file are searched after the environment's own folder, and .pth files there are not read: an
    # editable installation of the repository stays unseen.
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    others = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()])
    # Environments of environments: what the interpreter of the tests has searched itself.
    others |= dict.fromkeys(entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages"))
    (own / "dependencies.pth").write_text("".join(f"{entry}\n" for entry in others), encoding="utf-8")
    run(*pip, "--python", python, "install", "-q", "--no-deps", "--no-index", wheel, cwd=folder)
    return here / "bin"


def test_every_command_names_its_version(installed: Path, tmp_path: Path) -> None:
    for name in ("onboard", "engines", "ground"):
        assert re.fullmatch(rf"{name} \d+\.\d+\.\d+\S*\n", run(installed / name, "--version", cwd=tmp_path))


def test_the_wheel_maps_serves_and_pulls(installed: Path, tmp_path: Path) -> None:
    where = run(installed / "python", "-c", "import engines.open as m; print(m.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(installed.parent)
    write_scene(tmp_path / "scene.tif", 100)
    shown = run(installed / "onboard", "process", "scene.tif", "--backend", "onnxruntime", cwd=tmp_path)
    assert (tmp_path / "maps" / "scene" / "map.tif").is_file(), shown
    settings = {
        "ONBOARD_DATA_DIR": str(tmp_path / "data"), "ONBOARD_PORT": "0", "ONBOARD_BACKEND": "onnxruntime",
        "ONBOARD_DISK_RESERVE_BYTES": "0", "ONBOARD_THREADS": "1",
    }  # fmt: skip
    log = tmp_path / "serve.log"
    with log.open("w") as stream:
        service = subprocess.Popen(
            [str(installed / "onboard"), "serve"],
            cwd=tmp_path, env=environment(**settings), stdout=stream, stderr=stream,
        )  # fmt: skip
    try:
        url = until(lambda: re.search(r"serving on (http://\S+)", log.read_text()), "no address")[1]
        tiff = ("-H", "Content-Type: image/tiff")
        run("curl", "-sf", "-T", "scene.tif", "-X", "POST", *tiff, f"{url}/scenes", cwd=tmp_path)

        def pulled() -> bool:
            run(installed / "ground", "pull", url, "--dest", "pulled", cwd=tmp_path)
            return any((tmp_path / "pulled").glob("*/map.tif"))

        # The default model, opened and checked while other tests run beside it.
        assert until(pulled, "no map came", 5 * DEADLINE_S)
    finally:
        service.terminate()
        service.wait(60)
