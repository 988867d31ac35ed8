"""Options of a scene as people write them, on the command line and in settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from onboard.scene.valid import NodataOption

POLYGON_FORMATS: Final = ("geoparquet", "flatgeobuf", "gpkg")


def bands_of(text: str) -> tuple[int, ...]:
    """Band numbers: "3,2,1".

    Raises:
        ValueError: no whole numbers from 1 on.
    """
    try:
        bands = tuple(int(part) for part in text.split(","))
    except ValueError:
        bands = ()
    if not bands or min(bands) < 1:
        raise ValueError(f"{text} is no list of band numbers; give them like 3,2,1")
    return bands


def nodata_of(text: str) -> NodataOption:
    """A value, or "none" or "file".

    Raises:
        ValueError: neither of them.
    """
    name = text.strip().lower()
    if name == "none":
        return "none"
    if name == "file":
        return "file"
    try:
        # "nan" is a number here too: of floats it is no data anyway, whatever is said.
        return float(text)
    except ValueError:
        raise ValueError(f"{text} is no number; give the value itself, or none") from None


def percentiles_of(text: str) -> tuple[float, float]:
    """A pair: "2,98".

    Raises:
        ValueError: no pair of numbers.
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text} is no pair of percentiles; give it like 2,98") from None
    return low, high


def polygon_formats(text: str) -> tuple[str, ...]:
    """Formats from a text like ``geoparquet,flatgeobuf``; none from an empty one.

    Raises:
        ValueError: one is unknown.
    """
    # Each once: a format named twice is no second file.
    names = tuple(dict.fromkeys(part.strip() for part in text.split(","))) if text.strip() else ()
    for name in names:
        if name not in POLYGON_FORMATS:
            raise ValueError(
                f"no format {name!r} of polygons; give some of {', '.join(POLYGON_FORMATS)}, with commas between"
            )
    return names
