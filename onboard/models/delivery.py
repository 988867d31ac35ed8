"""Takes models in: signed metadata first, then the files that it names, each by its digest and in any number of pieces.

Nothing is kept that a signed list does not name with its digest and size. A file is whole when its digest is right; a
model is received when all of its files are whole.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from onboard.errors import StorageError
from onboard.files import sha256_file
from onboard.jobs.ledger import Ledger
from onboard.jobs.model_store import ModelRow
from onboard.models.difference import XZ
from onboard.models.errors import ListRefused
from onboard.models.model_files import ModelFiles
from onboard.models.shipped import AboardFile, files_aboard
from onboard.models.signed_list import SignedModel
from onboard.models.trust import Trust
from onboard.settings import Settings

MOST_DIFFERENCES = 4
"""Of one file, on their way at the same time."""
APPLY_S = 900.0
"""Longest time in which a file is made of a difference."""
SILENT_S = 3.0
"""An upload that brought nothing for so long may be taken over: its link is cut, and nobody has noticed yet."""


class FileRefused(Exception):
    """Bytes that are not taken; the message says why."""


class NotWanted(FileRefused):
    """No signed list names this file, or it is whole already."""


class WrongStart(FileRefused):
    """The bytes do not begin where those that are here end; ``held`` is where that is."""

    def __init__(self, held: int) -> None:
        self.held = held
        super().__init__(f"{held:,} bytes of it are here: send from there on")


class Taken(FileRefused):
    """Another upload of the same file is under way."""


class WrongDigest(FileRefused):
    """A file or a difference came whole, and its bytes are others than those that were promised."""

    def __init__(self, sha256: str, digest: str) -> None:
        self.sha256, self.digest = sha256, digest
        super().__init__(f"its bytes have SHA-256 {digest}, promised was {sha256}: it was erased, send it again")


@dataclass
class _Upload:
    """An upload under way; ``number`` tells it from one that took its place."""

    number: int
    heard: float


class ModelDelivery:
    """One for the API process; any thread may call.

    Args:
        settings: of the service.
        trust: whose signatures count.
        ledger: gives the calling thread's connection.
        files: the folder of models.
    """

    def __init__(self, settings: Settings, trust: Trust, ledger: Callable[[], Ledger], files: ModelFiles) -> None:
        self.settings, self.trust, self.files, self._ledger = settings, trust, files, ledger
        # Requests come in threads of a pool, and the verification has one of its own: metadata, parts and folders
        # change under this lock.
        self.lock = threading.RLock()
        # In memory: after a restart no upload is under way, and the next one begins where the part on the disk ends.
        self._uploads: dict[str, _Upload] = {}
        self._number = 0
        self._aboard: dict[str, AboardFile] | None = None
        self.wake = threading.Event()

    # Metadata

    def take_root(self, raw: bytes) -> int:
        """Takes the next root of trust; returns its version.

        Raises:
            ListRefused, StorageError: see :meth:`Trust.take_root`.
        """
        with self.lock:
            try:
                is_new = self.trust.take_root(raw)
            except ListRefused as error:
                self._log("warning", "root-refused", str(error))
                raise
            if is_new:
                self._log("warning", "root-taken", f"root of trust version {self.trust.root_version}")
            return self.trust.root_version

    def take_list(self, raw: bytes) -> int:
        """Takes a signed list and awaits the files of its models; returns its version.

        Raises:
            ListRefused, StorageError: see :meth:`Trust.take_list`.
        """
        with self.lock:
            before = self.trust.list_version()
            try:
                models = self.trust.take_list(raw)
            except ListRefused as error:
                self._log("warning", "list-refused", str(error))
                raise
            version = self.trust.list_version()
            if version != before:
                self._log("info", "list-taken", f"list version {version} names {len(models)} models")
            self._await(models, version)
            self._withdraw({model.id for model in models}, version)
            return version

    def _await(self, models: list[SignedModel], version: int) -> None:
        store = self._ledger().models
        for model in models:
            files = {name: {"sha256": file.sha256, "bytes": file.bytes} for name, file in model.files.items()}
            if store.name_signed(model.id, model.name, model.version, files, version):
                self._log("info", "model-awaited", f"{model.name} {model.version}: {len(files)} files")
            self._use_what_is_aboard(model)
            # All files may be here already: of a model that came before, or that shares its files with others.
            self.complete(model.id)

    def _use_what_is_aboard(self, model: SignedModel) -> None:
        """Files that another model shipped with: they need not come again."""
        row = self._ledger().models.get(model.id)
        if row is None or row.state != "receiving":
            return
        for file in model.files.values():
            shipped = self.aboard().get(file.sha256)
            if shipped is not None and not self.files.holds(file.sha256):
                self.files.adopt(shipped.path, file.sha256)

    def _withdraw(self, named: set[str], version: int) -> None:
        """Models that the list names no more do not fly; the active one stays until another is activated."""
        store, reason = self._ledger().models, f"list version {version} names it no more"
        for row in store.all():
            if row.id in named or row.origin == "shipped":
                continue
            # Something has to map: a withdrawn model goes on until another one is activated.
            if row.state == "active":
                self._log("warning", "model-withdrawn", f"{row.title}: {reason}, and it is active: activate another")
            elif store.refuse(row.id, reason) or (row.state == "standby" and store.retire(row.id, reason)):
                self._log("warning", "model-withdrawn", f"{row.title}: {reason}")

    # Files

    def aboard(self) -> dict[str, AboardFile]:
        """Shipped files by digest."""
        if self._aboard is None:
            self._aboard = files_aboard(self.settings)
        return self._aboard

    def wanted_size(self, sha256: str) -> int:
        """Bytes of a file that a signed list names and that is not whole here.

        Raises:
            NotWanted: there is none.
        """
        # Under the lock: a model that comes again takes files that are aboard, as one of a list that comes meanwhile.
        with self.lock:
            if self.files.holds(sha256):
                raise NotWanted("the whole file is here")
            # Asked before a body is read: what no list names never reaches the disk.
            named = ((model, file) for model in self.trust.models() for file in model.files.values())
            model, size = next(((model, file.bytes) for model, file in named if file.sha256 == sha256), (None, 0))
            if model is None:
                raise NotWanted("no signed list that was taken names this file: send its list first")
            self._begin_again(model)
            return size

    def _begin_again(self, model: SignedModel) -> None:
        store = self._ledger().models
        row = store.get(model.id)
        if row is not None and row.state in ("retired", "refused"):
            store.begin_again(model.id, self.trust.list_version())
            self._log("info", "model-awaited", f"{row.title} comes again")
            self._use_what_is_aboard(model)

    @contextmanager
    def upload(self, name: str, start: int) -> Iterator[Callable[[bytes | bytearray], int]]:
        """One upload of a part: gives what appends to it and returns its length.

        Args:
            name: of the part.
            start: byte that the upload begins with.

        Raises:
            Taken: another one is under way, also later: one that is silent is taken over.
            WrongStart: the part ends elsewhere, also later: it was dropped.
        """
        with self.lock:
            under_way = self._uploads.get(name)
            # A link that is cut leaves its request waiting until a time-out; the next push need not wait for that.
            if under_way is not None and time.monotonic() - under_way.heard < SILENT_S:
                raise Taken("another upload of this file is under way: try again in some seconds")
            held = self.files.held_bytes(name)
            if start != held:
                raise WrongStart(held)
            self._number += 1
            mine = self._uploads[name] = _Upload(self._number, time.monotonic())

        def append(chunk: bytes | bytearray) -> int:
            nonlocal held
            with self.lock:
                # Taken over meanwhile: these bytes would land behind those of the other upload.
                if self._uploads.get(name) is not mine:
                    raise Taken("another upload of this file took over")
                # A difference may have been dropped: these bytes would lie behind a hole.
                if self.files.held_bytes(name) != held:
                    raise WrongStart(self.files.held_bytes(name))
                mine.heard = time.monotonic()
                # Synced under the lock, so that two uploads never write to one part.
                held = self.files.append(name, held, chunk)
                return held

        try:
            yield append
        finally:
            with self.lock:
                if self._uploads.get(name) is mine:
                    del self._uploads[name]

    def finish(self, sha256: str) -> None:
        """A part is complete: it becomes a file, and its model is received where that was the last one.

        Raises:
            WrongDigest: its bytes are others; it was erased.
            StorageError: the disk failed.
        """
        with self.lock:
            # Two pushes may end the same file: the second finds it whole.
            if not self.files.holds(sha256):
                digest = self.files.finish(sha256)
                if digest != sha256:
                    self._log("warning", "model-file-damaged", f"{sha256[:12]} came as {digest[:12]} and was erased")
                    raise WrongDigest(sha256, digest)
            self.complete_all()

    def base_of(self, method: str, base: str) -> Path | None:
        """The file aboard that a difference is against; None for a method that needs none.

        Raises:
            NotWanted: it is not here.
        """
        if method == XZ:
            return None
        if self.files.holds(base):
            return self.files.file(base)
        if base in self.aboard():
            return self.aboard()[base].path
        raise NotWanted(f"no file {base[:12]} is aboard to make this one of: send it whole")

    def begin_difference(self, sha256: str, digest: str) -> None:
        """Makes room for one more difference of a file: two pushes may send two, and no more are kept than a few."""
        with self.lock:
            under_way = self.files.differences(sha256)
            # Which of them is still wanted cannot be known, and the station sends it again.
            if digest not in under_way and len(under_way) >= MOST_DIFFERENCES:
                self.files.drop_differences(sha256)

    def finish_difference(self, sha256: str, size: int, digest: str, method: str, base: Path | None) -> None:
        """A difference is complete: the file is made of it, in a process with limits, if its digest is the signed one.

        Raises:
            WrongDigest: the difference or the file made is another; the difference was erased.
            WrongStart: the difference was dropped meanwhile.
            StorageError: the disk is full or failed.
        """
        with self.lock:
            # Several may be under way at the same time: each makes a file of its own.
            name, made = self.files.difference_part(sha256, digest), self.files.made(sha256)
            part = self.files.part(name)
            if self.files.holds(sha256):
                self.files.drop_differences(sha256)
                return
            if not part.exists():
                raise WrongStart(0)
            came = sha256_file(part)
            if came != digest:
                part.unlink()
                raise WrongDigest(digest, came)
            # The file that is made needs room beside the base and the difference.
            self.files.check_room(size)
        arguments = [str(os.getpid()), method, str(base or ""), str(part), str(made), str(size)]
        # Without the lock: it may take minutes, in which other uploads go on.
        why = _made_apart(arguments)
        with self.lock:
            try:
                # Another upload may have brought it meanwhile, and dropped the difference before it was read.
                came = sha256 if self.files.holds(sha256) else "nothing" if why else self.files.take(made, sha256)
            finally:
                made.unlink(missing_ok=True)
            if came != sha256:
                # It alone: another one may be right, and its process may be about to read it.
                part.unlink(missing_ok=True)
                self._log("warning", "model-file-damaged", f"{sha256[:12]}: its difference makes {came[:12]} {why}")
                raise WrongDigest(sha256, came)
            # The others make the same file, or a wrong one.
            self.files.drop_differences(sha256)
            self.complete_all()

    def complete_all(self) -> None:
        """Looks at every model that is awaited."""
        for row in self._ledger().models.in_state("receiving"):
            self.complete(row.id)

    def complete(self, model_id: str) -> bool:
        """Receiving to received, where all files of a model are whole."""
        ledger = self._ledger()
        row = ledger.models.get(model_id)
        if row is None or row.state != "receiving":
            return False
        if not all(self.files.holds(str(facts["sha256"])) for facts in row.files.values()):
            return False
        try:
            self.files.build(row.id, row.files)
        except StorageError as error:
            # All its files stay whole: the next file or list that comes tries again.
            self._log("warning", "model-waits", f"{row.title}: {error}")
            return False
        # The folder stands before the state says so: a cut between the two only builds it anew.
        if ledger.models.complete(row.id):
            self._log("info", "model-received", f"{row.title}: all files are whole")
            self.wake.set()
            return True
        return False

    def erase(self, row: ModelRow) -> None:
        """Removes the folder of a model that is retired or refused, and files that no other model needs."""
        with self.lock:
            self.files.erase_unit(row.id)
            # Equal files of several models are one: a file stays while any model is awaited or stands that names it.
            wanted = {
                str(facts["sha256"])
                for other in self._ledger().models.all()
                if other.state == "receiving" or self.files.unit(other.id).is_dir()
                for facts in other.files.values()
            }
            self.files.sweep(wanted)

    def _log(self, severity: str, kind: str, text: str) -> None:
        self._ledger().events.log(severity, kind, text)


def _made_apart(arguments: list[str]) -> str:
    """Applies a difference in a process of its own; empty where it made a file, else why it did not."""
    try:
        ended = subprocess.run(
            # A difference is not signed, and its decoder runs on bytes from outside: a crash costs that process alone.
            [sys.executable, "-m", "onboard.models.difference", *arguments],
            check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=APPLY_S,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"it took over {APPLY_S:g} s"
    said = ended.stderr.decode(errors="replace").strip()[-200:]
    return "" if ended.returncode == 0 else said or f"its process ended ({ended.returncode})"
