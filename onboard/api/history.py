"""History of what was measured: pages of columns, as JSON or CSV, small enough for a short pass."""

from __future__ import annotations

import gzip
import json
import math
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from onboard.api.service import TheCaller, TheService
from telemetry.history import Page, Reader

router = APIRouter(tags=["telemetry"])
_GZIP_FROM = 1024


@router.get(
    "/telemetry/history",
    response_class=Response,
    responses={200: {"content": {"application/json": {}, "text/csv": {}}, "description": "a page of columns"}},
)
def get_history(
    request: Request,
    service: TheService,
    caller: TheCaller,
    since: Annotated[
        int | None,
        Query(ge=-(2**53), le=2**53, description="tick after which rows begin; negative: milliseconds before now"),
    ] = None,
    until: Annotated[int | None, Query(ge=-(2**53), le=2**53, description="last tick, likewise")] = None,
    step: Annotated[float, Query(ge=0, le=86400, description="seconds a row, at most; 0: every sample")] = 60.0,
    fields: Annotated[str | None, Query(max_length=2000, description="comma list, like power_w,work:busy")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 2000,
    form: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
) -> Response:
    """Rows of the finest level that is no finer than asked for and still reaches back so far.

    Ticks are milliseconds of running since the history began. `next` (in JSON, or the Link header) is `since` of the
    next page; `now` is the last tick there is. What was not measured is null (JSON) or empty (CSV).
    """
    caller.must_be("telemetry", "ground")
    columns = [name.strip() for name in fields.split(",") if name.strip()] if fields is not None else None
    page = Reader(service.settings.telemetry_dir / "history.sqlite").query(since, until, step, columns, limit)
    body = (_json(page) if form == "json" else _csv(page)).encode()
    headers = {"Vary": "Accept-Encoding", "Onboard-Step": f"{page.step_s:g}", "Onboard-Now": str(page.now)}
    if page.problem:
        headers["Onboard-Problem"] = "the history is damaged; a new one is begun"
    if page.next is not None:
        headers["Link"] = f'<{request.url.include_query_params(since=page.next)}>; rel="next"'
    if len(body) >= _GZIP_FROM and "gzip" in request.headers.get("accept-encoding", ""):
        # mtime=0: gzip would write the time of now, and equal pages would have unequal bytes.
        body = gzip.compress(body, 6, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(body, media_type="application/json" if form == "json" else "text/csv", headers=headers)


def _json(page: Page) -> str:
    columns = {name: _numbers(values) for name, values in page.columns.items()}
    answer = {"step_s": page.step_s, "now": page.now, "next": page.next, "columns": columns}
    return json.dumps(answer, separators=(",", ":"))


def _csv(page: Page) -> str:
    columns = [["" if value is None else repr(value) for value in _numbers(v)] for v in page.columns.values()]
    lines = [",".join(page.columns), *(",".join(row) for row in zip(*columns, strict=True))]
    return "\n".join(lines) + "\n"


def _numbers(values: Any) -> list[float | int | None]:
    """Five digits are more than any of the sensors has; times keep theirs."""
    if values.dtype != np.float32:
        rounded = values if values.dtype == np.int64 else np.round(values, 3)
        numbers: list[float | int | None] = rounded.tolist()
        return numbers
    # NaN stands for what was not measured; JSON has no word for it but null.
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values.tolist()]
