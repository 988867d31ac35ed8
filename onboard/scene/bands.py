"""Which bands of a scene are the model's bands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onboard.errors import OptionsRefused, SceneRefused


@dataclass(frozen=True)
class BandChoice:
    """Bands to read, in the model's order.

    Attributes:
        indexes: 1-based.
        how: what the choice rests on: "asked for", "colour interpretation", "band descriptions", "one grey band",
            "order".
    """

    indexes: tuple[int, ...]
    how: str


def chosen_bands(
    path: Path, names: Sequence[str], *, colours: Sequence[str], descriptions: Sequence[str | None]
) -> BandChoice:
    """Finds the model's bands by meaning, else by order.

    Args:
        path: of the scene, for the error.
        names: the model's bands ("red", "green", "blue").
        colours: colour interpretation of each band of the scene, as GDAL names it.
        descriptions: description of each band.

    Raises:
        SceneRefused: no sensible choice; `--bands` makes one.
    """
    if "palette" in colours:
        raise SceneRefused(
            path, "its pixels are palette entries, not colours", "expand it first: gdal_translate -expand rgb"
        )
    if {"cyan", "magenta", "yellow"} <= set(colours):
        raise SceneRefused(path, "its bands are CMYK inks, not radiance", "convert it to RGB first")
    for how, labels in (("colour interpretation", colours), ("band descriptions", descriptions)):
        if found := _by_name(names, labels):
            return BandChoice(found, how)
    usable = [number for number, colour in enumerate(colours, 1) if colour != "alpha"]
    if len(usable) == 1:
        return BandChoice(tuple(usable * len(names)), "one grey band")
    if len(usable) < len(names):
        raise SceneRefused(
            path, f"has {len(usable)} bands, the model wants {', '.join(names)}", "say which is which, as --bands 1,2,2"
        )
    return BandChoice(tuple(usable[: len(names)]), "order")


def asked_bands(asked: Sequence[int], names: Sequence[str], count: int) -> BandChoice:
    """The bands an option names, checked.

    Raises:
        OptionsRefused: wrong number of bands, or one the scene does not have.
    """
    given = ",".join(map(str, asked))
    if len(asked) != len(names):
        raise OptionsRefused(f"--bands {given} names {len(asked)} bands", f"give one for each of {', '.join(names)}")
    if not all(1 <= number <= count for number in asked):
        raise OptionsRefused(f"--bands {given}: the scene has bands 1 to {count}", "name bands that are there")
    return BandChoice(tuple(asked), "asked for")


def _by_name(names: Sequence[str], labels: Sequence[str | None]) -> tuple[int, ...]:
    """The band of each name whose label has it as a word; empty unless every name has exactly one."""
    found = []
    for name in names:
        hits = [n for n, label in enumerate(labels, 1) if label and re.search(rf"\b{name}\b", label.lower())]
        if len(hits) != 1:
            return ()
        found += hits
    return tuple(found)
