"""Progress of a run: a bar on a terminal, otherwise a line every ten seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from engines.command_line import counted

_LINE_SECONDS = 10.0


@contextmanager
def progress_for(stream: TextIO, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Yields a callback of (finished tiles, all tiles), or None when quiet."""
    if quiet:
        yield None
    elif stream.isatty():
        with _bar(stream) as update:
            yield update
    else:
        yield _lines(stream)


@contextmanager
def _bar(stream: TextIO) -> Iterator[Callable[[int, int], None]]:
    from tqdm import tqdm

    with tqdm(unit="tile", file=stream, dynamic_ncols=True, leave=False) as bar:

        def update(done: int, total: int) -> None:
            if bar.total is None:
                bar.reset(total)
            bar.update(done - bar.n)

        yield update


def _lines(stream: TextIO) -> Callable[[int, int], None]:
    begin = last = time.monotonic()
    reported = -1

    def update(done: int, total: int) -> None:
        nonlocal last, reported
        now = time.monotonic()
        # A short run prints nothing: its summary says all.
        is_news = now - last >= _LINE_SECONDS or (done == total and now - begin >= _LINE_SECONDS)
        if is_news and done != reported:
            last, reported = now, done
            print(f"{done} of {counted(total, 'tile')}, {now - begin:.0f} s", file=stream, flush=True)

    return update
