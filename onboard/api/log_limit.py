"""A limit on log lines that repeat: lines that any client can cause must not fill the disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

MOST_KINDS = 1000


class RepeatLimit(logging.Filter):
    """Passes a few records of a kind in a span of time; the first one after it says how many were left out.

    Of one kind are records of the same logger, with the same text before its arguments are put in and the same type of
    exception. Any thread may log.

    Args:
        count: records of a kind in a span.
        span_s: its length, seconds.
        clock: seconds, monotonic.
    """

    def __init__(self, count: int = 5, span_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.count, self.span_s, self._clock = count, span_s, clock
        self._lock = threading.Lock()
        self._seen: dict[object, tuple[float, int]] = {}  # by kind: begin of the span, records in it

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged."""
        kind = (record.name, record.msg if isinstance(record.msg, str) else type(record.msg), _exception_of(record))
        with self._lock:
            now = self._clock()
            begin, count = self._seen.get(kind, (now, 0))
            left_out = 0
            if now - begin >= self.span_s:
                left_out = max(0, count - self.count)
                begin, count = now, 0
            if len(self._seen) >= MOST_KINDS and kind not in self._seen:
                # A bound: texts with names put into them are each a kind. To forget them costs a few lines that repeat.
                self._seen.clear()
            self._seen[kind] = (begin, count + 1)
        if left_out:
            record.msg = f"{record.getMessage()} ({left_out:,} more like it were not logged)"
            record.args = ()
        return count < self.count


def _exception_of(record: logging.LogRecord) -> type[BaseException] | None:
    return record.exc_info[0] if record.exc_info else None
