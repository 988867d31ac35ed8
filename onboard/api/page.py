"""A page of a listing, and where the next one begins."""

from __future__ import annotations

from typing import Protocol, TypeVar


class _Numbered(Protocol):
    @property
    def sequence(self) -> int: ...


Row = TypeVar("Row", bound=_Numbered)


def page_of(rows: list[Row], limit: int) -> tuple[list[Row], int | None]:
    """The first ``limit`` rows, and the sequence number that the next page begins after; None at the end.

    Args:
        rows: one more than the page holds, where there are as many: so no page leads to an empty one.
        limit: rows of the page, 1 or more.
    """
    page = rows[:limit]
    return page, page[-1].sequence if len(rows) > limit else None
