"""The seen tokens are a whole smaller grid, drawn the same from the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import SettingsRefused
from trainer.models.masking import Cell, MaskKind, all_visible, cell_of, drawn_visible, visible_from

RATIOS = {
    0.0: Cell(1, 1, 1, 1),
    0.5: Cell(1, 2, 1, 1),
    0.75: Cell(2, 2, 1, 1),
    0.8889: Cell(3, 3, 1, 1),
    0.9375: Cell(4, 4, 1, 1),
    0.25: Cell(1, 4, 1, 3),
    5 / 9: Cell(3, 3, 2, 2),
}


@pytest.mark.parametrize(("ratio", "cell"), RATIOS.items())
def test_a_ratio_has_its_cell(ratio: float, cell: Cell) -> None:
    assert cell_of(ratio) == cell


@pytest.mark.parametrize("ratio", [0.74, 0.99, 1.0, -0.5])
def test_a_ratio_that_leaves_no_whole_grid_is_refused(ratio: float) -> None:
    with pytest.raises(SettingsRefused, match="cannot be met"):
        cell_of(ratio)


def test_a_grid_that_is_not_made_of_cells_is_refused_with_its_sizes() -> None:
    with pytest.raises(SettingsRefused, match=r"2x2 tokens.*7x8 tokens"):
        drawn_visible(7, 8, ratio=0.75, kind="grid", rng=np.random.default_rng(0))


@given(
    seed=st.integers(0, 2**32), down=st.integers(1, 5), across=st.integers(1, 5),
    ratio=st.sampled_from(sorted(RATIOS)), kind=st.sampled_from(["grid", "stratified"]),
)  # fmt: skip
def test_every_cell_shows_as_many_tokens_and_they_lie_row_major(
    seed: int, down: int, across: int, ratio: float, kind: MaskKind
) -> None:
    cell = RATIOS[ratio]
    rows, columns = down * cell.rows, across * cell.columns
    index = drawn_visible(rows, columns, ratio=ratio, kind=kind, rng=np.random.default_rng(seed))
    assert len(set(index.tolist())) == len(index)
    compact = index.reshape(down * cell.seen_rows, across * cell.seen_columns)
    for i, line in enumerate(compact.tolist()):
        for j, number in enumerate(line):
            assert number // columns // cell.rows == i // cell.seen_rows
            assert number % columns // cell.columns == j // cell.seen_columns
    for i in range(down):
        for j in range(across):
            block = compact[
                i * cell.seen_rows : (i + 1) * cell.seen_rows, j * cell.seen_columns : (j + 1) * cell.seen_columns
            ]
            assert (np.diff(block // columns, axis=1) == 0).all(), "a compact row is one row of the cell"
            assert (np.diff(block % columns, axis=0) == 0).all()
            assert (np.diff(block // columns, axis=0) > 0).all()
            assert (np.diff(block % columns, axis=1) > 0).all()


def test_grid_shows_the_same_corner_of_every_cell_and_stratified_does_not() -> None:
    rng = np.random.default_rng(1)
    for kind, corners in (("grid", 1), ("stratified", 4)):
        index = drawn_visible(16, 16, ratio=0.75, kind=kind, rng=rng)  # type: ignore[arg-type]
        assert len({(number // 16 % 2, number % 2) for number in index.tolist()}) == corners


def test_stratified_draws_every_corner_equally_often() -> None:
    index = drawn_visible(200, 200, ratio=0.75, kind="stratified", rng=np.random.default_rng(2))
    corner = index // 200 % 2 * 2 + index % 2
    share = np.bincount(corner, minlength=4) / len(corner)
    assert np.abs(share - 0.25).max() < 0.02


def test_the_same_seed_draws_the_same_tokens() -> None:
    one, two, other = (
        drawn_visible(8, 8, ratio=0.75, kind="stratified", rng=np.random.default_rng([7, position]))
        for position in (3, 3, 4)
    )
    assert (one == two).all()
    assert (one != other).any()


def test_gather_mask_and_hidden_index_agree_with_looking_at_each_token() -> None:
    rng = np.random.default_rng(5)
    indexes = [drawn_visible(6, 8, ratio=0.75, kind="stratified", rng=rng) for _ in range(3)]
    visible = visible_from(indexes, 6, 8, 0.75)
    assert (visible.compact_rows, visible.compact_columns) == (3, 4)
    tokens = torch.randn(3, 48, 5)
    seen = visible.gather(tokens)
    for sample, index in enumerate(indexes):
        assert torch.equal(seen[sample], torch.stack([tokens[sample, number] for number in index.tolist()]))
        mask = visible.mask()[sample, 0].flatten().tolist()
        assert mask == [float(number in index.tolist()) for number in range(48)]
        hidden = [number for number in range(48) if number not in index.tolist()]
        assert visible.hidden_index()[sample].tolist() == hidden


def test_numbers_that_are_not_in_compact_order_are_refused() -> None:
    index = drawn_visible(8, 8, ratio=0.75, kind="stratified", rng=np.random.default_rng(3))
    with pytest.raises(ValueError, match="compact order"):
        visible_from([np.sort(index)], 8, 8, 0.75)
    with pytest.raises(ValueError, match="not \\(batch, 4 x 4\\)"):
        visible_from([index[:-1]], 8, 8, 0.75)


def test_nothing_hidden_is_the_whole_grid() -> None:
    visible = all_visible(2, 3, 5)
    tokens = torch.randn(2, 15, 4)
    assert torch.equal(visible.gather(tokens), tokens)
    assert visible.hidden_index().shape == (2, 0)
    drawn = drawn_visible(3, 5, ratio=0, kind="grid", rng=np.random.default_rng(0))
    assert torch.equal(visible_from([drawn, drawn], 3, 5, 0).index, visible.index)
