"""When a scene was taken, by its TIFF tags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

_TIME = re.compile(
    r"(\d{4})[:/-]?(\d\d)[:/-]?(\d\d)"
    r"[ T]+(\d\d):?(\d\d)(?::?(\d\d)(?:[.,]\d+)?)?\s*(Z|UTC|[+-]\d\d:?(?:\d\d)?)?",
    re.IGNORECASE,
)
_FIRST_MOMENT = re.compile(r"0001[:/-]?01[:/-]?01([ T]+[0:.,]*)?(Z|UTC|[+-][\d:]+)?", re.IGNORECASE)


def acquisition_text(tags: Mapping[str, str]) -> str:
    """The acquisition time as the tags write it; empty where there is none."""
    text = (tags.get("ACQUISITIONDATETIME") or tags.get("TIFFTAG_DATETIME") or "").strip("\0 ")
    # Cameras and writers that know no time fill the tag with zeros, or with the first moment of their calendar (.NET).
    return "" if not re.search(r"[1-9]", text) or _FIRST_MOMENT.fullmatch(text) else text


def rfc3339_utc(text: str) -> str | None:
    """The time in RFC 3339 and UTC, to the second; a time without an offset is UTC. None where it is no time."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    try:
        year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
        time = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc) - _offset(match[7])
    except (ValueError, OverflowError):
        return None
    # Not strftime: its %Y gives years before 1000 fewer than four digits, which no reader of RFC 3339 takes.
    return time.isoformat().replace("+00:00", "Z")


def _offset(text: str | None) -> timedelta:
    if not text or text.upper() in ("Z", "UTC"):
        return timedelta()
    hours, minutes = int(text[1:3]), int(text[3:].lstrip(":") or 0)
    # No place on Earth is more than 14 hours from UTC: such text is no offset.
    if hours > 14 or minutes > 59:
        raise ValueError(text)
    offset = timedelta(hours=hours, minutes=minutes)
    return -offset if text[0] == "-" else offset
