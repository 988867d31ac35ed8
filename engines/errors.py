"""Errors of opening and running a model; each class tells the caller what to do next.

EngineError                 an internal failure (exit code 1)
├── InferenceFailed         retry if `retryable`, else open the engine again or stop
├── GoldenFailed            never put this engine into service; open another backend or model
│   └── FamiliarityFailed   likewise
├── AnswerChanged           close the engine, open it again, run its last tiles again
├── ConstantsChanged        likewise: its memory has changed
├── AcceptanceFailed        take another precision: this one failed its test on labelled data
├── BuildFailed             read the log; take another backend
├── TilesRefused            a fault in the calling code: correct its tiles
└── OpeningRefused          nothing was opened (exit code 2)
    ├── ModelNotFound       name an existing model
    ├── ManifestError       correct the manifest
    ├── ModelMismatch       model file and manifest do not belong together: deliver both again
    ├── EngineElsewhere     build the engine for this device, TensorRT and model
    ├── EngineDamaged       build the engine again
    ├── EngineNotWritten    free space, or name a folder that can be written
    ├── BackendUnavailable  install the runtime, or take another backend
    ├── SettingRefused      correct the option
    └── HeadsRefused        name heads that the model has
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class EngineError(Exception):
    """Root of this package's errors; `exit_code` is what a command line answers with."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors are pickled from a worker process to its supervisor; the constructors' arguments are not kept, so the
        # attributes are restored instead.
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(kind: type[EngineError], args: tuple[Any, ...], facts: dict[str, Any]) -> EngineError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(facts)
    return error


class InferenceFailed(EngineError):
    """The runtime failed on valid tiles.

    Attributes:
        retryable: True where the same call on the same engine may succeed later (memory was short), False where it
            will not (the engine is closed, or the graph itself fails).
    """

    def __init__(self, backend: str, problem: str, *, retryable: bool) -> None:
        self.backend, self.problem, self.retryable = backend, problem, retryable
        advice = "another try may help" if retryable else "the same call will fail again; open the engine anew"
        super().__init__(f"{backend}: {problem}; {advice}")


class GoldenFailed(EngineError):
    """The engine does not reproduce the reference's class map of the golden tile."""

    def __init__(self, backend: str, precision: str, *, agreement: float, required: float) -> None:
        self.backend, self.precision, self.agreement, self.required = backend, precision, agreement, required
        super().__init__(
            f"{backend} {precision}: agrees with the reference on {agreement:.4%} of the golden tile's pixels, "
            f"{required:.4%} required; use another backend or precision for this model"
        )


class FamiliarityFailed(GoldenFailed):
    """The engine's familiarity of the golden tile differs too much from the reference's."""

    def __init__(self, backend: str, precision: str, *, given: float, required: float, most_ratio: float) -> None:
        self.backend, self.precision, self.given, self.required = backend, precision, given, required
        # Not by super(): GoldenFailed speaks of pixels.
        EngineError.__init__(
            self,
            f"{backend} {precision}: familiarity of the golden tile is {given:.4g}, {required:.4g} within a factor of "
            f"{most_ratio:g} required; use another backend or precision for this model",
        )


class AnswerChanged(EngineError):
    """The engine's output for the check tile differs from its output when it was opened."""

    def __init__(self, backend: str, precision: str, *, differing: int) -> None:
        self.backend, self.precision, self.differing = backend, precision, differing
        part = f"{differing} pixels of the check tile" if differing else "confidence or familiarity of the check tile"
        super().__init__(f"{backend} {precision}: {part} changed since the engine was opened")


class ConstantsChanged(EngineError):
    """Constant memory of the engine changed: in `pages` pages, `flips` of them by one bit."""

    def __init__(self, backend: str, *, pages: int, flips: int) -> None:
        self.backend, self.pages, self.flips = backend, pages, flips
        super().__init__(f"{backend}: {pages} pages of its constants changed in memory, {flips} of them by one bit")


class AcceptanceFailed(EngineError):
    """A precision that loses more mIoU on labelled data than is accepted."""

    def __init__(self, backend: str, precision: str, *, data: str, loss: float, most_loss: float) -> None:
        self.backend, self.precision, self.loss, self.most_loss = backend, precision, loss, most_loss
        super().__init__(
            f"{backend} {precision}: loses {100 * loss:.2f} points of mIoU on {data}, "
            f"{100 * most_loss:.2f} allowed; use another precision of this model"
        )


class BuildFailed(EngineError):
    """TensorRT could not build an engine of the model; its messages are in the log."""

    def __init__(self, model: str, problem: str, log: Path) -> None:
        self.model, self.problem, self.log = model, problem, log
        super().__init__(f"{model}: {problem}; the build's log is {log}")


class TilesRefused(EngineError):
    """Tiles of a wrong shape, type or number."""

    def __init__(self, given: str, required: str) -> None:
        self.given, self.required = given, required
        super().__init__(f"tiles are {given}; give {required}")


class OpeningRefused(EngineError):
    """Nothing was opened; a retry needs another input."""

    exit_code = 2


class ModelNotFound(OpeningRefused):
    """There is no model of that name or path."""

    def __init__(self, model: str | Path, problem: str, remedy: str) -> None:
        self.model, self.problem, self.remedy = model, problem, remedy
        super().__init__(f"{model}: {problem}; {remedy}")


class ManifestError(OpeningRefused):
    """A manifest that cannot be read or contradicts itself; `key` is a dotted path, empty for the file as a whole."""

    def __init__(self, path: Path, key: str, problem: str, remedy: str) -> None:
        self.path, self.key, self.problem, self.remedy = path, key, problem, remedy
        super().__init__(f"{path}: {key + ': ' if key else ''}{problem}; {remedy}")


class ModelMismatch(OpeningRefused):
    """A file in the model's folder is not the one its manifest describes."""

    def __init__(self, path: Path, subject: str, *, given: str, required: str) -> None:
        self.path, self.subject, self.given, self.required = path, subject, given, required
        super().__init__(
            f"{path}: {subject} is {given}, the manifest says {required}; "
            "copy model file and manifest again from one release, both together"
        )


class EngineElsewhere(OpeningRefused):
    """An engine that was built for another device, TensorRT or model."""

    def __init__(self, path: Path, differences: list[str], command: str) -> None:
        self.path, self.differences, self.command = path, differences, command
        super().__init__(f"{path}: {'; '.join(differences)}; build the right one with `{command}`")


class EngineDamaged(OpeningRefused):
    """A built engine has changed since it was built; the model it was built from may be intact."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path}: {problem}; `engines build` makes it anew, or remove it")


class EngineNotWritten(OpeningRefused):
    """A built engine, or what goes beside it, cannot be written; the model is not to blame."""

    def __init__(self, folder: Path, problem: str) -> None:
        self.folder, self.problem = folder, problem
        super().__init__(
            f"{folder}: the engine cannot be written there ({problem}); free space, or name a folder that can be "
            "written (engines build --out; without it ENGINES_CACHE_DIR)"
        )


class BackendUnavailable(OpeningRefused):
    """The runtime is not installed here, does not load, or cannot run this model."""

    def __init__(self, backend: str, problem: str, remedy: str) -> None:
        self.backend, self.problem, self.remedy = backend, problem, remedy
        super().__init__(f"{backend}: {problem}; {remedy}")


class SettingRefused(OpeningRefused):
    """An option has a value that is not allowed."""

    def __init__(self, setting: str, given: object, required: str) -> None:
        self.setting, self.given, self.required = setting, given, required
        super().__init__(f"{setting} is {given}; give {required}")


class HeadsRefused(OpeningRefused):
    """A head that was asked for is none of the model's, or it was named twice."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem, self.remedy = problem, remedy
        super().__init__(f"{problem}; {remedy}")


def one_line(error: BaseException) -> str:
    """Message of a library's error on one line, cut to 300 characters: theirs may have many lines."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
