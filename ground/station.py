"""One pass: what the satellite plans, fetched in its order, verified, acknowledged.

DEST/MAP/ holds map.tif, map.json and quicklook.webp, `coarse.tif` where only the head of a map fitted into a pass, and
`receipt.json` once the satellite knows that the map is here. A receipt follows the rename: a map that is acknowledged
is on the disk.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ground.answers import Checked, Plan, PlannedFile, ReceiptTaken
from ground.errors import AskedWrong, DiskFailed, GroundError, MapDamaged
from ground.link import Link, WindowClosed
from ground.transfer import Superseded, Tally, Wanted, fetch, sha256_of, write_whole

NOT_FOUND, ANOTHER_DIGEST = 404, 409
MOST_PLANS = 200
"""Plans in one pass: an honest satellite needs a few, one that names ever new files is left for this pass."""
MAP, ITEM, RECEIPT, COARSE = "map.tif", "map.json", "receipt.json", "coarse.tif"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

Told = Callable[[str], None]
"""Called with one line for people."""


@dataclass
class PassReport:
    """What a pass did.

    Attributes:
        maps: ids of maps that came whole in this pass; ``receipts`` ids acknowledged in it.
        files: files that came whole.
        coarse: ids of which a coarse head came.
        received_bytes, repeated_bytes: over the link, in files.
        damaged: ids of maps whose bytes aboard are not those that were promised.
        gone: ids of maps that were planned and are not aboard any more.
        why: of each of these, by its id.
        left: files planned that did not come.
        window_closed: the pass ended by its time or its bytes.
    """

    maps: list[str] = field(default_factory=list)
    receipts: list[str] = field(default_factory=list)
    files: int = 0
    coarse: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    why: dict[str, str] = field(default_factory=dict)
    received_bytes: int = 0
    repeated_bytes: int = 0
    left: int = 0
    window_closed: bool = False


@dataclass(frozen=True)
class PlanItem:
    """One entry of the satellite's plan."""

    map: str
    asset: str
    wanted: Wanted
    reason: str


class Station:
    """Pulls from one satellite into one folder.

    Args:
        link: to the satellite; its window is the pass's.
        folder: DEST.
        told: what happens, a line each.
        progress: called with (bytes done, bytes planned).
    """

    def __init__(
        self, link: Link, folder: Path, told: Told | None = None, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self.link, self.folder = link, folder
        self.told = told or (lambda _: None)
        self.progress = progress
        self.tally = Tally()
        self._superseded: set[tuple[str, str]] = set()

    def pull(self) -> PassReport:
        """One pass, to the end of its window or of what there is.

        Raises:
            GroundError: nothing more can be done now; what came stays.
        """
        report = PassReport()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in self._unacknowledged():
                self._acknowledge(name, report)
            self._acknowledge_again(report)
            self._fetch_planned(report)
        except WindowClosed:
            report.window_closed = True
        except OSError as error:
            raise DiskFailed(self.folder, error) from error
        finally:
            report.received_bytes, report.repeated_bytes = self.tally.received, self.tally.repeated
        return report

    def _fetch_planned(self, report: PassReport) -> None:
        """Plan after plan, until the satellite has nothing more that fits."""
        held = 0
        for _ in range(MOST_PLANS):
            whole, left_out = self._plan(held)
            items = [item for item in whole if not self._is_given_up(item, report) and not self._holds(item)]
            report.left = len(items) + left_out
            if items:
                self._fetch_items(items, report)
                continue
            # What the plan names is here already and took the room of what comes behind it.
            more = sum(item.wanted.length for item in whole)
            if more <= held:
                return
            held = more
        self.told(f"the satellite made {MOST_PLANS} plans in this pass; the next pass goes on")
        report.left = max(1, report.left)

    def _fetch_items(self, items: list[PlanItem], report: PassReport) -> None:
        total, done = sum(item.wanted.length for item in items), 0
        for item in items:
            if not self._is_given_up(item, report):
                try:
                    self._fetch_or_give_up(item, report, done, total)
                except Superseded:
                    self._superseded.add((item.wanted.path, item.wanted.sha256))
                    self.told(f"{item.map}: another version of {item.asset} is aboard now")
                    return  # to a plan that knows it
            done += item.wanted.length
            report.left -= 1

    def _is_given_up(self, item: PlanItem, report: PassReport) -> bool:
        """For this pass: a plan names it again as long as it has no receipt."""
        return item.map in report.why or (item.wanted.path, item.wanted.sha256) in self._superseded

    def _fetch_or_give_up(self, item: PlanItem, report: PassReport, done: int, total: int) -> None:
        """A map that cannot be had must not keep those behind it up there: it is given up for this pass."""
        try:
            self._fetch_item(item, report, done, total)
        except MapDamaged as error:
            report.damaged.append(item.map)
            report.why[item.map] = str(error)
            self.told(f"{item.map}: {error}")
            report.why[item.map] += self._have_checked(item.map)
        except AskedWrong as error:
            if error.status != NOT_FOUND:
                raise
            report.gone.append(item.map)
            report.why[item.map] = error.problem
            self.told(f"{item.map}: not aboard any more")

    def _have_checked(self, name: str) -> str:
        """Has the satellite look at its own bytes: what is damaged aboard must not cost the link in every pass."""
        try:
            answer = self.link.read(Checked, "POST", f"/maps/{name}/check")
            damaged, erased = ", ".join(answer.damaged), answer.erased
        except AskedWrong:
            return ""  # gone meanwhile, or a service that does not know the question
        found = f"aboard {damaged} is damaged" if damaged else "aboard all its files are whole"
        if erased:
            found += ", and the map erased: deliver its scene again"
        self.told(f"{name}: {found}")
        return f"; {found}"

    def _plan(self, held: int) -> tuple[list[PlanItem], int]:
        """What to fetch, and how many maps it leaves out for want of bytes."""
        left = self.link.window.bytes_left
        query = {} if left is None else {"bytes": left + held}
        plan = self.link.read(Plan, "GET", "/downlink/plan", params=query)
        return [self._item(row) for row in plan.items], plan.left_out

    def _item(self, row: PlannedFile) -> PlanItem:
        target = self.folder / row.map / row.asset
        wanted = Wanted(f"/maps/{row.map}/{row.asset}", target, row.sha256, row.bytes, row.length)
        return PlanItem(row.map, row.asset, wanted, row.reason)

    def _holds(self, item: PlanItem) -> bool:
        wanted = item.wanted
        if wanted.target.is_file() and wanted.target.stat().st_size == wanted.bytes:
            return sha256_of(wanted.target) == wanted.sha256
        return not wanted.is_whole and wanted.part.exists() and wanted.part.stat().st_size >= wanted.length

    def _fetch_item(self, item: PlanItem, report: PassReport, done: int, total: int) -> None:
        got = 0

        def progress(count: int) -> None:
            nonlocal got
            got += count
            if self.progress is not None:
                self.progress(min(done + got, total), total)

        fetch(self.link, item.wanted, self.tally, progress)
        if not item.wanted.is_whole:
            shutil.copyfile(item.wanted.part, item.wanted.target.with_name(COARSE))
            report.coarse.append(item.map)
            self.told(f"{item.map}: a coarse map, {item.wanted.length:,} of {item.wanted.bytes:,} bytes")
            return
        report.files += 1
        if item.asset == MAP:
            item.wanted.target.with_name(COARSE).unlink(missing_ok=True)
            report.maps.append(item.map)
            self.told(f"{item.map}: {item.wanted.bytes:,} bytes, whole ({item.reason})")
            self._acknowledge(item.map, report)

    def _acknowledge(self, name: str, report: PassReport) -> None:
        """Tells the satellite that a map is here.

        A map it no longer knows needs no receipt; one it has made anew since gets none, and is fetched again.
        """
        digest = sha256_of(self.folder / name / MAP)
        try:
            taken = self.link.read(ReceiptTaken, "POST", f"/maps/{name}/receipt", json={"sha256": digest})
            answer = taken.model_dump()
        except AskedWrong as error:
            if error.status == ANOTHER_DIGEST:
                self.told(f"{name}: made anew aboard since it came")
                return
            if error.status != NOT_FOUND:
                raise
            answer = {"map": name, "received": False, "detail": "erased aboard"}
        write_whole(self.folder / name / RECEIPT, json.dumps({"sha256": digest, "answer": answer}).encode())
        report.receipts.append(name)

    def _acknowledge_again(self, report: PassReport) -> None:
        """Gives receipts again that the satellite has lost: its ledger may have been built anew, or fallen back.

        Without them it would keep for ever, and plan in each pass, what is here.
        """
        held = {path.parent.name for path in self.folder.glob(f"*/{RECEIPT}")} - set(report.receipts)
        since: int | None = 0
        while held and since is not None:
            try:
                answer = self.link.json("GET", "/downlink/undelivered", params={"since": since})
                rows = [(str(row["map"]), str(row["sha256"])) for row in answer["maps"]]
                following = answer["next"]
            except (AskedWrong, KeyError, TypeError):
                return  # a service that does not know the question
            for name, sha256 in rows:
                target = self.folder / name / MAP
                if name in held and target.is_file() and sha256_of(target) == sha256:
                    self._acknowledge(name, report)
                    self.told(f"{name}: its receipt was lost aboard and is given again")
            # A page that does not lead on is the last one.
            since = following if isinstance(following, int) and following > since else None

    def _unacknowledged(self) -> Iterator[str]:
        """Maps here that the satellite may not know to be here: the link broke before the receipt."""
        for path in sorted(self.folder.glob(f"*/{MAP}")):
            if _PLAIN.fullmatch(path.parent.name) and path.is_file() and not (path.parent / RECEIPT).exists():
                yield path.parent.name


def held_maps(folder: Path) -> list[dict[str, Any]]:
    """What a folder holds: for `ground ls`.

    Raises:
        GroundError: there is no such folder.
    """
    if not folder.is_dir():
        raise GroundError(f"{folder}: no such folder; `ground pull URL --dest {folder}` makes it")
    rows = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        parts = sum(part.stat().st_size for part in path.glob("*.part") if part.is_file())
        whole = path / MAP
        rows.append(
            {
                "map": os.fsencode(path.name).decode("utf-8", "replace"),
                "bytes": whole.stat().st_size if whole.is_file() else None,
                "part_bytes": parts,
                "coarse": (path / COARSE).exists(),
                "acknowledged": (path / RECEIPT).exists(),
            }
        )
    return rows
