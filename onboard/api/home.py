"""The service's own small page: state, queue, newest maps, telemetry now; no script, nothing from elsewhere.

For a person on the bench, or over a link that carries little: one page under 50 kB that renews itself, and the
quicklooks beside it. The ground's console shows more.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, Response

from onboard.api.auth import Caller
from onboard.api.docs import reader_of
from onboard.api.errors import NotFound
from onboard.api.files import file_answer
from onboard.api.health import get_ready
from onboard.api.scenes import SceneAnswer, scene_answer
from onboard.api.service import Service, TheService
from onboard.api.telemetry import Snapshot, snapshot
from onboard.jobs.map_store import MapRow

QUICKLOOK = "quicklook.webp"
RENEW_S = 10
_SCENES, _MAPS = 12, 8
_LONGEST_TEXT = 160
# Names on the page come from outside. Should one not be escaped, the browser still runs and fetches nothing.
_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'"
)
_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:.5rem 1rem}
h1{font-size:1.3rem}h2{font-size:1.05rem;margin:1.2rem 0 .3rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.2rem .6rem .2rem 0;border-bottom:1px solid #8886;vertical-align:top}
td{overflow-wrap:anywhere}
ul{display:grid;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));gap:.8rem;list-style:none;padding:0}
img{width:100%;aspect-ratio:1;object-fit:contain;background:#8882}
li{overflow-wrap:anywhere}
""".strip()

TheReader = Annotated[Caller, Depends(reader_of)]
router = APIRouter(include_in_schema=False)


@router.get("/")
def get_home(service: TheService, reader: TheReader) -> HTMLResponse:
    """The page."""
    reader.must_be("telemetry", "ground")
    now = snapshot(service)
    title = escape(f"onboard: {now.engine['state']}")
    parts = [
        "<!doctype html>", '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f'<meta http-equiv="refresh" content="{RENEW_S}"><title>{title}</title><style>{_STYLE}</style></head><body>',
        f"<h1>{title}</h1>", _state(service, now), _telemetry(now), _queue(service),
        _newest_maps(service, shows_pictures=bool(reader.roles & {"ground", "operator"})),
        '<p>The page renews itself. <a href="/docs">The interface</a> lists what else can be asked.</p></body></html>',
    ]  # fmt: skip
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return HTMLResponse("\n".join(parts), headers=headers)


@router.get("/quicklooks/{map_id}")
def get_quicklook(map_id: str, request: Request, service: TheService, reader: TheReader) -> Response:
    """A map's quicklook for the page: a browser that gave its token as a password may have it."""
    # Pictures are maps: telemetry alone may not have them.
    reader.must_be("ground")
    row = service.ledger.maps.get(map_id)
    facts = None if row is None else row.assets.get(QUICKLOOK)
    if row is None or facts is None:
        raise NotFound("quicklook", map_id, "/maps")
    path = service.settings.maps_dir / row.id / QUICKLOOK
    return file_answer(request, path, sha256=str(facts["sha256"]), media_type="image/webp")


def _state(service: Service, now: Snapshot) -> str:
    ready = get_ready(service)
    problem = now.engine["problem"]
    scenes = ", ".join(f"{count} {state}" for state, count in now.scenes.items() if count) or "none"
    rows = {
        "Service": "ready" if ready.status_code == 200 else "not ready: see /health/ready",
        "Engine": _engine(now.engine),
        "Problem": str(problem or ""),
        "Now": f"{now.scene}, {now.tiles_done:,} of {now.tiles_all:,} tiles" if now.scene else "idle",
        "Scenes": scenes,
        "Disk": f"{now.disk['free_bytes'] / 1e9:,.1f} GB free",
        "Time aboard": str(now.at["utc"]) + ("" if now.at["clock_synchronised"] else " (clock not synchronised)"),
    }
    return "<h2>State</h2>" + _pairs(rows)


def _engine(engine: Mapping[str, Any]) -> str:
    backend, precision = engine["backend"], engine["precision"]
    # A backend of one precision has it in its name: openvino-bf16.
    shown = "" if str(backend).endswith(f"-{precision}") else precision
    return " ".join(str(part) for part in (engine["state"], engine["model"], backend, shown) if part)


def _telemetry(now: Snapshot) -> str:
    power, speed = now.power, now.tiles_per_s
    rows = {
        "Power": f"not measured: {power.reason}" if power.power_w is None else f"{power.power_w:.2f} W ({power.rail})",
        "Above idle": "" if power.net_w is None else f"{power.net_w:.2f} W",
        "Hottest": "not measured" if power.hottest_c is None else f"{power.hottest_c:.1f} °C",
        "Speed": "nothing mapped in the last minute"
        if speed is None
        else f"{speed:.2f} tiles/s, mean of the last minute",
        "Governor": ": ".join(part for part in (now.governor.state, now.governor.why) if part),
    }
    return "<h2>Telemetry now</h2>" + _pairs(rows)


def _queue(service: Service) -> str:
    scenes = service.ledger.scenes
    # One row: more than one is running only after a crash, until the worker has started again.
    waiting = [*scenes.running()[:1], *(row for row, _ in zip(scenes.queue(), range(_SCENES), strict=False))]
    if not waiting:
        return "<h2>Queue</h2><p>Nothing waits.</p>"
    answers = [scene_answer(service, row) for row in waiting]
    rows = "".join(
        _row(answer.state, answer.priority, answer.name, f"{answer.bytes / 1e6:,.1f} MB", _note(answer))
        for answer in answers
    )
    left = scenes.counts()["queued"] - len([answer for answer in answers if answer.state == "queued"])
    more = f"<p>and {left:,} more</p>" if left > 0 else ""
    head = "".join(f"<th>{name}</th>" for name in ("State", "Priority", "Scene", "Size", "Note"))
    return f"<h2>Queue</h2><table><tr>{head}</tr>{rows}</table>{more}"


def _note(answer: SceneAnswer) -> str:
    if answer.tiles_done is not None and answer.tiles:
        return f"{answer.tiles_done:,} of {answer.tiles:,} tiles"
    return answer.waiting_reason or ""


def _newest_maps(service: Service, *, shows_pictures: bool) -> str:
    rows = service.ledger.maps.newest(_MAPS)
    if not rows:
        return "<h2>Newest maps</h2><p>There is none.</p>"
    return f"<h2>Newest maps</h2><ul>{''.join(_card(row, shows_pictures) for row in rows)}</ul>"


def _card(row: MapRow, shows_pictures: bool) -> str:
    properties = row.item["properties"]
    # A caller without the role is refused each picture: the page leaves them out.
    has_picture = shows_pictures and QUICKLOOK in row.assets
    picture = f'<img src="/quicklooks/{escape(row.id)}" alt="" loading="lazy"><br>' if has_picture else ""
    state = "on the ground" if row.delivered is not None else "to be fetched"
    when = _text(properties.get("datetime"))
    return f"<li>{picture}{_text(properties.get('title'))}<br><small>{when}, {state}</small></li>"


def _pairs(rows: dict[str, str]) -> str:
    cells = "".join(f"<tr><th>{name}</th><td>{_text(value)}</td></tr>" for name, value in rows.items() if value)
    return f"<table>{cells}</table>"


def _row(*cells: str) -> str:
    return f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in cells)}</tr>"


def _text(value: object) -> str:
    """Escaped, and no longer than the page has room for."""
    text = str(value)
    return escape(text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…")
