"""Whose signatures count: TUF's root metadata, and the signed list of models that was taken last.

The Update Framework, without what needs a trusted clock or a server that is always asked: order comes from version
numbers that never fall, and a date of expiry counts only while the kernel says that its clock is synchronised. Snapshot
and timestamp are left out: one list names everything, and it comes by itself.
Source: TUF specification 1.0.34, 5.3 (root: each version is signed by the keys of the one before and by its own) and
5.6 (targets); what verifies is python-tuf and securesystemslib, with Ed25519 alone.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.files import replace_file, synced_folder
from onboard.files import storage_error
from onboard.jobs.timestamps import is_synchronised
from onboard.models.errors import ListRefused, UplinkOff
from onboard.models.signed_list import SignedModel, models_of

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Root, Targets

log = logging.getLogger(__name__)
MOST_METADATA_BYTES = 1 << 20
# RFC 8259, 6: larger integers are not read alike by all programs.
LARGEST_VERSION = 2**53
MOST_KEYS = 32
LIST_FILES = ("targets.json", "targets.copy.json")
"""Two copies: with the list its version would be forgotten, and an older one taken."""
_ED25519 = "ed25519"
_AGAIN = "sign it with `ground model sign`, by enough keys of the root that flies"


class Trust:
    """The metadata that this satellite holds; one thread at a time.

    Args:
        folder: N.root.json of each root that was taken, and targets.json.
        first_root: file of the root that was put aboard by hand; None where none was.
        is_clock_right: whether dates may be held against the clock.
        now: the clock.

    Raises:
        UplinkOff: the library is missing, or there is no root.
    """

    def __init__(
        self,
        folder: Path,
        first_root: Path | None,
        *,
        is_clock_right: Callable[[], bool] = is_synchronised,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        try:
            import tuf.api.metadata  # noqa: F401 -- an extra: said once, here
        except ImportError as error:
            remedy = f"{sys.executable} -m pip install tuf cryptography (the extra uplink)"
            raise UplinkOff(f"signatures need python-tuf ({error})", remedy) from None
        self._folder, self._is_clock_right, self._now = folder, is_clock_right, now
        self._first = first_root
        self.root = self._held_root()

    @property
    def root_version(self) -> int:
        """Version of the root that counts."""
        return int(self.root.signed.version)

    def list_version(self) -> int:
        """Version of the signed list that was taken last; 0 for none."""
        held = self._held_list()
        return 0 if held is None else int(held.signed.version)

    def models(self) -> list[SignedModel]:
        """Models of the list that was taken last."""
        held = self._held_list()
        return [] if held is None else _models(held)

    def take_root(self, raw: bytes) -> bool:
        """Takes the next root; False if it is the one that is held.

        Where the keys of lists have changed so that the list held is no longer signed, that list counts no more, nor
        does its version: whoever stole a key may have signed the highest number there is.

        Raises:
            ListRefused: it is not the next version, or is not signed by enough keys of both.
            StorageError: the disk is full or failed; the root of before counts.
        """
        new = _parsed(raw, "root")
        root: Root = new.signed
        held: Root = self.root.signed
        if root == held:
            return False
        # One after the other (TUF 5.3): each root is the proof for the next, and none may be left out.
        if root.version != held.version + 1:
            problem = f"it is version {root.version} of the root, and version {held.version} is aboard"
            raise ListRefused(problem, f"send version {held.version + 1}: every version comes, one after the other")
        _check_keys(root)
        # By the keys of before: the change was wanted. By its own: whoever made it has the new keys.
        for keys, whose in ((held, "the root aboard"), (root, "its own")):
            _check_signed(keys, "root", new, f"keys of {whose}")
        # Roots of before stay: a damaged newest one falls back to the one before it.
        self._write(f"{root.version}.root.json", raw)
        self.root = new
        return True

    def take_list(self, raw: bytes) -> list[SignedModel]:
        """Takes a signed list and returns its models; the one that is held again is as good.

        Raises:
            ListRefused: too few keys signed it, it is older than the one held, it has expired, or it is no list.
            StorageError: the disk is full or failed; the list of before counts.
        """
        new = _parsed(raw, "targets")
        listed: Targets = new.signed
        # First of all: nothing that a list says counts before enough keys have signed it.
        _check_signed(self.root.signed, "targets", new, "keys for models")
        held = self._held_list()
        version = 0 if held is None else held.signed.version
        if listed.version < version:
            problem = f"it is version {listed.version} of the list, and version {version} was taken before"
            raise ListRefused(problem, "versions never fall: sign the models again, which gives a new version")
        # Two lists of one version: which of them is meant nobody can know.
        if held is not None and listed.version == held.signed.version and listed != held.signed:
            raise ListRefused(f"another list of version {version} was taken before", "sign again with a new version")
        # Delegated keys would sign models without the root's threshold.
        if listed.delegations is not None:
            raise ListRefused("it delegates to other lists", _AGAIN)
        if self._is_clock_right() and listed.is_expired(self._now()):
            raise ListRefused(f"it has expired on {listed.expires:%Y-%m-%d}", "sign it again with a later date")
        if self._is_clock_right() and self.root.signed.is_expired(self._now()):
            raise ListRefused(f"the root has expired on {self.root.signed.expires:%Y-%m-%d}", "send a new root first")
        # Read before it is written: a list that makes no sense must not take the place of one that does.
        models = _models(new)
        # One after the other: a cut leaves one whole copy, of this version or of the one before.
        for name in LIST_FILES:
            self._write(name, raw)
        return models

    def _held_root(self) -> Metadata[Root]:
        """The newest root that is whole, from the folder or as put aboard by hand."""
        # Each is signed by its own keys here; that the one before signed it was checked when it was taken.
        candidates = [root for path in self._folder.glob("*.root.json") if (root := self._read(path, "root"))]
        if self._first is not None and (first := self._read(self._first, "root")):
            candidates.append(first)
        sound = [root for root in candidates if _is_sound(root)]
        if not sound:
            problem = "no root of trust is set" if self._first is None else f"{self._first} is no root of trust"
            raise UplinkOff(problem, "put root.json of `ground model keys` aboard and set ONBOARD_TRUST_ROOT to it")
        return max(sound, key=lambda root: int(root.signed.version))

    def _held_list(self) -> Metadata[Targets] | None:
        copies = [held for name in LIST_FILES if (held := self._read(self._folder / name, "targets"))]
        # Against the root of now: a list whose keys it no longer names does not count, nor does its version.
        sound = [held for held in copies if _is_signed(self.root.signed, "targets", held)]
        return max(sound, key=lambda held: int(held.signed.version), default=None)

    def _read(self, path: Path, kind: str) -> Metadata[Any] | None:
        try:
            with path.open("rb") as file:
                return _parsed(file.read(MOST_METADATA_BYTES + 1), kind)
        except FileNotFoundError:
            return None
        # One damaged copy is passed over: another root, or the other copy of the list, still counts.
        except (OSError, ListRefused) as error:
            log.warning("%s: %s", path, error)
            return None

    def _write(self, name: str, raw: bytes) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            replace_file(self._folder / name, raw)
            synced_folder(self._folder.parent)
        except OSError as error:
            raise storage_error(error, self._folder / name) from error


def _parsed(raw: bytes, kind: str) -> Metadata[Any]:
    from tuf.api.metadata import Metadata
    from tuf.api.serialization import DeserializationError

    if len(raw) > MOST_METADATA_BYTES:
        raise ListRefused(f"it has more than {MOST_METADATA_BYTES:,} bytes", _AGAIN)
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(raw)
    except DeserializationError:
        raise ListRefused(f"it is no TUF metadata of kind {kind}", _AGAIN) from None
    if metadata.signed.type != kind:
        raise ListRefused(f"it is metadata of kind {metadata.signed.type}, not {kind}", _AGAIN)
    if metadata.signed.version >= LARGEST_VERSION:
        raise ListRefused(f"it is version {metadata.signed.version}", f"versions are below {LARGEST_VERSION}")
    return metadata


def _check_keys(root: Root) -> None:
    """Ed25519 alone: no other kind of key runs code of a library, or of another program, on bytes from outside."""
    if len(root.keys) > MOST_KEYS:
        raise ListRefused(f"the root has {len(root.keys)} keys", f"it may have {MOST_KEYS}")
    for keyid, key in root.keys.items():
        if (key.keytype, key.scheme) != (_ED25519, _ED25519):
            problem = f"key {keyid[:12]} of the root is {key.keytype[:20]!r}, not Ed25519"
            raise ListRefused(problem, "make keys with `ground model keys`")


def _check_signed(root: Root, role: str, metadata: Metadata[Any], keys: str) -> None:
    signers, threshold = _signers(root, role, metadata)
    if signers < threshold:
        raise ListRefused(f"{signers} of the {threshold} {keys} that are needed have signed it", _AGAIN)


def _is_signed(root: Root, role: str, metadata: Metadata[Any]) -> bool:
    signers, threshold = _signers(root, role, metadata)
    return signers >= threshold


def _is_sound(root: Metadata[Root]) -> bool:
    try:
        _check_keys(root.signed)
    except ListRefused:
        return False
    return _is_signed(root.signed, "root", root)


def _signers(root: Root, role: str, metadata: Metadata[Any]) -> tuple[int, int]:
    """How many keys have signed, a key under two names counted once, and how many must."""
    result = root.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    return len({str(key.keyval.get("public")) for key in result.signed.values()}), int(result.threshold)


def _models(metadata: Metadata[Targets]) -> list[SignedModel]:
    return models_of({path: (target.length, target.hashes) for path, target in metadata.signed.targets.items()})
