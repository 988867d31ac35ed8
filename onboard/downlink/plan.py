"""Plans which files to fetch within a budget of bytes: urgent maps first, then by value for each byte.

The worth of a map is what its ground would tell a station that knows only the maps before it: how rare its classes are
among all maps held (in bits a pixel), how sure the model was, how long it has waited, times its valid area.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field


class Weights(BaseModel):
    """Weights of the parts of a map's value, in bits a pixel.

    Attributes:
        rare: of each bit by which a map's cover is unlikely among all maps.
        sure: of a mean confidence of 1.
        age: of each thousand of the ledger's numbers that it has waited (a hundred scenes or so): without bound, so
            that nothing waits for ever.
        base: of any valid pixel.
        quicklooks: largest share of a short budget that quicklooks may take before maps.
        guess: share of its worth that a map loses whose tiles are all unlike the model's training imagery.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rare: float = Field(1.0, ge=0)
    sure: float = Field(0.5, ge=0)
    age: float = Field(1.0, ge=0)
    base: float = Field(0.5, ge=0)
    quicklooks: float = Field(0.25, ge=0, le=1)
    guess: float = Field(0.5, ge=0, le=1)


MAP, ITEM, QUICKLOOK, CHANGES = "map.tif", "map.json", "quicklook.webp", "changes.tif"


@dataclass(frozen=True)
class Held:
    """A map that has no receipt yet.

    Attributes:
        rank: of its priority, 0 is the most urgent.
        sequence: when it was published, in the ledger's order.
        files: by name, (bytes, sha256).
        leading: leading bytes of map.tif that open as a coarse map, with the factor; fewest bytes first.
        further_maps: files with the maps of further heads; further_quicklooks: with their pictures.
        optional: files that only go where all maps have room.
        since: id of the earlier map, where files of changes stand in for those of the map; empty otherwise.
        cover: share of its valid pixels by class.
        valid_px: valid pixels.
        confidence: mean, 0..1; None where none was kept.
        unfamiliar: share of its tiles that are unlike the model's training imagery; None where that is not known.
        areas: names of the areas of interest that it shows.
    """

    id: str
    priority: str
    rank: int
    sequence: int
    files: Mapping[str, tuple[int, str]]
    leading: Sequence[tuple[int, int]]
    cover: Mapping[str, float]
    valid_px: int
    confidence: float | None = None
    unfamiliar: float | None = None
    areas: Sequence[str] = ()
    further_maps: Sequence[str] = ()
    further_quicklooks: Sequence[str] = ()
    optional: Sequence[str] = ()
    since: str = ""

    @property
    def last(self) -> str:
        """The file that makes the map whole on the ground."""
        return CHANGES if self.since else MAP

    @property
    def required(self) -> Mapping[str, tuple[int, str]]:
        """Its files but the optional ones."""
        return {name: facts for name, facts in self.files.items() if name not in self.optional}


@dataclass(frozen=True)
class PlanItem:
    """A file to fetch, or its leading ``length`` bytes; ``reason`` is for the operator."""

    map: str
    asset: str
    length: int
    bytes: int
    sha256: str
    priority: str
    value: float
    reason: str
    unfamiliar: float | None = None

    @property
    def whole(self) -> bool:
        """Whether it is the whole file."""
        return self.length == self.bytes


@dataclass(frozen=True)
class LeftOut:
    """A map of which a plan has no raster, not even a leading part; ``bytes`` is the least that would bring one."""

    map: str
    priority: str
    bytes: int


def plan(held: Sequence[Held], budget: int | None, weights: Weights | None = None) -> list[PlanItem]:
    """Items in the order they should be fetched, together no more than ``budget`` bytes (None: everything).

    With room for all, maps go whole. With less, quicklooks of a priority class go first, then its maps by value per
    byte; one that no longer fits goes as the largest leading part that does. Every item goes with its map's map.json.
    Optional files go with what is left when every map has its room: before their map, whose receipt lets go of them.
    """
    weights = weights or Weights()
    worth = _worth(held, weights)
    everything = sum(size for entry in held for size, _ in entry.required.values())
    short = budget is not None and everything > budget
    left = sum(size for entry in held for size, _ in entry.files.values()) if budget is None else budget
    # Quicklooks have a share of their own: of many maps they would otherwise fill the pass.
    looks_left = int(left * weights.quicklooks) if short else 0
    items: list[PlanItem] = []
    # Priority before value: no worth of routine maps outweighs an urgent one.
    for rank in sorted({entry.rank for entry in held}):
        ordered = sorted(
            (entry for entry in held if entry.rank == rank),
            key=lambda entry: _turn(entry, worth),
        )
        if short:
            for entry in ordered:
                for item in _quicklook(entry, worth[entry.id], min(left, looks_left)):
                    items.append(item)
                    left, looks_left = left - item.length, looks_left - item.length
        planned = {(item.map, item.asset) for item in items}
        for entry in ordered:
            for item in _whole_or_leading(entry, worth[entry.id], left, planned):
                items.append(item)
                left -= item.length
    return _with_optional(items, held, worth, left)


def first_left_out(held: Sequence[Held], items: Sequence[PlanItem], weights: Weights | None = None) -> LeftOut | None:
    """The first map that a plan leaves out for want of bytes, in the plan's order; None where it leaves none out."""
    planned = {(item.map, item.asset) for item in items}
    waiting = [entry for entry in held if (entry.id, entry.last) not in planned]
    if not waiting:
        return None
    worth = _worth(held, weights or Weights())
    entry = min(waiting, key=lambda entry: (entry.rank, *_turn(entry, worth)))
    sizes = {
        name: size
        for name, (size, _) in entry.files.items()
        if name in (entry.last, ITEM, *entry.further_maps) and (entry.id, name) not in planned
    }
    # As _whole_or_leading has it: all that the maps need, or the item and the shortest part that opens.
    item_bytes = sizes.get(ITEM, 0)
    fewest = min([sum(sizes.values()), *(item_bytes + length for length, _ in entry.leading)])
    return LeftOut(entry.id, entry.priority, fewest)


def _turn(entry: Held, worth: Mapping[str, tuple[float, str]]) -> tuple[float, int]:
    """Sorts the maps of one priority."""
    return -worth[entry.id][0] / _size(entry), entry.sequence


def _with_optional(
    items: Sequence[PlanItem], held: Sequence[Held], worth: Mapping[str, tuple[float, str]], left: int
) -> list[PlanItem]:
    """The items, and before each whole map its optional files that fit."""
    by_id = {entry.id: entry for entry in held}
    full: list[PlanItem] = []
    for item in items:
        entry = by_id[item.map]
        for name in sorted(entry.optional) if item.asset == entry.last and item.whole else ():
            more = _item(entry, name, worth[entry.id])
            if more.length <= left:
                full.append(more)
                left -= more.length
        full.append(item)
    return full


def _worth(held: Sequence[Held], weights: Weights) -> dict[str, tuple[float, str]]:
    """By id: the value in bits, and why."""
    totals: dict[str, float] = {}
    for entry in held:
        for name, share in entry.cover.items():
            totals[name] = totals.get(name, 0.0) + share * entry.valid_px
    total_px = sum(totals.values()) or 1.0
    # A class that is named and covers no pixel would be infinitely rare.
    usual = {name: max(total / total_px, 1e-6) for name, total in totals.items()}
    waited = {entry.id: age_rank for age_rank, entry in enumerate(sorted(held, key=lambda entry: -entry.sequence))}
    newest = max((entry.sequence for entry in held), default=0)
    values = {}
    for entry in held:
        bits = {name: share * -math.log2(usual[name]) for name, share in entry.cover.items()}
        rank = waited[entry.id] / max(1, len(held) - 1)
        # By the ledger's numbers: the clock aboard may be wrong by years.
        age = (newest - entry.sequence) / 1000
        content = weights.base + weights.rare * sum(bits.values()) + weights.sure * (entry.confidence or 0.0)
        # What a map that may be a guess says is worth less; its waiting counts in full, or it might wait for ever.
        rate = content * (1 - weights.guess * (entry.unfamiliar or 0.0)) + weights.age * age
        values[entry.id] = (rate * entry.valid_px, _reason(entry, bits, rank if len(held) > 1 else None))
    return values


def _reason(entry: Held, bits: Mapping[str, float], rank: float | None) -> str:
    parts = [entry.priority, f"{entry.valid_px / 1e6:.1f} Mpx valid"]
    if entry.since:
        parts.append(f"what changed since {entry.since}, in place of the map")
    if bits:
        name = max(bits, key=lambda key: bits[key])
        parts.append(f"{entry.cover[name]:.0%} {name}")
    if entry.areas:
        parts.append("shows " + " and ".join(entry.areas[:3]) + ("" if len(entry.areas) <= 3 else " and others"))
    if entry.unfamiliar:
        parts.append(f"{entry.unfamiliar:.0%} of tiles unlike the training imagery")
    # Of the newest there is nothing to say: it waited longer than none.
    if rank:
        parts.append("waited longest" if rank == 1.0 else f"waited longer than {rank:.0%} of the others")
    return ", ".join(parts)


def _size(entry: Held) -> int:
    return max(1, sum(size for size, _ in entry.required.values()))


def _quicklook(entry: Held, worth: tuple[float, str], left: int) -> list[PlanItem]:
    """The quicklook and the item, if they fit; then those of further heads that fit."""
    items = [_item(entry, name, worth) for name in (QUICKLOOK, ITEM) if name in entry.files]
    left -= sum(item.length for item in items)
    if left < 0:
        return []
    for name in entry.further_quicklooks:
        item = _item(entry, name, worth)
        if item.length <= left:
            items.append(item)
            left -= item.length
    return items


def _whole_or_leading(
    entry: Held, worth: tuple[float, str], left: int, planned: set[tuple[str, str]]
) -> list[PlanItem]:
    """The map's files that are not planned yet, or the largest leading part with the item, or nothing."""
    # The map last: its receipt lets go of the rest.
    names = sorted(entry.required, key=lambda name: (name == entry.last, name != ITEM, name))
    items = [_item(entry, name, worth) for name in names if (entry.id, name) not in planned]
    if sum(item.length for item in items) <= left:
        return items
    # Without what is not needed to use the maps.
    needed = [item for item in items if item.asset in (entry.last, ITEM, *entry.further_maps)]
    if sum(item.length for item in needed) <= left:
        return needed
    # Not map.tif whole: its receipt would let go of further maps that have not come. Those that fit come now.
    small = [item for item in needed if item.asset == ITEM]
    if sum(item.length for item in small) > left:
        return []
    for item in sorted(needed, key=lambda item: item.length):
        if item.asset in entry.further_maps and sum(each.length for each in small) + item.length <= left:
            small.append(item)
    left_for_map = left - sum(item.length for item in small)
    # Leading parts end where an overview is complete (onboard/mapping/cog_prefix.py), and open as coarse maps.
    fitting = [part for part in entry.leading if part[0] <= left_for_map]
    if not fitting:
        return small if any(item.asset != ITEM for item in small) else []
    length, factor = max(fitting)
    return [*small, _item(entry, MAP, worth, length, f"; leading part, 1/{factor} of the resolution")]


def _item(entry: Held, name: str, worth: tuple[float, str], length: int | None = None, more: str = "") -> PlanItem:
    size, sha256 = entry.files[name]
    value, reason = worth
    return PlanItem(
        map=entry.id, asset=name, length=size if length is None else length, bytes=size, sha256=sha256,
        priority=entry.priority, value=round(value, 1), reason=reason + more, unfamiliar=entry.unfamiliar,
    )  # fmt: skip
