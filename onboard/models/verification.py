"""Verification of a received model, before anything of it may fly.

In this order: digests of its files as they lie on the disk, its manifest, the class tables of its heads beside those of
models that map, and then a probe process that opens it as the worker will, holds every head to its golden answer and
measures it. Models that fail are refused, with the reason.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onboard.errors import OnboardError
from onboard.jobs.ledger import Ledger
from onboard.jobs.model_store import ModelRow
from onboard.models.checks import check_files, checked_manifest
from onboard.models.class_tables import check_class_tables
from onboard.models.errors import ModelRefused
from onboard.models.model_files import ModelFiles
from onboard.settings import Settings

log = logging.getLogger(__name__)
MOST_CHECKS = 3
"""Verifications of one model that begin and do not end, since the machine or the service went down, before it goes."""
# A limit of address space would refuse runtimes that reserve more than they use: resident memory is looked at instead
# (docs/decisions/0015).
LOOK_S = 0.1
PROBE = [sys.executable, "-m", "onboard.models.probe"]
_MOST_VERDICT = 1 << 16


class Verification:
    """Verifies received models, one after the other, in one thread of the API process.

    Args:
        settings: of the service.
        ledger: gives this thread's connection.
        files: the folder of models.
        erase: removes the files of a model that was refused.
        command: of the probe.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Callable[[], Ledger],
        files: ModelFiles,
        erase: Callable[[ModelRow], None],
        command: list[str] | None = None,
    ) -> None:
        self._settings, self._ledger, self._files, self._erase = settings, ledger, files, erase
        self._command = command or PROBE

    def run(self, wake: threading.Event, ended: Callable[[], bool]) -> None:
        """Until ``ended``; looks when it is woken, and every other second."""
        while not ended():
            try:
                for row in self._ledger().models.in_state("received"):
                    self.verify(row)
                for row in self._ledger().models.in_state("refused"):  # by the worker, which erases nothing here
                    if self._files.unit(row.id).is_dir():
                        self._erase(row)
            except OnboardError as error:
                log.warning("verification of models waits: %s", error)
            # The thread has to live on: it is the only one that verifies.
            except Exception:
                log.exception("verification of models failed; it is tried again")
            wake.wait(2.0)
            wake.clear()

    def verify(self, row: ModelRow) -> bool:
        """Verifies one model: it is verified or refused afterwards."""
        ledger = self._ledger()
        # Counted before a file is opened: a model that takes the machine down leaves its count behind.
        begun = ledger.models.begin_check(row.id)
        try:
            if begun > MOST_CHECKS:
                problem = f"{MOST_CHECKS} verifications of it began and did not end: it may bring the machine down"
                raise ModelRefused(problem, "see the log, and push another")
            folder = self._files.unit(row.id)
            # What is cheap and needs no runtime comes first.
            check_files(folder, row.files)
            manifest = checked_manifest(folder, row.name, row.version, row.files)
            check_class_tables(self._settings, ledger, row, manifest)
            figures = self._probe(folder)
            self._check_figures(figures)
        except ModelRefused as error:
            if ledger.models.refuse(row.id, error.advice):
                ledger.events.log("error", "model-refused", f"{row.title}: {error.advice}")
                self._erase(row)
            return False
        reason = _summary(figures)
        if ledger.models.verify(row.id, reason, figures):
            ledger.events.log("info", "model-verified", f"{row.title}: {reason}")
        return True

    def _check_figures(self, figures: dict[str, Any]) -> None:
        settings = self._settings
        for head, codes in figures["unknown_codes"].items():
            what = f"its head {head}" if head else "it"
            raise ModelRefused(f"{what} gives codes {codes} that are no class", "export it again")
        memory, most = figures["memory_bytes"], settings.max_model_memory_bytes
        if memory > most:
            problem = f"it takes {memory / 1e6:,.0f} MB, {most / 1e6:,.0f} are allowed"
            raise ModelRefused(problem, "export a smaller one, or raise ONBOARD_MAX_MODEL_MEMORY_BYTES")
        if figures["tile_s"] * settings.min_model_tiles_per_s > 1:
            problem = f"it does {1 / figures['tile_s']:.2f} tiles/s, {settings.min_model_tiles_per_s:g} are needed"
            raise ModelRefused(problem, "export a faster one, or lower ONBOARD_MIN_MODEL_TILES_PER_S")

    def _probe(self, folder: Path) -> dict[str, Any]:
        """Figures of the probe process.

        Raises:
            ModelRefused: the model was refused there, or the process died, took too long or too much memory.
        """
        process = subprocess.Popen(
            [*self._command, str(os.getpid()), str(folder)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            raw = self._watched(process)
        finally:
            # Also after an error of ours: no probe outlives its verification.
            if process.poll() is None:
                process.kill()
            process.communicate()
        if process.returncode or not raw.endswith(b"\n"):
            code = process.returncode
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise ModelRefused(f"the probe that opened it died ({how})", "the runtime aboard cannot take it")
        # The last line: a runtime may write to standard output as well.
        verdict: dict[str, Any] = json.loads(raw.splitlines()[-1])
        if "refused" in verdict:
            raise ModelRefused(str(verdict["refused"]), "export it again, or push another")
        figures: dict[str, Any] = verdict["figures"]
        return figures

    def _watched(self, process: subprocess.Popen[bytes]) -> bytes:
        """What the probe writes, until it ends; killed where it goes beyond a limit."""
        assert process.stdout is not None  # noqa: S101 -- asked for
        end, raw = time.monotonic() + self._settings.max_model_check_s, b""
        while True:
            if time.monotonic() >= end:
                process.kill()
                raise ModelRefused(
                    f"its verification took over {self._settings.max_model_check_s:g} s",
                    "raise ONBOARD_MAX_MODEL_CHECK_S",
                )
            if _memory_of(process.pid) > self._settings.max_model_memory_bytes:
                process.kill()
                raise ModelRefused(
                    f"it took over {self._settings.max_model_memory_bytes / 1e6:,.0f} MB while it was opened",
                    "export a smaller one, or raise ONBOARD_MAX_MODEL_MEMORY_BYTES",
                )
            if select.select([process.stdout], [], [], LOOK_S)[0]:
                chunk = os.read(process.stdout.fileno(), _MOST_VERDICT)
                if not chunk:
                    process.wait(5)
                    return raw
                # Bounded: a runtime, or a model's author, may have it write without end.
                raw = (raw + chunk)[-_MOST_VERDICT:]


def _memory_of(pid: int) -> int:
    """Bytes of a process that are in memory, 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _summary(figures: dict[str, Any]) -> str:
    rate, memory = 1 / max(figures["tile_s"], 1e-9), figures["memory_bytes"] / 1e6
    agreement = figures["golden_agreement"]
    opens = f"opens on {figures['backend']} {figures['precision']}"
    if names := [name for name in figures.get("heads", {}) if name]:
        opens += f" with {'head' if len(names) == 1 else 'heads'} {', '.join(names)}"
    return f"{opens}, golden agreement {agreement:.4%}, {rate:.2f} tiles/s, {memory:.0f} MB"
