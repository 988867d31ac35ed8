"""docs/service.md has every request of the service, and every type of refusal."""

from __future__ import annotations

import re

from fastapi.routing import APIRoute

from onboard.api import areas, downlink, events, health, history, maps, metrics, models, scenes, stac, telemetry
from onboard.api.problems import INTERNAL, KINDS, OTHERS
from tests.onboard.service import ROOT

PAGE = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
ROUTERS = (areas, downlink, events, health, history, maps, metrics, models, scenes, stac, telemetry)


def test_the_page_has_every_request() -> None:
    table = PAGE.partition("## Requests")[2]
    named = {path.removesuffix("...").rstrip("/") for path in re.findall(r"(/[\w./-]+)", table)}
    families = tuple(path.removesuffix("...").rstrip("/") for path in re.findall(r"`(/\w+/?\.\.\.)`", table))
    assert families == ("/stac", "/models", "/areas")  # each has a page of its own
    for router in ROUTERS:
        for route in router.router.routes:
            assert isinstance(route, APIRoute)
            path = re.sub(r"\{\w*(id)\}", "ID", route.path).replace("{asset}", "FILE")
            assert path in named or path.startswith(families), path


def test_the_page_has_every_type_of_refusal() -> None:
    rows = dict(re.findall(r"^\| ([\d; ]+) \| (.+) \|$", PAGE, re.MULTILINE))
    for kind in (*KINDS.values(), *OTHERS.values(), INTERNAL):
        (cell,) = (cell for statuses, cell in rows.items() if str(kind.status) in statuses.split("; "))
        assert f"`{kind.slug}`" in cell, kind
