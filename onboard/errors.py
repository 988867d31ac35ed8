"""Errors of the software aboard, one class for each thing that the caller does next.

OnboardError            a failure of ours (exit code 1)
├── MappingStopped      the work was told to stop: it continues when it is asked for again
├── StorageError        make room or mend the disk, then run again: work so far is kept
│   ├── NoRoom          under the reserve: nothing more is taken in
│   └── LedgerBusy      another process keeps the ledger's lock: try again soon
├── LedgerDamaged       set the ledger aside and build it again from the folders
├── AlreadyRunning      another service works in this data folder: stop it, or take another folder
└── InputError          mend the input (exit code 2)
    ├── SceneRefused    the scene cannot be mapped
    ├── OptionsRefused  the options cannot be met
    └── FolderUnusable  the data folder, or something in it, cannot be used as it is
"""

from __future__ import annotations

import copyreg
from pathlib import Path
from typing import Any


class OnboardError(Exception):
    """Root of this package's errors; `exit_code` is what the command line answers with."""

    exit_code = 1

    @property
    def advice(self) -> str:
        """The problem and the remedy without the paths of this machine, for clients."""
        problem, remedy = getattr(self, "problem", ""), getattr(self, "remedy", "")
        return f"{problem}; {remedy}" if problem and remedy else str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as it stands: `__init__` takes more than the message that pickle would give it."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class MappingStopped(OnboardError):
    """A run was stopped between two batches; finished tiles are on disk."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"stopped: {why}; the same request continues")


class StorageError(OnboardError):
    """Writing failed; what was synced before stays and the same command continues from it."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        self.path, self.problem, self.remedy = path, problem, remedy
        super().__init__(f"{path}: {problem}; {remedy}")


class NoRoom(StorageError):
    """Taking this in would leave less than the reserve that running work needs."""

    def __init__(self, path: Path, *, wanted: int, free: int, reserve: int, use: str = "") -> None:
        self.wanted, self.free, self.reserve = wanted, free, reserve
        problem = f"{wanted:,} bytes{use} would leave less than the reserve of {reserve:,} ({free:,} are free)"
        super().__init__(path, problem, "pull maps and give their receipts, or cancel scenes, then send it again")


class LedgerBusy(StorageError):
    """Another process holds the ledger's lock, and went on holding it; nothing was changed."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(path, f"the ledger is busy ({problem})", "try again in some seconds")


class LedgerDamaged(OnboardError):
    """The ledger cannot be read as it is."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path, self.problem = path, problem
        self.remedy = "a restart sets it aside and builds it again"
        super().__init__(f"{path}: the ledger cannot be used ({problem}); {self.remedy}")


class AlreadyRunning(OnboardError):
    """The data folder is taken."""

    exit_code = 2

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(f"another onboard works in {folder}; stop it, or set ONBOARD_DATA_DIR to another folder")


class InputError(OnboardError):
    """The caller's input has to change before another try can help."""

    exit_code = 2


class SceneRefused(InputError):
    """This raster cannot be mapped as it is."""

    def __init__(self, path: Path | str, problem: str, remedy: str) -> None:
        self.path, self.problem, self.remedy = path, problem, remedy
        super().__init__(f"{path}: {problem}; {remedy}")


class FolderUnusable(InputError):
    """The service cannot keep its files where it was told to."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        self.path, self.problem, self.remedy = path, problem, remedy
        super().__init__(f"{path} {problem}; {remedy}")


class OptionsRefused(InputError):
    """These options contradict each other or the model."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem, self.remedy = problem, remedy
        super().__init__(f"{problem}; {remedy}")
