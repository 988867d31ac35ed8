"""The live side: one telemetry stream and a few questions to the satellite, while a page is looking.

The tokens stay in this process. A page gets what this module has checked, and asks for actions by name.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from ground.console.events import EventRow
from ground.console.live_answers import Events, LiveSnapshot, Plan, Ready, Scene, Scenes
from ground.console.wire import Refused, accepted, bearer, client_of, events_of, parsed, whole
from ground.link import LONGEST_JSON, reason_of
from ground.text import visible

EVERY_S = 1.0
STALE_S = 8.0
"""Without a new snapshot for so long there is no contact, whatever the connection is: one comes each second."""
POLL_S = 3.0
SHARE_BYTES_PER_S = 10_000
"""What one question may take of the link in the mean: an answer of 1 MB is asked for every 100 s."""
IDLE_S = 20.0
"""Without a page that asks the stream is closed: aboard there is room for a few of them."""
POINTS = 1800
RETRY_S, MOST_RETRY_S = 1.0, 15.0
MOST_EVENTS = 2000
ON_DEMAND = frozenset({"plan"})
"""Questions that are asked only while a page shows their answer: the plan has a line for each file aboard."""
_STATES = ("running", "queued", "failed", "quarantined")
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass
class Live:
    """What is known now.

    Attributes:
        link: off (no address), connecting, up, or down.
        problem: why it is down, or what a token does not allow; one line.
        snapshot: the last one, while the link is up.
        heard_s: monotonic time at which the last snapshot came that was another than the one before.
    """

    link: str = "off"
    problem: str = ""
    snapshot: LiveSnapshot | None = None
    heard_s: float | None = None
    ready: Ready | None = None
    scenes: list[Scene] = field(default_factory=list)
    plan: Plan | None = None
    events: list[EventRow] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


class Satellite:
    """One service; for the event loop that serves the pages.

    Args:
        url: of the service; None where there is none.
        token: bearer token for reading, None for none.
        operator_token: for actions, None where they are not allowed.
        stall_s: silence after which a connection is given up.
        stored: sequence number of the last event that the station holds.
    """

    def __init__(
        self, url: str | None, *, token: str | None = None, operator_token: str | None = None, stall_s: float = 15.0,
        stored: Callable[[], int] = lambda: 0,
    ) -> None:  # fmt: skip
        self.url, self._stored = None if url is None else visible(url), stored
        self.live = Live("off" if url is None else "connecting")
        self.points: deque[dict[str, Any]] = deque(maxlen=POINTS)
        self.session = secrets.token_hex(8)
        """Of this process: numbers of points begin at 1 in each."""
        self._number = 0
        self._received = 0
        self._looked_for: dict[str, float] = {}
        self._due: dict[str, float] = {}
        self._token, self._operator = token, operator_token
        self._stall_s = stall_s
        self._asked = float("-inf")
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._client = None if url is None else client_of(url, stall_s)

    @property
    def may_act(self) -> bool:
        """Whether an operator's token is here."""
        return self._operator is not None and self.url is not None

    def look(self) -> None:
        """A page asks: the stream is opened if it is not."""
        self._asked = time.monotonic()
        if self._client is None:
            return
        # Each by itself: one may have ended while the other went on.
        for name, keep in (("stream", self._keep_stream), ("polling", self._keep_polling)):
            if name not in self._tasks or self._tasks[name].done():
                self._tasks[name] = asyncio.create_task(keep())

    def look_for(self, name: str, *, anew: bool = False) -> None:
        """A page shows the answer to a question that is not asked otherwise; ``anew``: what was heard is outdated."""
        self._looked_for[name] = time.monotonic()
        if anew:
            self._due.pop(name, None)

    @property
    def contact(self) -> tuple[str, str]:
        """Link and problem as a page may say them: a connection over which nothing new comes is no contact."""
        live = self.live
        silent_s = 0.0 if live.heard_s is None else time.monotonic() - live.heard_s
        if live.link == "up" and silent_s > STALE_S:
            return "down", f"no new telemetry for {silent_s:.0f} s"
        return live.link, live.problem

    async def close(self) -> None:
        """Ends what runs."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def cancel_scene(self, scene: str) -> None:
        """Cancels a scene, as the operator.

        Raises:
            Refused: there is no operator's token, or the satellite refused.
        """
        await self._send("DELETE", f"/scenes/{quote(scene, safe='')}", self._operators("cancelling"))

    async def change_priority(self, scene: str, priority: str) -> Scene:
        """Changes the priority of a scene that waits, as the operator; gives the scene as it is then.

        Raises:
            Refused: see :meth:`cancel_scene`; also where the answer does not say that it changed.
        """
        token = self._operators("changing a priority")
        body = await self._send("PATCH", f"/scenes/{quote(scene, safe='')}", token, {"priority": priority})
        try:
            changed = Scene.model_validate(parsed(body))
        except (ValidationError, httpx.HTTPError):
            changed = None
        if changed is None or (changed.id, changed.priority) != (scene, priority):
            raise Refused("the satellite does not say that it changed: is it an onboard service of this version?")
        self.live.scenes = [changed if row.id == scene else row for row in self.live.scenes]
        return changed

    def _operators(self, action: str) -> str:
        if self._operator is None:
            raise Refused(f"{action} needs the operator's token: start with --operator-token-file", 403)
        return self._operator

    async def acknowledge(self, until: int) -> None:
        """Tells the satellite that its events up to a number are stored here.

        Raises:
            Refused: see :meth:`cancel_scene`.
        """
        await self._send("POST", "/events/acknowledged", self._token, {"until": until})

    async def _send(self, method: str, path: str, token: str | None, body: Any = None) -> bytes:
        if self._client is None:
            raise Refused("there is no satellite: start with its address", 409)
        try:
            async with self._client.stream(method, path, headers=bearer(token), json=body) as answer:
                await accepted(answer)
                return await whole(answer, LONGEST_JSON)
        except httpx.HTTPError as error:
            raise Refused(f"the satellite does not answer: {reason_of(error)}") from None

    async def _keep_stream(self) -> None:
        pause = RETRY_S
        try:
            while self._is_watched:
                before = self._number
                await self._stream_once()
                # Shortest again only after a stream that brought something: not one that opens and ends at once.
                pause = RETRY_S if self._number > before else pause
                await asyncio.sleep(pause)
                pause = min(2 * pause, MOST_RETRY_S)
        finally:
            # Nobody listens any more: the last snapshot is not that of now.
            self.live.link, self.live.problem, self.live.snapshot = "connecting", "", None

    async def _stream_once(self) -> None:
        try:
            async for snapshot in self._snapshots():
                self._take(snapshot)
                if not self._is_watched:
                    return
            self._lost("the satellite ended the stream")
        except httpx.HTTPError as error:
            self._lost(reason_of(error))
        except Refused as error:
            self._lost(str(error))
        except ValidationError:
            self._lost("what comes is no telemetry of an onboard service, or of another version")

    async def _keep_polling(self) -> None:
        questions = {
            "ready": self._ask_ready, "scenes": self._ask_scenes, "plan": self._ask_plan, "events": self._ask_events,
        }  # fmt: skip
        while self._is_watched:
            # Questions only where the stream lives: on a link that is down each would wait for its own timeout.
            for name, ask in questions.items() if self.live.link == "up" else ():
                if self._is_due(name):
                    await self._asked_once(name, ask)
            await asyncio.sleep(min(POLL_S, RETRY_S))

    def _is_due(self, name: str) -> bool:
        """Whether to ask now: often what is small, rarely what is large, and the plan only while a page shows it."""
        now = time.monotonic()
        if name in ON_DEMAND and now - self._looked_for.get(name, float("-inf")) > IDLE_S:
            return False
        return now >= self._due.get(name, float("-inf"))

    async def _asked_once(self, name: str, ask: Callable[[], Awaitable[None]]) -> None:
        """One question; what a token does not allow, or fails, leaves the others as they are."""
        before = self._received
        # Set while the answer is awaited: look_for takes it away where the answer will be outdated.
        self._due[name] = float("inf")
        try:
            await ask()
            self.live.refused.pop(name, None)
        except ValidationError:
            self.live.refused[name] = f"the answer about {name} has another form than this console knows"
        except (httpx.HTTPError, ValueError) as error:
            self.live.refused[name] = visible(reason_of(error))
        except Refused as error:
            self.live.refused[name] = str(error)
        finally:
            wait = max(POLL_S, (self._received - before) / SHARE_BYTES_PER_S)
            if name in self._due:  # else it was asked for anew meanwhile
                self._due[name] = time.monotonic() + wait

    @property
    def _is_watched(self) -> bool:
        return time.monotonic() - self._asked < IDLE_S

    def _take(self, snapshot: LiveSnapshot) -> None:
        before = self.live.snapshot
        if before is not None and before.at == snapshot.at:
            return  # said again: it tells nothing of now
        self.live.link, self.live.problem, self.live.snapshot = "up", "", snapshot
        self.live.heard_s = time.monotonic()
        self._number += 1
        self.points.append(_point(self._number, snapshot))

    def _lost(self, problem: str) -> None:
        self.live.link, self.live.problem = "down", visible(" ".join(problem.split()))[:500]

    async def _snapshots(self) -> AsyncIterator[LiveSnapshot]:
        """Of the stream, until it ends.

        Raises:
            httpx.HTTPError: the link failed.
            Refused: the satellite refused.
            ValidationError: it is no snapshot.
        """
        assert self._client is not None  # noqa: S101 -- the tasks run only with an address
        options = {"params": {"every_s": EVERY_S}, "headers": bearer(self._token)}
        async with self._client.stream("GET", "/telemetry/stream", **options) as answer:  # type: ignore[arg-type]
            await accepted(answer)
            async for data in events_of(answer):
                yield LiveSnapshot.model_validate(parsed(data))

    async def _ask_ready(self) -> None:
        # 503 is an answer, too: it says why no scene is mapped.
        self.live.ready = await self._read(Ready, "/health/ready", good=(200, 503))

    async def _ask_scenes(self) -> None:
        scenes: list[Scene] = []
        for state in _STATES:
            cursor = 0
            # 600 scenes of a state at most: more are not shown, and would cost the link.
            for _ in range(3):
                page = await self._read(Scenes, "/scenes", status=state, cursor=cursor, limit=200)
                scenes += page.scenes
                if page.next is None or page.next <= cursor:
                    break
                cursor = page.next
        self.live.scenes = scenes

    async def _ask_plan(self) -> None:
        self.live.plan = await self._read(Plan, "/downlink/plan")

    async def _ask_events(self) -> None:
        # What is stored here is not fetched again; the page merges both lists by sequence number.
        since = max([self._stored(), *(row.sequence for row in self.live.events)])
        page = await self._read(Events, "/events", since=since, limit=500)
        rows = self.live.events
        for event in page.events:
            with suppress(ValidationError):
                rows.append(EventRow.model_validate(event))
        self.live.events = rows[-MOST_EVENTS:]

    async def _read(self, model: type[_Model], path: str, *, good: tuple[int, ...] = (200,), **query: Any) -> _Model:
        assert self._client is not None  # noqa: S101 -- see _snapshots
        async with self._client.stream("GET", path, params=query, headers=bearer(self._token)) as answer:
            if answer.status_code not in good:
                await accepted(answer)
            body = await whole(answer, LONGEST_JSON)
            # For the pause before the next such question: see SHARE_BYTES_PER_S.
            self._received += len(body)
            return model.model_validate(parsed(body))


def _point(number: int, snapshot: LiveSnapshot) -> dict[str, Any]:
    """What a page draws of a snapshot."""
    watts = {row.rail: row.value for row in snapshot.readings if row.quantity == "power_w"}
    heat = {row.rail: row.value for row in snapshot.readings if row.quantity == "temperature_c"}
    return {
        # time_s by the clock here: that aboard may be unset, and curves must not jump with it.
        "number": number, "utc": snapshot.at.utc, "time_s": round(time.time(), 3), "power_w": watts,
        "temperature_c": heat, "tiles_per_s": snapshot.tiles_per_s, "governor": snapshot.governor.state,
        "busy": snapshot.scene is not None,
    }  # fmt: skip
