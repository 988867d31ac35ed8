"""The high-water mark: two checksummed copies, beside the ledger, of what it must not forget if it loses writes.

SQLite's write-ahead log ends at the first frame whose checksum is wrong, without a word: one flipped bit there, or the
loss of the file, takes the last transactions back. The mark keeps the number that was given out last, receipts and
cancellations; everything else comes back from the folders. It is written after the ledger's commit and before the
answer, so it is never ahead of what the ledger held.

A copy is a head of 64 bytes that is overwritten (checksum and number), and a line for each receipt and cancellation
(checksum and JSON). A line is written to the second copy when it is on the disk in the first: a cut tears one of them
at most. A head lies in one sector.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from engines.files import replace_file, synced_folder
from onboard.errors import StorageError
from onboard.files import pwrite_all, write_all

log = logging.getLogger(__name__)
ENDINGS: Final = ("mark-a", "mark-b")
_HEAD: Final = 64
# A receipt's line has some 120 bytes: a copy of this many stays under a megabyte, and is read whole at each start.
RECEIPTS_KEPT: Final = 4000
STATES_KEPT: Final = 4000
LARGEST: Final = 2**53
"""A number beyond is none that was given out: readers of JSON that keep floats would round it."""


@dataclass(frozen=True)
class Note:
    """The addition of one transaction to the mark.

    Attributes:
        number: the last that it gave out.
        receipts: SHA-256 of map.tif by the id of a map that the ground holds.
        cancelled: ids of scenes.
        queued: ids of scenes that are wanted again after they were over.
        model: id of the model that is active from then on; empty where that did not change.
    """

    number: int
    receipts: Mapping[str, str] = field(default_factory=dict)
    cancelled: Sequence[str] = ()
    queued: Sequence[str] = ()
    model: str = ""

    @property
    def line(self) -> bytes:
        """With its checksum; empty where there is nothing but the number."""
        facts = {"r": dict(self.receipts), "c": list(self.cancelled), "q": list(self.queued), "m": self.model}
        facts = {key: value for key, value in facts.items() if value}
        if not facts:
            return b""
        body = json.dumps({"n": self.number, **facts}, separators=(",", ":")).encode()
        # It begins with a newline too: a line that was torn spoils none but itself.
        return b"\n%08x %s\n" % (zlib.crc32(body), body)


@dataclass
class Mark:
    """Both copies, read together.

    Attributes:
        number: the last number given out, 0 where nothing is known.
        receipts: by map, (number, SHA-256 of map.tif).
        states: by scene, (number, whether that was its cancellation).
        model: (number, id) of the model that was activated last.
        damaged: names of copies that are missing in part or whole.
    """

    number: int = 0
    receipts: dict[str, tuple[int, str]] = field(default_factory=dict)
    states: dict[str, tuple[int, bool]] = field(default_factory=dict)
    model: tuple[int, str] = (0, "")
    damaged: list[str] = field(default_factory=list)

    @property
    def cancelled(self) -> dict[str, int]:
        """The number of its cancellation by scene, of those that were not wanted again since."""
        return {scene: number for scene, (number, is_cancelled) in self.states.items() if is_cancelled}

    def lacks(self, note: Note) -> bool:
        """Whether it would say something else of these receipts and scenes, were the ledger to fall back now.

        A scene that was never cancelled needs no note: it comes back from its folder.
        """
        return (
            any(self.receipts.get(name, (0, ""))[1] != sha256 for name, sha256 in note.receipts.items())
            or any(not self.states.get(name, (0, False))[1] for name in note.cancelled)
            or any(self.states.get(name, (0, False))[1] for name in note.queued)
        )

    def take(self, facts: Mapping[str, Any]) -> None:
        """Adds a line; the later of two numbers counts."""
        number = int(facts["n"])
        self.number = max(self.number, number)
        for name, sha256 in facts.get("r", {}).items():
            # Lines may come twice and in any order, from both copies: the higher number wins.
            self.receipts[str(name)] = max(self.receipts.get(name, (0, "")), (number, str(sha256)))
        if "m" in facts:
            self.model = max(self.model, (number, str(facts["m"])))
        for key in ("c", "q"):
            for name in facts.get(key, ()):
                self.states[str(name)] = max(self.states.get(name, (0, False)), (number, key == "c"))

    def notes(self) -> Iterator[Note]:
        """The newest receipts and states, and the active model, as notes."""
        if self.model[1]:
            yield Note(self.model[0], model=self.model[1])
        for name, (number, sha256) in sorted(self.receipts.items(), key=lambda item: item[1])[-RECEIPTS_KEPT:]:
            yield Note(number, receipts={name: sha256})
        for name, (number, is_cancelled) in sorted(self.states.items(), key=lambda item: item[1])[-STATES_KEPT:]:
            yield Note(number, cancelled=[name] if is_cancelled else [], queued=[] if is_cancelled else [name])


class HighWaterMark:
    """Writes a ledger's mark; one for each connection, any number at a time.

    Args:
        ledger: path of the ledger, beside which the copies lie.
    """

    def __init__(self, ledger: Path) -> None:
        self.paths = [ledger.with_name(f"ledger.{ending}") for ending in ENDINGS]
        self._files: list[tuple[int, int]] = []
        self._number = 0
        self._unwritten: list[Note] = []

    def note(self, note: Note) -> None:
        """Adds a transaction to both copies. A full disk costs no caller: it is tried with the next.

        Receipts and cancellations are on the disk when this returns. A number alone is not waited for (each wait takes
        as long as the ledger's own): only a power cut that also loses the log, which is synced, would miss it.
        """
        self._unwritten.append(note)
        # All that was not written yet: the disk may have been full before this note.
        lines = b"".join(each.line for each in self._unwritten)
        number = max(self._number, note.number)
        try:
            # One copy after the other: a power cut tears one at most.
            for head, tail in self._opened():
                # Another process may have noted a later number meanwhile, and this note may be of an older fact.
                number = max(number, _number_in(os.pread(head, _HEAD, 0)))
                pwrite_all(head, _head_of(number), 0, self.paths[0])
                if lines:
                    write_all(tail, lines, self.paths[0])
                    # One sync is enough: both descriptors are of one file.
                    os.fdatasync(head)
        except (OSError, StorageError) as error:
            log.warning("%s: the high-water mark waits: %s", self.paths[0], getattr(error, "problem", error))
            self._unwritten = self._unwritten[-1000:]  # a disk that stays full must not fill the memory as well
        else:
            self._number, self._unwritten = number, []

    def _opened(self) -> list[tuple[int, int]]:
        """Both copies, each for its head and, as pwrite would append there, for its lines."""
        while len(self._files) < len(self.paths):
            path = self.paths[len(self._files)]
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._files.append((os.open(path, flags, 0o644), os.open(path, flags | os.O_APPEND, 0o644)))
            synced_folder(path.parent)
        for head, _ in self._files:
            # New, or cut to nothing: without a head the first line would be written in its place.
            if os.fstat(head).st_size < _HEAD:
                pwrite_all(head, _head_of(0), 0, self.paths[0])
        return self._files

    def close(self) -> None:
        """Closes the files."""
        for pair in self._files:
            for descriptor in pair:
                os.close(descriptor)
        self._files = []


def read_mark(ledger: Path) -> Mark:
    """Reads both copies and joins them; one that is missing or damaged costs nothing while the other is whole."""
    mark = Mark()
    numbers = []
    for path in HighWaterMark(ledger).paths:
        number, lines, is_whole = _read_copy(path)
        numbers.append(number)
        mark.number = max(mark.number, number)
        for facts in lines:
            mark.take(facts)
        if not is_whole:
            mark.damaged.append(path.name)
    if not any(numbers) and not any(path.exists() for path in HighWaterMark(ledger).paths):
        mark.damaged = []  # a new folder
    return mark


def rewrite_mark(ledger: Path, mark: Mark) -> None:
    """Writes both copies anew, with what is worth keeping, one after the other. Only while no process has them open.

    Raises:
        OSError: the disk is full or failed; the copies stay as they were.
    """
    content = _head_of(mark.number) + b"".join(note.line for note in mark.notes())
    for path in HighWaterMark(ledger).paths:
        replace_file(path, content)


def _head_of(number: int) -> bytes:
    body = b"%020d" % number
    return (b"%08x %s" % (zlib.crc32(body), body)).ljust(_HEAD - 1) + b"\n"


def _read_copy(path: Path) -> tuple[int, list[dict[str, Any]], bool]:
    """Number and lines of a copy, and whether all of it could be believed."""
    try:
        content = path.read_bytes()
    except OSError:
        return 0, [], False
    head, rest = content[:_HEAD], content[_HEAD:]
    is_whole = _body_of(head.rstrip()) is not None
    lines = []
    for line in filter(None, rest.split(b"\n")):
        facts = _facts_of(line)
        # A torn or flipped line costs itself; the other copy has it.
        if facts is None:
            is_whole = False
        else:
            lines.append(facts)
    return _number_in(head), lines, is_whole


def _number_in(head: bytes) -> int:
    """The number that a head holds; 0 where it cannot be believed."""
    body = _body_of(head.rstrip())
    return int(body) if body is not None and body.isdigit() and int(body) < LARGEST else 0


def _body_of(line: bytes) -> bytes | None:
    checksum, _, body = line.partition(b" ")
    try:
        return body if int(checksum, 16) == zlib.crc32(body) else None
    except ValueError:
        return None


def _facts_of(line: bytes) -> dict[str, Any] | None:
    body = _body_of(line)
    if body is None:
        return None
    try:
        facts: dict[str, Any] = json.loads(body)
        Mark().take(facts)  # fails where it has another form
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return facts if int(facts["n"]) < LARGEST else None
