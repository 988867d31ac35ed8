"""What a caller gives and gets: the request for one map, and the summary of its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onboard.errors import OptionsRefused
from onboard.mapping.changes import EarlierMaps
from onboard.mapping.familiarity import UNFAMILIAR_EXIT, MapFamiliarity
from onboard.mapping.quicklook import DEFAULT_KIND, KINDS, Kind
from onboard.scene.areas import Area
from onboard.scene.reader import SceneOptions
from onboard.scene.resolution import TOO_COARSE, ResolutionOptions


@dataclass(frozen=True)
class MapRequest:
    """One scene and the options for its map.

    Attributes:
        scene: the GeoTIFF.
        out: folder in which the map's folder appears.
        name: of the map's folder; the scene's stem by default.
        scene_options: bands, stretch, no data, page.
        resolution: the scene's ground resolution, and the map's grid.
        confidence: also write the model's confidence.
        sieve_px: smallest patch kept, in pixels of the map; 0 keeps all.
        quicklook: side: a picture of scene and map with legend and scale; map: of the map alone; off: none.
        head_quicklook: the same, for the map of each head beside the first.
        batch: tiles in one engine call.
        halo: pixels cut from tile edges, at least; the manifest's by default.
        overwrite: replace a map of another scene that has the same name.
        read_timeout_s: longest wait for one batch of pixels.
        work: folder for canvases and unpublished products, on the same file system; OUT/.onboard by default.
        title: the scene's name in the item; its file's name by default.
        acquired: when it was taken, RFC 3339, where its own tags do not say.
        own: more `onboard:` properties of the item.
        scene_sha256: the digest that the scene was accepted by; another one is refused. None takes it as it is.
        areas: of interest, which the item describes.
        earlier: maps that this one is compared with, if it is to say what changed.
        polygons: formats of polygons made of the map: geoparquet, flatgeobuf, gpkg.
        strict: a model that gives no familiarity is refused; what an unfamiliar map comes to is the caller's to say.
    """

    scene: Path
    out: Path
    name: str | None = None
    scene_options: SceneOptions = field(default_factory=SceneOptions)
    resolution: ResolutionOptions = field(default_factory=ResolutionOptions)
    confidence: bool = False
    sieve_px: int = 0
    quicklook: Kind = DEFAULT_KIND
    head_quicklook: Kind = DEFAULT_KIND
    batch: int = 1
    halo: int | None = None
    overwrite: bool = False
    read_timeout_s: float = 120.0
    work: Path | None = None
    title: str | None = None
    acquired: str | None = None
    own: Mapping[str, Any] = field(default_factory=dict)
    scene_sha256: str | None = None
    areas: tuple[Area, ...] = ()
    strict: bool = False
    earlier: EarlierMaps | None = None
    polygons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise OptionsRefused(f"--batch is {self.batch}", "give a whole number from 1 on")
        if not 0 <= self.sieve_px <= 100_000:
            raise OptionsRefused(f"--sieve is {self.sieve_px}", "give a number of pixels from 0 (off) to 100000")
        for option, kind in (("--quicklook", self.quicklook), ("--head-quicklook", self.head_quicklook)):
            if kind not in KINDS:
                raise OptionsRefused(f"{option} is {kind}", f"give one of {', '.join(KINDS)}")
        # `.onboard` holds canvases and is cleaned after each run; a `/` would lead out of the folder.
        if self.name is not None and (not self.name or self.name.startswith(".") or "/" in self.name):
            raise OptionsRefused(f"--name {self.name!r} is no plain folder name", "use letters, digits, - and _")

    @property
    def folder_name(self) -> str:
        """Name of the map's folder and the item's id."""
        # As for a name that was given: no leading dot.
        return self.name or self.scene.stem.lstrip(".") or "scene"


@dataclass(frozen=True)
class HeadSummary:
    """The map of a head beside the first: its files, and its classes' shares of all the map's pixels."""

    name: str
    map_path: Path
    quicklook_path: Path | None
    class_shares: dict[str, float]


@dataclass(frozen=True)
class MapSummary:
    """The result of a run; seconds are its wall time, resumed tiles were done by an earlier run.

    `class_shares` and `no_data_share` are of all the map's pixels: together they are 1. `notices` are lines that a
    person should read. `further` are the maps of heads beside the first, whose map the other fields describe.
    """

    folder: Path
    map_path: Path
    item_path: Path
    quicklook_path: Path | None
    confidence_path: Path | None
    tiles: int
    tiles_resumed: int
    tiles_empty: int
    seconds: float
    mapping_s: float
    tiles_per_s: float | None
    map_bytes: int
    scene_pixels: int
    class_shares: dict[str, float]
    no_data_share: float
    model: str
    model_terms: str
    already_mapped: bool
    stages_s: dict[str, float]
    assumptions: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    resolution: Mapping[str, Any] = field(default_factory=dict)
    familiarity: MapFamiliarity = field(default_factory=MapFamiliarity)
    further: tuple[HeadSummary, ...] = ()

    def exit_code(self, *, strict: bool) -> int:
        """Of a command that made the map: with ``strict`` another one than 0 where the map may be a guess.

        That is where the model does not know the ground, or where the scene's pixels are too coarse for it.
        """
        if strict and self.resolution.get("rule") == TOO_COARSE:
            return UNFAMILIAR_EXIT
        return self.familiarity.exit_code(strict=strict)

    def as_json(self) -> dict[str, Any]:
        """JSON-able form: paths as text."""
        # `asdict` goes down into nested dataclasses and leaves paths as they are, which JSON does not take.
        further = [_with_text_paths(asdict(head)) for head in self.further]
        return _with_text_paths(asdict(self) | {"familiarity": self.familiarity.as_json(), "further": further})


def _with_text_paths(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in facts.items()}
