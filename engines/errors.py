"""What goes wrong when a model is opened or run, split by what the caller does next.

EngineError                 a failure of ours (exit code 1)
├── InferenceFailed         retry if `retryable`, else open the engine again or stop
├── GoldenFailed            never put this engine into service; open another backend or model
│   └── FamiliarityFailed   likewise
├── AnswerChanged           close the engine, open it again, do its last tiles again
├── ConstantsChanged        likewise: its memory is not what it was
├── AcceptanceFailed        take another precision: labelled data have shown it
├── BuildFailed             read the log; take another backend
├── TilesRefused            a fault in the calling code: mend the tiles it makes
└── OpeningRefused          nothing was opened (exit code 2)
    ├── ModelNotFound       name a model that is there
    ├── ManifestError       mend the manifest
    ├── ModelMismatch       model file and manifest do not belong together: deliver both again
    ├── EngineElsewhere     build the engine for this device, TensorRT and model
    ├── EngineDamaged       build the engine anew
    ├── BackendUnavailable  install the runtime, or take another backend
    └── SettingRefused      mend the option
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engines.manifest import Acceptance


class EngineError(Exception):
    """Root of this package's errors; `exit_code` is what a command line answers with."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross from a worker process to its supervisor: rebuilt from their facts, not by their constructor.
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(kind: type[EngineError], args: tuple[Any, ...], facts: dict[str, Any]) -> EngineError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(facts)
    return error


class InferenceFailed(EngineError):
    """The runtime failed on tiles that were in order.

    Attributes:
        retryable: True where the same call on the same engine may work later (memory was short), False where it
            will not (the engine is closed, the graph itself fails).
    """

    def __init__(self, backend: str, problem: str, *, retryable: bool) -> None:
        self.backend, self.problem, self.retryable = backend, problem, retryable
        advice = "another try may help" if retryable else "the same call will fail again; open the engine anew"
        super().__init__(f"{backend}: {problem}; {advice}")


class GoldenFailed(EngineError):
    """The engine does not repeat the reference's class map of the golden tile."""

    def __init__(self, backend: str, precision: str, *, agreement: float, required: float) -> None:
        self.backend, self.precision, self.agreement, self.required = backend, precision, agreement, required
        super().__init__(
            f"{backend} {precision}: agrees with the reference on {agreement:.4%} of the golden tile's pixels, "
            f"{required:.4%} required; use another backend or precision for this model"
        )


class FamiliarityFailed(GoldenFailed):
    """The engine's figure for how familiar the golden tile is strays too far from the reference's."""

    def __init__(self, backend: str, precision: str, *, given: float, required: float, most_ratio: float) -> None:
        self.backend, self.precision, self.given, self.required = backend, precision, given, required
        EngineError.__init__(
            self,
            f"{backend} {precision}: familiarity of the golden tile is {given:.4g}, {required:.4g} within a factor of "
            f"{most_ratio:g} required; use another backend or precision for this model",
        )


class AnswerChanged(EngineError):
    """The engine does not say what it said at its opening, of the same tile."""

    def __init__(self, backend: str, precision: str, *, differing: int) -> None:
        self.backend, self.precision, self.differing = backend, precision, differing
        what = f"{differing} pixels of the check tile" if differing else "confidence or familiarity of the check tile"
        super().__init__(f"{backend} {precision}: {what} changed since the engine was opened")


class ConstantsChanged(EngineError):
    """Memory of the engine that held still since its opening has changed; `pages` have, `flips` of them by one bit."""

    def __init__(self, backend: str, *, pages: int, flips: int) -> None:
        self.backend, self.pages, self.flips = backend, pages, flips
        super().__init__(f"{backend}: {pages} pages of its constants changed in memory, {flips} of them by one bit")


class AcceptanceFailed(EngineError):
    """A precision that cost more accuracy on labelled data than is allowed."""

    def __init__(self, backend: str, found: Acceptance) -> None:
        self.backend, self.precision = backend, str(found.precision)
        self.loss, self.most_loss = found.miou_reference - found.miou, found.most_loss
        super().__init__(
            f"{backend} {found.precision}: loses {100 * self.loss:.2f} points of mIoU on {found.data}, "
            f"{100 * found.most_loss:.2f} allowed; use another precision of this model"
        )


class BuildFailed(EngineError):
    """TensorRT took the model and made no engine of it; its own words are in the log."""

    def __init__(self, model: str, problem: str, log: Path) -> None:
        self.model, self.problem, self.log = model, problem, log
        super().__init__(f"{model}: {problem}; the build's log is {log}")


class TilesRefused(EngineError):
    """Tiles of a shape, type or number that the engine does not take."""

    def __init__(self, given: str, required: str) -> None:
        self.given, self.required = given, required
        super().__init__(f"tiles are {given}; give {required}")


class OpeningRefused(EngineError):
    """Nothing was opened; another try needs another input."""

    exit_code = 2


class ModelNotFound(OpeningRefused):
    """There is no model of that name or at that place."""

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

    def __init__(self, path: Path, what: str, *, given: str, required: str) -> None:
        self.path, self.what, self.given, self.required = path, what, given, required
        super().__init__(
            f"{path}: {what} is {given}, the manifest says {required}; "
            "copy model file and manifest again from one release, both together"
        )


class EngineElsewhere(OpeningRefused):
    """An engine that was built for another device, TensorRT or model."""

    def __init__(self, path: Path, differences: list[str], command: str) -> None:
        self.path, self.differences, self.command = path, differences, command
        super().__init__(f"{path}: {'; '.join(differences)}; build the right one with `{command}`")


class EngineDamaged(OpeningRefused):
    """A built engine is not as it was built. The model it was built of may be in order."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path}: {problem}; `engines build` makes it anew, or remove it")


class BackendUnavailable(OpeningRefused):
    """The runtime is not installed here, does not load, or cannot run this model."""

    def __init__(self, backend: str, problem: str, remedy: str) -> None:
        self.backend, self.problem, self.remedy = backend, problem, remedy
        super().__init__(f"{backend}: {problem}; {remedy}")


class SettingRefused(OpeningRefused):
    """An option with a value that no engine can have."""

    def __init__(self, setting: str, given: object, required: str) -> None:
        self.setting, self.given, self.required = setting, given, required
        super().__init__(f"{setting} is {given}; give {required}")


def one_line(error: BaseException) -> str:
    """A vendor's error on one line, its first words: their texts run over many."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
