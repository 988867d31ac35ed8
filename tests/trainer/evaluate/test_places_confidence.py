"""Calibration error place by place, counted by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from trainer.evaluate.places import PlaceCount, PlaceScores, places_json, places_table


def test_calibration_error_is_that_of_pixels_whose_label_is_sure() -> None:
    """Code 3 of the set may be any of the head's two classes; it says nothing of what is right."""
    count = object.__new__(PlaceCount)
    count.codes = SimpleNamespace(classes=("a", "b"))  # type: ignore[assignment]
    count.table = np.array([0, 1, 2, 3], np.uint8)
    count.sureness = np.zeros((3, 15))
    assert count.calibration_error is None
    labels = np.array([[1, 1, 2, 2], [3, 0, 1, 1]], np.uint8)
    said = np.array([[1, 2, 2, 2], [1, 1, 0, 1]], np.uint8)
    confidence = np.array([[255, 255, 255, 255], [255, 255, 0, 51]], np.uint8)
    count.add_confidence(labels, said, confidence)
    # Four pixels at 1.0, of which three are right; one at 0.2, right.
    assert count.calibration_error == pytest.approx((1.0 + 0.8) / 5)


def test_table_and_json_have_it_where_there_is_one() -> None:
    rows = [
        PlaceScores("here", "landcover", {"water": 0.5}, {}, 1, 10, 0.125),
        PlaceScores("there", "landcover", {"water": 0.5}, {}, 1, 10),
    ]
    table = places_table(rows)
    assert "| place | images | Mpx | mean IoU | ECE | IoU of each class |" in table
    assert "| here | 1 | 0.0 | 0.500 | 0.125 | water 0.500 |" in table
    assert "| there | 1 | 0.0 | 0.500 |  | water 0.500 |" in table
    assert '"ece": 0.125' in places_json(rows)
