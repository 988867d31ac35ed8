"""Takes the paths of this machine out of texts that clients read."""

from __future__ import annotations

import os
import re
from functools import lru_cache

# Quotes, brackets and blanks end a path; a dot or comma at its end is the sentence's.
_PATH = re.compile(r"""(?<![\w.:/])/[^\s'"<>()\[\]{},;:]+""")
_OURS = frozenset(
    (
        "scenes",
        "maps",
        "models",
        "downlink",
        "telemetry",
        "metrics",
        "events",
        "health",
        "docs",
        "openapi.json",
        "catalog.json",
    )
)
"""First parts of the interface's own paths, which stay in texts."""


def without_paths(text: str) -> str:
    """The text with every absolute path of this file system cut down to its last part.

    What begins with the name of something in the root folder is such a path; `GET /maps` is none, unless there is more
    of it than the interface has and the machine has such a folder too.
    """
    return _PATH.sub(_shortened, text)


def _shortened(match: re.Match[str]) -> str:
    path = match[0].rstrip(".")
    first, _, rest = path[1:].partition("/")
    if first not in _root_names() or (first in _OURS and not rest):
        return match[0]
    last = rest.rstrip("/").rpartition("/")[2] or first
    return last + match[0][len(path) :]


@lru_cache(maxsize=1)
def _root_names() -> frozenset[str]:
    return frozenset(os.listdir("/"))  # noqa: PTH208 -- names are wanted, not paths
