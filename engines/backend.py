"""One record for each backend: how it is asked for its version, and how a model is opened on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engines.engine import Engine, EngineOptions
from engines.errors import BackendUnavailable
from engines.manifest import Manifest, Precision


@dataclass(frozen=True)
class BackendState:
    """A backend as it is on this machine: `version` where it loads, else `problem` says why not and what to do."""

    name: str
    version: str | None
    problem: str | None


@dataclass(frozen=True)
class Backend:
    """A runtime as users name it.

    Attributes:
        name: what `--backend` and a map's item call it.
        version: loads the runtime and returns its version; raises BackendUnavailable where it does not load.
        open: makes a model ready, from its manifest, its folder and the options; raises what `open_engine` documents.
        precision: of the arithmetic; None where the model file decides it.
        weights_in_process: the weights lie in this process's memory, where their pages can be watched.
    """

    name: str
    version: Callable[[], str]
    open: Callable[[Manifest, Path, EngineOptions], Engine]
    precision: Precision | None = None
    weights_in_process: bool = False

    def state(self) -> BackendState:
        """Loads the runtime to ask it."""
        try:
            return BackendState(self.name, self.version(), None)
        except BackendUnavailable as error:
            return BackendState(self.name, None, f"{error.problem}; {error.remedy}")
