"""Errors of the trainer.

TrainerError
├── SettingsRefused       correct the configuration
├── DataMissing           fetch the data set, or give its path
├── DataRefused           correct the file, or its description
├── CheckpointRefused     the checkpoint is of another model or run
├── CheckpointNotWritten  free disk space; the last good checkpoint is still there (also for record and pictures)
├── RunInterrupted        stopped by a signal; the same command resumes
└── ExportRefused         the exported file does not reproduce the network's output
"""

from __future__ import annotations

START_AFRESH = "give another run folder, or remove this one to start afresh"
"""Remedy where a run's own checkpoint cannot be loaded."""


# Exit codes: 2, what was given has to be corrected; 1, the work failed; 130, interrupted (128 + SIGINT).
class TrainerError(Exception):
    """Root of the package's errors. Each says what was given, what is required and what to do."""

    exit_code = 1


class SettingsRefused(TrainerError):
    """The configuration is invalid or contradicts itself."""

    exit_code = 2

    def __init__(self, source: str, problem: str) -> None:
        self.source = source
        self.problem = problem
        super().__init__(f"{source}: {problem}; correct the configuration")


class DataMissing(TrainerError):
    """A data set, or a scene of it, was not found."""

    exit_code = 2

    def __init__(
        self,
        path: object,
        problem: str,
        remedy: str = "set `data.root` or SHARED_DATA to the folder that holds the data sets",
    ) -> None:
        self.path = path
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{path}: {problem}; {remedy}")


class DataRefused(TrainerError):
    """A file of imagery or labels is not what it should be."""

    exit_code = 2

    def __init__(self, path: object, problem: str, remedy: str) -> None:
        self.path = path
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{path}: {problem}; {remedy}")


class CheckpointRefused(TrainerError):
    """The checkpoint cannot be loaded."""

    exit_code = 2

    def __init__(self, path: object, problem: str, remedy: str = START_AFRESH) -> None:
        self.path = path
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{path}: {problem}; {remedy}")


class CheckpointNotWritten(TrainerError):
    """The disk is full or failed while a run wrote its files."""

    def __init__(self, path: object, problem: str, then: str = ": it goes on from the last good checkpoint") -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path}: not written ({problem}); make room and give the same command{then}")


class RunInterrupted(TrainerError):
    """SIGINT or SIGTERM came between two steps."""

    exit_code = 130

    def __init__(self, run: object, step: int) -> None:
        self.run = run
        self.step = step
        super().__init__(f"{run}: stopped after step {step} and saved; the same command goes on")


class ExportRefused(TrainerError):
    """PyTorch and ONNX disagree, or the file is not what the engines accept."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"not exported: {problem}")
