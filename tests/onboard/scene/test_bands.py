from __future__ import annotations

from pathlib import Path

import pytest

from onboard.scene.band_names import wavelength_nm
from onboard.scene.bands import chosen_bands

RGB = ("red", "green", "blue")


def chosen(*labels: str, colours: tuple[str, ...] = ()) -> tuple[tuple[int, ...], str]:
    undefined = colours or ("undefined",) * len(labels)
    choice = chosen_bands(Path("s.tif"), RGB, colours=undefined, descriptions=labels)
    return choice.indexes, choice.how


@pytest.mark.parametrize(
    ("labels", "bands"),
    [
        (("Blue", "Green", "Red", "NIR", "Red edge"), (3, 2, 1)),
        (("Coastal Blue", "Blue", "Green", "Yellow", "Red", "Red Edge", "NIR1", "NIR2"), (5, 3, 2)),
        (("coastal_blue", "blue", "green_i", "green", "yellow", "red", "rededge", "nir"), (6, 4, 2)),
        (("coastal", "blue", "green05", "green", "yellow", "red", "rededge071", "nir"), (6, 4, 2)),
        (("RedReflectance", "GreenReflectance", "BlueReflectance", "RedEdge", "NearInfraRed"), (1, 2, 3)),
        (("BAND_C", "BAND_B", "BAND_G", "BAND_Y", "BAND_R", "BAND_RE", "BAND_N", "BAND_N2"), (5, 3, 2)),
        (("B", "G", "R", "N"), (3, 2, 1)),
        (("Blau", "Grün", "Rot", "Nahes Infrarot"), (3, 2, 1)),
        (("Bleu", "Vert", "Rouge", "Proche infrarouge"), (3, 2, 1)),
        (("near infra-red", "red", "green", "blue"), (2, 3, 4)),
        (("B02", "B03", "B04", "B08"), (3, 2, 1)),
        (("B2", "B3", "B4"), (3, 2, 1)),
        (("B4, central wavelength 665 nm", "B3, central wavelength 560 nm", "B2, at 490 nm"), (1, 2, 3)),
        (tuple(f"SR_B{n}" for n in range(1, 8)), (4, 3, 2)),
        (("SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B7"), (3, 2, 1)),
        (("SR_B4", "SR_B3", "SR_B2"), (1, 2, 3)),
        (("sur_refl_b01", "sur_refl_b02", "sur_refl_b03", "sur_refl_b04"), (1, 4, 3)),
        (("B0", "B1", "B2", "B3"), (3, 2, 1)),
    ],
)
def test_bands_are_known_by_the_names_products_use(labels: tuple[str, ...], bands: tuple[int, ...]) -> None:
    assert chosen(*labels) == (bands, "band descriptions")


@pytest.mark.parametrize(
    "labels",
    [
        ("Band 1", "Band 2", "Band 3", "Band 4"),
        ("B1", "B2", "B3", "B4"),
        tuple(f"B{n}" for n in range(1, 8)),
        ("red", "red", "green", "blue"),
        ("infrared", "red edge", "coastal blue", "green"),
    ],
)
def test_names_that_leave_it_open_are_an_assumption_with_its_option(labels: tuple[str, ...]) -> None:
    choice = chosen_bands(Path("s.tif"), RGB, colours=("undefined",) * len(labels), descriptions=labels)
    assert (choice.indexes, choice.how) == ((1, 2, 3), "order")
    assert choice.assumption is not None
    assert "bands 1, 2, 3 are taken for red, green, blue" in choice.assumption.text
    assert "--bands 3,2,1" in choice.assumption.option


@pytest.mark.parametrize(
    ("labels", "bands"),
    [
        (("NIR", "Red", "Green"), (2, 3, 3)),
        (("Nahes Infrarot", "Rot", "Grün"), (2, 3, 3)),
        (("Green", "Red", "NIR", "SWIR"), (2, 1, 1)),
    ],
)
@pytest.mark.parametrize("colours", [("undefined",) * 4, ("red", "green", "blue", "undefined")])
def test_where_every_band_is_named_and_none_is_blue_green_stands_for_it_and_it_is_said(
    labels: tuple[str, ...], bands: tuple[int, ...], colours: tuple[str, ...]
) -> None:
    choice = chosen_bands(Path("s.tif"), RGB, colours=colours[: len(labels)], descriptions=labels)
    assert (choice.indexes, choice.how) == (bands, "band descriptions")
    assert choice.assumption is not None
    assert choice.assumption.text.startswith("the file has no blue band (")
    assert choice.assumption.text.endswith("green stands for it")


def test_a_mask_beside_bands_without_blue_needs_no_name() -> None:
    labels, colours = ("NIR", "Red", "Green", None), ("undefined", "undefined", "undefined", "alpha")
    choice = chosen_bands(Path("s.tif"), RGB, colours=colours, descriptions=labels)
    assert choice.indexes == (2, 3, 3)
    other = chosen_bands(Path("s.tif"), RGB, colours=("undefined",) * 4, descriptions=labels)
    assert other.how == "order", "the fourth may be blue"


def test_wavelengths_without_blue_are_said_too() -> None:
    undefined = ("undefined",) * 3
    choice = chosen_bands(
        Path("s.tif"), RGB, colours=undefined, descriptions=(None,) * 3, wavelengths=(545.0, 640.0, 815.0)
    )
    assert (choice.indexes, choice.how) == ((2, 1, 1), "wavelengths")
    assert choice.assumption is not None
    assert choice.assumption.text == "the file has no blue band (green, red, nir): green stands for it"
    # One of an unknown wavelength may be blue.
    choice = chosen_bands(
        Path("s.tif"), RGB, colours=undefined, descriptions=(None,) * 3, wavelengths=(545.0, 640.0, None)
    )
    assert choice.how == "order"


def test_names_that_contradict_the_colour_interpretation_are_said() -> None:
    colours = ("red", "green", "blue")
    choice = chosen_bands(Path("s.tif"), RGB, colours=colours, descriptions=("NIR", "Red", None))
    assert (choice.indexes, choice.how) == ((1, 2, 3), "colour interpretation")
    assert choice.assumption is not None
    assert "though their names are NIR, Red, unnamed" in choice.assumption.text
    plain = chosen_bands(Path("s.tif"), RGB, colours=colours, descriptions=("Band 1", "Band 2", "Band 3"))
    assert plain.assumption is None


def test_names_that_say_nothing_are_not_called_none() -> None:
    choice = chosen_bands(Path("s.tif"), RGB, colours=("undefined",) * 3, descriptions=("VV", "VH", "ratio"))
    assert choice.assumption is not None
    assert choice.assumption.text.endswith("for red, green, blue: the names VV, VH, ratio do not say it")


def test_names_go_before_the_colours_a_writer_marks_by_habit() -> None:
    choice = chosen_bands(Path("s.tif"), RGB, colours=("red", "green", "blue"), descriptions=("blue", "green", "red"))
    assert choice.indexes == (3, 2, 1)
    assert choice.assumption is not None
    assert choice.assumption.option == "--bands 1,2,3"


def test_bands_are_known_by_their_wavelengths() -> None:
    waves = (443.0, 492.0, 560.0, 665.0, 704.0, 740.0, 783.0, 833.0)
    choice = chosen_bands(Path("s.tif"), RGB, colours=("gray",) * 8, descriptions=(None,) * 8, wavelengths=waves)
    assert (choice.indexes, choice.how) == ((4, 3, 2), "wavelengths")


def test_of_several_bands_of_one_colour_the_wavelength_in_their_names_decides() -> None:
    labels = ("Blue-444", "Blue-475", "Green-531", "Green-560", "Red-650", "Red-668", "Red edge-705", "NIR-842")
    waves = [wavelength_nm({}, label) for label in labels]
    choice = chosen_bands(Path("s.tif"), RGB, colours=("gray",) * 8, descriptions=labels, wavelengths=waves)
    assert (choice.indexes, choice.how) == ((6, 4, 2), "wavelengths")


@pytest.mark.parametrize(
    ("tags", "description", "expected"),
    [
        ({"CENTRAL_WAVELENGTH_UM": "0.665"}, None, 665),
        ({"wavelength": "665", "wavelength_units": "Nanometers"}, None, 665),
        ({"wavelength": "0.56", "wavelength_units": "Micrometers"}, None, 560),
        ({"wavelength": "0.49"}, None, 490),
        ({}, "Band 3 (560.000000 Nanometers)", 560),
        ({}, "B4, central wavelength 665 nm", 665),
        ({}, "Band 3", None),
        ({}, "Red-668", 668),
        ({}, "Layer 560", None),
    ],
)
def test_wavelengths_are_read_in_any_unit(
    tags: dict[str, str], description: str | None, expected: float | None
) -> None:
    assert wavelength_nm(tags, description) == (None if expected is None else pytest.approx(expected))
