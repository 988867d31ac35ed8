"""The console's live side in front of satellites that fall silent, repeat themselves, or say what JSON cannot hold."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ground.console import satellite as live_side
from ground.console.satellite import Satellite
from ground.console.wire import Refused
from tests.ground.console.conftest import console
from tests.ground.liar import PROBLEM, Liar, lying, respond
from tests.ground.test_lies import SNAPSHOT
from tests.onboard.service import until

WAITING = {"id": "s1", "sequence": 3, "name": "north", "state": "queued", "priority": "urgent"}
BROKEN = b'{"detail": "no \\ud800 way"}'


def snapshot(number: int) -> bytes:
    """One event of the stream."""
    body = {**SNAPSHOT, "at": {"utc": f"2026-11-29T12:{number // 60 % 60:02d}:{number % 60:02d}Z"}}
    return f"data: {json.dumps(body)}\n\n".encode()


def spoilt(number: int) -> bytes:
    """One that holds half a character, and a number without end."""
    text = snapshot(number).replace(b'"SAID"', b'"a\\ud800b"', 3)
    return text.replace(b'"tiles_per_s": 1.0', b'"tiles_per_s": 1e999')


def stream(liar: Liar, following: Callable[[int], bytes], first: Callable[[int], bytes] = snapshot) -> None:
    """Has the liar stream one snapshot, and then something again and again."""

    def answer(link: socket.socket, _: str) -> None:
        link.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + first(0))
        number = 0
        while not liar._over.wait(0.1):
            number += 1
            link.sendall(following(number))

    liar.answers["GET /telemetry/stream"] = answer


def options(liar: Liar, folder: Path) -> list[str]:
    (folder / "maps").mkdir(exist_ok=True)
    return [liar.url, "--dest", str(folder / "maps"), "--stall", "1"]


@pytest.mark.parametrize("following", [lambda _: b": still here\n", lambda _: snapshot(0)], ids=["nothing", "the same"])
def test_a_stream_that_brings_nothing_new_is_no_contact(tmp_path: Path, following: Callable[[int], bytes]) -> None:
    with lying() as liar, console(*options(liar, tmp_path)) as address, httpx.Client(base_url=address) as client:
        stream(liar, following)
        until(lambda: client.get("/api/live").json()["link"] == "up", "no contact")

        def is_lost() -> bool:
            told = client.get("/api/live").json()
            return bool(told["link"] == "down" and told["problem"].startswith("no new telemetry for "))

        until(is_lost, "a snapshot of long ago counts as contact")
        stream(liar, snapshot)
        assert len(client.get("/api/live").json()["points"]) == 1


async def wait_for(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.05)


def test_a_page_that_looks_again_gets_a_new_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks for a while, so the stream is closed, and the questions are still asked when somebody does."""
    monkeypatch.setattr(live_side, "IDLE_S", 0.3)

    async def look() -> None:
        with lying() as liar:
            stream(liar, snapshot)
            satellite = Satellite(liar.url, stall_s=5)
            satellite.look()
            await wait_for(lambda: satellite.contact[0] == "up", "no contact")
            await wait_for(satellite._tasks["stream"].done, "the stream is never closed")
            assert satellite.contact[0] == "connecting", "a snapshot of long ago counts as contact"
            assert satellite.live.snapshot is None
            satellite._tasks["polling"].cancel()
            satellite._tasks["polling"] = asyncio.create_task(asyncio.sleep(60))
            satellite.look()
            await wait_for(lambda: satellite.contact[0] == "up", "the stream is not opened again")
            await satellite.close()

    asyncio.run(look())


def large_plan() -> bytes:
    row = {"map": "m1", "asset": "map.tif", "bytes": 9, "length": 9, "reason": "x" * 1000}
    return json.dumps({"planned_bytes": 9, "left_out": 0, "items": [row] * 200}).encode()


def test_the_plan_is_asked_for_while_a_page_shows_it_and_rarely_where_it_is_large() -> None:
    async def look() -> None:
        with lying() as liar:
            stream(liar, snapshot)
            liar.answers["GET /downlink/plan"] = respond(large_plan())
            liar.answers["GET /health/ready"] = respond({"status": "ready"})

            def asked(path: str) -> int:
                return liar.requests.count(f"GET {path}")

            satellite = Satellite(liar.url, stall_s=5)
            satellite.look()
            await wait_for(lambda: asked("/health/ready") >= 2, "what is small is not asked for again")
            assert asked("/downlink/plan") == 0
            satellite.look()
            satellite.look_for("plan")
            await wait_for(lambda: satellite.live.plan is not None, "no plan")
            ready = asked("/health/ready")
            await wait_for(lambda: asked("/health/ready") >= ready + 2, "what is small is not asked for again")
            assert asked("/downlink/plan") == 1
            satellite.look_for("plan", anew=True)
            await wait_for(lambda: asked("/downlink/plan") == 2, "it is not asked for anew")
            await satellite.close()

    asyncio.run(look())


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", json.dumps({**WAITING, "priority": "routine"}).encode()])
def test_a_priority_that_the_answer_does_not_confirm_is_not_said_to_be_changed(body: bytes) -> None:
    async def change(satellite: Satellite) -> None:
        try:
            await satellite.change_priority("s1", "urgent")
        finally:
            await satellite.close()

    with lying() as liar:
        liar.answers["PATCH /scenes/s1"] = respond(body)
        with pytest.raises(Refused, match="does not say that it changed"):
            asyncio.run(change(Satellite(liar.url, operator_token="o")))
        liar.answers["PATCH /scenes/s1"] = respond(json.dumps({**WAITING, "priority": "urgent"}).encode())
        asyncio.run(change(Satellite(liar.url, operator_token="o")))


def test_half_characters_and_numbers_without_end_fail_no_page(tmp_path: Path) -> None:
    """JSON may spell them and Python reads them, and no answer can be written with them."""
    event = b'{"sequence": 3, "severity": "error", "kind": "k", "text": "half \\ud800", "at": {}}'
    (tmp_path / "telemetry").mkdir()
    (tmp_path / "telemetry" / "events.jsonl").write_bytes(event + b"\n")
    arguments = [*options(liar := Liar(), tmp_path), "--telemetry", str(tmp_path / "telemetry")]
    liar.answers = {
        **{f"GET {path}": respond(BROKEN, status=403, kind=PROBLEM) for path in ("/scenes", "/events")},
        "GET /downlink/plan": respond(
            b'{"planned_bytes": 1, "left_out": 0, "items": [{"map": "\\udc80", "asset": "x", "bytes": 1, "length": 1}]}'
        ),
    }
    stream(liar, spoilt, spoilt)
    with console(*arguments) as address, httpx.Client(base_url=address) as client:

        def told() -> dict[str, Any]:
            assert client.get("/api/passes").status_code == 200
            answer = client.get("/api/live")
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        until(lambda: "no \\ud800 way" in " ".join(told()["refused"]), "the refusal is not said")
        assert told()["points"][0]["tiles_per_s"] is None
        assert client.get("/api/events").json()["events"][0]["text"] == "half \ufffd"
        for body in (b'{"until": "\\ud800"}', b'{"until": NaN}', b"{", b"\xff"):
            headers = {"Origin": address, "Content-Type": "application/json"}
            answer = client.post("/api/events/acknowledged", content=body, headers=headers)
            assert answer.status_code in (400, 422), answer.text
            assert isinstance(answer.json()["detail"], str)
    liar.close()
    with lying() as liar, console(*options(liar, tmp_path)) as address, httpx.Client(base_url=address) as client:
        liar.answers["GET /telemetry/stream"] = respond(BROKEN, status=401, kind=PROBLEM)
        until(lambda: "no \\ud800 way" in told()["problem"], "the refusal is not said")
