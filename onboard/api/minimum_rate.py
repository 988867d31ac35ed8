"""The lowest rate at which a client may send a body."""

from __future__ import annotations


class TooSlow(Exception):
    """The peer is slower than it is waited for; the message says how slow."""


class MinimumRate:
    """Whether bytes come fast enough, measured over windows of waiting.

    Only time spent waiting for the peer counts: a slow disk of ours is not the peer's fault. A window, and not a mean
    since the beginning: a peer that was fast for an hour has no credit to be silent for another.

    Args:
        window_s: length of a window, seconds. A peer that sends nothing at all is given up after one.
        bytes_per_s: lowest mean rate over a window; 0 asks for one byte a window.

    Source: the idea of Apache's mod_reqtimeout (MinRate) and nginx's client_body_timeout together.
    """

    def __init__(self, window_s: float, bytes_per_s: float) -> None:
        self.window_s = window_s
        self.needed = max(1, int(window_s * bytes_per_s))
        self._waited = 0.0
        self._came = 0

    @property
    def left_s(self) -> float:
        """Seconds of waiting until this window is judged."""
        return max(0.0, self.window_s - self._waited)

    def add(self, waited_s: float, count: int) -> None:
        """Counts one wait and what it brought.

        Raises:
            TooSlow: a window is over, and too little came in it.
        """
        self._waited += waited_s
        self._came += count
        if self._waited < self.window_s:
            return
        if self._came < self.needed:
            raise TooSlow(self.text)
        self._waited, self._came = 0.0, 0

    @property
    def text(self) -> str:
        """Bytes that came and bytes that are needed, as text."""
        if self._came == 0:
            return f"no byte came for {self.window_s:g} s"
        return f"only {self._came:,} bytes came in {self.window_s:g} s, {self.needed:,} are needed"
