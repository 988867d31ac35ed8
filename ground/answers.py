"""The satellite's answers as the ground takes them: what is none of them is refused before it is used."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from ground.catalog import OWN_NAMES
from ground.passes import LOG

MOST_FILES = 100_000
LARGEST_FILE = 1 << 50
RESERVED = frozenset({"receipt.json", "coarse.tif"})
"""Files of a map's folder that are the ground's own."""
RESERVED_MAPS = OWN_NAMES | {LOG}
"""Files beside the maps' folders that are the ground's own; a disk may know no case."""

# Names from the link become paths here: nothing but plain ones.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# Python's integers have no end. 2**53 is exact as float64 too, 2**62 fits the int64 of Arrow.
Number = Annotated[int, Field(ge=-(2**53), le=2**53)]
Count = Annotated[int, Field(ge=0, le=2**62)]
Tick = Annotated[int, Field(ge=0, le=2**53)]


# Strict: pydantic would take "1" or 1.0 for a count. Fields that newer satellites add are passed over.
class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class PlannedFile(_Answer):
    """A file to fetch, or its leading part."""

    map: Name
    asset: Name
    sha256: Sha256
    bytes: Annotated[int, Field(ge=1, le=LARGEST_FILE)]
    length: Annotated[int, Field(ge=1, le=LARGEST_FILE)]
    priority: str = ""
    reason: str = ""

    @model_validator(mode="after")
    def _is_possible(self) -> PlannedFile:
        if self.length > self.bytes:
            raise ValueError("length is more than bytes")
        # A .part would be taken for a transfer that was broken off.
        if self.asset.lower() in RESERVED or self.asset.endswith(".part"):
            raise ValueError("asset has a name of the ground's own files")
        if self.map.lower() in RESERVED_MAPS:
            raise ValueError("map has a name of the ground's own files")
        return self


class LeftOutMap(_Answer):
    """A map for which the bytes of a plan are not enough; ``bytes`` would bring something of it."""

    map: Name
    priority: str
    bytes: Annotated[int, Field(ge=0, le=LARGEST_FILE)]


class Plan(_Answer):
    """What to fetch, in its order."""

    items: Annotated[list[PlannedFile], Field(max_length=MOST_FILES)]
    left_out: Count
    # Satellites of an earlier version do not say these.
    first_left_out: LeftOutMap | None = None
    planned_files: Count = 0


class ReceiptTaken(_Answer):
    """The satellite knows that a map is here."""

    map: Name
    received: bool


class Checked(_Answer):
    """What became of a map that came wrong."""

    damaged: Annotated[list[Name], Field(max_length=100)]
    erased: bool


class Event(BaseModel):
    """One event; all of its fields are kept."""

    model_config = ConfigDict(extra="allow")
    sequence: Annotated[int, Field(ge=0, le=2**62, strict=True)]


class Events(_Answer):
    """A page of events."""

    events: Annotated[list[Event], Field(max_length=10_000)]
    next: Count | None
    acknowledged: Count


class History(_Answer):
    """A page of columns of equal length; ticks rise."""

    step_s: Annotated[float, Field(ge=0, le=1e9)]
    now: Number
    next: Number | None
    columns: dict[Annotated[str, StringConstraints(min_length=1, max_length=200)], list[float | int | None]]

    @model_validator(mode="after")
    def _is_a_table(self) -> History:
        # Ticks name the files that are written, and say where the next page begins.
        ticks = self.columns.get("tick")
        if ticks is None:
            raise ValueError("there is no column tick")
        # By type(): True is an int for isinstance().
        if not all(type(tick) is int and 0 <= tick <= 2**53 for tick in ticks):
            raise ValueError("a tick is no whole number")
        if any(after <= before for before, after in pairwise(ticks)):  # type: ignore[operator]
            raise ValueError("ticks do not rise")
        if any(len(values) != len(ticks) for values in self.columns.values()):
            raise ValueError("columns have different lengths")
        samples = self.columns.get("samples", [])
        if not all(value is None or (type(value) is int and abs(value) <= 2**53) for value in samples):
            raise ValueError("samples are no whole numbers")
        return self

    @property
    def ticks(self) -> list[int]:
        """Milliseconds of running."""
        return [int(tick) for tick in self.columns["tick"] if tick is not None]


class MapProperties(_Answer):
    """What is listed of a map's item."""

    datetime: str | None
    title: str
    priority: str = Field(alias="onboard:priority")
    received: bool = Field(alias="onboard:received")
    sequence: Count = Field(alias="onboard:sequence")


class MapAsset(_Answer):
    """map.tif."""

    size: Count = Field(alias="file:size")


class MapAssets(_Answer):
    """The assets of an item that are used here."""

    map: MapAsset


class MapItem(_Answer):
    """One map aboard."""

    id: str
    properties: MapProperties
    assets: MapAssets


class PageLink(_Answer):
    """A link of a page."""

    rel: str


class Maps(_Answer):
    """A page of maps."""

    features: Annotated[list[MapItem], Field(max_length=10_000)]
    links: list[PageLink]


class Engine(_Answer):
    """The engine of a snapshot."""

    state: str
    backend: str
    precision: str
    model: str
    problem: str


class Disk(_Answer):
    """Bytes of the data folder's disk."""

    free_bytes: Number
    reserve_bytes: Number


class Power(_Answer):
    """The main rail."""

    rail: str | None
    power_w: float | None
    net_w: float | None
    reason: str
    mode: str | None


class Governor(_Answer):
    """What the governor does."""

    state: str
    why: str


class Reading(_Answer):
    """One reading."""

    quantity: str
    value: float | None
    unit: str
    reason: str
    source: str
    rail: str


class Clocks(_Answer):
    """When."""

    utc: str


class Snapshot(_Answer):
    """How the satellite's mapper is."""

    at: Clocks
    engine: Engine
    scene: str | None
    tiles_done: Number
    tiles_all: Number
    tiles_per_s: float | None
    scenes: dict[str, Number]
    disk: Disk
    power: Power
    governor: Governor
    readings: list[Reading]

    def as_dict(self) -> dict[str, Any]:
        """For what prints it."""
        return self.model_dump()
