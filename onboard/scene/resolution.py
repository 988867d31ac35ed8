"""At which ground resolution a scene is read, and on which grid its map lies.

A model knows objects by their size in pixels. Its manifest says the ground resolution that it is made for (`gsd_m`)
and the range in which it was tested (`gsd_range_m`); a scene whose own is known and lies outside is read at the
model's. docs/decisions/0011 has the figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from onboard.errors import OptionsRefused

if TYPE_CHECKING:
    from engines.manifest import Manifest
    from onboard.scene.reader import Scene

MapGrid = Literal["model", "scene"]
Rule = Literal[
    "in_range", "made_square", "reduced", "enlarged", "enlarged_twofold", "unknown", "unknown_model", "under_one_pixel"
]

TOO_COARSE: Final = "enlarged_twofold"
"""The rule of a scene whose pixels are too coarse for the model: its map is a guess."""
MAX_ENLARGEMENT = 2.0
"""Interpolation adds pixels, not detail: beyond it a map costs more and knows no more."""
_UNTESTED = math.sqrt(2)
"""Factor about `gsd_m` within which a scene is mapped as it is, of a model that names no range: half-way to a
doubling."""
_SLACK = 1.05
"""The scale of a projection: a scene of nominally two metres is not of exactly two."""
_CONFLICT = 2 / _SLACK
_MOST_OBLONG = 1.2
"""Longer side of a pixel over the shorter one, up to which a scene within the range is mapped as it is."""
_SHAPE = tuple[int, int]


@dataclass(frozen=True)
class ResolutionOptions:
    """Options of the caller.

    Attributes:
        gsd_m: ground size of the scene's pixels in metres, in place of what its georeferencing says.
        default_gsd_m: the same for scenes that do not say theirs.
        grid: on which the map lies: "model", that of the pixels the model saw, or "scene", the scene's own.

    Raises:
        OptionsRefused: a size that is none.
    """

    gsd_m: float | None = None
    default_gsd_m: float | None = None
    grid: MapGrid = "model"

    def __post_init__(self) -> None:
        for gsd in (self.gsd_m, self.default_gsd_m):
            if gsd is not None and not (math.isfinite(gsd) and gsd > 0):
                raise OptionsRefused(f"--gsd is {gsd:g}", "give the ground size of a pixel in metres, such as 0.5")
        if self.grid not in ("model", "scene"):
            raise OptionsRefused(f"--resolution is {self.grid!r}", "give model or scene")


@dataclass(frozen=True)
class ModelResolution:
    """What a model's manifest says of ground resolution.

    Attributes:
        gsd_m: metres a pixel that it is made for; None where it does not say.
        gsd_range_m: lowest and highest at which it was tested.
    """

    gsd_m: float | None
    gsd_range_m: tuple[float, float] | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> ModelResolution:
        """The manifest's."""
        return cls(manifest.gsd_m, manifest.gsd_range_m)


@dataclass(frozen=True)
class Resolution:
    """The resolution decided for one scene and one model.

    Attributes:
        rule: which one decided.
        scene_size: (width, height) of the scene in pixels; read_size: of what the model sees.
        scene_gsd_m: ground size of the scene's mean pixel in metres, None where it is not known.
        gsd_from: what says so.
        georeferenced_gsd_m: what the georeferencing says, None where it says nothing.
        text: the decision as one line for people.
        grid: on which the map lies.
    """

    rule: Rule
    scene_size: _SHAPE
    read_size: _SHAPE
    scene_gsd_m: float | None
    gsd_from: Literal["georeferencing", "option", "setting", ""]
    georeferenced_gsd_m: float | None
    text: str
    grid: MapGrid = "model"
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_resampled(self) -> bool:
        """Whether the model sees other pixels than the scene's own."""
        return self.read_size != self.scene_size

    @property
    def is_remarkable(self) -> bool:
        """Whether a person should hear of it: all but a scene within the model's range whose sizes agree."""
        return self.rule != "in_range" or _conflict(self.scene_gsd_m, self.georeferenced_gsd_m)

    @property
    def map_size(self) -> _SHAPE:
        """(width, height) of the map."""
        return self.scene_size if self.grid == "scene" else self.read_size

    def gsd_of(self, size: _SHAPE) -> float | None:
        """Ground size of a mean pixel in metres if the scene had this many; None where it is not known."""
        if self.scene_gsd_m is None:
            return None
        return self.scene_gsd_m * math.sqrt(math.prod(self.scene_size) / math.prod(size))

    def as_json(self) -> dict[str, Any]:
        """For the item."""
        return {
            "rule": self.rule,
            "text": self.text,
            "scene_gsd_m": _rounded(self.scene_gsd_m),
            "scene_gsd_from": self.gsd_from or None,
            "georeferenced_gsd_m": _rounded(self.georeferenced_gsd_m),
            "read_gsd_m": _rounded(self.gsd_of(self.read_size)),
            "map_gsd_m": _rounded(self.gsd_of(self.map_size)),
            "scene_shape": list(self.scene_size[::-1]),
            "read_shape": list(self.read_size[::-1]),
            "grid": self.grid,
            **self.facts,
        }


@dataclass(frozen=True)
class _Known:
    """Ground size of a scene's pixels: sides (across, down) in metres, and what says so."""

    sides: tuple[float, float]
    gsd_from: Literal["georeferencing", "option", "setting"]

    @property
    def gsd_m(self) -> float:
        return math.sqrt(self.sides[0] * self.sides[1])


def resolution_of(scene: Scene, manifest: Manifest, options: ResolutionOptions) -> Resolution:
    """Decides how a scene is read for a model.

    Raises:
        OptionsRefused: `options.gsd_m` leaves a map of less than a pixel.
    """
    size = scene.width, scene.height
    sides = scene.georeference.pixel_sides_m(*size)
    declared_m = None if sides is None else math.sqrt(sides[0] * sides[1])
    known = _known(sides, options)
    rule, read_size, text = _decided(size, known, ModelResolution.of(manifest))
    if known is not None and known.gsd_from == "option" and _conflict(known.gsd_m, declared_m):
        # Taken all the same, and said: whoever gives a size may know that the georeferencing is wrong.
        text += f" (--gsd is taken, though the scene's georeferencing says {declared_m:.3g} m)"
    low, high = manifest.gsd_range_m or (None, None)
    facts = {"model_gsd_m": manifest.gsd_m, "model_range_m": None if low is None else [low, high]}
    return Resolution(
        rule, size, read_size, None if known is None else known.gsd_m, "" if known is None else known.gsd_from,
        declared_m, text, options.grid, facts,
    )  # fmt: skip


def mapped_pixels(scene: Scene, model: ModelResolution, default_gsd_m: float | None) -> int:
    """Pixels of the scene, or of its enlargement for this model where that has more: what a canvas has to hold."""
    size = scene.width, scene.height
    known = _known(scene.georeference.pixel_sides_m(*size), ResolutionOptions(default_gsd_m=default_gsd_m))
    # Asked for before there is a map: the service keeps room on the disk for a canvas of this size.
    _, read_size, _ = _decided(size, known, model)
    return max(int(scene.width * scene.height), read_size[0] * read_size[1])


def _known(sides: tuple[float, float] | None, options: ResolutionOptions) -> _Known | None:
    # An option is said of this scene and wins over its file. A setting is said of any scene: it only fills in.
    if options.gsd_m is not None:
        # Oblong pixels stay so: the size that was given is that of the mean pixel.
        slim = 1.0 if sides is None else math.sqrt(sides[0] / sides[1])
        return _Known((options.gsd_m * slim, options.gsd_m / slim), "option")
    if sides is not None:
        return _Known(sides, "georeferencing")
    return None if options.default_gsd_m is None else _Known((options.default_gsd_m,) * 2, "setting")


def _decided(size: _SHAPE, known: _Known | None, model: ModelResolution) -> tuple[Rule, _SHAPE, str]:
    made_for = model.gsd_m
    if made_for is None:
        return "unknown_model", size, _of_unknown_model(known, model)
    if known is None:
        text = f"the scene does not say how large its pixels are, the model is made for {made_for:g} m: mapped as it is"
        return "unknown", size, f"{text}; give their size with --gsd METRES"
    # Without a tested range whatever is nearer to the model's resolution than to half or double of it.
    low, high = model.gsd_range_m or (made_for / _UNTESTED, made_for * _UNTESTED)
    begin = f"ground resolution {known.gsd_m:.3g} m, the model is made for {made_for:g} m"
    if low <= known.gsd_m <= high:
        return _within(size, known, begin)
    return _outside(size, known, made_for, begin)


def _within(size: _SHAPE, known: _Known, begin: str) -> tuple[Rule, _SHAPE, str]:
    """Of a scene within the model's range; the text goes on from its beginning."""
    across, down = known.sides
    if max(across, down) > _MOST_OBLONG * min(across, down):
        square = _square_size(size, known, known.gsd_m)
        # So narrow that no column or row of square pixels is left, it is mapped as it is.
        if square is not None:
            sides = f"its pixels are {across:.3g} m wide and {down:.3g} m high"
            return "made_square", square, f"{begin}: {sides}, read as square ones"
    return "in_range", size, f"{begin}: mapped as it is"


def _outside(size: _SHAPE, known: _Known, made_for: float, begin: str) -> tuple[Rule, _SHAPE, str]:
    """Of a scene outside the model's range; the text goes on from its beginning."""
    gsd = known.gsd_m
    read_gsd_m = max(made_for, gsd / MAX_ENLARGEMENT)
    read_size = _size_at(size, known, read_gsd_m)
    if read_size is None:
        return "under_one_pixel", size, f"{begin}: at that the map would be under one pixel; mapped as it is"
    if gsd < made_for:
        return "reduced", read_size, f"{begin}: read at {read_gsd_m:g} m"
    if read_gsd_m <= made_for * _SLACK:
        return "enlarged", read_size, f"{begin}: enlarged, read at {read_gsd_m:.3g} m"
    return (
        TOO_COARSE,
        read_size,
        f"{begin}: its pixels are too coarse for this model; enlarged twofold, not more: the map is a guess",
    )


def _size_at(size: _SHAPE, known: _Known, read_gsd_m: float) -> _SHAPE | None:
    """(width, height) of a scene in square pixels of this size, None where that is less than one pixel.

    Raises:
        OptionsRefused: it is less, and somebody gave the size of the scene's pixels.
    """
    square = _square_size(size, known, read_gsd_m)
    if square is None and known.gsd_from == "option":
        width, height = _extent(size, known, read_gsd_m)
        raise OptionsRefused(
            f"--gsd {known.gsd_m:g} leaves a map of {width:.2g} x {height:.2g} pixels at the model's {read_gsd_m:g} m",
            "give the ground size of a pixel in metres",
        )
    return square


def _square_size(size: _SHAPE, known: _Known, read_gsd_m: float) -> _SHAPE | None:
    """(width, height) of a scene in square pixels of this size, None where that is less than one pixel."""
    width, height = _extent(size, known, read_gsd_m)
    if min(width, height) < 1:
        return None
    # Of oblong pixels one axis may come to more, and rounding may add a pixel: the reader enlarges twofold at most.
    largest_factor = int(MAX_ENLARGEMENT)
    return min(round(width), largest_factor * size[0]), min(round(height), largest_factor * size[1])


def _extent(size: _SHAPE, known: _Known, unit_m: float) -> tuple[float, float]:
    """Width and height of a scene on the ground, in so many metres."""
    return size[0] * known.sides[0] / unit_m, size[1] * known.sides[1] / unit_m


def _of_unknown_model(known: _Known | None, model: ModelResolution) -> str:
    text = "the model says no ground resolution that it is made for: mapped as it is"
    if known is None or model.gsd_range_m is None:
        return text
    low, high = model.gsd_range_m
    if low <= known.gsd_m <= high:
        return text
    return f"{text}, though {known.gsd_m:.3g} m lie outside {low:g} to {high:g} m, where it was tested"


def _conflict(taken: float | None, declared_m: float | None) -> bool:
    return taken is not None and declared_m is not None and not 1 / _CONFLICT < taken / declared_m < _CONFLICT


def _rounded(metres: float | None) -> float | None:
    return None if metres is None else float(f"{metres:.6g}")
