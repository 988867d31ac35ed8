"""What is written outlasts a power cut, or the old file does."""

from __future__ import annotations

import errno
import multiprocessing
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


def _replace_often(path: Path, letter: bytes, times: int) -> None:
    for _ in range(times):
        replace_file(path, letter * 300_000, durable=False)


def test_of_processes_that_replace_one_file_each_writes_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "choice.json"
    replace_file(path, b"a" * 300_000)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_replace_often, args=(path, letter, 150)) for letter in (b"a", b"b", b"c")]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        content = path.read_bytes()
        assert content == content[:1] * 300_000
        seen.add(content[:1])
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(seen) > 1
    assert [file.name for file in tmp_path.iterdir()] == ["choice.json"]


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    path, left = tmp_path / "choice.json", tmp_path / "choice.json.new"
    left.write_bytes(b"half")
    left.chmod(0o400)
    replace_file(path, b"whole", mode=0o640)
    assert [file.name for file in tmp_path.iterdir()] == ["choice.json"]
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"whole", 0o640)


def test_a_link_left_there_is_not_followed(tmp_path: Path) -> None:
    path, other = tmp_path / "choice.json", tmp_path / "other"
    other.write_bytes(b"mine")
    (tmp_path / "choice.json.new").symlink_to(other)
    replace_file(path, b"whole")
    assert (path.read_bytes(), other.read_bytes()) == (b"whole", b"mine")


def test_a_file_of_another_user_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root, as whom these tests may run, opens everything: the refusal is made here."""
    path, opened = tmp_path / "choice.json", os.open
    (tmp_path / "choice.json.new").write_bytes(b"half")

    def of_another_user(name: Path, flags: int, mode: int = 0o777) -> int:
        if not flags & os.O_CREAT and flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "not yours")
        return opened(name, flags, mode)

    monkeypatch.setattr("engines.files.os.open", of_another_user)
    replace_file(path, b"whole")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("choice.json", b"whole")]


def test_a_pipe_left_there_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "choice.json.new")
    replace_file(tmp_path / "choice.json", b"whole")
    assert (tmp_path / "choice.json").read_bytes() == b"whole"


def test_a_file_system_without_locks_is_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("engines.files.fcntl.flock", no_locks)
    replace_file(tmp_path / "choice.json", b"one")
    assert (tmp_path / "choice.json").read_bytes() == b"one"
