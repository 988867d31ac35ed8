"""Puts finished folders in their places by renames: all of them or none, and nothing that stood there is lost."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


def put_in_place(folders: Iterable[tuple[Path, Path]]) -> None:
    """Renames each folder to its place on the same file system; what stands there goes aside first.

    A kill between the two renames of a folder leaves the old one as .NAME-before-*/NAME beside its place, and no half
    folder under its name.

    Args:
        folders: each with its place.

    Raises:
        OSError: a rename failed. Every place has again what stood there; what cannot be put back stays aside.
    """
    aside: list[Path] = []
    with ExitStack() as undo:
        for folder, place in folders:
            if place.exists():
                # Beside its place and not in a temporary folder, which would take the old one along when it goes.
                before = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-before-"))
                undo.callback(before.rmdir)
                place.rename(before / place.name)
                undo.callback((before / place.name).rename, place)
                aside.append(before)
            folder.rename(place)
            undo.callback(place.rename, folder)
        undo.pop_all()
    for before in aside:
        shutil.rmtree(before, ignore_errors=True)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder made beside its place, which it takes when all went well."""
    out.parent.mkdir(parents=True, exist_ok=True)
    # On the same file system as the result, so that moving it is a rename.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".made-") as work:
        made = Path(work) / "made"
        made.mkdir()
        yield made
        put_in_place([(made, out)])
