"""What is written outlasts a power cut, or the old file does."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from engines.files import replace_file


def test_bytes_then_name_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    path, sync, replace = tmp_path / "choice.json", os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        sync(descriptor)

    def replaced(part: Path, target: Path) -> Path:
        done.append("rename")
        return replace(part, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    replace_file(path, b"one")
    assert done == ["sync choice.json.new", "rename", f"sync {tmp_path.name}"]
    assert path.read_bytes() == b"one"


def test_a_full_disk_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "choice.json"
    replace_file(path, b"one")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no room"):
        replace_file(path, b"another")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("choice.json", b"one")]
