"""Profiles as a Markdown table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from trainer.profile.network import PART_NAMES, Profile

PUBLISHED = {"parameters_without_positions": 29.65e6, "multiply_adds": 119.76e9}
"""Of student and decoder, one 1024 x 1024 tile. Source: Shu et al. 2026 (method.md)."""

_ROWS: tuple[tuple[str, Callable[[Profile], str]], ...] = (
    ("tile, pixels a side", lambda profile: str(profile.tile)),
    ("parameters, M (positions not counted)", lambda profile: f"{profile.parameters_without_positions / 1e6:.2f}"),
    ("parameters, M (with positions)", lambda profile: f"{profile.parameters / 1e6:.2f}"),
    ("multiply-adds, G (convolutions and linear layers)", lambda profile: f"{profile.multiply_adds / 1e9:.2f}"),
    ("FLOPs whole, G (2 a multiply-add, attention counted)", lambda profile: f"{profile.flops / 1e9:.2f}"),
    *(
        (f"of these: {name}", lambda profile, part=part: f"{profile.flops_by_part[part] / 1e9:.2f}")
        for part, name in zip(
            PART_NAMES, ("stem", "linear layers of the blocks", "attention's products", "decoder"), strict=True
        )
    ),
    ("peak activations, MB FP16 (scores written out)", lambda profile: f"{profile.peak_bytes / 1e6:.1f}"),
    ("peak activations, MB FP16 (attention fused)", lambda profile: f"{profile.peak_bytes_fused / 1e6:.1f}"),
    ("bytes moved, MB FP16", lambda profile: f"{profile.bytes_moved / 1e6:.1f}"),
)


def table(profiles: Sequence[Profile], *, published: bool) -> str:
    """Markdown, one column a profile; ``published`` adds the paper's own figures as the first."""
    heads = [*(["paper, as published"] if published else []), *(profile.name for profile in profiles)]
    given = {
        "parameters, M (positions not counted)": f"{PUBLISHED['parameters_without_positions'] / 1e6:.2f}",
        "multiply-adds, G (convolutions and linear layers)": f"{PUBLISHED['multiply_adds'] / 1e9:.2f}",
    }
    lines = ["| one tile | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for name, value in _ROWS:
        cells = [*([given.get(name, "")] if published else []), *(value(profile) for profile in profiles)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    methods = {
        method: [profile.name for profile in profiles if profile.peak_method == method]
        for method in dict.fromkeys(profile.peak_method for profile in profiles)
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
    return json.dumps({"published": PUBLISHED, "profiles": [facts(profile) for profile in profiles]}, indent=2) + "\n"
