"""Areas of interest as GeoJSON: which places and classes count, how urgent they are, what change is worth an event.

Sizes and numbers are bounded: an area is measured on every map that it touches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from onboard.errors import OptionsRefused

MOST_AREAS: Final = 100
MOST_POSITIONS: Final = 1000
"""Of one area."""
MOST_BYTES: Final = 1 << 16
"""Of all areas as JSON."""
Percent = Annotated[float, Field(ge=0, le=100)]
Ring = list[tuple[float, float]]


class _Part(BaseModel):
    # RFC 7946, 6.1: members of other programs are allowed, and mean nothing here.
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class AreaGeometry(_Part):
    """A polygon, or several, in degrees (EPSG:4326, longitude first); longitudes may run beyond 180."""

    type: Literal["Polygon", "MultiPolygon"]
    coordinates: list[Any]

    @model_validator(mode="after")
    def _has_rings(self) -> AreaGeometry:
        # On the whole geometry: many small rings cost as much as a long one.
        positions = sum(len(ring) for polygon in self.polygons for ring in polygon)
        if positions > MOST_POSITIONS:
            raise ValueError(f"it has {positions:,} positions, {MOST_POSITIONS:,} are taken: simplify it")
        return self

    @property
    def polygons(self) -> list[list[Ring]]:
        """Polygons, each of an outer ring and its holes, of (longitude, latitude)."""
        parts = [self.coordinates] if self.type == "Polygon" else self.coordinates
        if not parts or not all(isinstance(part, list) and part for part in parts):
            raise ValueError("it has no rings")
        return [[_ring(ring) for ring in part] for part in parts]


class AreaFacts(_Part):
    """What counts in an area.

    Attributes:
        name: of the area, in events and items.
        head: whose classes count; None for the first head that a scene is mapped with. A map without it says nothing
            of the area.
        classes: names or titles of the classes that count; all of them where it is empty.
        priority: of maps that show the area, at least; None leaves it to the scene.
        priority_percent: share of the area that the classes must have for that.
        alert_points: change of a class's share, in points of percent, from which there is an event; None for none.
        cover_percent: share of the area that both maps must show for that.
    """

    name: Annotated[str, Field(pattern=r"^\w[\w .-]{0,59}$")]
    head: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    classes: Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=50)] = []
    priority: Literal["urgent", "high", "routine"] | None = None
    priority_percent: Percent = 0.0
    alert_points: Annotated[float, Field(gt=0, le=100)] | None = None
    cover_percent: Percent = 50.0


class Area(_Part):
    """One area: a Feature. Without a geometry it is any place: the map as a whole."""

    type: Literal["Feature"]
    geometry: AreaGeometry | None
    properties: AreaFacts

    @model_validator(mode="after")
    def _compares_one_place(self) -> Area:
        if self.geometry is None and self.properties.alert_points is not None:
            raise ValueError("alert_points needs a geometry: maps of different places are not compared")
        return self

    @property
    def key(self) -> str:
        """Equal for the same place under the same name: what earlier maps are compared by."""
        # The geometry is part of it: shares of a changed area are of other ground, so it begins anew.
        geometry = None if self.geometry is None else self.geometry.model_dump(mode="json")
        head = [] if self.properties.head is None else [self.properties.head]  # keys of areas without one stay
        text = json.dumps([self.properties.name, geometry, *head], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class Areas(_Part):
    """All areas: a FeatureCollection."""

    type: Literal["FeatureCollection"]
    features: Annotated[list[Area], Field(max_length=MOST_AREAS)]

    @classmethod
    def of(cls, features: Sequence[Area]) -> Areas:
        """These areas."""
        return cls(type="FeatureCollection", features=list(features))

    @field_validator("features")
    @classmethod
    def _names_differ(cls, features: list[Area]) -> list[Area]:
        # Areas are forgotten and compared by name: two of one name could not be told apart.
        names = [area.properties.name.casefold() for area in features]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two areas are called {twice!r}")
        return features

    def as_json(self) -> bytes:
        """As GeoJSON."""
        return self.model_dump_json().encode()

    def check_classes(self, known: Mapping[str, str], heads: Mapping[str, Mapping[str, str]] | None = None) -> None:
        """Passes if every head that is named is one of the model's, and every class one of that head's.

        Args:
            known: title by name of the classes of the first head, for areas that name none.
            heads: the same for each head of the model, by its name; none for a model of one graph.

        Raises:
            OptionsRefused: one is not.
        """
        for area in self.features:
            _check_area(area.properties, known, heads or {})


def _check_area(facts: AreaFacts, known: Mapping[str, str], heads: Mapping[str, Mapping[str, str]]) -> None:
    if facts.head is not None and facts.head not in heads:
        has = f"its heads are {', '.join(heads)}" if heads else "it has no heads: leave `head` out"
        raise OptionsRefused(f"area {facts.name!r} names the head {facts.head!r}, which the model lacks", has)
    classes = known if facts.head is None else heads[facts.head]
    whose = "the model" if facts.head is None else f"the head {facts.head}"
    for name in facts.classes:
        if name.casefold() not in _names_of(classes):
            elsewhere = [head for head, own in heads.items() if name.casefold() in _names_of(own)]
            hint = f"; for those of another head give `head`: {', '.join(elsewhere)}" if elsewhere else ""
            raise OptionsRefused(
                f"area {facts.name!r} counts {name!r}, which is no class of {whose}",
                f"its classes are {', '.join(classes.values())}{hint}",
            )


def _names_of(classes: Mapping[str, str]) -> set[str]:
    """Names and titles."""
    return {text.casefold() for pair in classes.items() for text in pair}


def read_areas(path: Path, longest: int = MOST_BYTES) -> Areas:
    """Areas of a GeoJSON file of at most so many bytes.

    Raises:
        OptionsRefused: it cannot be read, or holds something else.
    """
    try:
        with path.open("rb") as file:
            # One byte more tells a file that is too long without reading all of it.
            data = file.read(longest + 1)
    except OSError as error:
        raise OptionsRefused(f"{path}: {error.strerror}", "give a GeoJSON file of areas") from error
    return areas_of(data, str(path), longest)


def areas_of(data: bytes, source: str, longest: int = MOST_BYTES) -> Areas:
    """Areas of GeoJSON of at most so many bytes.

    Raises:
        OptionsRefused: it is none; says what is wrong with it.
    """
    if len(data) > longest:
        raise OptionsRefused(f"{source} has more than {longest:,} bytes", "simplify the areas")
    try:
        return Areas.model_validate_json(data)
    except ValidationError as error:
        # The first problem alone: a file of another kind has hundreds.
        row = error.errors()[0]
        place = ".".join(map(str, row["loc"]))
        raise OptionsRefused(
            f"{source}: {place + ': ' if place else ''}{row['msg']}", "docs/areas.md has the form of areas"
        ) from None


def _ring(positions: Any) -> Ring:
    if not isinstance(positions, list) or len(positions) < 4:
        raise ValueError("a ring has fewer than 4 positions")
    ring = [_position(position) for position in positions]
    if ring[0] != ring[-1]:
        raise ValueError("a ring does not end where it begins")
    if any(abs(after[0] - before[0]) > 180 for before, after in pairwise(ring)):
        raise ValueError("an edge spans more than 180 degrees: let longitudes run on (179 to 181), or cut the area")
    return ring


def _position(values: Any) -> tuple[float, float]:
    if isinstance(values, list) and 2 <= len(values) <= 3:
        x, y = values[:2]
        # By comparison, which NaN and whole numbers of any length stand.
        if type(x) in (int, float) and type(y) in (int, float) and -360 <= x <= 360 and -90 <= y <= 90:
            return float(x), float(y)
    raise ValueError("a position is no longitude and latitude in degrees")
