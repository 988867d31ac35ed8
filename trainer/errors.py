"""What can go wrong on the ground.

TrainerError
├── SettingsRefused    mend the configuration
├── DataMissing        fetch the data set, or point at it
├── DataRefused        mend the file, or what describes it
├── CheckpointRefused  the checkpoint is of another model or run
├── CheckpointNotWritten  make room; the last good checkpoint is still there (also of a run's record and pictures)
├── RunInterrupted     told to stop; the same command goes on
└── ExportRefused      the exported file does not say what the network says
"""

from __future__ import annotations

START_AFRESH = "give another run folder, or remove this one to start afresh"
"""What to do where a run's own checkpoint cannot be taken up."""


class TrainerError(Exception):
    """Root of the package's errors. Each says what was given, what is required and what to do."""

    exit_code = 1


class SettingsRefused(TrainerError):
    """The configuration does not hold together."""

    exit_code = 2

    def __init__(self, source: str, problem: str) -> None:
        self.source = source
        self.problem = problem
        super().__init__(f"{source}: {problem}; mend the configuration")


class DataMissing(TrainerError):
    """A data set, or a scene of it, is not where it was looked for."""

    exit_code = 2

    def __init__(
        self,
        path: object,
        what: str,
        remedy: str = "set `data.root` or SHARED_DATA to the folder that holds the data sets",
    ) -> None:
        self.path = path
        self.what = what
        self.remedy = remedy
        super().__init__(f"{path}: {what}; {remedy}")


class DataRefused(TrainerError):
    """A file of imagery or labels is not what it should be."""

    exit_code = 2

    def __init__(self, path: object, problem: str, remedy: str) -> None:
        self.path = path
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{path}: {problem}; {remedy}")


class CheckpointRefused(TrainerError):
    """The checkpoint cannot be taken up."""

    exit_code = 2

    def __init__(self, path: object, problem: str, remedy: str = START_AFRESH) -> None:
        self.path = path
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{path}: {problem}; {remedy}")


class CheckpointNotWritten(TrainerError):
    """No room for what a run writes, or the disk failed."""

    def __init__(self, path: object, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(
            f"{path}: not written ({problem}); make room and give the same command: it goes on from the last good "
            "checkpoint"
        )


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
