"""Writes shards in WebDataset's format, tar files of KEY.jpg and KEY.json pairs, each by one rename."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines.files import synced_file, synced_folder
from onboard.files import storage_error


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"tiles-{number:06d}.tar"


def tile_key(number: int) -> str:
    """WebDataset key of the tile that was kept as number `number` (0-based), over all shards."""
    return f"{number:09d}"


@contextmanager
def published(final: Path, staged: Path) -> Iterator[Path]:
    """Yields `staged` for writing; then syncs it and renames it to `final`.

    Both must be on one file system. After an error `final` is unchanged.

    Raises:
        StorageError: the disk is full or failed.
    """
    try:
        yield staged
        # Before the rename: a power cut must not leave the final name on a file without its bytes.
        synced_file(staged)
        staged.replace(final)
        synced_folder(final.parent)
    except OSError as error:
        raise storage_error(error, final) from error


def jpeg_of(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """RGB pixels (3, h, w) as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


class ShardWriter:
    """Writes one shard, tile by tile, to a temporary path; a context manager that closes the file.

    Raises:
        StorageError: the disk is full or failed.
    """

    def __init__(self, staged: Path) -> None:
        self.staged = staged
        try:
            self._tar = tarfile.open(staged, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 -- closed by __exit__
        except OSError as error:
            raise storage_error(error, staged) from error

    def add(self, key: str, jpeg: bytes, facts: dict[str, Any]) -> None:
        """Appends a tile; `facts` is the content of KEY.json."""
        # Sorted, since equal tiles have to make equal bytes.
        encoded_facts = json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()
        try:
            for name, data in ((f"{key}.jpg", jpeg), (f"{key}.json", encoded_facts)):
                entry = tarfile.TarInfo(name)  # its time, user and group are 0: equal tiles make equal shards
                entry.size = len(data)
                entry.mode = 0o644
                self._tar.addfile(entry, io.BytesIO(data))
        except OSError as error:
            raise storage_error(error, self.staged) from error

    def publish(self, final: Path) -> None:
        """Finishes the shard, syncs it and renames it to `final`."""
        with published(final, self.staged):
            self._tar.close()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not the tar's own close: that would write its end. What is still buffered is of no use, and has no room on a
        # full disk.
        if self._tar.fileobj is not None:
            with suppress(OSError):
                self._tar.fileobj.close()
