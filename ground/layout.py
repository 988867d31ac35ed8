"""A pattern for the folders of maps: `{date:%Y/%m}/{title}-{id}` gives `2026/11/dubai-s00000001-0c8555c7`.

What a satellite says becomes names here: letters, digits, `-` and `_` are kept, everything else is a `-`.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import PurePath
from string import Formatter
from typing import Final

from ground.errors import AskedWrong

DEFAULT: Final = "{id}"
EXAMPLE: Final = "{date:%Y/%m}/{title}-{id}"
LONGEST_PATTERN: Final = 120
LONGEST_TITLE: Final = 80
"""Bytes of UTF-8."""
# File systems take names of 255 bytes; folders.py adds up to -9999 to a name that is taken.
_LONGEST_ID, _LONGEST_NAME = 128, 240
# Digits in any locale: folders sort by time, and zeros can stand for a time that is missing.
_DIRECTIVES = "YmdHMSjGV"
_LITERAL = re.compile(r"[A-Za-z0-9_/-]*")
_DATE = re.compile(rf"([A-Za-z0-9_/-]|%[{_DIRECTIVES}])+")
_TITLE = re.compile(r"(?:Land cover of )?(.*)", re.DOTALL)
_SUFFIXES = (".tif", ".tiff", ".xml", ".til", ".zip", ".tar", ".vrt")


@dataclass(frozen=True)
class Layout:
    """Where a map's folder lies in a station's folder.

    Attributes:
        pattern: names with `{id}`, `{title}` (of the scene, without its ending) and `{date:FORMAT}` (the item's
            datetime in UTC; FORMAT of %Y %m %d %H %M %S %j %G %V), `/` between folders.

    Raises:
        AskedWrong: it is no such pattern.
    """

    pattern: str = DEFAULT

    def __post_init__(self) -> None:
        for literal, name, date_format, conversion in self._parts():
            if not _LITERAL.fullmatch(literal):
                raise self._refused("letters, digits, - and _ may stand beside the names in braces")
            if name is None:
                continue
            if name not in ("id", "title", "date") or conversion or (date_format and name != "date"):
                raise self._refused("the names in braces are {id}, {title} and {date:%Y-%m-%d}")
            if date_format and not _DATE.fullmatch(date_format):
                raise self._refused("a date has " + " ".join(f"%{letter}" for letter in _DIRECTIVES))
        if len(self.pattern) > LONGEST_PATTERN or not all(self.place("i", "t", None)):
            raise self._refused(f"it has at most {LONGEST_PATTERN} characters, and a name between every two /")
        if not {"id", "title"} & {name for _, name, _, _ in self._last_parts()}:
            raise self._refused("the last folder's name needs {id} or {title}")
        # Counted in characters: all that may stand beside a title is ASCII, and the title is cut by bytes.
        longest = self.place("i" * _LONGEST_ID, "t" * LONGEST_TITLE, None)
        if max(map(len, longest)) > _LONGEST_NAME:
            raise self._refused("a folder's name would be too long")

    @property
    def is_default(self) -> bool:
        """Whether a map's folder has its id as its name."""
        return self.pattern == DEFAULT

    @property
    def depth(self) -> int:
        """Folders from the station's to a map's, that one included: the same for every map."""
        return len(self.place("i", "t", None))

    def place(self, map_id: str, title: str, time: datetime | None) -> tuple[str, ...]:
        """Names of the folders down to a map's; a map without a time has zeros in place of its digits."""
        texts = []
        for literal, name, date_format, _ in self._parts():
            texts.append(literal)
            if name == "date":
                texts.append(_date_text(time, date_format or "%Y-%m-%d"))
            elif name is not None:
                texts.append(map_id if name == "id" else safe_title(title))
        return tuple("".join(texts).split("/"))

    def _parts(self) -> list[tuple[str, str | None, str | None, str | None]]:
        try:
            return list(Formatter().parse(self.pattern))
        except ValueError:
            raise self._refused("each { needs its }") from None

    def _last_parts(self) -> list[tuple[str, str | None, str | None, str | None]]:
        """Those of the last folder's name."""
        last: list[tuple[str, str | None, str | None, str | None]] = []
        for part in self._parts():
            if "/" in part[0]:
                last = []
            last.append(part)
            if "/" in (part[2] or ""):
                last = []
        return last

    def _refused(self, remedy: str) -> AskedWrong:
        return AskedWrong(f"{self.pattern!r} is no layout", f"{remedy}; give it like '{EXAMPLE}'")


def safe_title(title: str) -> str:
    """The scene's name in an item's title, as part of a folder's name."""
    match = _TITLE.fullmatch(title)
    name = match[1] if match else title
    if PurePath(name).suffix.lower() in _SUFFIXES:
        name = name[: name.rindex(".")]
    # NFC: an accent that is a character of its own would else give one title two folders.
    plain = "".join(
        char if unicodedata.category(char)[0] in "LMN" or char in "_-" else "-"
        for char in unicodedata.normalize("NFC", name)
    )
    # Cut by bytes, as file systems count; a character that the cut halves is left out.
    plain = re.sub("-{2,}", "-", plain).strip("-_").encode("utf-8", "ignore")[:LONGEST_TITLE].decode("utf-8", "ignore")
    return plain.strip("-_") or "untitled"


def _date_text(time: datetime | None, date_format: str) -> str:
    if time is None:
        return re.sub(r"\d", "0", datetime(2000, 1, 1, tzinfo=timezone.utc).strftime(date_format))
    return time.astimezone(timezone.utc).strftime(date_format)
