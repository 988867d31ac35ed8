"""Which maps are erased when room is needed: delivered ones first, urgent undelivered ones last."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence

from onboard.jobs.disk_space import floor_of, missing_bytes
from onboard.jobs.erase import erase_map
from onboard.jobs.ledger import Ledger
from onboard.jobs.map_store import MapRow
from onboard.jobs.mapping_config import MappingConfig
from onboard.jobs.scene_states import PRIORITIES
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


def make_room(settings: Settings, ledger: Ledger, needed: int) -> int:
    """Erases maps that the ground holds until ``needed`` more bytes leave the reserve untouched; gives how many.

    Where all of them would not do, none goes: nothing is erased for what would be refused all the same.
    """
    short = settings.disk_reserve_bytes + needed - _free(settings)
    delivered = [row for row in erasable(_maps(ledger)) if row.delivered is not None]
    if short <= 0 or (needed and sum(map(_bytes_of, delivered)) < short):
        return 0
    return _erase_until(settings, ledger, delivered, settings.disk_reserve_bytes + needed)


def tend(settings: Settings, ledger: Ledger, config: MappingConfig) -> int:
    """Called every few seconds; returns how many maps were erased.

    Under the reserve delivered maps go, and for a scene that waits aside. Under a quarter of the reserve, where running
    work would soon stop, others go too, as many as bring the quarter back: only while a scene is running whose canvas
    stands. Nothing that the ground does not hold is erased for work that is not begun.
    """
    erased = make_room(settings, ledger, 0)
    for row in ledger.scenes.waiting_aside(limit=1):
        # What begins leaves half the reserve, what make_room asks for all of it.
        needed = missing_bytes(settings, config.manifest, row) - settings.disk_reserve_bytes + floor_of(settings)
        erased += make_room(settings, ledger, max(0, needed))
    # Three floors of one reserve: all of it for what is taken in, half for what begins, a quarter for what runs.
    floor = settings.disk_reserve_bytes // 4
    if _free(settings) < floor and _is_work_begun(settings, ledger):
        erased += _erase_until(settings, ledger, erasable(_maps(ledger)), floor)
    return erased


def _erase_until(settings: Settings, ledger: Ledger, rows: Sequence[MapRow], free: int) -> int:
    erased = 0
    for row in rows:
        # Asked after each map: the file system says what was freed, our sums do not.
        if _free(settings) >= free:
            break
        erase_for_room(settings, ledger, row)
        erased += 1
    return erased


def _is_work_begun(settings: Settings, ledger: Ledger) -> bool:
    folders = (settings.canvases_dir / row.id / "canvas" for row in ledger.scenes.running())
    return any((folder / "journal").exists() for folder in folders)  # made after the pixels have their room


def _free(settings: Settings) -> int:
    return shutil.disk_usage(settings.data_dir).free


def _bytes_of(row: MapRow) -> int:
    return sum(int(facts["bytes"]) for facts in row.assets.values())


def erase_for_room(settings: Settings, ledger: Ledger, row: MapRow) -> None:
    """Erases one map and says so."""
    known = "delivered" if row.delivered is not None else f"NOT delivered, {row.priority}"
    size = _bytes_of(row)
    severity = "info" if row.delivered is not None else "warning"
    erase_map(
        settings, ledger, row,
        problem="its map was erased to make room before the ground had it",
        event=(severity, "map-erased", f"{known} map of {size:,} bytes erased to make room"),
    )  # fmt: skip


def _maps(ledger: Ledger) -> Sequence[MapRow]:
    rows: list[MapRow] = []
    while page := ledger.maps.page(after=rows[-1].sequence if rows else 0, limit=_PAGE):
        rows += page
    return rows
