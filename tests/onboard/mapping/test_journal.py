from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onboard.mapping.journal import HeadRecord, Journal, TileRecord, holds, identity_bytes

IDENTITY = {"scene": "abc", "size": [4, 3]}


def record(tile: int, heads: int = 1) -> TileRecord:
    numbers = HeadRecord(tile, 10 * tile, tile + 1, 2**32 - 1)
    return TileRecord(tuple(numbers._replace(pixels=tile + head) for head in range(heads)), 10**6 + 1)


def written(path: Path, *groups: list[int]) -> Path:
    journal = Journal(path, IDENTITY)
    for group in groups:
        journal.record({tile: record(tile) for tile in group})
    journal.close()
    return path


def test_recorded_tiles_are_found_again(tmp_path: Path) -> None:
    path = written(tmp_path / "journal", [0, 1], [5])
    journal = Journal(path, IDENTITY)
    assert journal.resumed
    assert journal.finished == {tile: record(tile) for tile in (0, 1, 5)}
    journal.close()


def test_records_of_several_heads_are_found_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", IDENTITY, heads=3)
    journal.record({4: record(4, heads=3), 5: TileRecord()})
    journal.forget([9])
    journal.close()
    again = Journal(tmp_path / "journal", IDENTITY, heads=3)
    assert again.finished == {4: record(4, heads=3), 5: TileRecord()}
    assert [again.finished[4].of_head(head).pixels for head in range(3)] == [4, 5, 6]
    assert again.finished[5].of_head(2) == HeadRecord()
    again.close()


def test_another_identity_starts_afresh(tmp_path: Path) -> None:
    path = written(tmp_path / "journal", [0, 1])
    assert holds(path, IDENTITY)
    other = IDENTITY | {"scene": "abd"}
    assert not holds(path, other)
    journal = Journal(path, other)
    assert not journal.resumed
    assert journal.finished == {}
    journal.close()
    assert holds(path, other)


def test_identity_does_not_depend_on_key_order() -> None:
    assert identity_bytes({"a": 1, "b": 2}) == identity_bytes({"b": 2, "a": 1})


@pytest.mark.parametrize("lost", range(1, 13))
def test_a_torn_tail_loses_only_the_last_group(tmp_path: Path, lost: int) -> None:
    path = written(tmp_path / "journal", [0, 1], [2])
    path.write_bytes(path.read_bytes()[:-lost])
    journal = Journal(path, IDENTITY)
    assert set(journal.finished) == {0, 1}
    journal.record({7: TileRecord((HeadRecord(7, 70),))})
    journal.close()
    again = Journal(path, IDENTITY)
    assert set(again.finished) == {0, 1, 7}
    again.close()


@given(at=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=255))
def test_a_flipped_byte_never_invents_a_finished_tile(
    tmp_path_factory: pytest.TempPathFactory, at: int, flip: int
) -> None:
    path = written(tmp_path_factory.mktemp("flip") / "journal", [3, 4], [9])
    raw = bytearray(path.read_bytes())
    raw[at % len(raw)] ^= flip
    path.write_bytes(raw)
    journal = Journal(path, IDENTITY)
    assert set(journal.finished) in (set(), {3, 4})
    journal.close()


def test_a_length_of_gigabytes_is_a_damaged_record(tmp_path: Path) -> None:
    path = written(tmp_path / "journal", [1])
    path.write_bytes(path.read_bytes() + b"\xff\xff\xff\xff" + bytes(40))
    journal = Journal(path, IDENTITY)
    assert set(journal.finished) == {1}
    journal.close()
