"""The link to one satellite: requests that are tried again, within a window of time and bytes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from ground.errors import AskedWrong, LinkDown

LONGEST_PAUSE_S = 20.0
TRIES = 8
"""Failures in a row, without a byte between them, after which the link counts as down."""


class WindowClosed(Exception):
    """The pass is over: its time or its bytes are spent. Not an error: what came stays."""


@dataclass
class Window:
    """What a pass may take.

    Attributes:
        seconds: None for no end.
        bytes: received at most, None for no end.
        clock: seconds, monotonic.
    """

    seconds: float | None = None
    bytes: int | None = None
    clock: Callable[[], float] = time.monotonic
    received: int = 0
    begun: float = field(init=False)

    def __post_init__(self) -> None:
        self.begun = self.clock()

    @property
    def seconds_left(self) -> float:
        """Until it closes."""
        return float("inf") if self.seconds is None else self.seconds - (self.clock() - self.begun)

    @property
    def bytes_left(self) -> int | None:
        """That may still come, None for no end."""
        return None if self.bytes is None else max(0, self.bytes - self.received)

    def take(self, count: int) -> None:
        """Counts bytes that came.

        Raises:
            WindowClosed: the time is up.
        """
        self.received += count
        self.check()

    def check(self) -> None:
        """Passes while it is open.

        Raises:
            WindowClosed: it is not.
        """
        if self.seconds_left <= 0 or self.bytes_left == 0:
            raise WindowClosed


class Link:
    """One satellite by HTTP. For one thread.

    Args:
        url: of its service.
        token: bearer token, None for none.
        window: of the pass.
        stall_s: silence after which a connection is given up.
        sleep, jitter: for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        window: Window | None = None,
        stall_s: float = 15.0,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.url, self.window = url.rstrip("/"), window or Window()
        self._sleep, self._jitter = sleep, jitter
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {})
        try:
            self._client = httpx.Client(base_url=self.url, headers=headers, timeout=stall_s)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as error:
            raise AskedWrong(f"{url} is no address ({error})", "give one like http://satellite:8000") from None
        if self._client.base_url.scheme not in ("http", "https"):
            raise AskedWrong(f"{url} is no address", "give one like http://satellite:8000")
        self.failures = 0
        self.answers = 0

    def json(self, method: str, path: str, **options: Any) -> Any:
        """A small answer, parsed; tried again until it comes.

        Raises:
            AskedWrong: the satellite refused.
            LinkDown: nothing came.
            WindowClosed: the pass is over.
        """

        def once() -> Any:
            answer = self._client.request(method, path, **options)
            self.window.received += len(answer.content)
            self.accepted(answer)
            return answer.json()

        return self.again(once)

    def again(self, once: Callable[[], Any]) -> Any:
        """Calls until it succeeds, with growing pauses between failures of the link.

        Raises:
            AskedWrong, LinkDown, WindowClosed: see :meth:`json`.
        """
        while True:
            self.window.check()
            try:
                answer = once()
            except (httpx.TransportError, httpx.DecodingError, ValueError) as error:
                self.pause(f"{type(error).__name__} {error}".strip())
            except TryLater as error:
                self.pause(str(error), error.after_s)
            else:
                self.answered()
                return answer

    def answered(self) -> None:
        """Something came through: failures are counted from here."""
        self.failures = 0
        self.answers += 1

    def pause(self, why: str, least_s: float = 0.0) -> None:
        """After a failure: waits, longer each time, never beyond the window.

        Raises:
            LinkDown: too many in a row.
            WindowClosed: the pass is over.
        """
        self.failures += 1
        if self.failures >= TRIES:
            raise LinkDown(self.url, self.failures, why)
        # Half fixed, half by chance, so that stations do not come back in step.
        wait = min(LONGEST_PAUSE_S, 0.25 * 2**self.failures) * (0.5 + 0.5 * self._jitter())
        if max(wait, least_s) >= self.window.seconds_left:
            raise WindowClosed
        self._sleep(max(wait, least_s))

    @contextmanager
    def stream(self, path: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """An answer whose body is read as it comes.

        Raises:
            httpx.TransportError: the link failed.
            AskedWrong: the satellite refused.
        """
        with self._client.stream("GET", path, headers=headers) as answer:
            if answer.status_code >= 400 and answer.status_code != 416:
                answer.read()
                self.accepted(answer)
            yield answer

    def accepted(self, answer: httpx.Response) -> None:
        """Passes a good answer.

        Raises:
            AskedWrong: it is a refusal that another try will not change.
        """
        if answer.status_code < 400:
            return
        detail = _detail_of(answer)
        if answer.status_code == 429 or answer.status_code >= 500:
            raise TryLater(detail, _seconds_of(answer.headers.get("retry-after")))
        remedy = {401: "give --token-file", 403: "ask the operator for a token with the role ground"}
        raise AskedWrong(
            f"{answer.request.url} answers {answer.status_code}: {detail}",
            remedy.get(answer.status_code, "see /openapi.json there"),
            answer.status_code,
        )

    def close(self) -> None:
        """Closes its connections."""
        self._client.close()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TryLater(Exception):
    """The satellite is busy, or failed for now; ``after_s`` is how long it asks to wait."""

    def __init__(self, detail: str, after_s: float) -> None:
        self.after_s = after_s
        super().__init__(detail)


def _detail_of(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase


def _seconds_of(header: str | None) -> float:
    return float(header) if header and header.isdecimal() else 0.0
