"""Keys are never lost: commands that are refused write nothing, and commands that are killed are continued."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ground import cli
from ground.model.keys import library, name_of, read_root, signers_here
from tests.onboard.service import ROOT


@pytest.fixture
def keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert command(tmp_path / "keys") == 0
    capsys.readouterr()
    return tmp_path / "keys"


def command(folder: Path, *words: str) -> int:
    return cli.main(["model", "keys", str(folder), *words])


def replace(folder: Path, *names: str) -> int:
    return command(folder, *(word for name in names for word in ("--replace", name)))


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *names: str) -> str:
    """The one line with which a replacement is refused; the folder must stay as it was."""
    before = files_of(folder)
    assert replace(folder, *names) == 2
    assert files_of(folder) == before
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def private_keys(folder: Path) -> set[bytes]:
    """Contents of all private keys, whatever their files are called."""
    return {path.read_bytes() for path in (folder / "private").glob("*.pem")}


def assert_flies(folder: Path, *, version: int) -> None:
    """Every root follows the one before as a satellite checks it, and keys of the newest are here under their names."""
    assert read_root(folder).signed.version == version
    assert (folder / "root.json").read_bytes() == (folder / f"{version}.root.json").read_bytes()
    before = None
    for number in range(1, version + 1):
        metadata = library().Metadata.from_bytes((folder / f"{number}.root.json").read_bytes())
        root = metadata.signed
        assert root.get_root_verification_result(before, metadata.signed_bytes, metadata.signatures).verified
        before = root
    for role, tuf_role in (("root", "root"), ("models", "targets")):
        for keyid in root.roles[tuf_role].keyids:
            path = folder / "private" / f"{name_of(root.keys[keyid])}.pem"
            assert [signer.public_key.keyid for signer in signers_here(folder, root, role, [path])] == [keyid]


def killed_before_each_step(folder: Path, copies: Path, *words: str) -> list[Path]:
    """Copies of the folder, in each of which a SIGKILL ended the command one step later."""
    program = [sys.executable, "-m", "tests.ground.killed_keys", str(folder), str(copies), *words]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)
    return [copies / str(step) for step in range(int(done.stdout.split()[-1]))]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders of keys in which the replacement of two root keys was killed, each one step later."""
    folder = tmp_path_factory.mktemp("killed")
    assert command(folder / "keys") == 0
    return killed_before_each_step(folder / "keys", folder / "copies", "--replace", "root-1", "--replace", "root-2")


def test_a_name_that_is_wrong_or_given_twice_changes_nothing(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has no key 'nope'" in refused(capsys, keys, "root-1", "root-2", "nope")
    assert "name each key once" in refused(capsys, keys, "root-1", "root-1")


def test_a_root_that_too_few_keys_can_sign_is_not_written(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("root-1", "root-2"):
        (keys / "private" / f"{name}.pem").rename(keys.parent / f"{name}.pem")
    line = refused(capsys, keys, "models-1")
    assert "1 of the 2 root keys that must sign" in line
    assert "root-1, root-2" in line
    (keys.parent / "root-2.pem").rename(keys / "private" / "root-2.pem")
    assert replace(keys, "root-1", "models-1") == 0
    assert_flies(keys, version=2)


def test_replaced_keys_are_kept_and_nothing_is_written_over(keys: Path) -> None:
    first = private_keys(keys)
    # An earlier version of the command, cut twice, has left a key that no root names, and the root's own beside it.
    own, private = keys / "private" / "root-1.pem", keys / "private"
    own.rename(private / "root-1.before-2.pem")
    own.write_bytes((private / "models-2.pem").read_bytes())
    before = private_keys(keys)
    assert replace(keys, "root-1", "root-2") == 0
    assert_flies(keys, version=2)
    assert replace(keys, "root-1", "models-1") == 0
    assert_flies(keys, version=3)
    assert first | before < private_keys(keys)
    assert len(private_keys(keys)) == 5 + 2 + 2


def test_a_replacement_that_is_killed_anywhere_loses_no_key_and_is_continued(killed: list[Path]) -> None:
    first = private_keys(killed[0])
    assert (len(first), len(killed) > 15) == (5, True)
    for folder in killed:
        copy = shutil.copytree(folder, folder.with_name(f"{folder.name}-continued"))
        assert first <= private_keys(copy), copy
        # One that ended with root.json in its place is done, and would begin the next.
        if read_root(copy).signed.version == 1:
            assert replace(copy, "root-1", "root-2") == 0
        assert first < private_keys(copy)
        assert len(private_keys(copy)) == len(first) + 2, "keys that no root names are left"
        assert_flies(copy, version=2)
        assert not list(copy.rglob("*.part"))


def test_another_replacement_waits_for_one_that_was_killed(
    killed: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    begun = [copy for copy in killed if (copy / "2.root.json").exists() and read_root(copy).signed.version == 1]
    for folder in (begun[0], begun[-1]):
        copy = shutil.copytree(folder, folder.with_name(f"{folder.name}-another"))
        assert f"{copy} --replace root-1 --replace root-2" in refused(capsys, copy, "models-1")
        assert replace(copy, "root-2", "root-1") == 0
        assert replace(copy, "models-1") == 0
        assert_flies(copy, version=3)


def test_a_root_of_somebody_else_in_the_place_of_the_next_one_is_refused(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path / "others") == 0
    assert replace(tmp_path / "others", "root-1") == 0
    capsys.readouterr()
    for raw in ((tmp_path / "others" / "2.root.json").read_bytes(), b"no root", (keys / "root.json").read_bytes()):
        (keys / "2.root.json").write_bytes(raw)
        assert "move it away" in refused(capsys, keys, "root-1")


def test_keys_that_were_being_made_at_a_kill_are_continued_or_it_is_said_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copies = killed_before_each_step(tmp_path / "none", tmp_path / "killed")
    for copy in copies:
        if (copy / "root.json").exists():
            assert_flies(copy, version=1)
            continue
        before, has_root = private_keys(copy), (copy / "1.root.json").exists()
        code = command(copy)
        line = capsys.readouterr().err
        assert (code, before <= private_keys(copy)) == (2 if before else 0, True), line
        if has_root:
            assert "copy it to root.json" in line
            (copy / "root.json").write_bytes((copy / "1.root.json").read_bytes())
        elif before:
            assert "take another folder" in line
            continue
        assert_flies(copy, version=1)
