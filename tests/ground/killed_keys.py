"""Kills `ground model keys` before each thing that it does to a folder: a copy of the folder a kill.

Run as a program with the folder, a new folder for the copies, and the command's further words. Prints how many kills
there were; copy number N was killed before its step N.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from ground import cli
from ground.model import keys

LONGEST_COMMAND = 200
STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.link"}


def killed_at(step: int, folder: Path, words: list[str]) -> bool:
    """Runs the command in a child, which SIGKILL ends before its step; gives whether it came so far."""
    child = os.fork()
    if child == 0:
        left, fsync = [step], os.fsync

        def one(name: str, arguments: Any) -> None:
            # Of the folder alone: Python's own files are opened as well.
            if name in STEPS and str(folder) in str(arguments[0]):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        def synced(descriptor: int) -> None:
            left[0] -= 1
            if left[0] < 0:
                path = Path(f"/proc/self/fd/{descriptor}")
                if path.is_file():  # what was not synced may be torn
                    os.truncate(path.readlink(), 10)
                os.kill(os.getpid(), signal.SIGKILL)
            fsync(descriptor)

        os.fsync = synced  # type: ignore[assignment]
        sys.addaudithook(one)
        os._exit(cli.main(["model", "keys", str(folder), *words]))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the command failed by itself"
    return False


def main() -> None:
    """See the module."""
    source, copies, words = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    keys.library()  # its imports are no steps, and one time is enough for all children
    copies.mkdir()
    for step in range(LONGEST_COMMAND):
        copy = copies / str(step)
        if source.is_dir():
            shutil.copytree(source, copy)
        if not killed_at(step, copy, words):
            shutil.rmtree(copy)
            os.write(1, f"\n{step}\n".encode())
            return
    raise SystemExit("the command never ended by itself")


if __name__ == "__main__":
    main()
