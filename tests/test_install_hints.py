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


def without(missing: tuple[str, ...], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m` of these words, as where these packages are not installed."""
    blocker = folder / "blocked"
    blocker.mkdir()
    (blocker / "sitecustomize.py").write_text(
        "import sys\n"
        f"missing = {set(missing)!r}\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in missing:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    return subprocess.run(
        [sys.executable, "-m", *words], check=False, cwd=folder, capture_output=True, text=True, timeout=300,
        env={"PYTHONPATH": f"{blocker}:{ROOT}", "PATH": "/usr/bin:/bin", "HOME": str(folder)},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code"),
    [(("benchmarks", "loader", "--quick"), 2), (("benchmarks.views",), 1), (("benchmarks.loader",), 1)],
    ids=lambda given: given[0] if isinstance(given, tuple) else "",
)
def test_a_benchmark_without_its_extra_says_so_in_one_line(tmp_path: Path, words: tuple[str, ...], code: int) -> None:
    ran = without(("torch",), tmp_path, *words)
    install = f"{sys.executable} -m pip install -e '{ROOT}[dev,trainer]'"
    assert ran.stderr == f"benchmarks: this needs torch, which is not installed; {install}\n"
    assert ran.returncode == code


def test_benchmarks_that_need_no_extra_run_without_one(tmp_path: Path) -> None:
    """`python -m benchmarks maps` ended with a traceback of another benchmark's torch."""
    gone = ("torch", "distributed", "transformers", "lightning", "onnxscript", "pyogrio", "tuf")
    ran = without(gone, tmp_path, "benchmarks", "roofline", "--quick")
    assert (ran.returncode, ran.stderr) == (0, "")
