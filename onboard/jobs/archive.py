"""Unpacks zip and tar archives that are not trusted: limits on bytes and files, and no path outside the folder."""

from __future__ import annotations

import errno
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

from engines.files import synced_file
from onboard.errors import OnboardError, SceneRefused
from onboard.files import is_hidden, storage_error
from onboard.scene.tiff import is_tiff_start

MOST_FILES = 10_000
# 255 bytes is the longest file name that Linux's file systems take.
_LONGEST_NAME, _DEEPEST = 255, 8
_LONGEST_HEADER = 1 << 20
_CHUNK = 1 << 20
_METHODS = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma"}
_REMEDY = "send the scene's files in a plain zip or tar"
# What a scene can be made of; pictures, shapes and papers of a product are left out, as is what has a hidden name.
KEPT = frozenset([
    ".tif", ".tiff", ".xml", ".til", ".imd", ".rpb", ".txt", ".dim", ".msk", ".ovr", ".aux", ".tfw", ".tifw", ".tiffw",
    ".wld", ".tab", ".prj", ".rpc", ".pvl", ".pass", ".eph",
])  # fmt: skip

BeforeWrite = Callable[[int], None]
_Entry = TypeVar("_Entry", zipfile.ZipInfo, tarfile.TarInfo)


def is_archive(path: Path) -> bool:
    """Whether a file begins as a zip or a tar does."""
    with path.open("rb") as file:
        start = file.read(512)
    # A TIFF's pixels may hold any bytes anywhere.
    # A zip begins with a file's header (APPNOTE 4.3.7), a tar has "ustar" at byte 257 of its first header (POSIX).
    return not is_tiff_start(start) and (start[:4] == b"PK\3\4" or start[257:262] == b"ustar")


def unpack(archive: Path, folder: Path, *, limit: int, before_write: BeforeWrite) -> None:
    """Writes those of an archive's files that a scene can be made of into an empty folder, durably.

    Args:
        archive: zip (stored or deflated) or tar (not compressed).
        folder: where to; it is there.
        limit: most bytes of all files together.
        before_write: called with the bytes of each piece before they are written; may raise.

    Raises:
        SceneRefused: it is damaged, encrypted or too large; it holds links, names that lead outside, a path twice.
        StorageError: the disk is full or failed.
    """
    with archive.open("rb") as file:
        opened = _zipped if file.read(2) == b"PK" else _tarred
    # By their paths and not by their names: `a.tif` and `./a.tif` are one file.
    left, files, folders = limit, set[Path](), set[Path]()
    with _translated(archive):
        for name, source in opened(archive):
            # The name is judged first: a hidden one that leads outside is refused as any other.
            below = _safe(archive, name)
            target = folder / below
            if is_hidden(below) or target.suffix.lower() not in KEPT:
                continue
            if target in files:
                raise SceneRefused(archive, f"has {name!r} twice", _REMEDY)
            if target in folders or not files.isdisjoint(target.parents):
                raise SceneRefused(archive, f"has a path both as a file and as a folder: {name!r}", _REMEDY)
            files.add(target)
            folders.update(target.parents)
            left -= _copied(archive, source, target, left, before_write)


@contextmanager
def _translated(archive: Path) -> Iterator[None]:
    """Refuses an archive for what the libraries raise on damaged bytes; what the disk fails with is a StorageError."""
    try:
        yield
    except OnboardError:
        raise
    except Exception as error:
        # They have no common class: BadZipFile, zlib.error, LZMAError, struct.error, and MemoryError.
        # bz2 raises OSError without a number; EINVAL is a place before the archive's first byte.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise storage_error(error, archive) from error
        text = " ".join(str(error).split())[:150] or type(error).__name__
        raise SceneRefused(archive, f"is a damaged archive: {text}", _REMEDY) from error


def _copied(archive: Path, source: IO[bytes], target: Path, limit: int, before_write: BeforeWrite) -> int:
    """Copies one file; gives its bytes. The size that the archive declares is not trusted."""
    size = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            while chunk := _piece(archive, source):
                size += len(chunk)
                if size > limit:
                    raise SceneRefused(archive, "unpacks to more bytes than are taken", "send smaller scenes")
                before_write(len(chunk))
                file.write(chunk)
        synced_file(target)
    except OSError as error:
        raise storage_error(error, target) from error
    return size


def _piece(archive: Path, source: IO[bytes]) -> bytes:
    """The next piece of a file. An OSError of the library is no failure of the disk that is written to."""
    with _translated(archive):
        return source.read(_CHUNK)


def _safe(archive: Path, name: str) -> Path:
    """A name below a folder, or a refusal."""
    # Archives made on Windows may have backslashes and a drive letter (the colon).
    parts = name.replace("\\", "/").split("/")
    bad = name.startswith(("/", "\\")) or ".." in parts or "\0" in name or ":" in parts[0]
    parts = [part for part in parts if part not in ("", ".")]
    too_long = len(parts) > _DEEPEST or any(len(os.fsencode(part)) > _LONGEST_NAME for part in parts)
    if bad or not parts or too_long:
        raise SceneRefused(archive, f"has a name that leads outside or too deep: {name[:100]!r}", _REMEDY)
    return Path(*parts)


def _zipped(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    # Asked before ZipFile opens it, which reads the whole directory into memory and makes an object of each entry.
    if _directory_bytes(archive) > 256 * MOST_FILES:
        raise SceneRefused(archive, f"has more than {MOST_FILES:,} files", _REMEDY)
    with zipfile.ZipFile(archive) as opened:
        for info in _counted(archive, iter(opened.infolist())):
            if info.is_dir():
                continue
            # The upper 16 bits are the Unix mode where a Unix program made the zip; bit 0 of the flags is "encrypted".
            if stat.S_ISLNK(info.external_attr >> 16):
                raise SceneRefused(archive, f"has a link: {info.filename[:100]!r}", _REMEDY)
            if info.flag_bits & 1:
                raise SceneRefused(archive, "is encrypted", _REMEDY)
            # Python bounds what one read of these two unpacks to, and of no other method: there a megabyte may become
            # gigabytes in memory before a limit is looked at.
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
                raise SceneRefused(archive, f"is compressed by {method}", "make it with deflate, as zip does")
            with opened.open(info) as source:
                yield info.filename, source


def _directory_bytes(archive: Path) -> int:
    """Size of a zip's directory as its end says: the library reads so much at once.

    Source: PKWARE APPNOTE 6.3.10, 4.3.14 and 4.3.16.
    """
    with archive.open("rb") as file:
        # A comment of up to 65,535 bytes may follow the end record; zip64 has its own end record before it.
        file.seek(max(0, archive.stat().st_size - (1 << 16) - 1024))
        tail = file.read()
    end = tail.rfind(b"PK\5\6")
    size = int(struct.unpack_from("<I", tail, end + 12)[0])
    large = tail.rfind(b"PK\6\6")
    return size if large < 0 else max(size if size != 0xFFFFFFFF else 0, struct.unpack_from("<Q", tail, large + 40)[0])


def _tarred(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    _check_headers(archive)
    # "r:" refuses a compressed tar: how much it would unpack to is not known before it is done.
    with tarfile.open(archive, "r:") as opened:
        for info in _counted(archive, iter(opened)):
            if info.isdir():
                continue
            source = opened.extractfile(info) if info.isreg() and not info.issparse() else None
            if source is None:
                raise SceneRefused(archive, f"has a link or another thing, no file: {info.name[:100]!r}", _REMEDY)
            with source:
                yield info.name, source


def _check_headers(archive: Path) -> None:
    """Refuses a tar whose extended headers are long: the library reads each of them at once."""
    size = archive.stat().st_size
    with archive.open("rb") as file:
        at = 0
        while at < size and (block := file.read(512)).strip(b"\0"):
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            if info.size < 0:  # a number of base 256 has a sign; the walk would go back, perhaps for ever
                raise SceneRefused(archive, "is a damaged archive: a file of negative size", _REMEDY)
            # pax headers (x, g, and Solaris's X), GNU's long names (L, K) and sparse maps (S).
            if info.type in (b"x", b"g", b"X", b"L", b"K", b"S") and info.size > _LONGEST_HEADER:
                raise SceneRefused(archive, "has an extended header of absurd length", _REMEDY)
            at += 512 + -(-info.size // 512) * 512
            file.seek(at)


def _counted(archive: Path, entries: Iterator[_Entry]) -> Iterator[_Entry]:
    for number, entry in enumerate(entries):
        if number >= MOST_FILES:
            raise SceneRefused(archive, f"has more than {MOST_FILES:,} files", _REMEDY)
        yield entry
