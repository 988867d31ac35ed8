"""New keys in place of those that were lost or stolen: the next root of trust, and whose names the files bear.

A cut at any moment leaves every key. The new ones come first, as NAME.new-VERSION.pem; then VERSION.root.json, which
names them; then each takes the name of the old one, which becomes NAME.before-VERSION.pem; and root.json comes last.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from ground.errors import AskedWrong
from ground.model.keys import (
    PRIVATE,
    ROLES,
    ROOT_FILE,
    expiry,
    key_named,
    library,
    name_of,
    named,
    private_of,
    read_root,
    signed,
    signers_here,
    write_private,
)
from ground.transfer import sync, write_whole

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Root


def replace_keys(folder: Path, names: Iterable[str], days: int) -> Path:
    """The next root, with new keys in place of those named; returns its path.

    It is signed by every root key that is here, old and new. No key's file is written over or removed, and root.json
    is replaced last: where the command was cut before that, the same command goes on.

    Raises:
        AskedWrong: there is no such key, one is named twice, too few keys are here to sign, or another replacement was
            cut and comes first. Nothing was written then.
    """
    held, names = read_root(folder), list(names)
    for name in names:
        key_named(held.signed, name)
        if names.count(name) > 1:
            raise AskedWrong(f"{name} is named twice", "name each key once")
    version = held.signed.version + 1
    path = folder / f"{version}.{ROOT_FILE}"
    # Its file says that the new keys are all here, under names of their own, and that the old ones may make way.
    raw = _root_begun(path, held, names) if os.path.lexists(path) else _next_root(path, held, names, days)
    for name in names:
        _put_in_place(folder / PRIVATE, name, version)
    write_whole(folder / ROOT_FILE, raw)
    return path


def _next_root(path: Path, held: Metadata[Root], names: Sequence[str], days: int) -> bytes:
    """Writes the new keys, and then the root that names them."""
    tuf, folder = library(), path.parent
    old_signers = signers_here(folder, held.signed, "root")
    role, here = held.signed.roles["root"], {signer.public_key.keyid for signer in old_signers}
    # A satellite takes the new root by signatures of the old root's keys.
    if len(here) < role.threshold:
        missing = sorted(name_of(held.signed.keys[keyid]) for keyid in role.keyids if keyid not in here)
        raise AskedWrong(
            f"{len(here)} of the {role.threshold} root keys that must sign are in {folder / PRIVATE}",
            f"put the files of {role.threshold - len(here)} more there, of {', '.join(missing)}",
        )
    root = deepcopy(held.signed)
    root.version, root.expires = root.version + 1, expiry(days)
    new_signers, root_signers = {}, []
    for name in names:
        own_role, key = key_named(root, name)
        file_name = f"{name}.new-{root.version}"
        new_path = folder / PRIVATE / f"{file_name}.pem"
        # One that is there was made by the same command before it was cut, and nothing names it yet.
        is_here = os.path.lexists(new_path)
        signer = tuf.CryptoSigner(private_of(new_path)) if is_here else tuf.CryptoSigner.generate_ed25519()
        if not is_here:
            new_signers[file_name] = signer
        root.revoke_key(key.keyid, ROLES[own_role])
        root.add_key(named(signer.public_key, name), ROLES[own_role])
        root_signers += [signer] if own_role == "root" else []
    raw = signed(root, [*old_signers, *root_signers])
    for file_name, signer in new_signers.items():
        write_private(folder, file_name, signer)
    write_whole(path, raw)
    return raw


def _root_begun(path: Path, held: Metadata[Root], names: Sequence[str]) -> bytes:
    """The next root, as a command that replaced the same keys wrote it before it was cut.

    Raises:
        AskedWrong: it was another command, or the file is something else.
    """
    tuf = library()
    try:
        raw = path.read_bytes()
        begun = tuf.Metadata.from_bytes(raw)
        root = begun.signed
        is_next = isinstance(root, tuf.Root) and bool(
            root.get_root_verification_result(held.signed, begun.signed_bytes, begun.signatures)
        )
    except (OSError, ValueError, tuf.unreadable):
        is_next = False
    if not is_next:
        raise AskedWrong(f"{path} is there and is no root that follows {ROOT_FILE}", "move it away")
    gone = sorted(name_of(key) for keyid, key in held.signed.keys.items() if keyid not in root.keys)
    if gone != sorted(names):
        words = " ".join(f"--replace {name}" for name in gone)
        raise AskedWrong(
            f"{path} is of a command that was cut", f"end that one first: ground model keys {path.parent} {words}"
        )
    return raw


def _put_in_place(private: Path, name: str, version: int) -> None:
    """Gives a new key the name of the old one, which stays as NAME.before-VERSION.pem."""
    new_path, path = private / f"{name}.new-{version}.pem", private / f"{name}.pem"
    if not os.path.lexists(new_path):  # it was done before the cut
        return
    if os.path.lexists(path):
        stem = f"{name}.before-{version}"
        taken = {other.name for other in private.iterdir()}
        free = (f"{stem}{more}.pem" for more in ("", *(f"-{number}" for number in range(2, len(taken) + 3))))
        path.rename(path.with_name(next(file_name for file_name in free if file_name not in taken)))
        # Else a power cut might keep the next rename without this one.
        sync(private)
    new_path.rename(path)
    sync(private)
