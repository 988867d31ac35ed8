from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from onboard.scene.grid import pad_to_tile
from trainer.data.labelled import LabelledScene
from trainer.errors import ExportRefused, SettingsRefused
from trainer.export.calibration import (
    BINS,
    Evidence,
    calibration_error,
    calibration_of,
    evidence_of,
    fitted_temperature,
    likelihood_loss,
    reliability,
)
from trainer.export.onnx import deploy_form
from trainer.models.deploy import DeploySettings
from trainer.models.segmenter import Segmenter, SegmenterSettings
from trainer.models.student import StudentSettings
from trainer.models.upernet import DecoderSettings

STUDENT = StudentSettings(
    width=16, depth=2, heads=2, stem_widths=(8, 8, 8), window=2, global_blocks=(2,), out_blocks=(1, 2), positions=8
)
MODEL = SegmenterSettings(student=STUDENT, decoder=DecoderSettings(width=8, detail_widths=(8, 8)), classes=3)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def drawn(temperature: float, *, cells: int = 4000, seed: int = 0, each: int = 4) -> Evidence:
    """Cells whose pixels' classes are drawn from softmax(logits / temperature): that temperature is the truth."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=3, size=(cells, 5)).astype(np.float32)
    counts = rng.multinomial(each, softmax(logits / np.float64(temperature)))
    return Evidence(f"drawn/{seed}", logits, counts.astype(np.uint16), logits.argmax(axis=1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature: float) -> None:
    assert fitted_temperature([drawn(temperature, cells=40_000)]) == pytest.approx(temperature, rel=0.02)


def test_no_other_temperature_is_likelier() -> None:
    evidence = [drawn(1.8), drawn(1.2, seed=1)]
    found = fitted_temperature(evidence)
    tried = np.geomspace(0.05, 20, 2001)
    losses = [likelihood_loss(evidence, float(temperature)) for temperature in tried]
    assert likelihood_loss(evidence, found) <= min(losses) + 1e-12
    assert found == pytest.approx(tried[np.argmin(losses)], rel=0.01)


def test_figures_are_those_of_a_slow_recount_by_pixel() -> None:
    one = drawn(2.0, cells=300)
    one = Evidence("x", one.logits, one.counts, np.random.default_rng(5).integers(0, 5, 300))  # neighbours overruled
    temperature, loss, bins = 1.4, 0.0, [(0, 0.0, 0)] * BINS
    for logits, counts, said in zip(one.logits, one.counts, one.predicted, strict=True):
        probability = softmax(logits[None].astype(np.float64) / temperature)[0]
        for code, count in enumerate(counts):
            for _ in range(count):
                loss -= np.log(probability[code])
                sure = probability[said]
                (number,) = (k for k in range(BINS) if k / BINS < sure <= (k + 1) / BINS)
                pixels, total, right = bins[number]
                bins[number] = (pixels + 1, total + sure, right + (code == said))
    assert likelihood_loss([one], temperature) == pytest.approx(loss / one.pixels)
    found = reliability([(one, temperature)])
    assert [item.pixels for item in found] == [pixels for pixels, _, _ in bins]
    for item, (pixels, total, right) in zip(found, bins, strict=True):
        if pixels:
            assert item.confidence == pytest.approx(total / pixels)
            assert item.accuracy == pytest.approx(right / pixels)
        else:
            assert (item.confidence, item.accuracy) == (None, None)
    error = sum(abs(total - right) for _, total, right in bins) / one.pixels
    assert calibration_error(found) == pytest.approx(error)


def test_calibration_mends_what_is_overconfident() -> None:
    evidence = [drawn(2.0, cells=20_000), drawn(2.0, cells=20_000, seed=1)]
    found = calibration_of(evidence, data="drawn", held_out=True)
    assert found.ece_before > 0.1
    assert found.ece_after < 0.01
    assert found.ece_left_out is not None
    assert found.ece_left_out < 0.015
    assert found.nll_after < found.nll_before
    assert found.pixels == 160_000


def test_left_out_scenes_are_judged_by_the_others_temperature() -> None:
    one, other = drawn(1.0), drawn(3.0, seed=1)
    found = calibration_of([one, other], data="drawn", held_out=True)
    expected = reliability([(one, fitted_temperature([other])), (other, fitted_temperature([one]))])
    assert found.ece_left_out == pytest.approx(calibration_error(expected))
    assert calibration_of([one], data="drawn", held_out=True).ece_left_out is None


def test_a_network_that_is_never_wrong_or_knows_nothing_is_not_calibrated() -> None:
    one = drawn(1.0)
    right = np.zeros_like(one.counts)
    right[np.arange(len(right)), one.predicted] = 4
    for counts in (right, np.full_like(right, 4)):
        with pytest.raises(ExportRefused, match="no temperature"):
            fitted_temperature([Evidence("x", one.logits, counts, one.predicted)])


def test_evidence_is_what_a_map_keeps_of_the_tiles() -> None:
    """One tile of 128 with a halo of 16 at cells of 2: its middle 96 x 96 pixels, labelled ones only."""
    rng = np.random.default_rng(0)
    scene = LabelledScene(
        "made/1", rng.integers(0, 256, (3, 150, 140), dtype=np.uint8), rng.integers(0, 4, (150, 140), dtype=np.uint8)
    )
    segmenter, settings = Segmenter(MODEL).eval(), DeploySettings(cell=2)
    evidence = evidence_of(segmenter, scene, settings, side=128, halo=16, most=4)
    kept = scene.labels[16:112, 16:112]
    assert evidence.pixels == (kept > 0).sum()
    assert list(evidence.counts.sum(axis=0)) == [(kept == code).sum() for code in (1, 2, 3)]
    cells = kept.reshape(48, 2, 48, 2).swapaxes(1, 2).reshape(-1, 4)
    labelled = (cells > 0).any(axis=1)
    assert [list(np.bincount(cell, minlength=4)[1:]) for cell in cells[labelled]] == evidence.counts.tolist()
    classes = deploy_form(segmenter, settings)(torch.from_numpy(scene.pixels[None, :, :128, :128]))[0][0].numpy()
    assert np.array_equal(evidence.predicted + 1, classes[16:112:2, 16:112:2].ravel()[labelled])


def test_tiles_to_calibrate_on_are_spread_over_the_scene() -> None:
    pixels = np.zeros((3, 128, 128 + 96 * 8), np.uint8)
    labels = np.zeros(pixels.shape[1:], np.uint8)
    labels[20:100, 20:100] = 1
    labels[20:100, 96 * 4 + 20 : 96 * 4 + 100] = 2
    labels[20:100, 96 * 8 + 20 : 96 * 8 + 100] = 3
    scene = LabelledScene("made/1", pixels, labels)
    evidence = evidence_of(Segmenter(MODEL), scene, DeploySettings(), side=128, halo=16, most=3)
    assert list(evidence.counts.sum(axis=0)) == [6400, 6400, 6400]


def test_scenes_with_nothing_to_learn_from_are_refused_by_name() -> None:
    empty = LabelledScene("made/7", np.zeros((3, 130, 130), np.uint8), np.zeros((130, 130), np.uint8))
    with pytest.raises(SettingsRefused, match="made/7: no pixel"):
        evidence_of(Segmenter(MODEL), empty, DeploySettings(), side=128, halo=16, most=1)


def test_an_image_smaller_than_a_tile_is_padded_as_in_flight_and_only_its_own_pixels_count() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (3, 96, 80), dtype=np.uint8)
    small = LabelledScene("made/8", pixels, np.full((96, 80), 2, np.uint8))
    segmenter = Segmenter(MODEL).eval()
    evidence = evidence_of(segmenter, small, DeploySettings(), side=128, halo=16, most=1)
    assert list(evidence.counts.sum(axis=0)) == [0, (96 - 16) * (80 - 16), 0]
    padded = np.stack([pad_to_tile(pixels, 128)])
    classes = deploy_form(segmenter, DeploySettings())(torch.from_numpy(padded))[0][0].numpy()
    assert np.array_equal(evidence.predicted + 1, classes[16:96:2, 16:80:2].ravel())
