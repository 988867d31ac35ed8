"""Requests made from the service's own OpenAPI document: whatever comes, no 5xx, and only what is documented."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.onboard.models.satellite import Station
from tests.onboard.service import Served, running, until, write_scene

EXAMPLES = 25


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("openapi")
    limits = {"ONBOARD_MAX_UPLOAD_BYTES": "200000", "ONBOARD_INBOX": str(folder / "inbox")}
    root = Station(folder / "ground").make_keys()
    with running(folder / "data", **limits, ONBOARD_TRUST_ROOT=str(root)) as served:
        posted = served.post(write_scene(folder / "scene.tif", 100))
        served.wait_for(posted["id"], "mapped")
        with served.client() as client:
            until(lambda: client.get("/health/ready").status_code == 200, "never ready")
        yield served


def test_no_request_brings_out_more_than_is_documented(served: Served) -> None:
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    names = []
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        names.append(f"{operation.method.upper()} {operation.path}")

        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def answers_as_documented(case: schemathesis.Case[Any]) -> None:
            if case.path == "/telemetry/stream":
                case.query = {**(case.query or {}), "count": 1}  # the stream has no end of its own
            case.call_and_validate(checks=checks)

        answers_as_documented()
    assert {"POST /scenes", "DELETE /scenes/{scene_id}", "GET /maps/{map_id}/{asset}"} <= set(names)
