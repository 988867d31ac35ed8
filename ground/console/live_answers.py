"""The satellite's answers as the console takes them: what has another form is refused before a page sees it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ground import answers

Text = Annotated[str, Field(max_length=10_000)]
# JSON of a page cannot hold infinity or NaN, which Python reads from JSON.
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e18, le=1e18)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Rail(_Answer):
    """Energy of one rail since sampling began."""

    rail: Text
    energy_j: Number = 0.0
    mean_power_w: Number | None = None
    peak_power_w: Number | None = None


class LivePower(answers.Power):
    """The main rail, and all of them."""

    idle_w: Number | None = None
    hottest_c: Number | None = None
    throttling: bool | None = None
    rails: list[Rail] = Field([], max_length=200)


class LiveSnapshot(answers.Snapshot):
    """A snapshot of the stream, with what the page draws."""

    power: LivePower
    pixels_per_s: Number | None = None
    tiles_total: int = 0
    scenes_total: int = 0
    sources: dict[str, Text] = Field({}, max_length=100)


class Scene(_Answer):
    """A scene of the queue."""

    id: Text
    sequence: int
    name: Text
    state: Text
    priority: Text
    bytes: int = 0
    acquired: Text | None = None
    tiles_done: int | None = None
    tiles: int | None = None
    problem: Text | None = None
    waiting_reason: Text | None = None


class Scenes(_Answer):
    """A page of scenes."""

    # Bounded, as all lists here: an answer may have 16 MB, and a page gets all of it again and again.
    scenes: list[Scene] = Field(max_length=1000)
    next: int | None = None


class PlannedFile(_Answer):
    """A file that is planned."""

    map: Text
    asset: Text
    bytes: int = Field(ge=0)
    length: int = Field(ge=0)
    priority: Text = ""
    reason: Text = ""


class Plan(_Answer):
    """What the ground should fetch."""

    planned_bytes: int = Field(ge=0)
    left_out: int = Field(ge=0)
    # Of the whole plan, of which a long one lists the beginning; satellites of an earlier version list all.
    planned_files: int = Field(0, ge=0)
    planned_maps: int = Field(0, ge=0)
    items: list[PlannedFile] = Field(max_length=100_000)


class Ready(_Answer):
    """Whether scenes are mapped now."""

    status: Text
    problems: list[Text] = Field([], max_length=1000)


class Events(_Answer):
    """A page of events."""

    events: list[dict[str, Any]] = Field(max_length=1000)
    next: int | None = None
    acknowledged: int = 0
