from __future__ import annotations

import io
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from trainer.errors import DataMissing, DataRefused
from trainer.tiles.shard_reader import MOST_OPEN, ShardDataset

# Its DataLoader's workers are forks: after OpenVINO 2026.4 had run in the process, their end was one by SIGSEGV.
pytestmark = pytest.mark.own_process


def picture(value: int, form: str = "PNG", side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(buffer, form)
    return buffer.getvalue()


def write_shard(path: Path, entries: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards of three and two tiles, whose pixels say their number."""
    write_shard(tmp_path / "a.tar", {f"{n}.{end}": data for n in range(3) for end, data in (
        ("png", picture(n)), ("json", b"{}"), ("cls", b"1"))})  # fmt: skip
    write_shard(tmp_path / "b.tar", {"x/3.JPG": picture(3, "JPEG"), "x/4.jpeg": picture(4, "JPEG")})
    return tmp_path


def test_tiles_of_all_shards_are_a_sequence(folder: Path) -> None:
    shelf = ShardDataset(folder)
    assert len(shelf) == 5
    assert shelf[2].shape == (3, 8, 8)
    assert [int(tile[0, 0, 0]) for tile in shelf] == [0, 1, 2, 3, 4]
    assert int(shelf[-1].max()) == 4
    assert [int(tile.max()) for tile in shelf[1:3]] == [1, 2]
    with pytest.raises(IndexError):
        shelf[5]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_workers_read_the_same(folder: Path) -> None:
    shelf = ShardDataset(folder)
    assert int(shelf[0].max()) == 0  # open before the fork
    loader: DataLoader[torch.Tensor] = DataLoader(shelf, batch_size=2, num_workers=2)  # type: ignore[arg-type]
    assert [int(tile.max()) for batch in loader for tile in batch] == [0, 1, 2, 3, 4]
    assert int(pickle.loads(pickle.dumps(shelf))[3].max()) == 3


def test_more_shards_than_files_may_be_open_are_read(tmp_path: Path) -> None:
    for number in range(MOST_OPEN + 40):
        write_shard(tmp_path / f"{number:04d}.tar", {"a.png": picture(number % 256)})
    shelf = ShardDataset(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        assert [int(tile.max()) for tile in shelf] == [number % 256 for number in range(MOST_OPEN + 40)]
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= MOST_OPEN
    del shelf
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_threads_that_drive_each_others_files_out_read_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.tiles.shard_reader.MOST_OPEN", 1)
    shelf = ShardDataset(folder)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: int(shelf[number].max()), list(range(5)) * 200))
    assert found == list(range(5)) * 200


def test_a_smaller_subset_lies_in_a_larger_one(folder: Path) -> None:
    shelf = ShardDataset(folder)
    small, large = ({int(tile.max()) for tile in shelf.subset(count, seed=1)} for count in (2, 4))
    assert len(small) == 2
    assert len(large) == 4
    assert small < large
    with pytest.raises(DataRefused, match="holds 5 tiles, 6 were asked for"):
        shelf.subset(6, seed=1)


def test_the_index_takes_sixteen_bytes_a_tile(tmp_path: Path) -> None:
    data = picture(7)
    write_shard(tmp_path / "a.tar", {f"{number:06d}.png": data for number in range(2000)})
    assert ShardDataset(tmp_path).index_bytes == 16 * 2000


def test_a_folder_without_shards_or_pictures_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="no shards"):
        ShardDataset(tmp_path)
    write_shard(tmp_path / "a.tar", {"a.txt": b"words"})
    with pytest.raises(DataRefused, match="hold no pictures"):
        ShardDataset(tmp_path)


def test_a_shard_cut_off_is_refused_by_name(folder: Path) -> None:
    path = folder / "b.tar"
    path.write_bytes(path.read_bytes()[:1300])
    with pytest.raises(DataRefused, match=r"b\.tar: .*make this shard again"):
        ShardDataset(folder)


def test_a_shard_damaged_later_is_refused_by_name_and_tile(folder: Path) -> None:
    shelf = ShardDataset(folder)
    path = folder / "a.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:600] + b"\0" * (len(whole) - 600))
    with pytest.raises(DataRefused, match=r"a\.tar: tile 1 cannot be read"):
        shelf[1]
    path.write_bytes(whole[:600])
    with pytest.raises(DataRefused, match="shorter than its headers"):
        shelf[2]
