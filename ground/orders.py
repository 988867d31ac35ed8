"""What an operator orders from the ground: areas of interest, and the priority of a scene that waits aboard."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ground.errors import AskedWrong
from ground.show import count

LONGEST_AREAS = 1 << 16
"""Bytes that a service takes, of JSON as short as it can be written."""
LONGEST_FILE = 16 * LONGEST_AREAS
"""Bytes that are read of a file: it may be indented, and spell every character as an escape."""
PRIORITIES = ("urgent", "high", "routine")
AddLink = Callable[[argparse.ArgumentParser], None]
OpenLink = Callable[[argparse.Namespace], Any]


def add_areas(commands: Any, add_link: AddLink, open_link: OpenLink) -> None:
    """Adds `ground areas push|ls|rm`; ``add_link`` adds address and token, by which ``open_link`` opens the link."""
    areas = commands.add_parser("areas", help="areas of interest aboard: push, ls, rm")
    orders = areas.add_subparsers(required=True, metavar="push|ls|rm")
    push = orders.add_parser("push", help="have the areas of a GeoJSON file count, in place of all others")
    add_link(push)
    push.add_argument("file", type=Path, help="a FeatureCollection; docs/areas.md has its form")
    push.set_defaults(command=partial(_push, open_link))
    listing = orders.add_parser("ls", help="areas that count for the next scenes")
    add_link(listing)
    listing.add_argument("--json", action="store_true", help="print the GeoJSON")
    listing.set_defaults(command=partial(_ls, open_link))
    remove = orders.add_parser("rm", help="forget areas")
    add_link(remove)
    remove.add_argument("names", nargs="*", metavar="NAME")
    remove.add_argument("--all", action="store_true", help="forget all that were pushed up")
    remove.set_defaults(command=partial(_rm, open_link))


def add_priority(commands: Any, add_link: AddLink, open_link: OpenLink) -> None:
    """Adds `ground priority`."""
    priority = commands.add_parser("priority", help="change the priority of a scene that waits aboard")
    add_link(priority)
    priority.add_argument("scene", metavar="SCENE", help="its id")
    priority.add_argument("priority", choices=PRIORITIES)
    priority.set_defaults(command=partial(_priority, open_link))


def _push(open_link: OpenLink, options: argparse.Namespace) -> int:
    body = _body_of(options.file)
    with open_link(options) as link:
        # Asked before the change, since the answer names only what counts from then on.
        before = {area["name"] for area in _rows(link.json("GET", "/areas"))}
        rows = _rows(link.json("PUT", "/areas", content=body, headers={"Content-Type": "application/json"}))
    options.screen.table(rows)
    gone = sorted(before - {row["name"] for row in rows})
    options.screen.line(f"{count(len(rows), 'area')} aboard" + (f"; no more: {', '.join(gone)}" if gone else ""))
    return 0


def _ls(open_link: OpenLink, options: argparse.Namespace) -> int:
    with open_link(options) as link:
        document = link.json("GET", "/areas")
    if options.json:
        print(json.dumps(document))  # noqa: T201 -- for programs
    else:
        options.screen.table(_rows(document))
    return 0


def _rm(open_link: OpenLink, options: argparse.Namespace) -> int:
    if bool(options.names) == options.all:
        raise AskedWrong("nothing to forget", "name areas, or give --all")
    with open_link(options) as link:
        # Quoted with the slash: a name must not become two parts of the path.
        for path in ["/areas"] if options.all else [f"/areas/{quote(name, safe='')}" for name in options.names]:
            document = link.json("DELETE", path)
    options.screen.line(f"{count(len(_rows(document)), 'area')} aboard")
    return 0


def _priority(open_link: OpenLink, options: argparse.Namespace) -> int:
    with open_link(options) as link:
        scene = link.json("PATCH", f"/scenes/{quote(options.scene, safe='')}", json={"priority": options.priority})
    # A 200 alone proves nothing: something else than the service may answer.
    if not isinstance(scene, dict) or scene.get("priority") != options.priority:
        raise AskedWrong(f"{link.url} does not say that it changed", "is it an onboard service, and of this version?")
    options.screen.line(f"{options.scene}: {scene.get('state')}, {options.priority}")
    return 0


def _body_of(path: Path) -> bytes:
    """A GeoJSON file as it is sent; the service says what is wrong with its areas.

    Raises:
        AskedWrong: it is no JSON, or more than a service takes.
    """
    from ground.transfer import read_small

    try:
        document = json.loads(read_small(path, LONGEST_FILE))
        # No NaN, which is no JSON though Python reads it.
        body = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except OSError as error:
        raise AskedWrong(f"{path}: {error.strerror}", "give a GeoJSON file of areas") from None
    # RecursionError: brackets within brackets by the thousand.
    except (ValueError, RecursionError) as error:
        raise AskedWrong(f"{path} is no JSON ({error})", "give a GeoJSON file of areas") from None
    if len(body) > LONGEST_AREAS:
        raise AskedWrong(f"{path} has more than {LONGEST_AREAS:,} bytes", "simplify the areas")
    return body


def _rows(document: Any) -> list[dict[str, Any]]:
    """A line for each area of an answer."""
    try:
        rows = [
            {
                "name": str(facts["name"]), "place": "yes" if area["geometry"] is not None else "any",
                "head": facts.get("head"),
                "classes": ", ".join(map(str, facts["classes"])) or "all", "priority": facts["priority"],
                "alert": None if facts["alert_points"] is None else f"{facts['alert_points']:g} points",
            }
            for area in document["features"]
            for facts in [area["properties"]]
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError):
        raise AskedWrong("the answer holds no areas", "is it an onboard service, and of this version?") from None
    return rows
