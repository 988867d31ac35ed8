"""Keys of whoever may send models, and the root of trust that names them.

A folder of keys holds root.json, which flies; N.root.json, every version of it, since the satellite takes one after the
other; and private/NAME.pem, each of which belongs on a machine of its own. A key that was replaced stays there as
NAME.before-VERSION.pem, by the version of the root that no longer names it. Roles and thresholds are TUF's.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ground.errors import AskedWrong
from ground.transfer import sync, write_whole

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Root

ROOT_FILE, PRIVATE = "root.json", "private"
ROLES = {"root": "root", "models": "targets"}
"""Our names of roles, and TUF's."""


@dataclass(frozen=True)
class KeyPlan:
    """How many keys there are, and how many of them must sign."""

    root_keys: int = 3
    root_threshold: int = 2
    model_keys: int = 2
    model_threshold: int = 1

    def __post_init__(self) -> None:
        for what, keys, threshold in (
            ("root", self.root_keys, self.root_threshold), ("models", self.model_keys, self.model_threshold)
        ):  # fmt: skip
            if not 1 <= threshold <= keys <= 15:
                raise AskedWrong(f"{threshold} of {keys} keys for {what}", "give 1 to 15 keys, and at most all of them")


def make_keys(folder: Path, plan: KeyPlan, days: int) -> Path:
    """Makes keys and the first root in a folder that holds none; returns the path of root.json.

    Raises:
        AskedWrong: there is a root already, or what a command that was cut has left; or a library is missing.
    """
    library = _library()
    if (folder / ROOT_FILE).exists():
        raise AskedWrong(
            f"{folder / ROOT_FILE} is there already", "take another folder, or --replace NAME for new keys"
        )
    if roots := [path for path in folder.glob(f"*.{ROOT_FILE}") if path.name.split(".")[0].isdecimal()]:
        newest = max(roots, key=lambda path: int(path.name.split(".")[0]))
        raise AskedWrong(f"{folder / ROOT_FILE} is missing, and {newest.name} is there", f"copy it to {ROOT_FILE}")
    if any((folder / PRIVATE).glob("*.pem")):
        raise AskedWrong(f"{folder / PRIVATE} holds keys, and no root names them", "take another folder")
    root = library.Root(version=1, expires=expiry(days), consistent_snapshot=False)
    signers = {}
    for role, count in (("root", plan.root_keys), ("models", plan.model_keys)):
        for number in range(1, count + 1):
            signers[f"{role}-{number}"] = signer = library.CryptoSigner.generate_ed25519()
            root.add_key(named(signer.public_key, f"{role}-{number}"), ROLES[role])
    root.roles["root"].threshold, root.roles["targets"].threshold = plan.root_threshold, plan.model_threshold
    # Private keys first: a cut leaves keys that no root names, never a root that nobody can sign for.
    for name, signer in signers.items():
        write_private(folder, name, signer)
    return write_root(folder, root, [signer for name, signer in signers.items() if name.startswith("root")])


def read_root(folder: Path) -> Metadata[Root]:
    """The newest root of a folder.

    Raises:
        AskedWrong: there is none.
    """
    library = _library()
    path = folder / ROOT_FILE
    try:
        metadata: Metadata[Root] = library.Metadata.from_bytes(path.read_bytes())
    except FileNotFoundError:
        raise AskedWrong(f"{path} is not there", "make keys with `ground model keys FOLDER`") from None
    except library.unreadable:
        raise AskedWrong(f"{path} is no root of trust", "take it from a copy") from None
    return metadata


def roots_after(folder: Path, version: int) -> list[Path]:
    """Files of the roots behind a version, in their order."""
    last = int(read_root(folder).signed.version)
    return [folder / f"{number}.{ROOT_FILE}" for number in range(version + 1, last + 1)]


def signers_here(folder: Path, root: Root, role: str, paths: Sequence[Path] = ()) -> list[Any]:
    """Signers of a role of a root whose private keys are in the folder, or in ``paths``.

    Raises:
        AskedWrong: a file holds no such key.
    """
    library = _library()
    keys = {keyid: root.keys[keyid] for keyid in root.roles[ROLES[role]].keyids}
    signers = []
    for path in paths or sorted((folder / PRIVATE).glob("*.pem")):
        private = private_of(path)
        signer = library.CryptoSigner(private)
        # By the public key: names of files are people's, and keys of an older root lie here too.
        match: Any = next((key for key in keys.values() if key.keyval == signer.public_key.keyval), None)
        if match is not None:
            # With the root's own entry, whose key id the signature then names.
            signers.append(library.CryptoSigner(private, match))
        # Of all files in the folder others are passed over; one that was named must count.
        elif paths:
            raise AskedWrong(f"{path} is no key of the role {role} of this root", "name another")
    return signers


def private_of(path: Path) -> Any:
    """The private key in a file.

    Raises:
        AskedWrong: it holds none.
    """
    library = _library()
    try:
        private = library.load_pem_private_key(path.read_bytes(), None)
        library.CryptoSigner(private)
    except OSError as error:
        raise AskedWrong(f"{path}: {(error.strerror or str(error)).lower()}", "name the file of a key") from None
    except library.no_key:
        raise AskedWrong(f"{path} holds no private key", "name another") from None
    return private


def write_root(folder: Path, root: Root, signers: Iterable[Any]) -> Path:
    """Signs a root and writes it, under its version and as the newest."""
    raw = signed(root, signers)
    folder.mkdir(parents=True, exist_ok=True)
    # The numbered file first: root.json tells roots_after which of them there are.
    write_whole(folder / f"{root.version}.{ROOT_FILE}", raw)
    write_whole(folder / ROOT_FILE, raw)
    return folder / f"{root.version}.{ROOT_FILE}"


def signed(root: Root, signers: Iterable[Any]) -> bytes:
    """A root with a signature of each signer, as its file holds it."""
    metadata = _library().Metadata(root)
    for signer in signers:
        # Appended: else each signature would remove the one before.
        metadata.sign(signer, append=True)
    return bytes(metadata.to_bytes())


def write_private(folder: Path, name: str, signer: Any) -> None:
    """A private key, readable by its owner alone; there whole, or not at all."""
    (folder / PRIVATE).mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / PRIVATE / f"{name}.pem"
    # Never over a key that is there, since it cannot be made again.
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "it is there already", str(path))
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)  # of a command that was cut
    # Closed to others from its first byte.
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(signer.private_bytes)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    sync(path.parent)


def named(key: Any, name: str) -> Any:
    """A public key that carries its name for people."""
    # TUF keeps fields that it does not know, and signs them with the rest.
    key.unrecognized_fields["x-onboard-name"] = name
    return key


def name_of(key: Any) -> str:
    """The name that a public key carries."""
    return str(key.unrecognized_fields.get("x-onboard-name", key.keyid[:12]))


def key_named(root: Root, name: str) -> tuple[str, Any]:
    """Our name of a key's role, and the public key.

    Raises:
        AskedWrong: the root has no key of this name.
    """
    for role, tuf_role in ROLES.items():
        for keyid in root.roles[tuf_role].keyids:
            if name_of(root.keys[keyid]) == name:
                return role, root.keys[keyid]
    known = ", ".join(sorted(name_of(key) for key in root.keys.values()))
    raise AskedWrong(f"this root has no key {name!r}", f"it has {known}")


def expiry(days: int) -> datetime:
    """So many days from now."""
    # Dates of TUF have whole seconds.
    return (datetime.now(timezone.utc) + timedelta(days=days)).replace(microsecond=0)


class _Library:
    """What is used of python-tuf, securesystemslib and cryptography."""

    def __init__(self) -> None:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from securesystemslib.signer import CryptoSigner
        from tuf.api.metadata import Metadata, Root, TargetFile, Targets
        from tuf.api.serialization import DeserializationError

        self.load_pem_private_key, self.CryptoSigner = load_pem_private_key, CryptoSigner
        self.unreadable, self.no_key = DeserializationError, (ValueError, TypeError, UnsupportedAlgorithm)
        self.Metadata, self.Root, self.Targets, self.TargetFile = Metadata, Root, Targets, TargetFile


def _library() -> _Library:
    try:
        return _Library()
    except ImportError as error:
        remedy = f"{sys.executable} -m pip install tuf cryptography (the extra uplink)"
        raise AskedWrong(f"keys and signatures need python-tuf ({error})", remedy) from None


library = _library
