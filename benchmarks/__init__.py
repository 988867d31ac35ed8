"""Benchmarks: ratios to something measured in the same run. `make bench`."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

_OURS = frozenset({"benchmarks", "engines", "ground", "onboard", "products", "telemetry", "tests", "trainer"})


def missing_package(error: ModuleNotFoundError) -> str | None:
    """What to install, in one line; None where a module of our own is missing."""
    module = (error.name or "").partition(".")[0]
    if not module or module in _OURS:
        return None
    install = f"{sys.executable} -m pip install -e '{Path(__file__).parents[1]}[dev,trainer]'"
    return f"this needs {module}, which is not installed; {install}"


def _one_line(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    missing = missing_package(error) if isinstance(error, ModuleNotFoundError) else None
    if missing is None:
        sys.__excepthook__(kind, error, traceback)
    else:
        print(f"benchmarks: {missing}", file=sys.stderr)


# While `python -m benchmarks.NAME` looks for the module: its imports come before any function of it could catch them.
if sys.argv[:1] == ["-m"]:
    sys.excepthook = _one_line
