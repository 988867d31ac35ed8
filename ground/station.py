"""One pass: what the satellite plans, fetched in its order, verified, acknowledged.

A map's folder (ground.folders) holds map.tif, map.json and quicklook.webp, `coarse.tif` where only the head of a map
fitted into a pass, and `receipt.json` once the satellite knows that the map is here. A receipt follows the rename: a
map that is acknowledged is on the disk. DEST/catalog.json is a static STAC catalogue of the maps (ground.catalog).

A map that is larger than a pass comes over several. Once its head is here the satellite is asked for more bytes than
the pass has, so that it plans the map whole: the map goes on at its place in the plan until the bytes are spent. The
same is done where not even a part of an urgent map fits into the pass, and less urgent maps wait until it has come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from ground.answers import LARGEST_FILE, Checked, LeftOutMap, Plan, PlannedFile, ReceiptTaken
from ground.catalog import write_catalog
from ground.errors import AskedWrong, DiskFailed, MapDamaged
from ground.folders import COARSE, ITEM, MAP, RECEIPT, MapFolders
from ground.link import Link, WindowClosed
from ground.orders import PRIORITIES
from ground.rebuild import CHANGES, ChangesDamaged, NotRebuilt, awaits_rebuild, can_rebuild, rebuild_map
from ground.transfer import Superseded, Tally, Wanted, fetch, is_beginning, new_name, sha256_of, write_beginning

__all__ = ["COARSE", "ITEM", "MAP", "RECEIPT", "Notify", "PassReport", "Station"]

NOT_FOUND, ANOTHER_DIGEST = 404, 409
MOST_PLANS = 200
"""Plans in one pass: an honest satellite needs a few, one that names ever new files is left for this pass."""

# Their ids are part of the question's address; the service takes 500 of them.
MOST_WHOLE = 400
"""Maps that a plan is asked for whole; beyond, all are."""

Notify = Callable[[str], None]
"""Called with one line for people."""


@dataclass
class PassReport:
    """What a pass did.

    Attributes:
        maps: ids of maps that came whole in this pass; ``receipts`` ids acknowledged in it.
        files: files that came whole.
        coarse: ids of which a coarse head came.
        rebuilt: ids of maps that were made of an earlier one and of the changes that came.
        received_bytes, repeated_bytes: over the link, in files.
        damaged: ids of maps whose bytes aboard are not those that were promised.
        gone: ids of maps that were planned and are not aboard any more.
        why: of each of these, by its id.
        left: files planned that did not come whole, and maps of which nothing fits into the pass.
        window_closed: the pass ended by its time or its bytes.
    """

    maps: list[str] = field(default_factory=list)
    receipts: list[str] = field(default_factory=list)
    files: int = 0
    coarse: list[str] = field(default_factory=list)
    rebuilt: list[str] = field(default_factory=list)
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
    priority: str
    reason: str


class Station:
    """Pulls from one satellite into one folder.

    Args:
        link: to the satellite; its window is the pass's.
        folder: DEST.
        notify: takes what happens, a line each.
        progress: called with (bytes done, bytes planned).
        takes_changes: whether changes may come in place of a map, which is then made here.
    """

    def __init__(
        self,
        link: Link,
        folder: Path,
        notify: Notify | None = None,
        progress: Callable[[int, int], None] | None = None,
        *,
        takes_changes: bool = True,
    ) -> None:
        self.link, self.folder = link, folder
        self.notify = notify or (lambda _: None)
        self.progress = progress
        self.tally = Tally()
        self.report = PassReport()
        """Of the last pass, or of the one that is going on."""
        # Both of this pass alone. The next one asks again, and may get what could not be had now.
        self._superseded: set[tuple[str, str]] = set()
        self._takes_changes = takes_changes and can_rebuild()
        self._wanted_whole: set[str] = set()
        self._said: set[str] = set()
        # What the satellite found, by a map's id.
        self._damaged_aboard: dict[str, str] = {}
        self._folders: MapFolders

    def pull(self) -> PassReport:
        """One pass, to the end of its window or of what there is.

        Raises:
            GroundError: nothing more can be done now; what came stays.
        """
        report = self.report = PassReport()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._folders = MapFolders(self.folder)
            # Receipts before files: each lets the satellite erase a map, and the plan then has room for others.
            for name in self._folders.incoming():  # what an earlier pass acknowledged and did not put in its place
                self._settle(name)
            for name in self._unacknowledged():
                self._acknowledge(name, report)
            self._acknowledge_again(report)
            for name in self._folders.names():
                if awaits_rebuild(self._folders.path(name)):
                    self._rebuild(name, report)
            self._fetch_planned(report)
        except WindowClosed:
            report.window_closed = True
        except OSError as error:
            raise DiskFailed(self.folder, error) from error
        finally:
            # However the pass ended: what came before that is here and is to be found.
            report.received_bytes, report.repeated_bytes = self.tally.received, self.tally.repeated
            self._write_catalog()
        return report

    def _write_catalog(self) -> None:
        """A catalogue that cannot be written fails no pass: what came is here, and the next pass writes it."""
        try:
            write_catalog(self.folder)
        except OSError as error:
            self.notify(f"the catalogue is not written: {error.strerror or error}; the next pass tries again")

    def _fetch_planned(self, report: PassReport) -> None:
        """Plan after plan, until nothing is left aboard that could come."""
        more: int | None = None
        skip = 0
        for _ in range(MOST_PLANS):
            asked = more or self.link.window.bytes_left
            plan = self._plan(asked, skip)
            items = [self._item(row) for row in plan.items]
            missing = [item for item in items if not self._is_given_up(item, report) and not self._is_here(item)]
            # A long plan lists its beginning.
            unlisted = max(0, plan.planned_files - skip - len(items))
            report.left = len(missing) + unlisted + plan.left_out + len(self._unplanned(items, report))
            urgent = self._more_urgent(plan.first_left_out, missing)
            # What lies behind a map whose head is here waits for the rest of that map: the order is the plan's.
            fresh = list(takewhile(lambda item: not self._has_head(item), _not_waiting(missing, urgent)))
            if fresh:
                self._fetch_items(fresh, report)
                more, skip = None, 0
                continue
            if items and not missing and unlisted:
                more, skip = asked, skip + len(items)
                continue
            skip = 0
            # Without a limit every plan names all there is.
            if asked is None or not report.left or asked > LARGEST_FILE:
                return
            if urgent is None:
                more = self._next_ask(items, missing, asked)
            else:
                self._say_once(
                    f"{urgent.map}: {urgent.priority}, more than fits into this pass; less urgent maps wait for it"
                )
                # Where other maps of its priority take these bytes, the next plan is asked for more.
                more = asked + max(asked, urgent.bytes)
        self.notify(f"the satellite made {MOST_PLANS} plans in this pass; the next pass goes on")
        # At least 1, so that the exit code says that work is left.
        report.left = max(1, report.left)

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self.notify(line)

    def _fetch_items(self, items: list[PlanItem], report: PassReport) -> None:
        total, done = sum(item.wanted.length for item in items), 0
        for item in items:
            if not self._is_given_up(item, report):
                try:
                    self._fetch_or_give_up(item, report, done, total)
                except Superseded:
                    self._superseded.add((item.wanted.path, item.wanted.sha256))
                    self.notify(f"{item.map}: another version of {item.asset} is aboard now")
                    return  # to a plan that knows it
            done += item.wanted.length
            # Of a map's head the rest is left, unless the map cannot be had.
            if item.wanted.is_whole or self._is_given_up(item, report):
                report.left -= 1

    def _unplanned(self, items: list[PlanItem], report: PassReport) -> set[str]:
        """Ids of maps of which the plan names some files and not, for want of bytes, the one that makes them whole."""
        whole = {item.map for item in items if item.asset in (MAP, CHANGES)}
        return {item.map for item in items} - whole - set(report.why)

    def _more_urgent(self, left_out: LeftOutMap | None, missing: list[PlanItem]) -> LeftOutMap | None:
        """The map that a plan leaves out, where something less urgent is planned and would come before it."""
        # Without a limit nothing is left out; what is given up must not keep others up there.
        if left_out is None or left_out.map in self.report.why or self.link.window.bytes is None:
            return None
        # A map whose turn came goes on before any other.
        first = next((item for item in missing if self._has_head(item) or _waits(item, left_out)), None)
        return left_out if first is not None and _waits(first, left_out) else None

    def _next_ask(self, items: list[PlanItem], missing: list[PlanItem], asked: int) -> int:
        """For how many bytes to ask where a plan brings nothing new: more than ``asked``, and so another plan.

        Args:
            items: of the plan.
            missing: those of them that are to come; the first one is a map whose head is here.
            asked: bytes that this plan was asked for.
        """
        # None only where there is no limit, and then nothing is asked for.
        bytes_left = self.link.window.bytes_left or 0
        # What is here already took the room of what comes behind it.
        with_here = bytes_left + sum(self._bytes_here(item) for item in items)
        begun = missing[0] if missing else None
        if with_here > asked and (begun is None or begun.wanted.bytes - self._bytes_here(begun) <= bytes_left):
            return with_here
        # More than the pass has: what is planned then begins to come in this pass, and goes on in the next.
        return 2 * asked if begun is None else asked + begun.wanted.bytes - begun.wanted.length

    def _is_given_up(self, item: PlanItem, report: PassReport) -> bool:
        """For this pass: a plan names it again as long as it has no receipt."""
        return item.map in report.why or (item.wanted.path, item.wanted.sha256) in self._superseded

    def _fetch_or_give_up(self, item: PlanItem, report: PassReport, done: int, total: int) -> None:
        """A map that cannot be had must not keep those behind it up there: it is given up for this pass."""
        try:
            self._fetch_item(item, report, done, total)
        except MapDamaged as error:
            # Noted before the satellite is asked: the window may close in that question, and the reason must stand.
            report.damaged.append(item.map)
            report.why[item.map] = str(error)
            self.notify(f"{item.map}: {error}")
            report.why[item.map] += self._damaged_aboard.get(item.map) or self._have_checked(item.map)[1]
        except AskedWrong as error:
            # Any other refusal, as of the token, would meet every further file as well.
            if error.status != NOT_FOUND:
                raise
            report.gone.append(item.map)
            report.why[item.map] = error.problem
            self.notify(f"{item.map}: not aboard any more")

    def _is_damaged_aboard(self, item: PlanItem) -> bool:
        self.notify(f"{item.map}: {item.asset} came wrong; the satellite is asked to check its own")
        damaged, finding = self._have_checked(item.map)
        if item.asset not in damaged:
            return False
        self._damaged_aboard[item.map] = finding
        return True

    def _have_checked(self, name: str) -> tuple[list[str], str]:
        """Has the satellite look at its own bytes: what is damaged aboard must not cost the link in every pass.

        Returns the names of files that are damaged, and the finding for people.
        """
        try:
            answer = self.link.read(Checked, "POST", f"/maps/{name}/check")
        except AskedWrong:
            return [], ""  # gone meanwhile, or a service that does not know the question
        damaged = ", ".join(answer.damaged)
        finding = f"aboard {damaged} is damaged" if damaged else "aboard all its files are whole"
        if answer.erased:
            finding += ", and the map erased: deliver its scene again"
        self.notify(f"{name}: {finding}")
        return answer.damaged, f"; {finding}"

    def _plan(self, asked: int | None, skip: int = 0) -> Plan:
        """What to fetch within so many bytes (None: everything), without the first files of the plan."""
        query: dict[str, Any] = {} if asked is None else {"bytes": asked}
        if skip:
            query["skip"] = skip
        if self._takes_changes and len(self._wanted_whole) <= MOST_WHOLE:
            query |= {"changes": "true", "whole": sorted(self._wanted_whole)}
        return self.link.read(Plan, "GET", "/downlink/plan", params=query)

    def _item(self, row: PlannedFile) -> PlanItem:
        target = self._folders.path(row.map) / row.asset
        wanted = Wanted(f"/maps/{row.map}/{row.asset}", target, row.sha256, row.bytes, row.length)
        return PlanItem(row.map, row.asset, wanted, row.priority, row.reason)

    def _is_here(self, item: PlanItem) -> bool:
        """Whether its whole file is here, however much of it is planned."""
        wanted = item.wanted
        if not wanted.target.is_file() or wanted.target.stat().st_size != wanted.bytes:
            return False
        return sha256_of(wanted.target) == wanted.sha256

    def _has_head(self, item: PlanItem) -> bool:
        """Whether it is a map's head that is here, and its coarse map too: a pass may have ended between the two."""
        wanted = item.wanted
        if wanted.is_whole or wanted.part_bytes < wanted.length:
            return False
        return is_beginning(wanted.target.with_name(COARSE), wanted.part, wanted.length)

    def _bytes_here(self, item: PlanItem) -> int:
        """Bytes of the plan that need not come: of what is given up all, so that others have its room."""
        wanted = item.wanted
        if self._is_given_up(item, self.report) or self._is_here(item):
            return wanted.length
        return min(wanted.part_bytes, wanted.bytes)

    def _fetch_item(self, item: PlanItem, report: PassReport, done: int, total: int) -> None:
        got = 0

        def progress(count: int) -> None:
            nonlocal got
            got += count
            if self.progress is not None:
                self.progress(min(done + got, total), total)

        fetch(self.link, item.wanted, self.tally, progress, lambda: self._is_damaged_aboard(item))
        if not item.wanted.is_whole:
            # A copy, since the part stays: the rest of the map continues it in a later pass.
            write_beginning(item.wanted.target.with_name(COARSE), item.wanted.part, item.wanted.length)
            if item.map not in report.coarse:
                report.coarse.append(item.map)
            self.notify(f"{item.map}: a coarse map, {item.wanted.length:,} of {item.wanted.bytes:,} bytes")
            return
        report.files += 1
        # Plans name changes.tif and map.tif behind the other files of a map, which are all here by now.
        if item.asset == CHANGES:
            self._rebuild(item.map, report)
        if item.asset == MAP:
            self._remove_coarse(item.map)
            report.maps.append(item.map)
            self.notify(f"{item.map}: {item.wanted.bytes:,} bytes, whole ({item.reason})")
            self._acknowledge(item.map, report)

    def _remove_coarse(self, name: str) -> None:
        """Of a map that is whole now; what a cut left of a coarse map goes as well."""
        path = self._folders.path(name) / COARSE
        for each in (path, new_name(path)):
            each.unlink(missing_ok=True)

    def _rebuild(self, name: str, report: PassReport) -> None:
        """Makes a map of an earlier one and its changes, or has the next plan name it whole."""
        try:
            if not self._takes_changes:
                raise NotRebuilt("changes are not taken here")
            earlier = rebuild_map(self._folders, name)
        except ChangesDamaged as error:
            self.notify(str(error))
            return
        except NotRebuilt as error:
            self._wanted_whole.add(name)
            # Lasting where GDAL or Zstandard have other versions than aboard: then no map comes out byte for byte.
            self._takes_changes = self._takes_changes and not error.is_lasting
            self.notify(f"{name}: not made of its changes: {error}; the whole map is fetched")
            return
        self._remove_coarse(name)
        report.maps.append(name)
        report.rebuilt.append(name)
        self.notify(f"{name}: made of {earlier} and its changes, byte for byte")
        self._acknowledge(name, report)

    def _acknowledge(self, name: str, report: PassReport) -> None:
        """Tells the satellite that a map is here.

        A map it no longer knows needs no receipt; one it has made anew since gets none, and is fetched again.
        """
        # Of the bytes on this disk, not of those that were promised: after the receipt the satellite may erase its own.
        digest = sha256_of(self._folders.path(name) / MAP)
        try:
            receipt = self.link.read(ReceiptTaken, "POST", f"/maps/{name}/receipt", json={"sha256": digest})
            answer = receipt.model_dump()
        except AskedWrong as error:
            if error.status == ANOTHER_DIGEST:
                self.notify(f"{name}: made anew aboard since it came")
                return
            if error.status != NOT_FOUND:
                raise
            # A receipt is kept all the same, or each pass would ask again.
            answer = {"map": name, "received": False, "detail": "erased aboard"}
        # Before the map moves: only one with a receipt does, and what a cut leaves here the next pass moves.
        self._folders.write_receipt(name, {"sha256": digest, "answer": answer})
        self._settle(name)
        report.receipts.append(name)

    def _settle(self, name: str) -> None:
        """A map that cannot be moved to its place fails no pass: it is here, and acknowledged."""
        try:
            self._folders.settle(name)
        except OSError as error:
            self.notify(f"{name}: stays in {self._folders.path(name)}: {error.strerror or error}")

    def _acknowledge_again(self, report: PassReport) -> None:
        """Gives receipts again that the satellite has lost: its ledger may have been built anew, or fallen back.

        Without them it would keep for ever, and plan in each pass, what is here.
        """
        held = {name for name in self._folders.names() if (self._folders.path(name) / RECEIPT).exists()}
        held -= set(report.receipts)
        since: int | None = 0
        while held and since is not None:
            try:
                answer = self.link.json("GET", "/downlink/undelivered", params={"since": since})
                rows = [(str(row["map"]), str(row["sha256"])) for row in answer["maps"]]
                following = answer["next"]
            except (AskedWrong, KeyError, TypeError):
                return  # a service that does not know the question
            for name, sha256 in rows:
                target = self._folders.path(name) / MAP
                # For the very bytes that are aboard: a map that was made anew since is fetched again.
                if name in held and target.is_file() and sha256_of(target) == sha256:
                    self._acknowledge(name, report)
                    self.notify(f"{name}: its receipt was lost aboard and is given again")
            # A page that does not lead on is the last one.
            since = following if isinstance(following, int) and following > since else None

    def _unacknowledged(self) -> Iterator[str]:
        """Maps here that the satellite may not know to be here: the link broke before the receipt."""
        for name in self._folders.names():
            path = self._folders.path(name)
            if (path / MAP).is_file() and not (path / RECEIPT).exists() and not self._folders.made_here(name):
                yield name


def _waits(item: PlanItem, left_out: LeftOutMap | None) -> bool:
    """Whether it is less urgent than a map that a plan leaves out."""
    return left_out is not None and _rank(item.priority) > _rank(left_out.priority)


def _not_waiting(items: list[PlanItem], left_out: LeftOutMap | None) -> list[PlanItem]:
    return [item for item in items if not _waits(item, left_out)]


def _rank(priority: str) -> int:
    """0 for the most urgent; words that are not known come last."""
    return PRIORITIES.index(priority) if priority in PRIORITIES else len(PRIORITIES)
