"""Signs models: their files, digests and sizes go into the next signed list (TUF's targets metadata).

The list of a folder of keys names every model that may fly. Each signature binds the whole list, so files of two lists
cannot be mixed, and a satellite takes no list with a lower version than it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ground.errors import AskedWrong
from ground.model.keys import expiry, library, name_of, read_root, signers_here
from ground.model.unit import Unit
from ground.transfer import write_whole

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Targets

LIST_FILE = "targets.json"


@dataclass(frozen=True)
class SignedBy:
    """A list and who has signed it.

    Attributes:
        version: of the list.
        signed: names of the keys that have signed it.
        threshold: how many must.
    """

    version: int
    signed: list[str]
    threshold: int

    @property
    def is_enough(self) -> bool:
        """Whether a satellite with this root takes it."""
        return len(self.signed) >= self.threshold


def sign(keys: Path, unit: Unit, *, days: int, paths: Sequence[Path] = ()) -> SignedBy:
    """Adds a model to the list and signs it with the keys that are here; one that names it already is signed further.

    Args:
        keys: folder of `ground model keys`.
        unit: to add. Another unit of the same name and version is replaced.
        days: until the list expires. It only counts aboard while the clock there is right.
        paths: of private keys; none takes all in the folder.

    Raises:
        AskedWrong: no key is here, or the list cannot be read.
    """
    tuf, held = library(), read_list(keys)
    wanted = {path: tuf.TargetFile(file.bytes, {"sha256": file.sha256}, path) for path, file in unit.targets().items()}
    old = {} if held is None else dict(held.signed.targets)
    prefix = f"{unit.name}/{unit.version}/"
    # The same list again: a new version would void what others have signed.
    if held is not None and {path: target for path, target in old.items() if path.startswith(prefix)} == wanted:
        return _sign_with(keys, held, paths)
    # The others stay: a model that the newest list does not name is refused aboard, and its files are erased.
    targets = {path: target for path, target in old.items() if not path.startswith(prefix)} | wanted
    return _sign_with(keys, _next(held, targets, days), paths)


def withdraw(keys: Path, name: str, version: str, *, days: int, paths: Sequence[Path] = ()) -> SignedBy:
    """Takes a model out of the list: a satellite that takes the new one does not fly it.

    Raises:
        AskedWrong: the list does not name it, or no key is here.
    """
    held, prefix = read_list(keys), f"{name}/{version}/"
    targets = {} if held is None else dict(held.signed.targets)
    left = {path: target for path, target in targets.items() if not path.startswith(prefix)}
    if len(left) == len(targets):
        named = ", ".join(sorted({path.rpartition("/")[0] for path in targets})) or "nothing"
        raise AskedWrong(f"the list does not name {name} {version}", f"it names {named}")
    return _sign_with(keys, _next(held, left, days), paths)


def read_list(keys: Path) -> Metadata[Targets] | None:
    """The list of a folder of keys; None before the first.

    Raises:
        AskedWrong: it cannot be read.
    """
    path, tuf = keys / LIST_FILE, library()
    try:
        metadata: Metadata[Targets] = tuf.Metadata.from_bytes(path.read_bytes())
    except FileNotFoundError:
        return None
    except tuf.unreadable:
        raise AskedWrong(f"{path} is no signed list", "take it from a copy") from None
    return metadata


def names(signed: Metadata[Targets] | None, unit: Unit) -> bool:
    """Whether a list names this very unit."""
    if signed is None:
        return False
    targets = signed.signed.targets
    return all(
        path in targets and targets[path].hashes.get("sha256") == file.sha256 for path, file in unit.targets().items()
    )


def signatures(keys: Path, metadata: Metadata[Targets]) -> SignedBy:
    """Who has signed a list, by the newest root of the folder."""
    root = read_root(keys).signed
    # By the newest root here, as the satellite will have it after this push.
    result = root.get_verification_result("targets", metadata.signed_bytes, metadata.signatures)
    return SignedBy(metadata.signed.version, sorted(map(name_of, result.signed.values())), result.threshold)


def _next(held: Metadata[Targets] | None, targets: dict[str, Any], days: int) -> Metadata[Targets]:
    tuf = library()
    version = 1 if held is None else held.signed.version + 1
    metadata: Metadata[Targets] = tuf.Metadata(tuf.Targets(version=version, expires=expiry(days), targets=targets))
    return metadata


def _sign_with(keys: Path, metadata: Metadata[Targets], paths: Sequence[Path]) -> SignedBy:
    signers = signers_here(keys, read_root(keys).signed, "models", paths)
    if not signers:
        raise AskedWrong(f"no private key for models is in {keys}", "name one with --key FILE.pem")
    for signer in signers:
        metadata.sign(signer, append=True)
    write_whole(keys / LIST_FILE, metadata.to_bytes())
    return signatures(keys, metadata)
