"""Going on from earlier weights with residual blocks that were added since."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.tiny_sets import many_sets_settings
from trainer.config import FinetuneSettings
from trainer.errors import CheckpointRefused, SettingsRefused
from trainer.finetune.many_sets import ManySetsTask, mixture_of
from trainer.finetune.task import finetune
from trainer.models.segmenter import SegmenterSettings
from trainer.training.checkpoint import read_average

MISSING = "decoder.top.3.second.weight"


@pytest.fixture
def first(tmp_path: Path) -> Path:
    finetune(many_sets_settings(tmp_path / "sets"), tmp_path / "first")
    return tmp_path / "first"


def with_decoder(folder: Path, run: Path, **more: Any) -> FinetuneSettings:
    """The same network, another decoder."""
    settings = many_sets_settings(folder, start_from=str(run))
    model = settings.model.model_dump()
    model["decoder"] |= more
    return settings.model_copy(update={"model": SegmenterSettings.model_validate(model)})


def test_blocks_that_were_added_change_no_output_at_first_and_then_learn(tmp_path: Path, first: Path) -> None:
    deeper = with_decoder(tmp_path / "deeper", first, blocks=[2, 0, 1, 0])
    pixels = torch.rand(1, 3, 64, 64) * 255
    outputs = []
    for settings in (with_decoder(tmp_path / "same", first), deeper):
        task = ManySetsTask(settings, mixture_of(settings))
        with torch.inference_mode():
            outputs.append(task.network.eval()(pixels))
    for before, after in zip(*outputs, strict=True):
        assert torch.equal(before, after)
    finetune(deeper, tmp_path / "second")
    learnt = read_average(tmp_path / "second")
    assert all(learnt[f"decoder.{name}.norm.weight"].any() for name in ("top.3", "top.4", "steps.8.blocks.0"))


def test_weights_of_blocks_that_were_there_are_taken(tmp_path: Path, first: Path) -> None:
    finetune(with_decoder(tmp_path / "deeper", first, blocks=[1, 0, 0, 0]), tmp_path / "second")
    still_deeper = with_decoder(tmp_path / "still deeper", tmp_path / "second", blocks=[2, 0, 0, 0])
    network = ManySetsTask(still_deeper, mixture_of(still_deeper)).network
    taken = read_average(tmp_path / "second")["decoder.top.3.norm.weight"]
    assert torch.equal(network.state_dict()["decoder.top.3.norm.weight"], taken)
    assert taken.any()


@pytest.mark.parametrize(
    "change", [{"widths": [8, 8, 8, 16]}, {"widths": [16, 8, 8, 8], "blocks": [1, 0, 0, 0]}, {"stride": 8}]
)
def test_anything_else_that_differs_is_refused(tmp_path: Path, first: Path, change: dict[str, Any]) -> None:
    settings = with_decoder(tmp_path / "other", first, **change)
    with pytest.raises(CheckpointRefused, match=r"weights of another network: decoder\."):
        ManySetsTask(settings, mixture_of(settings))


def test_a_block_of_which_a_part_is_missing_is_no_new_block(
    tmp_path: Path, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune(with_decoder(tmp_path / "deeper", first, blocks=[1, 0, 0, 0]), tmp_path / "second")
    part = {name: value for name, value in read_average(tmp_path / "second").items() if name != MISSING}
    monkeypatch.setattr("trainer.finetune.start_from.read_average", lambda _run: part)
    settings = with_decoder(tmp_path / "again", tmp_path / "second", blocks=[1, 0, 0, 0])
    with pytest.raises(CheckpointRefused, match=f"{MISSING} is missing"):
        ManySetsTask(settings, mixture_of(settings))


def test_fewer_blocks_than_before_are_refused(tmp_path: Path, first: Path) -> None:
    finetune(with_decoder(tmp_path / "deeper", first, blocks=[1, 0, 0, 0]), tmp_path / "second")
    plain = with_decoder(tmp_path / "plain", tmp_path / "second")
    with pytest.raises(CheckpointRefused, match=r"decoder\.top\.3\..* is not in this one"):
        ManySetsTask(plain, mixture_of(plain))


def test_a_fresh_head_begins_anew_in_another_shape_and_the_rest_is_taken(tmp_path: Path, first: Path) -> None:
    settings = many_sets_settings(tmp_path / "fresh", start_from=str(first), fresh_heads=["coarse"])
    model = settings.model.model_dump()
    model["heads"]["coarse"]["decoder"]["widths"] = [16, 8, 8, 8]
    settings = settings.model_copy(update={"model": SegmenterSettings.model_validate(model)})
    weights = ManySetsTask(settings, mixture_of(settings)).network.state_dict()
    taken = read_average(first)
    others = [name for name in taken if not name.startswith("heads.coarse.")]
    assert others
    assert all(torch.equal(weights[name], taken[name]) for name in others)
    assert weights["heads.coarse.top.0.weight"].shape[0] == 16
    told = settings.model_copy(update={"fresh_heads": ()})
    with pytest.raises(CheckpointRefused, match=r"heads\.coarse\."):
        ManySetsTask(told, mixture_of(told))


def test_a_fresh_head_of_the_same_shape_is_not_the_earlier_one(tmp_path: Path, first: Path) -> None:
    settings = many_sets_settings(tmp_path / "fresh", start_from=str(first), fresh_heads=["coarse"], seed=5)
    weights = ManySetsTask(settings, mixture_of(settings)).network.state_dict()
    name = "heads.coarse.classifier.weight"
    assert not torch.equal(weights[name], read_average(first)[name])


def of_lite(folder: Path, *, neck: dict[str, Any] | None = None, **more: Any) -> FinetuneSettings:
    """The same two heads on EfficientNet-Lite, whose first decoder has a block at each stride that a neck can have."""
    settings = many_sets_settings(folder, **more)
    model = settings.model.model_dump()
    model["student"] = {"kind": "lite", "neck": neck}
    model["decoder"]["blocks"] = [0, 0, 0, 0] if neck else [1, 1, 0, 0]
    return settings.model_copy(update={"model": SegmenterSettings.model_validate(model)})


NECK = {"widths": [8, 8], "blocks": [1, 1]}


def test_a_neck_begins_as_the_upper_half_of_the_first_decoder(tmp_path: Path) -> None:
    without = of_lite(tmp_path / "without")
    finetune(without, tmp_path / "first")
    given: dict[str, Any] = {"start_from": str(tmp_path / "first"), "fresh_heads": ["coarse"]}
    settings = of_lite(tmp_path / "with", neck=NECK, **given)
    task = ManySetsTask(settings, mixture_of(settings))
    before = ManySetsTask(without.model_copy(update={"start_from": tmp_path / "first"}), mixture_of(without))
    pixels = torch.rand(1, 3, 64, 64) * 255
    with torch.inference_mode():
        assert torch.equal(task.network.eval()(pixels)[0], before.network.eval()(pixels)[0])
    assert before.network.state_dict()["decoder.top.3.norm.weight"].any(), "a block that does something was moved"
    # The other head's upper half has no place in a network with a neck.
    told = settings.model_copy(update={"fresh_heads": ()})
    with pytest.raises(CheckpointRefused, match=r"its head coarse does not fit .*: fresh_heads: \[coarse\]"):
        ManySetsTask(told, mixture_of(told))


def test_a_run_with_a_neck_goes_on_with_it(tmp_path: Path) -> None:
    finetune(of_lite(tmp_path / "once", neck=NECK), tmp_path / "first")
    settings = of_lite(tmp_path / "again", neck={**NECK, "blocks": [2, 1]}, start_from=str(tmp_path / "first"))
    weights = ManySetsTask(settings, mixture_of(settings)).network.state_dict()
    taken = read_average(tmp_path / "first")
    assert all(torch.equal(weights[name], value) for name, value in taken.items())
    assert not weights["student.neck.top.4.norm.weight"].any(), "the block that was added changes no output"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fresh_heads": ["coarse"]}, "fresh_heads go with start_from"),
        ({"fresh_heads": ["cover"], "start_from": "a"}, r"fresh_heads \['cover'\]: the further heads are \['coarse'\]"),
    ],
)
def test_fresh_heads_that_say_nothing_are_refused(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsRefused, match=said):
        many_sets_settings(tmp_path, **given)
