"""At every start: makes ledger and disk agree. Only files of cancelled and finished scenes are removed."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

from engines.files import synced_folder
from onboard.errors import LedgerDamaged, SceneRefused
from onboard.jobs.erase import erase_canvases, erase_scene
from onboard.jobs.highwater import LARGEST, RECEIPTS_KEPT, Mark, read_mark
from onboard.jobs.intake import INCOMING, erase_folder, read_facts, readable
from onboard.jobs.ledger import Ledger
from onboard.jobs.mapping_config import MappingConfig
from onboard.jobs.published import DELIVERY, ERASING, ITEM_FILE, MAP_FILE, map_row_of
from onboard.jobs.retarget import retarget_scene
from onboard.jobs.scene_folder import scene_file
from onboard.jobs.scene_store import SceneRow
from onboard.mapping.scene_files import scene_sha256
from onboard.settings import Settings

_A_LEDGERS: Final = 10**10
"""Numbers between the beginnings of two ledgers: 300 years at a number a second."""


def open_ledger(settings: Settings) -> Ledger:
    """The ledger, checked; a damaged one is set aside, and scenes and maps come back from their folders.

    Raises:
        LedgerDamaged: a new one cannot be made either.
        StorageError: the disk is full or failed; the ledger stays as it is.
    """
    path = settings.ledger_path
    mark = read_mark(path)
    # What is said where a ledger stands aside already and the new one is empty: the power went between the two.
    problem = "the power went before there was a new one"
    _remove_temporaries(settings)  # they may be what fills the disk
    try:
        ledger = Ledger(path)
        try:
            ledger.check()
        except LedgerDamaged:
            ledger.close()
            raise
    except LedgerDamaged as error:
        problem = error.problem
        _set_aside(path)
        ledger = Ledger(path)
    reached = ledger.reached()
    aside = max(_asides(path), key=_number_of, default=None)
    # A new ledger in place of one set aside: above all numbers of that one, or the ground would skip what comes next.
    if aside is not None and reached == 0:
        ledger.skip_to(max(_beyond(aside), mark.number))
        ledger.events.log("error", "ledger-rebuilt", f"the ledger was damaged ({problem}); it is kept as {aside.name}")
    elif reached < mark.number:
        ledger.skip_to(mark.number)
        ledger.events.log(
            "error", "ledger-rolled-back",
            f"the ledger fell back from number {mark.number} to {reached}: its file or its write-ahead log was lost or "
            "damaged; numbers go on above, receipts and cancellations come back from the high-water mark",
        )  # fmt: skip
    _renew_mark(ledger, mark)
    # What the log holds was checked just now; in the file one flipped bit cannot take it back any more.
    ledger.checkpoint(wait_s=5.0)
    return ledger


def _renew_mark(ledger: Ledger, mark: Mark) -> None:
    """Writes both copies anew, whole and short, before another process adds to them."""
    if mark.damaged:
        names = " and ".join(mark.damaged)
        ledger.events.log("warning", "ledger-mark-damaged", f"{names} beside the ledger was damaged or gone; made anew")
    _add_unnoted(ledger, mark)
    ledger.renew_mark(replace(mark, number=max(mark.number, ledger.reached())))


def _add_unnoted(ledger: Ledger, mark: Mark) -> None:
    """Adds to the mark what the ledger knows later: a process may have been killed after a commit, before its note."""
    after = 0
    while rows := ledger.scenes.page(state="cancelled", after=after):
        after = rows[-1].sequence
        for row in rows:
            mark.states.setdefault(row.id, (0, False))
    for name, (number, _) in mark.states.items():
        known = ledger.scenes.get(name)
        if known is not None and known.changed > number:
            mark.states[name] = (known.changed, known.state == "cancelled")
    for held in ledger.maps.newest(RECEIPTS_KEPT):
        if (held.delivered or 0) > mark.receipts.get(held.id, (0, ""))[0]:
            mark.receipts[held.id] = (int(held.delivered or 0), str(held.assets.get(MAP_FILE, {}).get("sha256", "")))


def reconcile(
    settings: Settings,
    ledger: Ledger,
    config: MappingConfig | None = None,
    is_under_way: Callable[[SceneRow], bool] = lambda _: False,
) -> None:
    """Adopts folders without a row, reports rows without a folder, removes temporaries, queues what was running.

    Only while no worker runs and no upload is under way.

    Args:
        settings: of the service.
        ledger: open.
        config: of maps that are made from now on; scenes that wait for another kind are to be mapped as this one.
        is_under_way: whether a scene ends with the model that began it.
    """
    for folder in (settings.scenes_dir, settings.maps_dir, settings.canvases_dir):
        folder.mkdir(parents=True, exist_ok=True)
    # A folder that is made is no more durable than a file: its name is the parent's to keep.
    synced_folder(settings.data_dir)
    synced_folder(settings.data_dir.parent)
    _remove_temporaries(settings)
    mark = read_mark(settings.ledger_path)
    # Before maps are adopted: the map of a scene whose cancellation was lost must not be listed again.
    unknown = _decide_again(settings, ledger, mark)
    # No worker runs yet: what is running was begun by one that is no more.
    for row in ledger.scenes.running():
        ledger.scenes.requeue(row.id)
    for folder in _folders(settings.scenes_dir):
        _adopt_scene(ledger, folder)
    for folder in _folders(settings.maps_dir):
        _adopt_map(ledger, folder)
    # Their rows exist only now that their folders were adopted.
    for name in unknown:
        _restored(ledger, "cancellation", name, ledger.scenes.cancel(name) is not None)
    _receive_again(ledger, mark)
    _report_missing_scenes(settings, ledger)
    _report_missing_maps(settings, ledger)
    _erase_leftovers(settings, ledger)
    if config is not None:
        _retarget(ledger, config, is_under_way)
    erase_canvases(settings, ledger)


def _decide_again(settings: Settings, ledger: Ledger, mark: Mark) -> list[str]:
    """Cancellations and new attempts that the ledger does not know; gives cancelled scenes that it does not know."""
    unknown = []
    for name, (number, is_cancelled) in mark.states.items():
        row = ledger.scenes.get(name)
        if row is None:
            unknown += [name] if is_cancelled else []
        elif row.changed >= number:
            continue  # the ledger knows of it, or of something later
        elif is_cancelled:
            _restored(ledger, "cancellation", name, ledger.scenes.cancel(name) is not None)
        # A new attempt needs the file. Without it the scene stays as the ledger has it.
        elif scene_file(settings.scenes_dir / name).is_file():
            _restored(ledger, "new attempt", name, ledger.scenes.retry(name, row.priority) is not None)
    return unknown


def _receive_again(ledger: Ledger, mark: Mark) -> None:
    """Receipts that the ledger does not know, of maps whose bytes are those that the ground holds."""
    for name, (_, sha256) in mark.receipts.items():
        row = ledger.maps.get(name)
        if row is not None and row.delivered is None and row.assets.get(MAP_FILE, {}).get("sha256") == sha256:
            _restored(ledger, "receipt", name, ledger.maps.record_receipt(name))


def _restored(ledger: Ledger, fact: str, name: str, is_done: bool) -> None:
    if is_done:
        ledger.events.log(
            "warning",
            "ledger-restored",
            f"its {fact} was lost in the ledger and restored from the high-water mark",
            name,
        )


def _remove_temporaries(settings: Settings) -> None:
    for temporary in (settings.scenes_dir / INCOMING, settings.maps_dir / ERASING):
        shutil.rmtree(temporary, ignore_errors=True)


def _set_aside(path: Path) -> None:
    number = 1 + max(map(_number_of, _asides(path)), default=0)
    aside = path.with_name(f"ledger.damaged-{number}.sqlite")
    path.rename(aside)
    # They go with it: SQLite would replay the old log into the new file.
    for ending in ("-wal", "-shm"):
        if (beside := path.with_name(path.name + ending)).exists():
            beside.rename(aside.with_name(aside.name + ending))
    synced_folder(path.parent)


def _asides(path: Path) -> list[Path]:
    return list(path.parent.glob("ledger.damaged-*.sqlite"))


def _number_of(aside: Path) -> int:
    number = aside.name.removeprefix("ledger.damaged-").removesuffix(".sqlite")
    return int(number) if number.isdecimal() else 0


def _beyond(aside: Path) -> int:
    """A number above those of every earlier ledger: a reader that continues from its last number misses nothing.

    Each ledger that was lost moves the numbers on by more than one could count, whatever the clock says: it may
    start in 1970. Seconds since 1970 are for a folder from which the ledgers set aside were removed; the counter of the
    last one, where it can be read and is one, for what nobody foresaw.
    """
    try:
        with closing(sqlite3.connect(f"{aside.absolute().as_uri()}?mode=ro", uri=True)) as base:
            reached = int(base.execute("SELECT value FROM counter").fetchone()[0])
    except (sqlite3.Error, TypeError, ValueError):
        reached = 0
    if reached >= LARGEST:  # what a damaged page says
        reached = 0
    return max(reached, _number_of(aside) * _A_LEDGERS + max(0, int(time.time())))


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))


def _adopt_scene(ledger: Ledger, folder: Path) -> None:
    row = ledger.scenes.get(folder.name)
    if row is not None:
        return
    scene = _row_of(read_facts(folder), folder.name)
    # Damaged ones stay where they are: an operator may still read them, and nothing else can say what they were.
    if scene is None or _digest(folder) != scene.sha256:
        ledger.events.log(
            "warning", "scene-unreadable", f"folder {folder} is not a complete scene; check it", folder.name
        )
        return
    if ledger.scenes.add(scene).id != scene.id:
        # Its upload ended in a crash before the answer, and was sent again since: the same bytes have a row.
        erase_folder(folder, folder.parent / INCOMING)
        return
    ledger.events.log("info", "scene-adopted", f"{scene.name} was on the disk and not in the ledger", folder.name)


def _digest(folder: Path) -> str | None:
    """Of the scene in a folder; None where it is not whole."""
    file = scene_file(folder)
    try:
        return scene_sha256(file) if file.is_file() else None
    except (SceneRefused, OSError):
        return None


def _adopt_map(ledger: Ledger, folder: Path) -> None:
    known = ledger.maps.get(folder.name)
    # By the time in its item: digests would read every map whole at every start.
    if known is not None and _created(folder) in (None, known.item.get("properties", {}).get("created")):
        return
    row = map_row_of(folder)
    if row is None:
        if known is None:
            ledger.events.log(
                "warning", "map-unreadable", f"folder {folder} is not a complete map; check it", folder.name
            )
        return
    delivery = row.item["properties"].get(DELIVERY, {})
    if ledger.scenes.get(folder.name) is None and (scene := _row_of(delivery, folder.name)) is not None:
        ledger.scenes.add(scene)
    if ledger.scenes.state_of(folder.name) == "cancelled":
        return
    # Known: the ledger fell back to an earlier map of this scene, which was cancelled and made again since.
    ledger.maps.adopt(row, {}, replace=known is not None)
    found = "the map was on the disk and not in the ledger"
    if known is not None:
        found = "the ledger had another map of this scene than the one on the disk, which is listed now"
    ledger.events.log("info", "map-adopted", found, folder.name)


def _created(folder: Path) -> str | None:
    """When the map in a folder was made, as its item says; None where it does not say so."""
    try:
        item = json.loads((folder / ITEM_FILE).read_text(encoding="utf-8"))
        return str(item["properties"]["created"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _row_of(facts: object, name: str) -> SceneRow | None:
    if not isinstance(facts, dict) or facts.get("id") != name:
        return None
    try:
        return SceneRow(**facts | {"name": readable(str(facts.get("name")))})
    except TypeError:
        return None


def _report_missing_scenes(settings: Settings, ledger: Ledger) -> None:
    after = 0
    while rows := ledger.scenes.page(state="queued", after=after):
        after = rows[-1].sequence
        for row in rows:
            if not scene_file(settings.scenes_dir / row.id).is_file():
                ledger.scenes.fail(row.id, "its file is gone from the disk; deliver it again")
                ledger.events.log("error", "scene-missing", f"the file of {row.name} is gone", row.id)


def _report_missing_maps(settings: Settings, ledger: Ledger) -> None:
    after = 0
    while rows := ledger.maps.page(after=after):
        after = rows[-1].sequence
        for row in rows:
            folder = settings.maps_dir / row.id
            # By size alone: bytes that changed are found by the scrub (onboard/downlink/map_scrub.py) or by the ground.
            gone = [name for name, facts in row.assets.items() if not _is_whole(folder / name, int(facts["bytes"]))]
            if not gone:
                continue
            ledger.events.log("error", "map-missing", f"{', '.join(gone)} of the map is gone or cut short", row.id)
            if scene_file(settings.scenes_dir / row.id).is_file():
                ledger.scenes.requeue_mapped(row.id)  # first: a mapped scene's file is wanted by nobody
                ledger.maps.remove(row.id)
            elif row.delivered is None:
                ledger.maps.lose(row.id, "its map is gone from the disk; deliver the scene again")
            else:
                ledger.maps.remove(row.id)


def _erase_leftovers(settings: Settings, ledger: Ledger) -> None:
    """Removes what a power cut left of cancelled scenes, and the files of mapped ones."""
    for folder in _folders(settings.scenes_dir):
        state = ledger.scenes.state_of(folder.name)
        if state == "cancelled":
            erase_scene(settings, ledger, folder.name)
        elif state == "mapped" and not settings.keep_scenes:
            erase_folder(folder, settings.scenes_dir / INCOMING)
    for folder in _folders(settings.maps_dir):
        # It does nothing unless the scene is cancelled.
        erase_scene(settings, ledger, folder.name)


def _retarget(ledger: Ledger, config: MappingConfig, is_under_way: Callable[[SceneRow], bool]) -> None:
    after = 0
    while rows := ledger.scenes.page(state="queued", after=after):
        after = rows[-1].sequence
        for row in rows:
            wanted = config.asking(row.heads)
            if (row.model, row.options) == (wanted.model, wanted.options):
                continue
            # A canvas that stands holds tiles of the model that began it: that model ends the scene.
            if not is_under_way(row):
                retarget_scene(ledger, row, config)


def _is_whole(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
