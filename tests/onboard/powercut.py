"""Power cuts, which a SIGKILL cannot show (the page cache survives it): a disk that forgets what was not synced.

A run is recorded with strace. Its system calls are replayed onto a model of a disk that keeps, for every file and
folder, what is durable and what is not; at any moment the model can be cut, which loses, keeps, tears or reorders what
was not synced, and written out as a real folder.

The model is harsher than a journalling file system: fsync of a file does not make its name durable, and names of
different folders survive in any order. A rename is atomic, as POSIX has it.
"""

from __future__ import annotations

import codecs
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    "openat,open,creat,write,writev,pwrite64,pwritev,lseek,ftruncate,fallocate,rename,renameat,renameat2,link,linkat,"
    "unlink,unlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync,copy_file_range,sendfile,read,clone,clone3"
)
STRACE = ["strace", "-f", "-qq", "-y", "-x", "-s", "16777216", "-e", f"trace={CALLS}", "-e", "raw=read"]
"""Reads only for how far they move a file's position: their bytes are not recorded."""
_THREAD = "CLONE_THREAD"
_LINE = re.compile(r"^(\d+) +(.*)$", re.DOTALL)
_CALL = re.compile(r"^(\w+)\((.*)\) += (-?(?:0x)?[0-9a-f]+)", re.DOTALL)
_FD = re.compile(r"^(-?\d+|AT_FDCWD)<(.*)>$", re.DOTALL)


@dataclass(eq=False)
class File:
    """Bytes: durable ones, and changes that are not synced yet, in their order."""

    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, data), or (size, None)
    size: int = 0

    def sync(self) -> None:
        self.durable = _applied(self.durable, self.pending)
        self.pending = []


@dataclass(eq=False)
class Change:
    """A change of names in one or two folders, which happens whole or not at all. None takes a name away."""

    names: list[tuple[Folder, str, File | Folder | None]]


@dataclass(eq=False)
class Folder:
    """Names: durable ones, those that processes see, and changes that are not synced yet."""

    durable: dict[str, File | Folder] = field(default_factory=dict)
    seen: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)

    def sync(self) -> None:
        for change in list(self.pending):
            for folder, name, node in change.names:
                _set(folder.durable, name, node)
                folder.pending = [other for other in folder.pending if other is not change]


def _set(names: dict[str, File | Folder], name: str, node: File | Folder | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def _applied(data: bytes, changes: list[tuple[int, bytes | None]]) -> bytes:
    content = bytearray(data)
    for at, chunk in changes:
        if chunk is None:
            content[at:] = b""
            content.extend(bytes(at - len(content)))
        else:
            content.extend(bytes(max(0, at + len(chunk) - len(content))))
            content[at : at + len(chunk)] = chunk
    return bytes(content)


class Disk:
    """The model.

    Args:
        root: calls on paths elsewhere are passed over.
        ignored: of an fsync's path below the root: whether the call is taken as if it had not been made.
    """

    def __init__(self, root: Path, ignored: Callable[[str], bool] = lambda _: False) -> None:
        self.root, self.ignored = root, ignored
        self.top = Folder()
        self.offsets: dict[tuple[str, int], int] = {}
        self.appending: set[tuple[str, int]] = set()
        self.synced: list[str] = []

    def play(self, call: Call) -> None:
        """One system call that did not fail."""
        play = getattr(self, f"_{call.name}", None)
        if play is not None:
            self._process = call.process
            play(call.arguments, call.result)

    # Files

    def _openat(self, arguments: list[str], result: int) -> None:
        flags = arguments[2]
        where = self._find(self._path(arguments[0], arguments[1]))
        if where is None:
            return
        folder, name = where
        node = folder.seen.get(name)
        if node is None and "O_CREAT" in flags:
            node = File()
            self._change((folder, name, node))
        if isinstance(node, File):
            if "O_TRUNC" in flags and node.size:
                node.pending.append((0, None))
                node.size = 0
            self.offsets[(self._process, result)] = 0
            # Where such a write goes is known when it comes: other processes append as well.
            (self.appending.add if "O_APPEND" in flags else self.appending.discard)((self._process, result))

    def _lseek(self, arguments: list[str], result: int) -> None:
        node, fd = self._file(arguments[0])
        if node is not None:
            self.offsets[(self._process, fd)] = result

    def _read(self, arguments: list[str], result: int) -> None:
        key = (self._process, int(arguments[0], 16))
        if key in self.offsets:
            self.offsets[key] += result

    def _write(self, arguments: list[str], result: int) -> None:
        node, fd = self._file(arguments[0])
        if node is not None:
            key = (self._process, fd)
            at = node.size if key in self.appending else self.offsets.get(key, 0)
            self._put(node, at, _bytes(arguments[1])[:result])
            self.offsets[(self._process, fd)] = at + result

    def _pwrite64(self, arguments: list[str], result: int) -> None:
        node, _ = self._file(arguments[0])
        if node is not None:
            self._put(node, int(arguments[3]), _bytes(arguments[1])[:result])

    def _ftruncate(self, arguments: list[str], _: int) -> None:
        node, _fd = self._file(arguments[0])
        if node is not None and node.size != int(arguments[1]):
            node.size = int(arguments[1])
            node.pending.append((node.size, None))

    def _fallocate(self, arguments: list[str], _: int) -> None:
        node, _fd = self._file(arguments[0])
        size = int(arguments[2]) + int(arguments[3])
        if node is not None and size > node.size:
            node.size = size
            node.pending.append((size, None))

    def _put(self, node: File, at: int, data: bytes) -> None:
        node.pending.append((at, data))
        node.size = max(node.size, at + len(data))

    # Names

    def _mkdir(self, arguments: list[str], _: int) -> None:
        self._make(self._path("", arguments[0]))

    def _mkdirat(self, arguments: list[str], _: int) -> None:
        self._make(self._path(arguments[0], arguments[1]))

    def _make(self, path: str) -> None:
        if (where := self._find(path)) is not None:
            self._change((*where, Folder()))

    def _rename(self, arguments: list[str], _: int) -> None:
        self._move(self._path("", arguments[0]), self._path("", arguments[1]))

    def _renameat(self, arguments: list[str], _: int) -> None:
        self._move(self._path(arguments[0], arguments[1]), self._path(arguments[2], arguments[3]))

    def _renameat2(self, arguments: list[str], _: int) -> None:
        exchange = "EXCHANGE" in arguments[4]
        self._move(self._path(arguments[0], arguments[1]), self._path(arguments[2], arguments[3]), exchange=exchange)

    def _move(self, old: str, new: str, *, exchange: bool = False) -> None:
        source, target = self._find(old), self._find(new)
        if source is None or target is None or source[1] not in source[0].seen:
            return
        node = source[0].seen[source[1]]
        left = target[0].seen.get(target[1]) if exchange else None
        self._change((*target, node), (*source, left))

    def _link(self, arguments: list[str], _: int) -> None:
        self._name_again(arguments[0].strip('"'), arguments[1].strip('"'))

    def _linkat(self, arguments: list[str], _: int) -> None:
        self._name_again(self._path(arguments[0], arguments[1]), self._path(arguments[2], arguments[3]))

    def _name_again(self, old: str, new: str) -> None:
        """A second name of the same file."""
        source, target = self._find(old), self._find(new)
        if source is not None and target is not None:
            self._change((*target, source[0].seen.get(source[1])))

    def _unlink(self, arguments: list[str], _: int) -> None:
        self._remove(self._path("", arguments[0]))

    def _rmdir(self, arguments: list[str], _: int) -> None:
        self._remove(self._path("", arguments[0]))

    def _unlinkat(self, arguments: list[str], _: int) -> None:
        self._remove(self._path(arguments[0], arguments[1]))

    def _remove(self, path: str) -> None:
        where = self._find(path)
        if where is not None and where[1] in where[0].seen:
            self._change((*where, None))

    def _change(self, *names: tuple[Folder, str, File | Folder | None]) -> None:
        change = Change(list(names))
        for folder, name, node in names:
            _set(folder.seen, name, node)
            if change not in folder.pending:
                folder.pending.append(change)

    # Syncs

    def _fsync(self, arguments: list[str], _: int) -> None:
        match = _FD.match(arguments[0])
        path = match[2] if match else ""
        if not path.startswith(f"{self.root}"):
            return
        below = path[len(str(self.root)) :].lstrip("/")
        self.synced.append(below)
        if self.ignored(below):
            return
        if below == "":
            self.top.sync()
        elif (where := self._find(path)) is not None and where[1] in where[0].seen:
            where[0].seen[where[1]].sync()

    _fdatasync = _fsync

    # Paths

    def _path(self, folder: str, text: str) -> str:
        path = _bytes(text).decode("utf-8", "surrogateescape")
        match = _FD.match(folder)
        return path if path.startswith("/") or match is None else f"{match[2]}/{path}"

    def _find(self, path: str) -> tuple[Folder, str] | None:
        if not path.startswith(f"{self.root}/"):
            return None
        *folders, name = path[len(str(self.root)) + 1 :].split("/")
        here = self.top
        for part in folders:
            inner = here.seen.get(part)
            if not isinstance(inner, Folder):
                return None
            here = inner
        return here, name

    def _file(self, argument: str) -> tuple[File | None, int]:
        match = _FD.match(argument)
        where = self._find(match[2]) if match else None
        node = where[0].seen.get(where[1]) if where else None
        return (node if isinstance(node, File) else None), int(match[1]) if match else -1

    # Cuts

    def cut(self, target: Path, seed: int) -> None:
        """Writes what may be found after a power cut now. Of three kinds: nothing unsynced survives; names survive and
        contents do not; and any part of either, torn.
        """
        chance = random.Random(seed)
        kind = seed % 3
        kept: set[int] = set()
        for folder in _folders(self.top):
            count = (0, len(folder.pending), chance.randint(0, len(folder.pending)))[kind]
            kept.update(id(change) for change in folder.pending[:count])
        self._write_out(self.top, target, kept, kind, chance)

    def _write_out(self, folder: Folder, target: Path, kept: set[int], kind: int, chance: random.Random) -> None:
        target.mkdir(parents=True, exist_ok=True)
        names = dict(folder.durable)
        for change in folder.pending:
            if id(change) in kept:
                for other, name, node in change.names:
                    if other is folder:
                        _set(names, name, node)
        for name, node in names.items():
            if isinstance(node, Folder):
                self._write_out(node, target / name, kept, kind, chance)
            else:
                lucky = [change for change in node.pending if kind == 2 and chance.random() < 0.5]
                if lucky and lucky[-1][1] is not None:
                    at, data = lucky[-1]
                    lucky[-1] = (at, (data or b"")[: chance.randint(0, len(data or b""))])
                (target / name).write_bytes(_applied(node.durable, lucky))


def _folders(top: Folder) -> Iterator[Folder]:
    """Every folder that is seen or durable."""
    yield top
    for node in {id(one): one for one in [*top.seen.values(), *top.durable.values()]}.values():
        if isinstance(node, Folder):
            yield from _folders(node)


@dataclass(frozen=True)
class Call:
    """A system call: arguments as strace shows them; ``process`` is that of the thread which made it."""

    process: str
    name: str
    arguments: list[str]
    result: int


def calls_of(trace: Path) -> Iterator[Call]:
    """Calls that did not fail, in the order of their ends."""
    unfinished: dict[str, str] = {}
    processes: dict[str, str] = {}
    with trace.open(encoding="latin-1") as file:
        for line in file:
            match = _LINE.match(line.rstrip("\n"))
            if match is None:
                continue
            thread, text = match[1], match[2]
            if text.endswith("<unfinished ...>"):
                unfinished[thread] = text.removesuffix("<unfinished ...>").rstrip()
                continue
            if text.startswith("<... "):
                text = unfinished.pop(thread, "") + text.partition("resumed>")[2]
            call = _CALL.match(text)
            if call is None or (result := int(call[3], 16 if "0x" in call[3] else 10)) < 0:
                continue
            process = processes.setdefault(thread, thread)
            if call[1].startswith("clone"):
                processes[str(result)] = process if _THREAD in call[2] else str(result)
            yield Call(process, call[1], _arguments(call[2]), result)


def _arguments(text: str) -> list[str]:
    """Split at commas outside of strings and of paths behind descriptors."""
    found, begin, quoted, depth, at = [], 0, False, 0, 0
    while at < len(text):
        letter = text[at]
        if letter == "\\" and quoted:
            at += 1
        elif letter == '"':
            quoted = not quoted
        elif not quoted and letter in "<[{":
            depth += 1
        elif not quoted and letter in ">]}":
            depth -= 1
        elif letter == "," and not quoted and not depth:
            found.append(text[begin:at].strip())
            begin = at + 1
        at += 1
    return [*found, text[begin:].strip()]


def _bytes(text: str) -> bytes:
    """The bytes of a string as strace shows it."""
    inside = text[text.index('"') + 1 : text.rindex('"')]
    return codecs.escape_decode(inside.encode("latin-1"))[0]
