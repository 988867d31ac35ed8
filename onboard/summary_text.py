"""The summary of a map as `onboard process` prints it."""

from __future__ import annotations

from collections.abc import Mapping

from engines.command_line import bytes_text, coloured, counted
from onboard.mapping.run import MapSummary


def render(summary: MapSummary, colours: Mapping[str, str]) -> str:
    """The summary as a person reads it; bars in the classes' ``colours`` (title: #RRGGBB), where there are any."""
    rate = "" if summary.tiles_per_s is None else f", {summary.tiles_per_s:.2f} tiles/s while mapping"
    resumed = f", {summary.tiles_resumed} of them from an earlier run" if summary.tiles_resumed else ""
    state = (
        "already mapped, nothing to do"
        if summary.already_mapped
        else f"{counted(summary.tiles, 'tile')}{resumed}{rate}"
    )
    # Raw: three bytes a pixel.
    smaller = 3 * summary.scene_pixels / summary.map_bytes
    lines = [
        f"map        {summary.map_path}",
        f"item       {summary.item_path}",
    ]
    if summary.quicklook_path:
        lines.append(f"quicklook  {summary.quicklook_path}")
    if summary.confidence_path:
        lines.append(f"confidence {summary.confidence_path}")
    lines += [
        f"model      {summary.model}{': ' + summary.model_terms if summary.model_terms else ''}",
        f"familiar   {_familiar(summary)}",
        f"work       {state}, {summary.seconds:.1f} s in all",
        f"size       {bytes_text(summary.map_bytes)} ({summary.map_bytes:,} bytes), 1/{smaller:,.0f} of the raw RGB",
    ]
    width = max(len(title) for title in summary.class_shares)
    for title, share in summary.class_shares.items():
        bar = coloured("█" * round(share * 40), colours.get(title))
        lines.append(f"  {title:<{width}} {share:7.2%}  {bar}")
    lines.append(f"  {'(no data)':<{width}} {summary.no_data_share:7.2%}")
    for head in summary.further:
        lines.append(f"map        {head.map_path} (head {head.name})")
        if head.quicklook_path:
            lines.append(f"quicklook  {head.quicklook_path}")
        width = max(map(len, head.class_shares))
        lines += [
            f"  {title:<{width}} {share:7.2%}  {coloured('█' * round(share * 40), colours.get(title))}"
            for title, share in head.class_shares.items()
        ]
    return "\n".join(lines)


def _familiar(summary: MapSummary) -> str:
    """One line on how similar the scene is to the training imagery."""
    familiarity = summary.familiarity
    if familiarity.unknown or familiarity.median is None:
        return f"not known: {familiarity.unknown}"
    limit = "" if familiarity.threshold is None else f", unfamiliar below {familiarity.threshold:g}"
    known = familiarity.tiles - familiarity.unfamiliar
    # A median of 0.018 must not look like the limit of 0.02.
    digits = 2 if familiarity.median >= 0.1 else 3
    return f"{known} of {counted(familiarity.tiles, 'tile')} (median {familiarity.median:.{digits}f}{limit})"
