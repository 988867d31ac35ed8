"""Archives of strangers: what is taken out of them, and what is refused."""

from __future__ import annotations

import errno
import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onboard.errors import NoRoom, SceneRefused, StorageError
from onboard.jobs import archive
from onboard.jobs.archive import is_archive, unpack

FILES = {"a/scene.tif": b"II*\0" + bytes(5000), "a/scene.tfw": b"1\n", "a/scene.TIF.msk": b"II*\0", "a/look.jpg": b"x"}


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as target:
        for name, content in files.items():
            target.writestr(name, content)
    return path


def tarred(path: Path, files: dict[str, bytes], **facts: Any) -> Path:
    with tarfile.open(path, "w") as target:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in facts.items():
                setattr(info, key, value)
            target.addfile(info, io.BytesIO(content))
    return path


def unpacked(path: Path, folder: Path, limit: int = 1 << 20) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    unpack(path, folder, limit=limit, before_write=lambda _: None)
    return {one.relative_to(folder).as_posix(): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


BOTH = pytest.mark.parametrize("make", [zipped, tarred])


@BOTH
def test_the_files_of_a_scene_are_taken_and_pictures_left(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / "archive", FILES)
    assert is_archive(path)
    assert unpacked(path, tmp_path / "out") == {name: data for name, data in FILES.items() if not name.endswith("jpg")}


@BOTH
def test_hidden_files_are_left_as_what_macos_adds(tmp_path: Path, make: Any) -> None:
    extra = ["__MACOSX/._scene.tif", "__MACOSX/a/scene.tif", "a/._scene.tif", "./._scene.tif", ".Trashes/b/scene.tif"]
    path = make(tmp_path / "archive", {"./a/scene.tif": b"II*\0", "a/b.c/scene.tfw": b"1"} | dict.fromkeys(extra, b"x"))
    assert sorted(unpacked(path, tmp_path / "out")) == ["a/b.c/scene.tfw", "a/scene.tif"]


@pytest.mark.parametrize("name", ["__MACOSX/../../._x.tif", "/._x.tif", ".a\\..\\..\\x.tif", ".a/" * 9 + "x.tif"])
@BOTH
def test_no_hidden_name_leads_outside(tmp_path: Path, make: Any, name: str) -> None:
    with pytest.raises(SceneRefused, match="leads outside or too deep"):
        unpacked(make(tmp_path / "archive", {name: b"x"}), tmp_path / "out")


def test_a_tiff_is_no_archive_whatever_its_pixels_are(tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    path.write_bytes(b"II*\0" + bytes(253) + b"ustar" + bytes(300))
    assert not is_archive(path)


def test_a_tar_whose_first_name_begins_as_a_byte_order_does_is_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    with tarfile.open(path, "w") as file:
        info = tarfile.TarInfo("IIa.tif")
        info.size = 4
        file.addfile(info, io.BytesIO(b"II*\0"))
    assert is_archive(path)


@pytest.mark.parametrize(
    "name", ["../x.tif", "/x.tif", "a/../../x.tif", "..\\x.tif", "C:\\x.tif", "C:x.tif", "a/" * 9 + "x.tif", "x" * 300]
)
@BOTH
def test_no_name_leads_outside(tmp_path: Path, make: Any, name: str) -> None:
    path = make(tmp_path / "archive", {name: b"II*\0"})
    with pytest.raises(SceneRefused, match="leads outside or too deep"):
        unpacked(path, tmp_path / "out")
    assert [one.name for one in tmp_path.rglob("*")] == ["archive", "out"] or not list((tmp_path / "out").iterdir())


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
        path = tarred(tmp_path / f"{number}.tar", {"a.tif": b""}, type=kind, linkname="/etc/passwd")
        with pytest.raises(SceneRefused, match="link or another thing"):
            unpacked(path, tmp_path / "out")
    link = zipfile.ZipInfo("a.tif")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as target:
        target.writestr(link, "/etc/passwd")
    with pytest.raises(SceneRefused, match="has a link"):
        unpacked(tmp_path / "a.zip", tmp_path / "out")


@BOTH
def test_what_unpacks_to_more_than_the_limit_is_refused_before_it_is_written(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / "archive", {"a.tif": bytes(700_000), "b.ovr": bytes(700_000)})
    with pytest.raises(SceneRefused, match="more bytes than are taken"):
        unpacked(path, tmp_path / "out", limit=1 << 20)
    assert sum(one.stat().st_size for one in (tmp_path / "out").iterdir()) <= 1 << 20


def test_a_bomb_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "bomb.zip", {"a.tif": bytes(50 << 20)})
    data = path.read_bytes()
    path.write_bytes(data.replace((50 << 20).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    with pytest.raises(SceneRefused):
        unpacked(path, tmp_path / "out", limit=1 << 20)


@BOTH
def test_too_many_files_and_names_that_come_twice_are_refused(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MOST_FILES", 3)
    with pytest.raises(SceneRefused, match="more than 3 files"):
        unpacked(make(tmp_path / "a", {f"{n}.tif": b"x" for n in range(4)}), tmp_path / "out")
    monkeypatch.undo()
    twice = tmp_path / "twice"
    if make is zipped:
        with pytest.warns(UserWarning), zipfile.ZipFile(twice, "w") as target:
            target.writestr("a.tif", "x")
            target.writestr("a.tif", "y")
    else:
        with tarfile.open(twice, "w") as target:
            for _ in range(2):
                target.addfile(tarfile.TarInfo("a.tif"), io.BytesIO())
    with pytest.raises(SceneRefused, match="twice"):
        unpacked(twice, tmp_path / "out2")


@pytest.mark.parametrize("names", [("a.tif", "./a.tif"), ("b/a.tif", "b//a.tif"), ("b/a.tif", "b\\a.tif")])
@BOTH
def test_two_names_of_one_path_are_refused(tmp_path: Path, make: Any, names: tuple[str, str]) -> None:
    path = make(tmp_path / "archive", dict.fromkeys(names, b"x"))
    with pytest.raises(SceneRefused, match=r"has '.*a\.tif' twice"):
        unpacked(path, tmp_path / "out")


@pytest.mark.parametrize("names", [("a.tif", "a.tif/b.tif"), ("a.tif/c/b.tif", "a.tif")])
@BOTH
def test_a_name_that_is_a_file_and_a_folder_is_refused(tmp_path: Path, make: Any, names: tuple[str, str]) -> None:
    path = make(tmp_path / "archive", dict.fromkeys(names, b"x"))
    with pytest.raises(SceneRefused, match="both as a file and as a folder"):
        unpacked(path, tmp_path / "out")


def test_a_directory_of_millions_of_files_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a.tif": b"x"})
    data = bytearray(path.read_bytes())
    end = data.rfind(b"PK\5\6")
    data[end + 12 : end + 16] = (64 << 20).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(SceneRefused, match="more than"):
        unpacked(path, tmp_path / "out")


def test_a_tar_with_a_header_of_absurd_length_is_refused_before_it_is_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.tif")
    info.type, info.size = tarfile.XHDTYPE, 2 << 30
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf() + bytes(4096))
    with pytest.raises(SceneRefused, match="absurd length"):
        unpacked(path, tmp_path / "out")


@BOTH
def test_damaged_archives_are_refused_in_one_line(tmp_path: Path, make: Any) -> None:
    whole = make(tmp_path / "whole", FILES).read_bytes()
    for number, data in enumerate((whole[: len(whole) // 2], whole[:600], whole[:300] + b"\xff" * 100 + whole[400:])):
        path = tmp_path / str(number)
        path.write_bytes(data)
        try:
            unpacked(path, tmp_path / f"out{number}")
        except SceneRefused as error:
            assert "\n" not in str(error)


NOISE = np.random.default_rng(0).integers(0, 256, 150, dtype=np.uint8).tobytes() + bytes(200)


@pytest.mark.parametrize(("method", "name"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")])
def test_a_zip_of_another_method_is_refused_before_a_byte_is_unpacked(tmp_path: Path, method: int, name: str) -> None:
    """Nothing bounds what a piece of it unpacks to."""
    path = zipped(tmp_path / "a.zip", {"a.tif": NOISE}, method)
    with pytest.raises(SceneRefused, match=f"is compressed by {name}; make it with deflate"):
        unpacked(path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_bit_anywhere_in_a_zip_is_a_refusal_or_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: int
) -> None:
    monkeypatch.setattr(archive, "synced_file", lambda _: None)
    path = zipped(tmp_path / "a.zip", {"a.tif": NOISE}, method)
    whole = path.read_bytes()
    said: list[str] = []
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        try:
            unpacked(path, tmp_path / "out")
        except SceneRefused as error:
            said.append(str(error))
        shutil.rmtree(tmp_path / "out")
    assert sum("is a damaged archive" in text for text in said) > len(NOISE) // 2


@pytest.mark.parametrize("place", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_place_before_a_zips_first_byte_is_damage(tmp_path: Path, place: int) -> None:
    path = zipped(tmp_path / "a.zip", {"a.tif": NOISE}, place)
    data = bytearray(path.read_bytes())
    end = data.rfind(b"PK\5\6")
    # The directory's declared place is moved on: places of files, counted from it, come to lie before the archive.
    data[end + 16 : end + 20] = (data.index(b"PK\1\2") + 100).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(SceneRefused, match="is a damaged archive"):
        unpacked(path, tmp_path / "out")


def test_a_tar_that_declares_a_negative_size_is_refused_and_ends(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.tif")
    block = bytearray(info.tobuf())
    block[124:136] = b"\xff" * 10 + (-512).to_bytes(2, "big", signed=True)
    block[148:156] = f"{sum(block[:148]) + 8 * 32 + sum(block[156:512]):06o}\0 ".encode()
    path = tmp_path / "a.tar"
    path.write_bytes(block + bytes(1024))
    with pytest.raises(SceneRefused, match="negative size"):
        unpacked(path, tmp_path / "out")


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_refused_whole_or_damaged(tmp_path: Path, mode: Any) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, mode) as target:
        target.addfile(tarfile.TarInfo("a.tif"))
    whole = path.read_bytes()
    for at in (len(whole), len(whole) // 2):
        path.write_bytes(whole[:at])
        with pytest.raises(SceneRefused, match="is a damaged archive"):
            unpacked(path, tmp_path / "out")


def test_a_disk_that_fails_while_an_archive_is_read_is_no_damage_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = zipped(tmp_path / "a.zip", FILES)
    monkeypatch.setattr(zipfile.ZipExtFile, "read", failing)
    with pytest.raises(StorageError, match="input/output error"):
        unpacked(path, tmp_path / "out")


def test_encrypted_and_unknown_compressions_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a.tif": b"x" * 100})
    data = path.read_bytes()
    local, central = data.index(b"PK\3\4"), data.index(b"PK\1\2")
    flagged, other = bytearray(data), bytearray(data)
    flagged[local + 6] = flagged[central + 8] = 1
    other[local + 8] = other[central + 10] = 77
    for number, content in enumerate((flagged, other)):
        bad = tmp_path / f"{number}.zip"
        bad.write_bytes(content)
        with pytest.raises(SceneRefused, match=r"encrypted|damaged archive"):
            unpacked(bad, tmp_path / f"out{number}")


def test_the_free_space_is_looked_at_while_it_is_written(tmp_path: Path) -> None:
    def full(_: int) -> None:
        raise NoRoom(tmp_path, wanted=1, free=0, reserve=1)

    (tmp_path / "out").mkdir()
    with pytest.raises(NoRoom):
        unpack(zipped(tmp_path / "a.zip", FILES), tmp_path / "out", limit=1 << 20, before_write=full)
