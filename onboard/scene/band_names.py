"""Meaning of band labels in the spectrum: names, product codes and wavelengths.

Sources: STAC eo extension (common names); Sentinel-2 and Landsat product specifications (B02.., SR_B4); MODIS
(sur_refl_b01); Maxar IMD (BAND_R); Airbus DIMAP (B0 blue, B1 green, B2 red, B3 near infrared); GDAL's IMAGERY metadata
domain (CENTRAL_WAVELENGTH_UM).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# The first that fits counts: a red edge is not red, a coastal blue not blue.
_WORDS: tuple[tuple[str, str], ...] = (
    ("rededge", r"red ?edge\w*|vegetation red edge|rotkante|vre\d*|re\d?"),
    ("nir", r"nir\w*|near ?infra ?red\w*|nah\w*infrarot\w*|infra ?red\w*|infrarot|infrarouge|infrarrojo|ir|pir"),
    ("swir", r"swir\w*|short ?wave\w*|mir"),
    ("thermal", r"thermal\w*|tir\w*|lwir\w*"),
    ("coastal", r"coastal\w*|aerosol\w*|violet|deep ?blue|db|ultra ?blue|ultraviolet"),
    ("green05", r"green ?(i|1|05)"),
    ("yellow", r"yellow|gelb|jaune|amarillo|orange"),
    ("pan", r"pan|panchromatic|panchro"),
    ("red", r"red|rot|rouge|rojo|rosso|vermelho|rood"),
    ("green", r"green|grun|gruen|vert|verde|groen"),
    ("blue", r"blue|blau|bleu|azul|blu|blauw"),
)
_LETTERS = {
    "r": "red", "g": "green", "b": "blue", "n": "nir", "c": "coastal", "y": "yellow", "re": "rededge", "n2": "nir",
    "p": "pan",
}  # fmt: skip


@dataclass(frozen=True)
class _Product:
    """Codes by which a product is known: all of `needs`, one of `has_one_of` where there are any, none of `lacks`."""

    needs: set[str]
    meaning: dict[str, str]
    has_one_of: set[str] = field(default_factory=set)
    lacks: set[str] = field(default_factory=set)

    def fits(self, codes: set[str]) -> bool:
        """Whether these are its bands."""
        has_one = not self.has_one_of or bool(self.has_one_of & codes)
        return self.needs <= codes and has_one and not self.lacks & codes


_SENTINEL_2 = {"b02": "blue", "b03": "green", "b04": "red", "b08": "nir", "b8a": "nir"}
_LANDSAT_8 = {"sr b2": "blue", "sr b3": "green", "sr b4": "red", "sr b5": "nir"}
_MODIS = {"sur refl b01": "red", "sur refl b04": "green", "sur refl b03": "blue", "sur refl b02": "nir"}
_UNPADDED = {"b2": "blue", "b3": "green", "b4": "red"}
_PRODUCTS = (
    _Product({"sur refl b01", "sur refl b03", "sur refl b04"}, _MODIS),
    _Product({"b0", "b1", "b2"}, {"b0": "blue", "b1": "green", "b2": "red", "b3": "nir"}),  # Airbus
    _Product({"b02", "b03", "b04"}, _SENTINEL_2),  # HLS too
    _Product(  # Landsat 4 to 7 have no SR_B6
        {"sr b1", "sr b2", "sr b3", "sr b7"},
        {"sr b1": "blue", "sr b2": "green", "sr b3": "red", "sr b4": "nir"},
        lacks={"sr b6"},
    ),
    _Product({"sr b2", "sr b3", "sr b4"}, _LANDSAT_8, has_one_of={"sr b6"}),
    _Product({"sr b2", "sr b3", "sr b4"}, _LANDSAT_8, lacks={"sr b1"}),
    # Sentinel-2 and Landsat 8 agree on these; B1 to B7 alone may be Landsat 5 as well.
    _Product({"b2", "b3", "b4"}, _UNPADDED, has_one_of={"b8a", "b9", "b10", "b11", "b12"}),
    _Product({"b2", "b3", "b4"}, _UNPADDED, lacks={"b1"}),
)
# Edges of what counts as a colour, and the middle: coastal bands (443) and red edges (705) lie outside.
_RANGES_NM = {"blue": (450, 490, 520), "green": (520, 560, 595), "red": (625, 660, 695), "nir": (760, 850, 900)}


def spectral_names(labels: Sequence[str | None]) -> list[str | None]:
    """Meaning of each label, None where it is unknown; of several greens `green` is the one without a suffix."""
    plain = [None if label is None else _plain(label) for label in labels]
    by_code = _by_code([text or "" for text in plain])
    return by_code or [None if text is None else _by_word(text) for text in plain]


def bands_by_wavelength(names: Sequence[str], wavelengths_nm: Sequence[float | None]) -> tuple[int, ...]:
    """The 1-based band nearest to the middle of each colour; empty unless each has one in its range."""
    chosen = []
    for name in names:
        low, middle, high = _RANGES_NM.get(name, (0, 0, 0))
        inside = [(abs(nm - middle), n) for n, nm in enumerate(wavelengths_nm, 1) if nm and low <= nm < high]
        if not inside:
            return ()
        chosen.append(min(inside)[1])
    return tuple(chosen)


def colours_of(wavelengths_nm: Sequence[float | None]) -> list[str | None]:
    """The colour that each wavelength is of; "another" for one of none, None where no wavelength is known."""
    return [None if nm is None else _colour_of(nm) for nm in wavelengths_nm]


def _colour_of(nm: float) -> str:
    return next((name for name, (low, _, high) in _RANGES_NM.items() if low <= nm < high), "another")


def wavelength_nm(tags: Mapping[str, str], description: str | None) -> float | None:
    """Centre of a band in nanometres by its metadata or its description, None where neither says."""
    lower = {key.lower(): value for key, value in tags.items()}
    # GDAL's own key names its unit; the others are vendors' and ENVI's, with the unit in a key of its own or nowhere.
    for key in ("central_wavelength_um", "center_wavelength", "central_wavelength", "wavelength"):
        match = re.match(r"\s*(\d+(?:\.\d+)?)", lower.get(key, ""))
        if match:
            unit = lower.get("wavelength_units", "").lower()
            return _as_nm(float(match[1]), "um" if key.endswith("_um") else unit)
    text = (description or "").lower()
    match = re.search(r"(\d+(?:\.\d+)?)\s*(nm|nanomet|um|µm|μm|micromet)", text)
    if match is not None:
        return _as_nm(float(match[1]), match[2])
    # MicaSense: Blue-444, Red edge-705.
    match = re.search(r"(?<!\d)([4-9]\d\d)$", text)
    return None if match is None or _by_word(_plain(text)) is None else float(match[1])


def _as_nm(value: float, unit: str) -> float:
    # Without a unit: no band lies below 100 nm, none beyond 100 micrometres.
    is_micro = unit.startswith(("um", "µm", "μm", "micro")) or (not unit.startswith("n") and value < 100)
    return value * 1000 if is_micro else value


def _plain(label: str) -> str:
    """Lower case, no accents, one blank between words: `Near-Infra_Red` and `NearInfraRed` are `near infra red`."""
    label = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)
    text = unicodedata.normalize("NFKD", label.replace("ß", "ss"))
    text = "".join(letter for letter in text if not unicodedata.combining(letter)).lower()
    return re.sub(r"[^a-z0-9]+", " ", text).strip()


def _by_word(text: str) -> str | None:
    bare = re.sub(r"^(band|bande|channel|kanal) ", "", text)
    if bare in _LETTERS:
        return _LETTERS[bare]
    for name, words in _WORDS:
        # Whole words: "red" is also the end of "infrared".
        if re.search(rf"(?<![a-z])({words})(?![a-z])", text):
            return name
    return None


def _by_code(labels: Sequence[str]) -> list[str | None]:
    """Product codes; empty unless the labels are those of one product that tells which band is which."""
    codes = [_code(label) for label in labels]
    # All codes must belong to one product: B2 is blue on Landsat 8 and green on Landsat 5.
    known = {code for code in codes if code}
    meaning = _meaning(known)
    return [meaning.get(code) for code in codes] if meaning else []


def _code(label: str) -> str:
    match = re.fullmatch(r"(?:\S+ )*?((?:sr |toa |st |sur refl )?b\d{1,2}a?)(?: vcid \d)?(?: .*)?", label)
    return "" if match is None else match[1]


def _meaning(codes: set[str]) -> dict[str, str]:
    for product in _PRODUCTS:
        if product.fits(codes):
            return product.meaning
    return {}
