"""Commands that messages name work as they stand: in a clone, in an image, from any folder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HINT = re.compile(r"pip install '?([\w.{}\[\]-]+)")
# The trainer's extra has a dozen packages: its hint names the clone, see test_a_command_without_its_extra_says_so.
OF_ITS_OWN = {"{package}"}


def hints() -> dict[str, str]:
    packages = ("engines", "ground", "onboard", "products", "telemetry")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    return {f"{path.relative_to(ROOT)} {name}": name for path in files for name in HINT.findall(path.read_text())}


def test_a_hint_names_a_package_that_an_index_has_and_pyproject_asks_for() -> None:
    """Ours is on no index."""
    wanted = (ROOT / "pyproject.toml").read_text()
    found = hints()
    assert len(found) >= 9
    for where, name in found.items():
        assert name in OF_ITS_OWN or re.search(rf'"{re.escape(name)}[<>=~!]', wanted), where


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("PIL", ["tiles", ".", "--out", "tiles"]),
        ("torch", ["profile", "--paper"]),
        ("torch", ["export", "--run", "run", "--name", "x"]),
        ("torch", ["finetune", "--config", "x.yaml", "--run", "run"]),
        ("yaml", ["distill", "--config", "x.yaml", "--run", "run"]),
    ],
    ids=lambda given: given if isinstance(given, str) else given[0],
)
def test_a_command_without_its_extra_says_so_in_one_line(missing: str, command: list[str], tmp_path: Path) -> None:
    """Each run as it would be where `make demo` installed no extra."""
    (tmp_path / "x.yaml").write_text("{}")
    code = f"import sys; sys.modules[{missing!r}] = None; from trainer.cli import main; sys.exit(main(sys.argv[1:]))"
    ran = subprocess.run(
        [sys.executable, "-c", code, *command], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert ran.stderr == (
        f"trainer: this command needs {missing}, which is not installed; "
        f"{sys.executable} -m pip install -e '{ROOT}[trainer]'\n"
    )
    assert ran.returncode == 2
