"""The link to one satellite: requests that are tried again, within a window of time and bytes.

Whatever answers is not trusted: a portal may stand between, a server may be somebody else's or broken. So every answer
has a longest size and time, only what has the form of the service's answers counts as one, and waiting is bounded.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from ground.errors import AskedWrong, LinkDown
from ground.json_text import well_formed
from ground.watchdog import Watchdog

# Seven pauses lie between eight tries: 26 to 52 s in all, by chance.
LONGEST_PAUSE_S = 20.0
LONGEST_RETRY_AFTER_S = 120.0
"""What a satellite may ask to wait between two tries; a pass is some minutes."""
TRIES = 8
"""Failures in a row, without a byte between them, after which the link counts as down."""
LONGEST_JSON, LONGEST_ERROR = 16 << 20, 1 << 16
LONGEST_ANSWER_S = 900.0
"""For a JSON answer: a pass is hardly longer."""
LOWEST_RATE = 50.0
"""Bytes a second, over ``stall_s``, below which a connection is given up: the slowest radio link brings more."""
PROBLEM = "application/problem+json"
_Model = TypeVar("_Model", bound=BaseModel)


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
        told: called with a line for people, when a try has failed and before the next one is waited for.
        sleep, jitter: for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        window: Window | None = None,
        stall_s: float = 15.0,
        told: Callable[[str], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.url, self.window = url.rstrip("/"), window or Window()
        self._stall_s, self._told = stall_s, told or (lambda _: None)
        self._sleep, self._jitter = sleep, jitter
        # Bodies are taken raw. Compressed ones could unpack to any size, and their ranges would count other bytes.
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {})
        try:
            self._client = httpx.Client(base_url=self.url, headers=headers, timeout=stall_s)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as error:
            raise AskedWrong(f"{url} is no address ({error})", "give one like http://satellite:8000") from None
        # httpx takes an address without a host and a port above 65535: they would look like a link that is down.
        base = self._client.base_url
        if base.scheme not in ("http", "https") or not base.host or (base.port or 0) > 65535:
            raise AskedWrong(f"{url} is no address", "give one like http://satellite:8000")
        self._watchdog = Watchdog()
        self.failures = 0
        # The command line reads it: a pass in which nothing came through has an exit code of its own.
        self.answers = 0

    def read(self, model: type[_Model], method: str, path: str, **options: Any) -> _Model:
        """A small answer of a form that is known; tried again until it comes.

        Raises:
            AskedWrong: the satellite refused, or the answer has another form.
            LinkDown: nothing came.
            WindowClosed: the pass is over.
        """
        # Not tried again where the form is wrong: the same service would answer the same.
        answer = self.json(method, path, **options)
        try:
            return model.model_validate(answer)
        except ValidationError as error:
            row = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in row["loc"])
            problem = f"the answer of {self.url}{path} is not as it should be ({where or 'the whole'}: {row['msg']})"
            raise AskedWrong(problem, "is it an onboard service, and of this version?") from None

    def read_once(self, model: type[_Model], method: str, path: str) -> _Model | None:
        """A small answer of a form that is known, within the window; None where it does not come at the first try.

        For what a pass can do without: nothing is raised or said.
        """
        try:
            self.window.check()
            return model.model_validate(self._json_once(method, path))
        # ValueError: no JSON, or another form.
        except (httpx.TransportError, httpx.DecodingError, ValueError, TryLater, AskedWrong, WindowClosed):
            return None

    def json(self, method: str, path: str, **options: Any) -> Any:
        """A small answer, parsed; tried again until it comes.

        Raises:
            AskedWrong: the satellite refused.
            LinkDown: nothing came.
            WindowClosed: the pass is over.
        """
        return self.again(lambda: self._json_once(method, path, **options))

    def _json_once(self, method: str, path: str, **options: Any) -> Any:
        with self._sent(method, path, longest_s=LONGEST_ANSWER_S, **options) as answer:
            body = self._whole(answer, LONGEST_JSON)
        return _parsed(answer, body)

    def again(self, once: Callable[[], Any]) -> Any:
        """Calls until it succeeds, with growing pauses between failures of the link.

        Raises:
            AskedWrong, LinkDown, WindowClosed: see :meth:`json`.
        """
        while True:
            self.window.check()
            try:
                answer = once()
            # ValueError is a body that is no JSON: a portal's page, which may be gone at the next try.
            except (httpx.TransportError, httpx.DecodingError, ValueError) as error:
                self.pause(reason_of(error))
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
        """After a failure: says so, and waits, longer each time, never beyond the window.

        Raises:
            LinkDown: too many in a row.
            WindowClosed: the pass is over.
        """
        # Where the window closed meanwhile, the pass has ended and the link has not failed.
        self.window.check()
        self.failures += 1
        if self.failures >= TRIES:
            raise LinkDown(self.url, self.failures, why)
        # Half fixed, half by chance, so that stations do not come back in step.
        wait = min(LONGEST_PAUSE_S, 0.25 * 2**self.failures) * (0.5 + 0.5 * self._jitter())
        wait = max(wait, min(least_s, LONGEST_RETRY_AFTER_S))
        if wait >= self.window.seconds_left:
            self._told(f"{self.url}: {why}; the pass ends before the next try")
            raise WindowClosed
        self._told(f"{self.url}: {why}; try {self.failures + 1} of {TRIES} in {wait:.1f} s")
        self._sleep(wait)

    @contextmanager
    def stream(self, path: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """An answer that is good, or says that its range begins behind the end (416); its body is read as it comes.

        Raises:
            httpx.TransportError: the link failed, or something else than the service answers.
            AskedWrong: the satellite refused.
        """
        with self._sent("GET", path, headers=headers) as answer:
            yield answer

    def send(
        self, model: type[_Model], path: str, blocks: Iterable[bytes], headers: dict[str, str], params: dict[str, str]
    ) -> _Model:
        """Sends a body by PUT, once, and returns the answer of a known form; the window is charged for what goes up.

        Raises:
            httpx.TransportError, ValueError: the link failed, or something else than the service answers.
            AskedWrong, TryLater: the satellite refused.
            WindowClosed: the pass is over; what arrived stays aboard.
        """

        # httpx asks for a block only when the socket took the one before: so each has its own time, and counts
        # once it is sent.
        def charged() -> Iterator[bytes]:
            for block in blocks:
                self.window.check()
                self._watchdog.arm(min(2 * self._stall_s, max(0.05, self.window.seconds_left)))
                yield block
                self.window.received += len(block)

        with self._sent("PUT", path, content=charged(), headers=headers, params=params) as answer:
            body = self._whole(answer, LONGEST_JSON)
        try:
            return model.model_validate(_parsed(answer, body))
        except ValidationError as error:
            # A failure of the link, other than in read(): the caller asks how much arrived, and goes on there.
            raise ValueError(f"an answer of another form ({error.error_count()} faults)") from None

    def chunks(self, answer: httpx.Response, longest: int) -> Iterator[bytes]:
        """The body as it comes over the link, at most ``longest`` bytes; the window is not charged.

        Raises:
            httpx.TransportError: the link failed, or brings hardly anything.
        """
        begun, came, left = time.monotonic(), 0, longest
        # httpx limits the wait for each read alone: a body that drips byte by byte would last for ever.
        for chunk in answer.iter_raw():
            # What was not asked for is not read: closing the answer drops the connection with the rest of it.
            if left <= 0:
                return
            part = chunk[:left]
            left -= len(part)
            came += len(part)
            if time.monotonic() - begun >= self._stall_s:
                if came < LOWEST_RATE * self._stall_s:
                    raise httpx.ReadTimeout(f"only {came:,} bytes came in {self._stall_s:g} s")
                begun, came = time.monotonic(), 0
            yield part

    @contextmanager
    def _sent(
        self, method: str, path: str, *, longest_s: float = float("inf"), **options: Any
    ) -> Iterator[httpx.Response]:
        """Sends a request; gives the answer once its head is here and is the service's."""
        # Never 0: a socket with a timeout of 0 does not block, and each read would fail at once.
        window_s = max(0.05, self.window.seconds_left)
        timeout = httpx.Timeout(min(self._stall_s, window_s))
        extensions = {"trace": self._watchdog.trace}
        try:
            request = self._client.build_request(method, path, timeout=timeout, extensions=extensions, **options)
        except httpx.InvalidURL as error:
            raise AskedWrong(f"{self.url} is no address ({error})", "give one like http://satellite:8000") from None
        # For connecting and for the head; each part of it has stall_s by itself.
        self._watchdog.arm(min(2 * self._stall_s, window_s))
        try:
            answer = self._client.send(request, stream=True)
            try:
                self._watchdog.arm(min(longest_s, window_s))
                # 416 is an answer to the caller's range, not a refusal.
                if answer.status_code != 416:
                    self.accepted(answer)
                yield answer
            finally:
                answer.close()
        finally:
            self._watchdog.disarm()

    def _whole(self, answer: httpx.Response, longest: int) -> bytes:
        """A body that must not be longer than this."""
        body = bytearray()
        # One byte more than is allowed, to tell a body that fits from one that was cut.
        for chunk in self.chunks(answer, longest + 1):
            if self.window.bytes_left == 0 or self.window.seconds_left <= 0:
                raise WindowClosed
            self.window.received += len(chunk)
            body += chunk
        if len(body) > longest:
            raise httpx.RemoteProtocolError(f"the answer has more than {longest:,} bytes")
        return bytes(body)

    def accepted(self, answer: httpx.Response) -> None:
        """Passes a good answer.

        Raises:
            AskedWrong: it is a refusal of the service's that another try will not change.
            TryLater: it is one that another try may change.
            httpx.RemoteProtocolError: it is not the service that answers.
        """
        status, kind = answer.status_code, answer.headers.get("content-type", "").partition(";")[0].strip()
        if 200 <= status < 300:
            return
        # The service never redirects, and httpx follows nothing unless told to: it would end at a portal's page.
        if status < 400:
            where = answer.headers.get("location", "nowhere")[:200]
            raise httpx.RemoteProtocolError(f"answers {status} and points to {where}: is there a portal between?")
        detail = _detail_of(answer, self._whole(answer, LONGEST_ERROR))
        # From the service or from a proxy before it: either may pass.
        if status == 429 or status >= 500:
            raise TryLater(f"answers {status}: {detail}", _seconds_of(answer.headers.get("retry-after")))
        # Only the service's own document is a refusal: a portal's error page must not end the pass.
        if kind != PROBLEM:
            raise httpx.RemoteProtocolError(f"answers {status} as {kind or 'nothing'}: is it an onboard service?")
        remedy = {401: "give --token-file", 403: "ask the operator for a token with this role"}
        raise AskedWrong(
            f"{answer.request.url} answers {status}: {detail}", remedy.get(status, "see /openapi.json there"), status
        )

    def close(self) -> None:
        """Closes its connections."""
        self._watchdog.disarm()
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


def reason_of(error: Exception) -> str:
    """A failure of the link in words."""
    words = {
        httpx.ConnectError: "no connection", httpx.ConnectTimeout: "no connection in time",
        httpx.ReadTimeout: "no answer in time",
    }  # fmt: skip
    kind = next((words[cls] for cls in type(error).__mro__ if cls in words), "no good answer")
    text = str(error) or type(error).__name__
    return f"{kind} ({text})"


def _parsed(answer: httpx.Response, body: bytes) -> Any:
    """JSON of a body.

    Raises:
        ValueError: it is none.
    """
    # From a proxy that compresses unasked: the bytes are raw, so they would be taken for damaged JSON.
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise ValueError("the answer is compressed, which was not asked for")
    try:
        return well_formed(json.loads(body))
    except (ValueError, RecursionError):
        kind = answer.headers.get("content-type", "nothing")[:100]
        raise ValueError(f"answers with {kind} that is no JSON: is there a portal between?") from None


def _detail_of(answer: httpx.Response, body: bytes) -> str:
    try:
        return str(_parsed(answer, body)["detail"])[:1000]
    except (ValueError, KeyError, TypeError, IndexError):
        return answer.reason_phrase


def _seconds_of(header: str | None) -> float:
    """Of Retry-After; dates are none of ours."""
    return min(float(header[:9]), LONGEST_RETRY_AFTER_S) if header and header.isdecimal() else 0.0
