"""Rate limits: requests a second for each caller, and uploads and streams at the same time."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from onboard.api.errors import TooMany


class RateLimit:
    """A token bucket for each caller: ``burst`` requests at once, ``per_second`` of them for good.

    Kept in memory by the caller's name; names come from tokens, so there are few. Any thread may call.

    Source: the token bucket of ITU-T I.371.
    """

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second, self.burst, self._clock = per_second, burst, clock
        self._lock = threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> None:
        """Counts one request of this caller.

        Raises:
            TooMany: its bucket is empty.
        """
        # Handlers run in a pool of threads.
        with self._lock:
            now = self._clock()
            left, then = self._left.get(name, (float(self.burst), now))
            left = min(float(self.burst), left + (now - then) * self.per_second)
            if left < 1.0:
                # A refused request takes nothing: who tries too often is served again as soon as the bucket fills.
                self._left[name] = (left, now)
                wait = math.ceil((1.0 - left) / self.per_second)
                raise TooMany(f"{name} sends more than {self.per_second:g} requests a second", wait)
            self._left[name] = (left - 1.0, now)


class Slots:
    """Limits uploads or streams at the same time, over all callers."""

    RETRY_AFTER_S = 10

    def __init__(self, slots: int, name: str = "uploads") -> None:
        self.slots, self.name = slots, name
        # Bounded: a slot that is given back twice is a fault of ours, and raises.
        self._free = threading.BoundedSemaphore(slots)

    def take(self) -> None:
        """Takes a slot; `give` it back.

        Raises:
            TooMany: all are taken.
        """
        if not self._free.acquire(blocking=False):
            raise TooMany(f"{self.slots} {self.name} are running, more are not taken at once", self.RETRY_AFTER_S)

    def give(self) -> None:
        """Gives back a slot that was taken."""
        self._free.release()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Holds a slot.

        Raises:
            TooMany: all are taken.
        """
        self.take()
        try:
            yield
        finally:
            self.give()
