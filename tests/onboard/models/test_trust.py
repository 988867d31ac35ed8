"""Whose signatures count: thresholds, versions that never fall, rotation, dates without a clock."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from ground import cli
from onboard.models.errors import ListRefused, UplinkOff
from onboard.models.trust import LIST_FILES, Trust

LATER = datetime(2090, 1, 1, tzinfo=timezone.utc)
SHA = "ab" * 32
FILES = {"tiny/1.0/manifest.json": (10, SHA), "tiny/1.0/model.onnx": (20, "cd" * 32)}


class Signers:
    """Keys of a root: three for the root, of which two must sign, and three for models, of which two."""

    def __init__(self) -> None:
        self.root = [CryptoSigner.generate_ed25519() for _ in range(3)]
        self.models = [CryptoSigner.generate_ed25519() for _ in range(3)]

    def root_of(self, version: int = 1, signed_by: list[Any] | None = None, **changes: Any) -> bytes:
        root = Root(version=version, expires=changes.get("expires", LATER), consistent_snapshot=False)
        for signer in changes.get("root_keys", self.root):
            root.add_key(signer.public_key, "root")
        for signer in changes.get("model_keys", self.models):
            root.add_key(signer.public_key, "targets")
        root.roles["root"].threshold = root.roles["targets"].threshold = 2
        return signed(root, self.root[:2] if signed_by is None else signed_by)

    def list_of(
        self, version: int = 1, signed_by: list[Any] | None = None, files: dict[str, tuple[int, str]] | None = None,
        expires: datetime = LATER,
    ) -> bytes:  # fmt: skip
        targets = {path: TargetFile(size, {"sha256": sha}, path) for path, (size, sha) in (files or FILES).items()}
        return signed(
            Targets(version=version, expires=expires, targets=targets),
            self.models[:2] if signed_by is None else signed_by,
        )


def signed(payload: Any, signers: list[Any]) -> bytes:
    metadata: Metadata[Any] = Metadata(payload)
    for signer in signers:
        metadata.sign(signer, append=True)
    raw: bytes = metadata.to_bytes()
    return raw


@pytest.fixture
def signers() -> Signers:
    return Signers()


@pytest.fixture
def first(signers: Signers, tmp_path: Path) -> Path:
    path = tmp_path / "root.json"
    path.write_bytes(signers.root_of())
    return path


@pytest.fixture
def trust(first: Path, tmp_path: Path) -> Trust:
    return Trust(tmp_path / "trust", first, is_clock_right=lambda: False)


def again(tmp_path: Path) -> Trust:
    """As after a restart."""
    return Trust(tmp_path / "trust", tmp_path / "root.json", is_clock_right=lambda: False)


def test_a_signed_list_is_taken_and_names_its_models(trust: Trust, signers: Signers, tmp_path: Path) -> None:
    (model,) = trust.take_list(signers.list_of())
    assert (model.id, model.name, model.version) == (SHA, "tiny", "1.0")
    assert again(tmp_path).list_version() == 1
    assert again(tmp_path).models() == [model]


def test_one_signature_too_few_is_refused(trust: Trust, signers: Signers) -> None:
    with pytest.raises(ListRefused, match="1 of the 2 keys for models"):
        trust.take_list(signers.list_of(signed_by=signers.models[:1]))
    assert trust.list_version() == 0


@pytest.mark.parametrize("number", range(4))
def test_keys_that_are_not_for_models_count_for_nothing(trust: Trust, signers: Signers, number: int) -> None:
    others = [[], signers.root, [CryptoSigner.generate_ed25519()] * 2, [signers.models[0], signers.root[0]]][number]
    with pytest.raises(ListRefused, match="of the 2 keys"):
        trust.take_list(signers.list_of(signed_by=others))


def test_a_key_under_two_names_counts_once(signers: Signers, tmp_path: Path) -> None:
    twin = CryptoSigner(signers.models[0]._private_key)
    twin.public_key.keyid = "another name"
    root = tmp_path / "twin.json"
    root.write_bytes(signers.root_of(model_keys=[signers.models[0], twin]))
    trust = Trust(tmp_path / "trust", root, is_clock_right=lambda: False)
    with pytest.raises(ListRefused, match="1 of the 2 keys"):
        trust.take_list(signers.list_of(signed_by=[signers.models[0], twin]))


def test_a_changed_byte_is_no_signature(trust: Trust, signers: Signers) -> None:
    raw = signers.list_of().replace(b'"length":20', b'"length":21')
    assert b'"length":21' in raw
    with pytest.raises(ListRefused, match="0 of the 2 keys"):
        trust.take_list(raw)


def test_versions_never_fall(trust: Trust, signers: Signers, tmp_path: Path) -> None:
    old, new = signers.list_of(4), signers.list_of(5)
    trust.take_list(new)
    for held in (trust, again(tmp_path)):
        with pytest.raises(ListRefused, match="version 4 of the list, and version 5"):
            held.take_list(old)
        assert held.list_version() == 5
    assert trust.take_list(new)  # sent again: as good
    other = signers.list_of(5, files={"tiny/2.0/manifest.json": (10, "ef" * 32)})
    with pytest.raises(ListRefused, match="another list of version 5"):
        trust.take_list(other)


def test_a_date_counts_only_while_the_clock_is_right(first: Path, signers: Signers, tmp_path: Path) -> None:
    old = signers.list_of(expires=datetime(2020, 1, 1, tzinfo=timezone.utc))
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    strict = Trust(tmp_path / "a", first, is_clock_right=lambda: True, now=lambda: now)
    with pytest.raises(ListRefused, match="expired on 2020-01-01"):
        strict.take_list(old)
    assert Trust(tmp_path / "b", first, is_clock_right=lambda: False, now=lambda: now).take_list(old)


def test_the_next_root_needs_the_keys_of_both(trust: Trust, signers: Signers, tmp_path: Path) -> None:
    new = [CryptoSigner.generate_ed25519() for _ in range(2)]
    by_old = signers.root_of(2, signers.root[:2], root_keys=new)
    by_new = signers.root_of(2, new, root_keys=new)
    by_both = signers.root_of(2, [*signers.root[:2], *new], root_keys=new)
    with pytest.raises(ListRefused, match="its own"):
        trust.take_root(by_old)
    with pytest.raises(ListRefused, match="the root aboard"):
        trust.take_root(by_new)
    assert trust.take_root(by_both)
    assert not trust.take_root(by_both)
    assert again(tmp_path).root_version == 2
    with pytest.raises(ListRefused, match="version 1 of the root, and version 2"):
        trust.take_root(signers.root_of(1))
    with pytest.raises(ListRefused, match="send version 3"):
        trust.take_root(signers.root_of(4, [*signers.root[:2], *new], root_keys=new))


def test_after_new_keys_for_models_the_old_ones_count_for_nothing(
    trust: Trust, signers: Signers, tmp_path: Path
) -> None:
    """And a list of the highest number, signed by stolen keys, does not lock the satellite for ever."""
    trust.take_list(signers.list_of(2**53 - 1))
    fresh = [CryptoSigner.generate_ed25519() for _ in range(2)]
    trust.take_root(signers.root_of(2, model_keys=fresh))
    for held in (trust, again(tmp_path)):
        assert held.list_version() == 0
        with pytest.raises(ListRefused, match="0 of the 2 keys"):
            held.take_list(signers.list_of(3))
    assert trust.take_list(signers.list_of(3, signed_by=fresh))


def test_a_key_that_stays_keeps_the_version_from_falling(trust: Trust, signers: Signers) -> None:
    trust.take_list(signers.list_of(5))
    trust.take_root(signers.root_of(2, model_keys=[*signers.models[:2], CryptoSigner.generate_ed25519()]))
    with pytest.raises(ListRefused, match="versions never fall"):
        trust.take_list(signers.list_of(4))


def test_a_damaged_root_falls_back_to_one_that_is_whole(trust: Trust, signers: Signers, tmp_path: Path) -> None:
    trust.take_root(signers.root_of(2))
    path = tmp_path / "trust" / "2.root.json"
    path.write_bytes(path.read_bytes().replace(b"2090", b"2091"))
    assert again(tmp_path).root_version == 1


@pytest.mark.parametrize("name", LIST_FILES)
def test_a_damaged_copy_of_the_list_lets_no_version_fall(
    trust: Trust, signers: Signers, tmp_path: Path, name: str
) -> None:
    trust.take_list(signers.list_of(5))
    path = tmp_path / "trust" / name
    path.write_bytes(path.read_bytes().replace(b"2090", b"2091"))
    assert again(tmp_path).list_version() == 5
    with pytest.raises(ListRefused, match="never fall"):
        again(tmp_path).take_list(signers.list_of(4))


def test_other_kinds_of_keys_are_refused(trust: Trust, signers: Signers) -> None:
    """A GPG key would have a library run another program on bytes from outside."""
    with pytest.raises(ListRefused, match="not Ed25519"):
        trust.take_root(signers.root_of(2, model_keys=[*signers.models, CryptoSigner.generate_ecdsa()]))


@pytest.mark.parametrize(
    "raw",
    [b"", b"{}", b"[" * 100_000, b"\xff" * 40, b'{"signed": {"_type": "targets"}}', b" " * ((1 << 20) + 1)],
    ids=["empty", "object", "deep", "bytes", "half", "long"],
)
def test_what_is_no_metadata_is_refused(trust: Trust, raw: bytes) -> None:
    with pytest.raises(ListRefused):
        trust.take_list(raw)
    with pytest.raises(ListRefused):
        trust.take_root(raw)


@pytest.mark.parametrize(
    "files",
    [
        {"../../etc/manifest.json": (1, SHA)}, {"tiny/1.0/a/manifest.json": (1, SHA)},
        {"tiny/1.0/model.onnx": (1, SHA)},
        {"tiny/1.0/manifest.json": (1 << 40, SHA)}, {"tiny/1.0/manifest.json": (10, "x")},
        {"tiny/1.0/.hidden": (1, SHA)}, {"Tiny/1.0/manifest.json": (1, SHA)},
        {"tiny/1.0/manifest.json": (10, SHA), "other/1.0/manifest.json": (10, SHA)},
    ],
)  # fmt: skip
def test_a_list_that_says_what_cannot_be_is_refused(
    trust: Trust, signers: Signers, files: dict[str, tuple[int, str]]
) -> None:
    with pytest.raises(ListRefused):
        trust.take_list(signers.list_of(files=files))
    assert trust.list_version() == 0


def test_without_a_root_no_models_are_taken(tmp_path: Path) -> None:
    with pytest.raises(UplinkOff, match="no root of trust"):
        Trust(tmp_path / "trust", None)
    (tmp_path / "root.json").write_text("{}")
    with pytest.raises(UplinkOff, match="is no root of trust"):
        Trust(tmp_path / "trust", tmp_path / "root.json")


def test_keys_of_the_command_line_make_a_root_that_flies(tmp_path: Path) -> None:
    assert cli.main(["model", "keys", str(tmp_path / "keys")]) == 0
    keys = tmp_path / "keys"
    assert Trust(tmp_path / "trust", keys / "root.json").root_version == 1
    assert cli.main(["model", "keys", str(keys)]) == 2  # never over keys that are there
    assert cli.main(["model", "keys", str(keys), "--replace", "models-1", "--replace", "root-2"]) == 0
    trust = Trust(tmp_path / "trust", keys / "1.root.json")
    assert trust.take_root((keys / "2.root.json").read_bytes())
    assert all(path.stat().st_mode & 0o77 == 0 for path in (keys / "private").iterdir())
    assert json.loads((keys / "root.json").read_bytes())["signed"]["version"] == 2
