"""Figures of a candidate beside the active model, by head: which heads are compared, sums of a scene, and totals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines.manifest import Manifest
from onboard.models.class_tables import Table, first_difference

COMPARED = ("pixels", "same", "confidence_sum", "active_confidence_sum")
"""Sums of a head that is compared. Confidences are summed as 0..255; None where a model has no such output."""
NEW = ("pixels", "confidence_sum")
"""Sums of a head that the active model lacks."""


@dataclass(frozen=True)
class Comparison:
    """What of a candidate is compared with the engine that maps.

    Attributes:
        pairs: head of the active model by head of the candidate, of those whose answers are there.
        new: heads of the candidate that the active model lacks.
    """

    pairs: Mapping[str, str]
    new: tuple[str, ...]

    @classmethod
    def of(cls, candidate: Manifest, active: Manifest) -> Comparison | None:
        """None where nothing can be compared pixel by pixel: other bands, tiles or classes.

        Args:
            candidate: with any heads; all are compared.
            active: of the engine that maps, with the heads that are open.
        """
        if _shape_of(candidate) != _shape_of(active):
            return None
        tables = _tables(_all_heads(candidate))
        pairs = _pairs(tables, _tables(active))
        if not pairs:
            return None
        # A head that the active model has, though this scene did not ask for it, is neither compared nor new.
        known = _pairs(tables, _tables(_all_heads(active)))
        return cls(pairs, tuple(name for name in tables if name not in known))


def add_answer(sums: dict[str, Any], answer: Mapping[str, Any]) -> None:
    """Adds tiles, seconds and the sums of heads: those of a request to those of a scene, or of a scene to all."""
    for name in ("tiles", "seconds"):
        sums[name] = round(sums.get(name, 0) + answer[name], 4)
    for group, keys in (("heads", COMPARED), ("new_heads", NEW)):
        heads = sums.setdefault(group, {})
        for head, values in answer[group].items():
            before = heads.get(head, dict.fromkeys(keys, 0))
            # Sums and not means: scenes of different sizes weigh by their pixels.
            heads[head] = {key: _sum(before[key], values[key]) for key in keys}


def with_shares(sums: Mapping[str, Any]) -> dict[str, Any]:
    """The sums with what they mean, 0..1: agreement and mean confidences by head, and the lowest agreement of all."""
    heads = {
        name: {
            **values, "agreement": _share(values, "same", 1), "confidence": _share(values, "confidence_sum", 255),
            "active_confidence": _share(values, "active_confidence_sum", 255),
        }
        for name, values in sums["heads"].items()
    }  # fmt: skip
    new = {
        name: {**values, "confidence": _share(values, "confidence_sum", 255)}
        for name, values in sums["new_heads"].items()
    }
    # The lowest: the rule that activates holds for every head that was compared.
    return {**sums, "heads": heads, "new_heads": new, "agreement": min(head["agreement"] for head in heads.values())}


def words_of(figures: Mapping[str, Any]) -> str:
    """For an event: agreement by head, and new heads."""
    shares = ", ".join(
        f"{head['agreement']:.2%}" + (f" by head {name}" if name else "") for name, head in figures["heads"].items()
    )
    new = f"; new: {', '.join(figures['new_heads'])}" if figures["new_heads"] else ""
    return f"agrees with the active model on {shares}{new}"


def _sum(before: int | None, value: int | None) -> int | None:
    return None if before is None or value is None else before + value


def _share(values: Mapping[str, Any], key: str, full: int) -> float | None:
    return None if values[key] is None else round(values[key] / (values["pixels"] * full), 6)


def _all_heads(manifest: Manifest) -> Manifest:
    return manifest.with_heads(manifest.head_names)


def _tables(manifest: Manifest) -> dict[str, Table]:
    """Classes by head that is open; the head of a model of one graph is ""."""
    return {head.name: head.classes for head in manifest.opened_heads} or {"": manifest.classes}


def _pairs(candidate: Mapping[str, Table], active: Mapping[str, Table]) -> dict[str, str]:
    """Heads of one name and meaning; beside a model of one graph, the first head that means the same."""
    if "" in candidate or "" in active:
        # The head of a model of one graph has no name to go by: the first with the same classes is taken.
        alike = [(own, other) for own in candidate for other in active if not _differ(candidate[own], active[other])]
        return dict(alike[:1])
    return {name: name for name in candidate if name in active and not _differ(candidate[name], active[name])}


def _differ(one: Table, other: Table) -> bool:
    return bool(first_difference(one, other))


def _shape_of(manifest: Manifest) -> tuple[object, ...]:
    """What two models must have in common for the same tiles to be given to both."""
    return tuple(band.name for band in manifest.input.bands), manifest.input.tile_size
