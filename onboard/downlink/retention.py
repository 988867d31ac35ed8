"""What may be erased when room is needed: what the ground holds first, urgent maps it does not hold last."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence

from onboard.jobs.erase import erase_map
from onboard.jobs.ledger import PRIORITIES, Ledger, MapRow
from onboard.settings import Settings

_PAGE = 500


def erasable(rows: Iterable[MapRow]) -> list[MapRow]:
    """In the order they may go.

    Delivered ones by their receipt, oldest first; then the others, routine before high before urgent, oldest first.
    """
    return sorted(
        rows,
        key=lambda row: (
            row.delivered is None,
            row.delivered or 0,
            0 if row.delivered is not None else -PRIORITIES.index(row.priority),
            row.sequence,
        ),
    )


def make_room(settings: Settings, ledger: Ledger, wanted: int, *, undelivered: bool = False) -> int:
    """Erases maps until ``wanted`` more bytes leave the reserve untouched, each erasure an event; gives how many.

    Args:
        settings: whose data folder and reserve count.
        ledger: each map's row goes before its files.
        wanted: bytes.
        undelivered: maps without a receipt may go too: only to finish work that was promised.
    """
    erased = 0
    for row in erasable(_maps(ledger)):
        if shutil.disk_usage(settings.data_dir).free - wanted >= settings.reserve:
            break
        if row.delivered is None and not undelivered:
            break
        erase_for_room(settings, ledger, row)
        erased += 1
    return erased


def tend(settings: Settings, ledger: Ledger) -> int:
    """What is done every few seconds: gives how many maps were erased.

    Under the reserve delivered maps go. Under a quarter of it, where running work itself would soon stop, others too.
    """
    free = shutil.disk_usage(settings.data_dir).free
    return make_room(settings, ledger, 0, undelivered=4 * free < settings.reserve) if free < settings.reserve else 0


def erase_for_room(settings: Settings, ledger: Ledger, row: MapRow) -> None:
    """Erases one map and says so."""
    known = "delivered" if row.delivered is not None else f"NOT delivered, {row.priority}"
    size = sum(int(facts["bytes"]) for facts in row.assets.values())
    severity = "info" if row.delivered is not None else "warning"
    erase_map(
        settings, ledger, row,
        problem="its map was erased to make room before the ground had it",
        event=(severity, "map-erased", f"{known} map of {size:,} bytes erased to make room"),
    )  # fmt: skip


def _maps(ledger: Ledger) -> Sequence[MapRow]:
    rows: list[MapRow] = []
    while page := ledger.maps(after=rows[-1].sequence if rows else 0, limit=_PAGE):
        rows += page
    return rows
