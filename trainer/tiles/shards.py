"""Shards in WebDataset's format: a tar of KEY.jpg and KEY.json pairs, there whole or not at all."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onboard.mapping.files import storage_error, synced_folder


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"tiles-{number:06d}.tar"


def tile_key(number: int) -> str:
    """WebDataset key of the tile that was kept as number `number` (0-based), over all shards."""
    return f"{number:09d}"


@contextmanager
def published(final: Path, staged: Path) -> Iterator[Path]:
    """Gives `staged` to write to; afterwards its bytes are synced and it takes the place of `final` by one rename.

    Both lie on one file system. After an error `final` is as it was.

    Raises:
        StorageError: the disk is full or failed.
    """
    try:
        yield staged
        descriptor = os.open(staged, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
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
    """One shard being written, tile by tile, beside its place; a context manager that closes the file.

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
        """Appends a tile; `facts` is what stands in KEY.json."""
        told = json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()
        try:
            for name, data in ((f"{key}.jpg", jpeg), (f"{key}.json", told)):
                entry = tarfile.TarInfo(name)  # its time, user and group are 0: equal tiles make equal shards
                entry.size = len(data)
                entry.mode = 0o644
                self._tar.addfile(entry, io.BytesIO(data))
        except OSError as error:
            raise storage_error(error, self.staged) from error

    def publish(self, final: Path) -> None:
        """Finishes the shard and puts it at its place by a rename after fsync."""
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


def tile_in_shard(shard: Path, key: str) -> bytes:
    """The JPEG of one tile; reads the tar's headers up to it."""
    with tarfile.open(shard, "r:") as tar:
        file = tar.extractfile(f"{key}.jpg")
        if file is None:
            raise KeyError(key)
        return file.read()
