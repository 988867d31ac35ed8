"""A run's weights alone: what other commands read of them, and what they say of where they came from."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tests.trainer.finetune.test_start_from import NECK, of_lite
from tests.trainer.tiny_sets import many_sets_settings
from trainer import cli
from trainer.config import DataSettings
from trainer.errors import CheckpointNotWritten, CheckpointRefused
from trainer.export.provenance import _start
from trainer.finetune.many_sets import ManySetsTask, mixture_of
from trainer.finetune.norms import with_new_norms
from trainer.finetune.task import finetune
from trainer.models.segmenter import SegmenterSettings
from trainer.training.checkpoint import AVERAGE, CHECKPOINTS, load_weights, read_average, read_facts
from trainer.training.history import history
from trainer.training.keep import keep
from trainer.training.task import Slice


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that started from another."""
    finetune(many_sets_settings(tmp_path / "sets"), tmp_path / "first")
    finetune(many_sets_settings(tmp_path / "more", start_from=str(tmp_path / "first")), tmp_path / "second")
    return tmp_path / "second"


def test_the_averaged_weights_are_kept_to_eleven_bits_and_nothing_else(tmp_path: Path, run: Path) -> None:
    path = keep(run, tmp_path / "kept")
    assert [file.name for file in sorted((tmp_path / "kept").rglob("*")) if file.is_file()] == [AVERAGE, "state.json"]
    whole, kept = read_average(run), read_average(tmp_path / "kept")
    assert whole.keys() == kept.keys()
    for name, value in whole.items():
        assert torch.allclose(value.float(), kept[name].float(), rtol=2**-11, atol=2**-24), name
    assert {value.dtype for value in kept.values()} == {torch.float16, torch.int64}
    assert load_file(path).keys() == kept.keys()


def test_it_starts_another_run_and_tells_of_all_before(tmp_path: Path, run: Path) -> None:
    keep(run, tmp_path / "kept")
    before = history(run)
    # The runs' own folders are not asked: where these weights go, they are not.
    run.rename(tmp_path / "gone")
    (tmp_path / "first").rename(tmp_path / "gone too")
    assert history(tmp_path / "kept") == before
    assert len(before) == 2
    finetune(many_sets_settings(tmp_path / "again", start_from=str(tmp_path / "kept")), tmp_path / "third")
    assert [facts["step"] for facts in history(tmp_path / "third")] == [2, 2, 2]


def test_a_weight_that_half_precision_cannot_hold_is_refused_by_name(tmp_path: Path, run: Path) -> None:
    path = run / CHECKPOINTS / f"step-{read_facts(run)['step']:08d}" / AVERAGE
    save_file({**load_file(path), "decoder.classifier.bias": torch.tensor([0.0, 1e6, 0.0])}, path)
    with pytest.raises(CheckpointRefused, match=r"decoder\.classifier\.bias has values that float16 cannot hold"):
        keep(run, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_folder_that_holds_something_is_left_alone(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine").write_text("a")
    assert cli.main(["keep", str(run), "--out", str(tmp_path / "kept")]) == CheckpointRefused.exit_code
    assert "give a new folder" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "kept").iterdir()] == ["mine"]


def test_the_command_names_the_file_and_its_size(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keep", str(run), "--out", str(tmp_path / "kept")]) == 0
    file = tmp_path / "kept" / CHECKPOINTS / "step-00000002" / AVERAGE
    assert capsys.readouterr().out == f"{file}: 0.0 MB\n"


def test_a_disk_that_is_full_leaves_nothing_and_the_command_may_be_given_again(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_tensors: object, _path: Path) -> None:
        raise SafetensorError("No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr("trainer.training.keep.save_file", full)
        with pytest.raises(CheckpointNotWritten, match=r"No space left.*; make room and give the same command$"):
            keep(run, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    assert keep(run, tmp_path / "kept").is_file()


def test_no_run_goes_on_in_a_kept_folder_and_nobody_is_told_to_remove_it(tmp_path: Path, run: Path) -> None:
    keep(run, tmp_path / "kept")
    with pytest.raises(CheckpointRefused, match=r"averaged weights alone.* give another run folder, and this one as"):
        finetune(
            many_sets_settings(tmp_path / "again", start_from=str(tmp_path / "first"), max_steps=9), tmp_path / "kept"
        )
    assert len(read_average(tmp_path / "kept")) > 0


def test_what_the_encoder_was_distilled_from_is_kept_too(tmp_path: Path, run: Path) -> None:
    path = run / CHECKPOINTS / "step-00000002" / "state.json"
    facts = json.loads(path.read_text())
    distilled = tmp_path / "distilled" / CHECKPOINTS / "step-00000007"
    distilled.mkdir(parents=True)
    told = {"teachers": {"sam": {"weights": "/there/sam_vit_l.pth"}}}
    (distilled / "state.json").write_text(json.dumps({"step": 7, "images": 123456, "settings": told}))
    facts["earlier"][0]["settings"]["encoder"] = str(tmp_path / "distilled")
    path.write_text(json.dumps(facts))
    keep(run, tmp_path / "kept")
    shutil.rmtree(tmp_path / "distilled")
    assert _start(history(tmp_path / "kept")).startswith(
        "a student distilled by Mask-CDKD from sam (sam_vit_l.pth), 123,456 unlabelled images seen"
    )


def test_the_mean_of_several_runs_is_taken_where_they_have_the_same_weights(tmp_path: Path, run: Path) -> None:
    keep(run, tmp_path / "kept", [tmp_path / "first"])
    one, other, mean = (read_average(tmp_path / name) for name in ("second", "first", "kept"))
    name = "decoder.classifier.weight"
    assert not torch.equal(one[name], other[name])
    assert torch.allclose(mean[name].float(), (one[name] + other[name]) / 2, atol=1e-3)
    assert history(tmp_path / "kept") == history(run)


def test_a_mean_with_another_network_is_refused_by_name(tmp_path: Path, run: Path) -> None:
    settings = many_sets_settings(tmp_path / "wide")
    model = settings.model.model_dump()
    model["student"]["widths"] = [8, 8, 8, 8, 16]
    finetune(settings.model_copy(update={"model": SegmenterSettings.model_validate(model)}), tmp_path / "other")
    with pytest.raises(CheckpointRefused, match=r"other: \S+ is not in it, or of another shape"):
        keep(run, tmp_path / "kept", [tmp_path / "other"])
    assert not (tmp_path / "kept").exists()


def test_a_mean_tells_what_each_of_its_runs_was_fitted_on(tmp_path: Path, run: Path) -> None:
    finetune(many_sets_settings(tmp_path / "apart", seed=7), tmp_path / "apart run")
    keep(run, tmp_path / "kept", [tmp_path / "apart run", tmp_path / "first"])
    told = history(tmp_path / "kept")
    # That of `run` last, and none twice: the first run is an ancestor of the second.
    assert [facts["settings"]["seed"] for facts in told] == [0, 7, 0]
    assert told[-1] == history(run)[-1]


def test_a_head_that_another_run_lacks_in_that_shape_stays_as_it_is(tmp_path: Path) -> None:
    plain, necked = of_lite(tmp_path / "plain"), of_lite(tmp_path / "necked", neck=NECK, seed=4)
    finetune(plain, tmp_path / "first")
    finetune(necked, tmp_path / "second")
    keep(tmp_path / "second", tmp_path / "kept", [tmp_path / "first"])
    one, other, mean = (read_average(tmp_path / name) for name in ("second", "first", "kept"))
    top, head = "student.neck.top.0.weight", "heads.coarse.steps.8.coarse.weight"
    assert torch.allclose(mean[top].float(), (one[top] + other["decoder.top.0.weight"]) / 2, atol=1e-3)
    assert one[head].shape == other[head].shape, "of the same shape, and of another meaning"
    assert torch.equal(mean[head], one[head].half())


def test_norms_are_taken_anew_of_crops_of_all_sets(tmp_path: Path, run: Path) -> None:
    command = ["keep", str(run), "--mean-with", str(tmp_path / "first"), "--out"]
    assert cli.main([*command, str(tmp_path / "plain")]) == 0
    assert cli.main([*command, str(tmp_path / "anew"), "--norms", "20"]) == 0
    assert cli.main([*command, str(tmp_path / "again"), "--norms", "20"]) == 0
    plain, anew, again = (read_average(tmp_path / name) for name in ("plain", "anew", "again"))
    different = {name for name in plain if not torch.equal(plain[name], anew[name])}
    assert different
    assert all(name.endswith((".running_mean", ".running_var")) for name in different)
    assert all(torch.equal(anew[name], again[name]) for name in anew), "the crops hang on the run's seed alone"
    # Of crops of the made sets' three colours: what the first layer of the decoder gives for them.
    settings = many_sets_settings(tmp_path / "seen")
    task = ManySetsTask(settings, mixture_of(settings))
    load_weights(task.segmenter, anew, run)
    top = task.segmenter.decoder.top
    seen: list[torch.Tensor] = []
    top[0].register_forward_hook(lambda _module, _given, out: seen.append(out.detach()))
    stage = settings.stages[0].model_copy(update={"batch": 16})
    with torch.inference_mode():
        for step in range(100, 120):
            task.segmenter.eval().all_logits(task.draw(Slice(step, stage, range(16)))[0])
    whole = torch.cat(seen).transpose(0, 1).flatten(1)
    scale = whole.std(dim=1)
    assert ((anew["decoder.top.1.running_mean"].float() - whole.mean(dim=1)).abs() < 0.2 * scale).all()


def test_norms_of_a_published_trunk_keep_their_statistics(tmp_path: Path) -> None:
    finetune(of_lite(tmp_path / "sets", neck=NECK), tmp_path / "run")
    # As published ones are: not those that a new norm begins with.
    (file,) = (tmp_path / "run").rglob(AVERAGE)
    trunk = {name: value + 0.5 for name, value in load_file(file).items() if name.endswith(".running_mean")}
    save_file({**load_file(file), **trunk}, file)
    keep(tmp_path / "run", tmp_path / "plain")
    keep(tmp_path / "run", tmp_path / "anew", changed=partial(with_new_norms, run=tmp_path / "run", batches=2))
    plain, anew = read_average(tmp_path / "plain"), read_average(tmp_path / "anew")
    different = {name for name in plain if not torch.equal(plain[name], anew[name])}
    assert any(name.startswith("student.neck.") for name in different)
    assert not any(name.startswith("student.stem.") for name in different)


def test_norms_after_a_head_alone_are_those_of_the_sets_that_taught_the_encoder(tmp_path: Path) -> None:
    """The sets of the head alone took 11 points of Tokyo from a mean of landcover's weights."""
    whole = many_sets_settings(tmp_path / "sets")
    finetune(whole, tmp_path / "first")
    (coarse,) = (item for item in whole.data.sets if "coarse" in item.set)
    head = whole.model_copy(
        update={
            "start_from": tmp_path / "first", "frozen_encoder": True,
            "heads": {**whole.heads, "cover": whole.heads["cover"].model_copy(update={"weight": 0.0})},
            "data": whole.data.model_copy(update={"sets": (coarse,)}),
        }
    )  # fmt: skip
    finetune(head, tmp_path / "head")
    tensors = read_average(tmp_path / "head")
    anew, wanted = (with_new_norms(tensors, run=tmp_path / name, batches=3) for name in ("head", "first"))
    assert all(torch.equal(anew[name], value) for name, value in wanted.items())
    own = with_new_norms(tensors, run=_with_settings(tmp_path / "head", frozen_encoder=False), batches=3)
    assert any(not torch.equal(own[name], value) for name, value in wanted.items()), "the head's own sets are others"


def _with_settings(run: Path, **changed: object) -> Path:
    (path,) = run.rglob("state.json")
    facts = json.loads(path.read_text())
    facts["settings"] |= changed
    path.write_text(json.dumps(facts))
    return run


def test_norms_of_a_run_of_one_set_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = many_sets_settings(tmp_path / "sets two")
    one = settings.model_copy(
        update={
            "heads": {}, "model": settings.model.model_copy(update={"heads": {}}),
            "data": DataSettings(set=settings.heads["cover"].classes_of),
        }
    )  # fmt: skip
    finetune(one, tmp_path / "one")
    assert cli.main(["keep", str(tmp_path / "one"), "--out", str(tmp_path / "kept"), "--norms", "2"]) == 2
    assert "is a run of one set" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()
