"""Shadow mode: a verified model maps a share of the tiles beside the active one, and the ground reads how they agree.

Tiles go to a process of the candidate's, and only while that one has nothing to do: mapping never waits for it. What it
takes of power and heat the governor sees between batches, as everything else.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from engines.engine import Engine, HeadPrediction, Prediction, Tiles
from engines.errors import EngineError
from engines.manifest import Manifest
from engines.selection import choice_of, note_choice
from engines.wrapped import WrappedEngine
from onboard.jobs.ledger import Ledger
from onboard.jobs.model_store import ModelRow
from onboard.models.activation import activate
from onboard.models.active import folder_of
from onboard.models.class_tables import manifest_of
from onboard.models.errors import ModelRefused
from onboard.models.shadow_figures import Comparison, add_answer, with_shares, words_of
from onboard.models.shadow_process import ShadowRequest
from onboard.settings import Settings

log = logging.getLogger(__name__)
COMMAND = [sys.executable, "-m", "onboard.models.shadow_process"]
LAST_ANSWER_S = 60.0
"""Longest wait, after a scene, for the answer to its last tiles."""


class ShadowedEngine(WrappedEngine):
    """Gives the answers of an engine, and shows a share of them to a candidate.

    Args:
        engine: whose answers count.
        candidate: takes tiles with these answers.
        comparison: which of its heads are compared with which of the engine's.
        share: of the calls, 0..1.
    """

    def __init__(self, engine: Engine, candidate: Candidate, comparison: Comparison, share: float) -> None:
        super().__init__(engine)
        note_choice(self, choice_of(engine))  # the map's item says how the backend was chosen, shadow or not
        self._candidate, self._comparison = candidate, comparison
        self._share, self._due = share, 0.0
        self._names = [head.name for head in engine.manifest.opened_heads] or [""]

    def infer(self, tiles: Tiles) -> Prediction:
        """See Engine."""
        prediction = self._engine.infer(tiles)
        self._due += self._share
        # A function, so that tiles are copied only where the candidate takes them.
        if self._due >= 1 and self._candidate.offer(lambda: self._request(tiles, prediction)):
            self._due -= 1
        # A slow candidate does not catch up later by a burst of tiles.
        self._due = min(self._due, 2.0)
        return prediction

    def _request(self, tiles: Tiles, prediction: Prediction) -> ShadowRequest:
        """Copies: whoever asked for the prediction may change it meanwhile."""
        heads = dict(zip(self._names, prediction.heads, strict=True))
        answers = {own: _copy(heads[active]) for own, active in self._comparison.pairs.items()}
        return ShadowRequest(tiles.copy(), answers, self._comparison.new)


def _copy(head: HeadPrediction) -> HeadPrediction:
    return HeadPrediction(head.classes.copy(), None if head.confidence is None else head.confidence.copy())


class Candidate:
    """The process of one candidate, and the thread that feeds it.

    Args:
        row: the candidate.
        folder: of its files.

    Attributes:
        failure: why it failed; empty while it has not.
        skipped: tiles of this scene that it was shown and does not take.
    """

    def __init__(self, row: ModelRow, folder: str) -> None:
        self.row, self.failure, self.skipped = row, "", 0
        self.sums: dict[str, Any] = {}
        # One request at a time: more would be copies of tiles in memory.
        self._work: queue.Queue[ShadowRequest | None] = queue.Queue(1)
        self._is_idle = threading.Event()
        self._is_idle.set()
        self._process = subprocess.Popen(
            [*COMMAND, str(os.getpid()), folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._feed, name="shadow", daemon=True)
        self._thread.start()

    def offer(self, request: Callable[[], ShadowRequest]) -> bool:
        """Takes a request if it has nothing to do; False if it has, or has failed."""
        if self.failure or not self._is_idle.is_set():
            return False
        self._is_idle.clear()
        self._work.put(request())
        return True

    def settle(self) -> dict[str, Any]:
        """Waits for its last answer; returns and clears what was summed up."""
        if not self.failure and not self._is_idle.wait(LAST_ANSWER_S):
            self.failure = f"it did not answer for {LAST_ANSWER_S:g} s"
        # Idle, or failed: the feeding thread adds nothing to the sums until the next offer.
        sums, self.sums = self.sums, {}
        return sums

    def close(self) -> None:
        """Ends process and thread."""
        self._process.kill()  # ends the thread's reading, too
        # The thread waits for work, or at the pipe that the kill has closed: one of the two wakes it.
        with suppress(queue.Full):
            self._work.put_nowait(None)
        self._thread.join()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not written is of no use
                    pipe.close()

    def _feed(self) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101 -- asked for
        assert stdout is not None  # noqa: S101
        while (work := self._work.get()) is not None:
            try:
                # A candidate that crashes closes its pipes: writing raises OSError, reading gives an empty line.
                work.write(stdin)  # type: ignore[arg-type]
                answer = json.loads(stdout.readline() or b'{"failed": "its process ended"}')
            except (OSError, ValueError) as error:
                answer = {"failed": f"its process ended ({error})"}
            if "failed" in answer:
                self.failure = str(answer["failed"])
            elif "skipped" in answer:  # tiles of a shape that only the active model takes
                self.skipped += answer["skipped"]
            else:
                add_answer(self.sums, answer)
            # After `failure` is noted: whoever waits in `settle` looks at it next.
            self._is_idle.set()
            if self.failure:
                return


class Shadow:
    """Chooses the candidate, and keeps its figures; used on the worker's thread.

    Args:
        settings: of the service.
        ledger: a connection of this thread.
    """

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings, self._ledger = settings, ledger
        self._candidate: Candidate | None = None

    def beside(self, engine: Engine) -> Engine:
        """The engine for one scene: with a shadow where a verified model waits for it."""
        chosen = self._next(engine.manifest) if self._settings.shadow_scenes else None
        # Another candidate's turn, or none's: a process that is not needed must not hold its engine's memory.
        if self._candidate is not None and (chosen is None or chosen[0].id != self._candidate.row.id):
            self.close()
        if chosen is None:
            return engine
        row, comparison = chosen
        if self._candidate is None:
            self._candidate = Candidate(row, str(folder_of(self._settings, row)))
        return ShadowedEngine(engine, self._candidate, comparison, self._settings.shadow_share)

    def end_scene(self, scene_id: str) -> None:
        """A scene was mapped: its figures are kept, and the candidate is activated where the rule says so."""
        candidate = self._candidate
        if candidate is None:
            return
        sums = candidate.settle()
        if candidate.failure:
            self._refuse(candidate)
        elif sums:
            self._keep(candidate.row.id, sums, scene_id)
        elif candidate.skipped:
            # Else nobody would learn why a shadow comes to no end.
            text = f"{candidate.row.title}: no tile of {scene_id} has a size that it takes; the scene does not count"
            self._ledger.events.log("info", "model-shadowed", text)
        candidate.skipped = 0

    def close(self) -> None:
        """Ends the candidate's process."""
        if self._candidate is not None:
            self._candidate.close()
            self._candidate = None

    def _next(self, active: Manifest) -> tuple[ModelRow, Comparison] | None:
        """The first verified model whose shadow is not over, and of which a head can be compared with an open one."""
        for row in self._ledger.models.in_state("verified"):
            if row.figures.get("shadow", {}).get("scenes", 0) >= self._settings.shadow_scenes:
                continue
            try:
                comparison = Comparison.of(manifest_of(self._settings, row), active)
            except EngineError as error:
                log.warning("%s is no shadow: %s", row.title, error)
                continue
            if comparison is not None:
                return row, comparison
        return None

    def _refuse(self, candidate: Candidate) -> None:
        reason = f"it failed beside the active model: {candidate.failure}"
        if self._ledger.models.refuse(candidate.row.id, reason):
            self._ledger.events.log("error", "model-refused", f"{candidate.row.title}: {reason}")
        self.close()

    def _keep(self, model_id: str, sums: dict[str, Any], scene_id: str) -> None:
        row = self._ledger.models.get(model_id)
        if row is None:
            return
        total = dict(row.figures.get("shadow", {}))
        add_answer(total, sums)
        total = with_shares(total | {"scenes": total.get("scenes", 0) + 1})
        self._ledger.models.add_figures(model_id, {"shadow": total})
        text = f"{row.title}, {sums['tiles']} tiles of {scene_id}: {words_of(with_shares(sums))}"
        self._ledger.events.log("info", "model-shadowed", text)
        least, is_over = self._settings.shadow_activate_agreement, total["scenes"] >= self._settings.shadow_scenes
        if is_over:
            self.close()
        if is_over and least is not None and total["agreement"] >= least:
            rule = f"its agreement of {total['agreement']:.2%} is at least ONBOARD_SHADOW_ACTIVATE_AGREEMENT"
            self._activate(row, rule)

    def _activate(self, row: ModelRow, rule: str) -> None:
        try:
            is_activated = activate(self._settings, self._ledger, row, rule)
        except ModelRefused as error:
            self._ledger.events.log(
                "warning", "model-waits", f"{row.title} is not activated by the rule: {error.advice}"
            )
            return
        if is_activated:
            self._ledger.events.log("warning", "model-activated", f"{row.title}: {rule}")
