"""Sends a model up in passes: roots that the satellite lacks, the signed list, then the files that it lacks.

Each file goes in ranges, from where those bytes end that are aboard, so a pass that breaks costs nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from ground.errors import AskedWrong, DiskFailed
from ground.link import Link, TryLater, reason_of
from ground.model.answers import FileAboard, FileTaken, MetadataTaken, ModelAboard, ModelsAboard
from ground.model.difference import cache_folder, smallest
from ground.model.keys import ROOT_FILE, roots_after
from ground.model.sign import LIST_FILE, names, read_list, signatures
from ground.model.unit import MANIFEST, Unit, UnitFile, file_of
from ground.show import size

# Small, as the window and the watchdog look between two blocks: at 10 kbit/s one takes 13 s.
BLOCK = 16 << 10
MOST_BASES = 3
"""Files aboard that a difference is tried against."""
DONE = ("received", "verified", "standby", "active")
JUDGED = ("verified", "standby", "active", "refused")
_FRUITLESS = 20
"""Refusals in a row without a byte that came through, after which the satellite is not asked again."""
Progress = Callable[[int, int], None]


@dataclass
class PushReport:
    """What a pass has sent.

    Attributes:
        digest: of the model.
        state, reason: of the model aboard, at the end.
        sent_bytes: of files and metadata that the satellite has kept.
        model_bytes: of all files of the model.
        left_bytes: that are still to come.
        differences: by file, how it went up.
    """

    digest: str
    state: str = ""
    reason: str = ""
    sent_bytes: int = 0
    model_bytes: int = 0
    left_bytes: int = 0
    window_closed: bool = False
    ways: dict[str, str] = field(default_factory=dict)


class Push:
    """One model to one satellite.

    Args:
        link: to it.
        unit: the model.
        keys: folder of keys, with its roots and the signed list.
        bases: folders of models whose files the satellite may have, for differences; None sends whole files.
        say: takes lines for people.
        progress: takes bytes that are aboard, and all.
    """

    def __init__(
        self,
        link: Link,
        unit: Unit,
        keys: Path,
        bases: Sequence[Path] | None = (),
        say: Callable[[str], None] = lambda _: None,
        progress: Progress | None = None,
    ) -> None:
        self._link, self._unit, self._keys, self._say, self._progress = link, unit, keys, say, progress
        self._bases = bases
        self.report = PushReport(unit.digest, model_bytes=sum(file.bytes for file in unit.files.values()))

    def run(self, wait_s: float = 0.0) -> PushReport:
        """Sends what the satellite lacks, then waits so long for its verification.

        Raises:
            AskedWrong: the model is not signed by enough keys, or the satellite refuses.
            LinkDown, WindowClosed: see :class:`Link`.
        """
        # Here and not only aboard: what is not signed would cost the pass that finds it out.
        self._check_signed()
        aboard = self._send_metadata(self._models())
        model = self._model(aboard)
        for name in sorted(self._unit.files, key=lambda name: (name != MANIFEST, name)):
            file = next((file for file in model.files if file.name == name), None)
            if file is not None and file.held < file.bytes and model.state not in DONE:
                self._send_file(name, file, aboard)
        self._follow(wait_s)
        return self.report

    def _check_signed(self) -> None:
        signed = read_list(self._keys)
        if signed is None or not names(signed, self._unit):
            problem = f"the signed list in {self._keys} does not name {self._unit.name} {self._unit.version} as it is"
            raise AskedWrong(problem, "sign it with `ground model sign`")
        by = signatures(self._keys, signed)
        if not by.is_enough:
            who = ", ".join(by.signed) or "nobody"
            raise AskedWrong(
                f"{by.threshold} keys must sign the list, {who} has", "`ground model sign` with another key"
            )

    def _models(self) -> ModelsAboard:
        return self._link.read(ModelsAboard, "GET", "/models")

    def _model(self, aboard: ModelsAboard) -> ModelAboard:
        model = aboard.model(self._unit.digest)
        if model is None:
            raise AskedWrong("the satellite took the list and does not know the model", "see GET /events there")
        self.report.state, self.report.reason = model.state, model.reason
        self.report.left_bytes = 0 if model.state in DONE else sum(file.bytes - file.held for file in model.files)
        if self._progress is not None:
            self._progress(self.report.model_bytes - self.report.left_bytes, self.report.model_bytes)
        return model

    def _send_metadata(self, aboard: ModelsAboard) -> ModelsAboard:
        if not aboard.takes_models:
            raise AskedWrong(f"this satellite takes no models: {aboard.problem}", "see docs/uplink.md")
        sent_before = self.report.sent_bytes
        # None may be left out: the satellite takes a root by the keys of the one before it.
        for path in roots_after(self._keys, aboard.root_version or 0):
            self._put_metadata("root", path)
            self._say(f"{path.name}: the satellite has this root of trust now")
        signed = read_list(self._keys)
        model = aboard.model(self._unit.digest)
        if signed is not None and (model is None or signed.signed.version != aboard.list_version):
            self._put_metadata("list", self._keys / LIST_FILE)
        # Asked again only where it says something else now: with each model aboard the answer is longer, by 2 kB or so.
        return aboard if self.report.sent_bytes == sent_before else self._models()

    def _put_metadata(self, kind: str, path: Path) -> None:
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise AskedWrong(
                f"{path}: {(error.strerror or str(error)).lower()}", f"each version of {ROOT_FILE} is needed"
            ) from None
        self._link.read(MetadataTaken, "PUT", f"/models/metadata/{kind}", content=raw)
        self.report.sent_bytes += len(raw)

    def _send_file(self, name: str, file: FileAboard, aboard: ModelsAboard) -> None:
        whole, difference = self._unit.files[name], None
        # Of a file that is begun the rest goes up: with a difference the bytes aboard would be lost.
        if self._bases is not None and not file.held:
            difference = smallest(whole, self._bases_of(name, self._bases, aboard), cache_folder())
        if difference is None:
            self.report.ways[name] = "whole"
            self._send(f"/models/files/{file.sha256}", whole, file.held, lambda: self._held(file.sha256))
            return
        digest = difference.file.sha256
        self.report.ways[name] = f"{difference.method}, {difference.file.bytes:,} bytes for {file.bytes:,}"
        self._say(f"{name}: {size(difference.file.bytes)} by {difference.method} instead of {size(file.bytes)}")
        self._send(
            f"/models/files/{file.sha256}/difference", difference.file, file.differences.get(digest, 0),
            lambda: self._held_difference(file.sha256, difference.file),
            method=difference.method, base=difference.base, digest=digest, bytes=str(difference.file.bytes),
        )  # fmt: skip

    @staticmethod
    def _bases_of(name: str, folders: Sequence[Path], aboard: ModelsAboard) -> list[UnitFile]:
        """Files here that the satellite has too, of the same name: models of other names are too unlike."""
        # Told by digest: what lies here under the same name may be another version than aboard.
        whole = {file.sha256 for file in aboard.aboard}
        found = {}
        for folder in folders:
            path = folder / name
            if path.is_file() and (file := file_of(path)).sha256 in whole:
                found[file.sha256] = file
        return list(found.values())[:MOST_BASES]

    def _send(self, path: str, file: UnitFile, held: int, ask: Callable[[], int], **params: str) -> None:
        """Sends a file from byte ``held`` on, in as many requests as it takes; ``ask`` says how much is aboard."""
        fruitless = 0
        while held < file.bytes:
            before, why, after_s = held, "", 0.0
            try:
                held = self._send_once(path, file, held, params)
            except AskedWrong as error:
                # 409: another push holds the file, or its end is elsewhere. Both pass, if not for ever.
                fruitless += 1
                if error.status != httpx.codes.CONFLICT or fruitless > _FRUITLESS:
                    raise
                why = str(error)
            except (httpx.TransportError, ValueError) as error:
                why = reason_of(error)
            except TryLater as error:
                why, after_s = str(error), error.after_s
            if why:
                self._link.pause(why, after_s)
                # Bytes may have arrived although no answer did: only the satellite knows where to go on.
                held = ask()
            if held > before:
                fruitless = 0
                self._link.answered()
                self.report.sent_bytes += held - before

    def _send_once(self, path: str, file: UnitFile, at: int, params: dict[str, str]) -> int:
        """One request; returns how many bytes are aboard then."""
        left = self._link.window.bytes_left
        end = file.bytes if left is None else min(file.bytes, at + left)
        # With the length: httpx would send blocks without one as chunks, and the service could not check it beforehand.
        headers = {"Content-Range": f"bytes {at}-{end - 1}/{file.bytes}", "Content-Length": str(end - at)}
        taken = self._link.send(FileTaken, path, _blocks(file.path, at, end), headers, params)
        return file.bytes if taken.whole else taken.held

    def _held(self, sha256: str) -> int:
        """How much of a file is aboard, asked anew."""
        aboard = self._models()
        whole = next((file.bytes for file in aboard.aboard if file.sha256 == sha256), 0)
        held = [file.held for model in aboard.models for file in model.files if file.sha256 == sha256]
        # The same file may belong to several models; the most that any has counts.
        return max([whole, *held])

    def _held_difference(self, sha256: str, difference: UnitFile) -> int:
        """How much of a difference is aboard, asked anew; all of it where its file is whole."""
        aboard = self._models()
        # Aboard the difference is erased once its file is made: so a whole file says that all of it came.
        if any(file.sha256 == sha256 for file in aboard.aboard):
            return difference.bytes
        files = [file for model in aboard.models for file in model.files if file.sha256 == sha256]
        return max([0, *(file.differences.get(difference.sha256, 0) for file in files)])

    def _follow(self, wait_s: float) -> None:
        end = time.monotonic() + wait_s
        model = self._model(self._models())
        while model.state not in JUDGED and time.monotonic() < end and self.report.left_bytes == 0:
            time.sleep(min(1.0, wait_s))
            self._link.window.check()
            model = self._model(self._models())


def _blocks(path: Path, at: int, end: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(at)
            while at < end and (block := file.read(min(BLOCK, end - at))):
                at += len(block)
                yield block
    except OSError as error:
        raise DiskFailed(path, error) from error


def refusal(report: PushReport) -> AskedWrong | None:
    """The satellite's word where it refused the model."""
    if report.state != "refused":
        return None
    return AskedWrong(f"the satellite refused the model: {report.reason}", "mend it, sign and push it again")
