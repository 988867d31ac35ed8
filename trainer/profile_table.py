"""Profiles side by side: Markdown for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from trainer.profile import PART_NAMES, Profile

PUBLISHED = {"parameters_without_positions": 29.65e6, "multiply_adds": 119.76e9}
"""Of student and decoder, one 1024 x 1024 tile. Source: Shu et al. 2026 (method.md)."""

_ROWS: tuple[tuple[str, Callable[[Profile], str]], ...] = (
    ("tile, pixels a side", lambda one: str(one.tile)),
    ("parameters, M (positions not counted)", lambda one: f"{one.parameters_without_positions / 1e6:.2f}"),
    ("parameters, M (with positions)", lambda one: f"{one.parameters / 1e6:.2f}"),
    ("multiply-adds, G (convolutions and linear layers)", lambda one: f"{one.multiply_adds / 1e9:.2f}"),
    ("FLOPs whole, G (2 a multiply-add, attention counted)", lambda one: f"{one.flops / 1e9:.2f}"),
    *(
        (f"of these: {name}", lambda one, part=part: f"{one.flops_by_part[part] / 1e9:.2f}")
        for part, name in zip(
            PART_NAMES, ("stem", "linear layers of the blocks", "attention's products", "decoder"), strict=True
        )
    ),
    ("peak activations, MB FP16 (scores written out)", lambda one: f"{one.peak_bytes / 1e6:.1f}"),
    ("peak activations, MB FP16 (attention fused)", lambda one: f"{one.peak_bytes_fused / 1e6:.1f}"),
    ("bytes moved, MB FP16", lambda one: f"{one.bytes_moved / 1e6:.1f}"),
)


def table(profiles: Sequence[Profile], *, published: bool) -> str:
    """Markdown, one column a profile; ``published`` adds the paper's own figures as the first."""
    heads = [*(["paper, as published"] if published else []), *(one.name for one in profiles)]
    given = {
        "parameters, M (positions not counted)": f"{PUBLISHED['parameters_without_positions'] / 1e6:.2f}",
        "multiply-adds, G (convolutions and linear layers)": f"{PUBLISHED['multiply_adds'] / 1e9:.2f}",
    }
    lines = ["| one tile | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for name, value in _ROWS:
        cells = [*([given.get(name, "")] if published else []), *(value(one) for one in profiles)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    methods = {
        one.peak_method: [other.name for other in profiles if other.peak_method == one.peak_method] for one in profiles
    }
    notes = [f"Peak of {', '.join(names)}: {method}." for method, names in methods.items()]
    return "\n".join([*lines, "", "Student and decoder, without resizing to pixels and choosing classes.", *notes])


def facts(profile: Profile) -> dict[str, Any]:
    """The same figures by name, unrounded."""
    return {
        "name": profile.name,
        "tile": profile.tile,
        "parameters": profile.parameters,
        "parameters_without_positions": profile.parameters_without_positions,
        "multiply_adds": profile.multiply_adds,
        "flops": profile.flops,
        "flops_by_part": profile.flops_by_part,
        "peak_bytes": profile.peak_bytes,
        "peak_bytes_fused": profile.peak_bytes_fused,
        "peak_method": profile.peak_method,
        "bytes_moved": profile.bytes_moved,
    }


def as_json(profiles: Sequence[Profile]) -> str:
    """A list of :func:`facts`, and the published figures."""
    return json.dumps({"published": PUBLISHED, "profiles": [facts(one) for one in profiles]}, indent=2) + "\n"
