"""Modules marked `own_process` run in an interpreter of their own.

Some change malloc's settings for the whole process and look at its heap, which cannot be taken back: beside hundreds of
other tests they would see those tests' memory, and leave them theirs. Others fork, beside libraries that do not bear
it. The module is run once, by pytest, when its first test is due.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

_INSIDE = "TESTS_OWN_PROCESS"
_Outcomes = dict[str, tuple[str, str]]
_DONE: dict[Path, tuple[_Outcomes, str]] = {}


def _is_ours(item: pytest.Item) -> bool:
    return item.get_closest_marker("own_process") is not None and _INSIDE not in os.environ


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leaves the fixtures to the module's own run."""
    if _is_ours(item) and isinstance(item, pytest.Function):
        item.fixturenames.clear()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Takes the outcome of the module's own run in place of the call."""
    if not _is_ours(pyfuncitem):
        return None
    if pyfuncitem.path not in _DONE:
        _DONE[pyfuncitem.path] = _run(pyfuncitem.path, pyfuncitem.config.rootpath)
    outcomes, printed = _DONE[pyfuncitem.path]
    ended = ("failure", f"the module's own process ended before this test:\n{printed}")
    kind, text = outcomes.get(pyfuncitem.name, ended)
    if kind == "skipped":
        pytest.skip(text)
    if kind != "passed":
        pytest.fail(text, pytrace=False)
    return True


def _run(module: Path, root: Path) -> tuple[_Outcomes, str]:
    """The outcomes, and the end of what was printed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={folder}/tmp"]
        ended = subprocess.run(
            [*command, f"--junitxml={report}", str(module)], cwd=root, env={**os.environ, _INSIDE: "1"}, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        printed = f"{ended.stdout[-2000:]}\nexit status {ended.returncode}"
        return (_read(report) if report.exists() else {}), printed


def _read(report: Path) -> _Outcomes:
    outcomes: _Outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        problem = next(iter(case), None)
        kind = "passed" if problem is None or problem.tag not in ("failure", "error", "skipped") else problem.tag
        text = "" if problem is None else problem.text or problem.get("message") or ""
        outcomes[str(case.get("name"))] = (kind, text)
    return outcomes
