"""Which bands of a scene are the model's bands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onboard.errors import OptionsRefused, SceneRefused
from onboard.scene.assumption import Assumption
from onboard.scene.band_names import bands_by_wavelength, colours_of, spectral_names


@dataclass(frozen=True)
class BandChoice:
    """Bands to read, in the model's order.

    Attributes:
        indexes: 1-based.
        how: what the choice rests on: "asked for", "band descriptions", "wavelengths", "colour interpretation",
            "one grey band", "order".
        assumption: what nothing in the file says.
    """

    indexes: tuple[int, ...]
    how: str
    assumption: Assumption | None = None


def chosen_bands(
    path: Path,
    names: Sequence[str],
    *,
    colours: Sequence[str],
    descriptions: Sequence[str | None],
    wavelengths: Sequence[float | None] = (),
) -> BandChoice:
    """Finds the model's bands by meaning, else by order.

    Descriptions go first: three bytes a pixel are marked red, green, blue by the writer's habit, whatever they are.

    Args:
        path: of the scene, for the error.
        names: the model's bands ("red", "green", "blue").
        colours: colour interpretation of each band of the scene, as GDAL names it.
        descriptions: description of each band.
        wavelengths: nanometres of each band's centre.

    Raises:
        SceneRefused: no sensible choice; `--bands` makes one.
    """
    if "palette" in colours:
        raise SceneRefused(
            path, "its pixels are palette entries, not colours", "expand it first: gdal_translate -expand rgb"
        )
    if {"cyan", "magenta", "yellow"} <= set(colours):
        raise SceneRefused(path, "its bands are CMYK inks, not radiance", "convert it to RGB first")
    # Kept even where names decide: where the two disagree, the item says so.
    by_colour = _by_name(names, colours)
    meanings = spectral_names(descriptions)
    if chosen := _by_name(names, meanings):
        return BandChoice(chosen, "band descriptions", _conflict(chosen, by_colour))
    if chosen := bands_by_wavelength(names, wavelengths):
        return BandChoice(chosen, "wavelengths", _conflict(chosen, by_colour))
    for how, labels in (("band descriptions", meanings), ("wavelengths", colours_of(wavelengths))):
        # A mask has no name of its own.
        of_bands = [label for label, colour in zip(labels, colours, strict=False) if label or colour != "alpha"]
        if _lacks_blue(names, of_bands) and (chosen := _by_name(_with_green_for_blue(names), labels)):
            text = f"the file has no blue band ({_joined(of_bands)}): green stands for it"
            # In their own order they would be a false-colour picture, which no model was trained on.
            return BandChoice(chosen, how, Assumption("bands", text, _any_bands(names)))
    if by_colour:
        return BandChoice(by_colour, "colour interpretation", _misnamed(names, by_colour, meanings, descriptions))
    # Alpha is a mask and no colour: a fourth band marked so does not count as one of the model's.
    usable = [number for number, colour in enumerate(colours, 1) if colour != "alpha"]
    if len(usable) == 1:
        text = f"its one grey band stands for {', '.join(names)}"
        return BandChoice(tuple(usable * len(names)), "one grey band", Assumption("bands", text))
    if len(usable) < len(names):
        raise SceneRefused(
            path, f"has {len(usable)} bands, the model wants {', '.join(names)}", "say which is which, as --bands 1,2,2"
        )
    first = tuple(usable[: len(names)])
    named = [descriptions[number - 1] for number in first]
    why = f"the names {_joined(named)} do not say it" if any(named) else "the file does not name its bands"
    text = f"bands {_listed(first)} are taken for {', '.join(names)}: {why}"
    # Files that name no bands hold them as RGB or as BGR: the hint offers the other order.
    option = f"--bands {','.join(map(str, reversed(first)))} (if it begins with {names[-1]})"
    return BandChoice(first, "order", Assumption("bands", text, option))


def asked_bands(asked: Sequence[int], names: Sequence[str], count: int) -> BandChoice:
    """The bands an option names, checked.

    Raises:
        OptionsRefused: wrong number of bands, or one the scene does not have.
    """
    text_of_bands = ",".join(map(str, asked))
    if len(asked) != len(names):
        raise OptionsRefused(
            f"--bands {text_of_bands} names {len(asked)} bands", f"give one for each of {', '.join(names)}"
        )
    if not all(1 <= number <= count for number in asked):
        raise OptionsRefused(f"--bands {text_of_bands}: the scene has bands 1 to {count}", "name bands that are there")
    return BandChoice(tuple(asked), "asked for")


def _by_name(names: Sequence[str], labels: Sequence[str | None]) -> tuple[int, ...]:
    """The band of each name that is a label; empty unless every name has exactly one."""
    # Two bands of one name: nobody knows which is meant, so neither is taken.
    if any(list(labels).count(name) != 1 for name in names):
        return ()
    return tuple(list(labels).index(name) + 1 for name in names)


def _lacks_blue(names: Sequence[str], labels: Sequence[str | None]) -> bool:
    """Whether the file says what each band is, and none is the blue that the model wants (colour infrared, SPOT)."""
    return "blue" in names and "blue" not in labels and all(labels)


def _with_green_for_blue(names: Sequence[str]) -> list[str]:
    return ["green" if name == "blue" else name for name in names]


def _any_bands(names: Sequence[str]) -> str:
    return f"--bands {','.join('N' for _ in names)}"


def _misnamed(
    names: Sequence[str], chosen: tuple[int, ...], meanings: Sequence[str | None], descriptions: Sequence[str | None]
) -> Assumption | None:
    """Where a band's own name says another thing than its colour interpretation, and not enough to choose by names."""
    wrong = [number for name, number in zip(names, chosen, strict=True) if meanings[number - 1] not in (None, name)]
    if not wrong:
        return None
    named = _joined(descriptions[number - 1] for number in chosen)
    text = f"bands {_listed(chosen)} are taken by their colour interpretation, though their names are {named}"
    return Assumption("bands", text, _any_bands(names))


def _conflict(chosen: tuple[int, ...], by_colour: tuple[int, ...]) -> Assumption | None:
    if not by_colour or by_colour == chosen:
        return None
    text = f"bands {_listed(chosen)} are taken by name, though their colour interpretation says {_listed(by_colour)}"
    return Assumption("bands", text, f"--bands {','.join(map(str, by_colour))}")


def _joined(labels: Iterable[str | None]) -> str:
    return ", ".join((label or "unnamed")[:40] for label in labels)


def _listed(bands: Sequence[int]) -> str:
    return ", ".join(map(str, bands))
