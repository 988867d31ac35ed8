"""What goes wrong on the ground, split by what the caller does next.

GroundError          a failure of ours (exit code 1)
├── DiskFailed       make room or mend the disk; the same command continues
├── MapDamaged       what arrives is not what was promised: look at the satellite's events
├── LinkDown         nothing came through: try at the next pass (exit code 4)
└── AskedWrong       mend the address, the token or the options (exit code 2)
"""

from __future__ import annotations

import errno
from pathlib import Path


class GroundError(Exception):
    """Root; ``exit_code`` is what the command line answers with."""

    exit_code = 1


class DiskFailed(GroundError):
    """Writing failed; what was synced before stays."""

    def __init__(self, path: Path, error: OSError) -> None:
        self.path, self.errno = path, error.errno
        reason = (error.strerror or str(error)).lower()
        # A quota and a limit on the size of files say what a full disk says: there is no room.
        is_full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        action, remedy = ("write", "make room") if is_full else ("read or write", "repair it")
        super().__init__(f"{path}: cannot {action}: {reason}; {remedy}, then run the same command: it continues")


class MapDamaged(GroundError):
    """A file aboard is not the one of its digest; ``promised`` and ``found`` say by what."""

    def __init__(self, path: Path, promised: str, received: str) -> None:
        self.path, self.promised, self.received = path, promised, received
        super().__init__(
            f"{path}: arrived with {received}, promised was {promised}; the file aboard or the path to it is "
            f"damaged: see `ground status` and GET /events"
        )


class LinkDown(GroundError):
    """No answer came, however often it was asked."""

    exit_code = 4

    def __init__(self, url: str, tries: int, last: str) -> None:
        self.url, self.tries, self.last = url, tries, last
        super().__init__(f"{url}: no answer in {tries} tries ({last}); try again at the next pass")


class AskedWrong(GroundError):
    """The satellite understood and refused, by an HTTP ``status``, or the options cannot be."""

    exit_code = 2

    def __init__(self, problem: str, remedy: str, status: int | None = None) -> None:
        self.problem, self.remedy, self.status = problem, remedy, status
        super().__init__(f"{problem}; {remedy}")
