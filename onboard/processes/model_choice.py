"""Which model the worker opens: the active one, or, for a scene under way, the one that began it.

Failures are counted against the active model; at the limit the ledger makes the last good one active, and the worker
opens that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from engines.engine import Engine
from engines.errors import AnswerChanged, ConstantsChanged, EngineError, EngineNotWritten, InferenceFailed
from engines.manifest import Manifest
from onboard.jobs.ledger import Ledger
from onboard.jobs.mapping_config import MappingConfig
from onboard.jobs.retarget import retarget_scene
from onboard.jobs.scene_store import SceneRow
from onboard.models.active import ActiveModel, active_model
from onboard.models.failures import count_failure
from onboard.models.under_way import model_under_way
from onboard.settings import Settings

log = logging.getLogger(__name__)
COLLAPSED_SHARE = 0.999
"""Share of a map's valid pixels in one class from which on a new model counts as collapsed."""


class ModelChoice:
    """One for the worker; used on the thread that drives the engine.

    Args:
        settings: of the service.
        ledger: a connection of this thread.
        open_engine: opens the model that the settings name.
    """

    def __init__(self, settings: Settings, ledger: Ledger, open_engine: Callable[[Settings], Engine]) -> None:
        self._settings, self._ledger, self._open_engine = settings, ledger, open_engine
        self._pinned: ActiveModel | None = None
        self._unable: set[str] = set()
        self.opened = ActiveModel()
        self._heads: tuple[str, ...] = ()
        self._opened_heads: tuple[str, ...] = ()
        self._opened_names: list[str] = []
        self._config: MappingConfig | None = None

    def open(self) -> Engine:
        """Opens the model whose turn it is.

        Raises:
            EngineError: it cannot be opened, or computes wrong.
        """
        self.opened = self._pinned or active_model(self._settings, self._ledger)
        self._config, self._opened_heads = None, self._heads
        settings = self.opened.settings_for(self._settings)
        if self._heads:
            settings = settings.model_copy(update={"heads": ",".join(self._heads)})
        engine = self._open_engine(settings)
        self._opened_names = _heads_of(engine.manifest)
        return engine

    def is_current(self) -> bool:
        """Whether what is open, model and heads, is still what maps; one query of the ledger, from memory."""
        wanted = self._pinned.id if self._pinned is not None else self._ledger.models.active_id() or ""
        return wanted == self.opened.id and self._heads == self._opened_heads

    def fits(self, scene: SceneRow) -> bool:
        """Whether the scene, whose turn it is, is mapped by what is open; else its model, or its heads, are chosen.

        A scene of another model or other options, and not begun, becomes one of the active model.
        """
        if self._config is None:
            self._config = MappingConfig.of(self._settings, self.opened.folder)
        wanted = self._config.asking(scene.heads)
        # The model is right. Its graph is joined of the heads that were asked for: other heads mean another opening.
        if (scene.model, scene.options) == (wanted.model, wanted.options):
            if _heads_of(wanted.manifest) == self._opened_names:
                return True
            self._heads = scene.heads
            return False
        # A scene with a canvas ends with the model that began it: tiles of two models must not meet in one map.
        owner = model_under_way(self._settings, self._ledger, scene)
        if owner is not None and owner.id not in self._unable | {self.opened.id}:
            is_active = owner.id == self._ledger.models.active_id()
            self._pinned = None if is_active else owner
            return False
        # An older model is open for scenes under way, and this scene is none of them: back to the active model first.
        if self._pinned is not None:
            self._pinned = None
            return False
        retarget_scene(self._ledger, scene, self._config)
        return False

    def failed(self, error: EngineError) -> bool:
        """Counts a failure of the model that is open; True where another one is to be opened now."""
        if self._pinned is not None:
            log.warning("a scene under way cannot end with the model that began it: %s", error)
            # No failure of the active model. Scenes that the pinned one began start anew with the active one.
            self._unable.add(self._pinned.id)
            self._pinned = None
            return True
        row = self._ledger.models.get(self.opened.id)
        if row is None or not _is_the_models(error, has_proved=row.has_proved):
            return False
        return count_failure(self._ledger, row, str(error), self._settings.max_model_failures)

    def mapped(self, shares: Mapping[str, Mapping[str, float]], scene_id: str) -> None:
        """A scene was mapped: the model has proved itself, or, where it is new and gave one class only, has not.

        Args:
            shares: by head, of the map's pixels by class; the rest of them holds no data. The head of a model of one
                graph is "".
            scene_id: of the scene.
        """
        row = self._ledger.models.get(self.opened.id)
        # The usual case, after every scene: nothing to write.
        if row is None or (row.has_proved and not row.failures):
            return
        if not any(sum(classes.values()) for classes in shares.values()):
            return  # it says nothing of the model
        collapsed = next((head for head, classes in shares.items() if _is_one_class(classes)), None)
        if not row.has_proved and collapsed is not None:
            by = f" by its head {collapsed}" if collapsed else ""
            problem = f"it mapped {scene_id} as one class{by}"
            count_failure(self._ledger, row, problem, self._settings.max_model_failures)
        else:
            self._ledger.models.prove(row.id)


def _is_one_class(shares: Mapping[str, float]) -> bool:
    """Whether a head that has several classes gave one alone."""
    return len(shares) > 1 and max(shares.values()) >= COLLAPSED_SHARE * sum(shares.values())


def _heads_of(manifest: Manifest) -> list[str]:
    return [head.name for head in manifest.opened_heads]


def _is_the_models(error: EngineError, *, has_proved: bool) -> bool:
    """Whether the model may be to blame, rather than a flipped bit or a device that was lost for a while."""
    # It computed right at its opening: what changed since is the memory, not the model. A disk that takes no engine
    # takes none of any model.
    if isinstance(error, (AnswerChanged, ConstantsChanged, EngineNotWritten)):
        return False
    return not (has_proved and isinstance(error, InferenceFailed) and error.retryable)
