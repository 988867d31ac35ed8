from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.errors import SettingsRefused
from trainer.models.masking import Visible, drawn_visible, visible_from
from trainer.models.reconstruction import (
    HeadSettings,
    ReconstructionHead,
    image_of,
    patches_of,
    pixels_of,
    reconstruction_loss,
    target_of,
)

HEAD = HeadSettings(depth=2, heads=2)


def drawn(batch: int) -> Visible:
    rng = np.random.default_rng(3)
    return visible_from([drawn_visible(4, 4, ratio=0.75, kind="stratified", rng=rng) for _ in range(batch)], 4, 4, 0.75)


def test_patches_are_the_images_squares_and_go_back() -> None:
    image = torch.rand(2, 3, 32, 48)
    patches = patches_of(image, 8)
    assert patches.shape == (2, 24, 192)
    assert torch.equal(patches[1, 7], image[1, :, 8:16, 8:16].flatten())  # second row of six, second place
    assert torch.equal(image_of(patches, 8, 4, 6), image)


def test_targets_go_there_and_back() -> None:
    pixels = torch.rand(1, 3, 4, 4) * 255
    assert target_of(pixels, "raw") is pixels
    assert target_of(torch.tensor([123.675, 116.28, 103.53]).reshape(1, 3, 1, 1), "normalised").abs().max() < 1e-6
    assert torch.allclose(pixels_of(target_of(pixels, "normalised"), "normalised"), pixels, atol=1e-3)


def test_the_loss_is_the_mean_over_hidden_pixels_one_by_one() -> None:
    visible, image = drawn(2), torch.rand(2, 3, 32, 32)
    guess = torch.rand(2, 12, 192)
    total, count = 0.0, 0
    for number in range(2):
        hidden = [token for token in range(16) if token not in visible.index[number].tolist()]
        for place, token in enumerate(hidden):
            row, column = 8 * (token // 4), 8 * (token % 4)
            square = image[number, :, row : row + 8, column : column + 8]
            total += float(((guess[number, place].reshape(3, 8, 8) - square) ** 2).sum())
            count += square.numel()
    assert float(reconstruction_loss(guess, image, visible, 8)) == pytest.approx(total / count, rel=1e-5)


def test_a_head_guesses_hidden_patches_from_visible_tokens_by_their_places() -> None:
    head, visible = ReconstructionHead(HEAD, width=16, patch=8, side=4).eval(), drawn(2)
    features = torch.rand(2, 4, 16)
    guess = head(features, visible)
    assert guess.shape == (2, 12, 192)

    tokens = head.hidden_token.expand(2, 16, 16).clone()
    for number in range(2):
        for place, token in enumerate(visible.index[number].tolist()):
            tokens[number, token] = head.embed(features[number, place])
    tokens = tokens + head.positions.flatten(2).transpose(1, 2)
    for block in head.blocks:
        tokens = block(tokens)
    whole = head.to_pixels(head.norm(tokens))
    for number in range(2):
        hidden = [token for token in range(16) if token not in visible.index[number].tolist()]
        assert torch.allclose(guess[number], whole[number, hidden], atol=1e-5)


def test_every_weight_of_a_head_learns_but_for_the_guess_of_what_is_seen() -> None:
    head, visible = ReconstructionHead(HEAD, width=16, patch=8, side=4), drawn(2)
    reconstruction_loss(head(torch.rand(2, 4, 16), visible), torch.rand(2, 3, 32, 32), visible, 8).backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in head.parameters())


def test_a_head_whose_heads_do_not_fit_its_encoder_is_refused() -> None:
    with pytest.raises(SettingsRefused, match="8 does not divide the width of an encoder, 20;"):
        ReconstructionHead(HeadSettings(), width=20, patch=8, side=4)
