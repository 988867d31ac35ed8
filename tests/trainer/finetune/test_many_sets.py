"""Several labelled sets in one run: what labels mean to each head, how large crops are, how sets are mixed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from onboard.scene.grid import Window
from tests.trainer.tiny_sets import many_sets_settings, write_coarse, write_set
from trainer import cli
from trainer.config import DataSettings, FinetuneSettings, SetSettings, checked_settings
from trainer.data.description import read_description
from trainer.data.mixture import Mixture, packed
from trainer.data.sets import open_set
from trainer.data.soft_labels import SoftFacts, SoftLabels, claim_folder, file_name
from trainer.data.targets import HeadCodes
from trainer.errors import DataMissing, DataRefused, SettingsRefused
from trainer.evaluate.mappers import mapper_of_run
from trainer.evaluate.places import PlaceCount, PlacesSettings, places_table, score_places
from trainer.export.onnx import segmenter_of
from trainer.finetune.loss import allowed_loss, segmentation_loss, soft_loss
from trainer.finetune.many_sets import ManySetsTask, mixture_of
from trainer.finetune.soften import SoftenRequest, Teacher, _check_heads, _write, soft_labels, soften
from trainer.finetune.task import finetune
from trainer.models.segmenter import Segmenter, SegmenterSettings
from trainer.training.task import Slice


@pytest.fixture
def settings(tmp_path: Path) -> FinetuneSettings:
    return many_sets_settings(tmp_path)


def test_labels_become_classes_or_weighted_sets_of_classes(settings: FinetuneSettings) -> None:
    mixture = mixture_of(settings)
    codes = mixture.heads["cover"]
    cover, coarse = mixture.sources
    assert cover.tables["cover"].tolist() == [0, 1, 2, 3]
    assert coarse.tables["cover"].tolist() == [0, 4, 3]  # land is a set of classes, sea is water
    assert codes.allowed[4].tolist() == [0.5, 1.0, 0.0]
    assert cover.tables["coarse"].tolist() == [0, 0, 0, 0]  # it says nothing of land and sea
    assert coarse.tables["coarse"].tolist() == [0, 1, 2]


def test_an_image_smaller_than_a_crop_is_packed_with_others_and_never_reflected(settings: FinetuneSettings) -> None:
    _, coarse = mixture_of(settings).sources
    pixels, labels, _ = packed(coarse, 64, 0.5, 0, np.random.default_rng(0))
    assert pixels.shape == (3, 64, 64)
    stripes = labels[0].tolist()
    # Images of 32 pixels at half their size: stripes begin anew every 16 pixels, in the same order.
    assert stripes[:16] == stripes[16:32] == stripes[48:]
    assert stripes[:16] == sorted(stripes[:16])
    assert (labels > 0).all()


def test_a_smaller_image_in_a_packed_crop_is_not_enlarged_more_than_the_others(
    tmp_path: Path, settings: FinetuneSettings
) -> None:
    mixed = tmp_path / "mixed" / "coarse"
    path = write_coarse(mixed.parent)
    for number in range(10, 20):
        Image.fromarray(np.tile(np.repeat(np.array([1, 2, 3, 1], np.uint8), 5), (20, 1))).save(
            mixed / "labels" / f"{number}.png"
        )
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(mixed / "images" / f"{number}.png")
    data = settings.data.model_copy(update={"sets": (settings.data.sets[1].model_copy(update={"set": path}),)})
    (source,) = Mixture(data, {"coarse": path}, seed=0).sources
    small, large = 0, 0
    for seed in range(30):
        _, first = source.sampler.draw_window(128, np.random.default_rng(seed))
        pixels, _, _ = packed(source, 128, 1.0, 0, np.random.default_rng(seed))
        # A black image of 20 pixels in a crop of images of 32 would fill the place of one of these.
        assert first.width == 20 or not (pixels == 0).all(dim=0).any(), seed
        small, large = small + (first.width == 20), large + (first.width == 32)
    assert min(small, large) > 5


def test_soft_labels_lie_on_their_pixels_wherever_a_window_begins(tmp_path: Path) -> None:
    stride, side = 6, 60
    ramp = (np.arange(40) * stride + stride / 2 - 0.5).astype(np.uint8)  # each cell holds the place of its middle
    rows, columns = np.broadcast_arrays(ramp[:, None], ramp[None])
    claim_folder(tmp_path / "facts", SoftFacts({"a": 2}, stride, "made"))
    np.save(tmp_path / "facts" / file_name("image"), np.stack([rows, columns]))
    soft = SoftLabels(tmp_path / "facts", {"a": 2})
    for first, length in ((6, 60), (61, 60), (65, 60), (64, 120), (100, 30)):
        found = soft.crop("image", Window(first, first, length, length), side) * 255
        wanted = torch.from_numpy(first - 0.5 + (np.arange(side) + 0.5) * length / side).float()
        assert (found[0] - wanted[:, None]).abs().max() < 0.6, (first, length)
        assert (found[1] - wanted[None]).abs().max() < 0.6, (first, length)


def test_labels_that_are_all_empty_are_refused_before_a_step(tmp_path: Path, settings: FinetuneSettings) -> None:
    described = Path(settings.heads["coarse"].classes_of)
    described.write_text(yaml.safe_dump({**yaml.safe_load(described.read_text()), "ignore": {"codes": [0]}}))
    for path in (described.parent / "labels").iterdir():
        Image.fromarray(np.zeros((32, 32), np.uint8)).save(path)
    with pytest.raises(SettingsRefused, match=r"heads\.coarse: no pixel of its sets is labelled for it"):
        finetune(settings, tmp_path / "run")
    one = settings.model_copy(
        update={
            "heads": {}, "model": settings.model.model_copy(update={"heads": {}, "classes": 2}),
            "data": DataSettings(set=settings.heads["coarse"].classes_of),
        }
    )  # fmt: skip
    with pytest.raises(SettingsRefused, match="no pixel of these images is labelled"):
        finetune(one, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_is_scored_by_its_own_class_table_alone(tmp_path: Path, settings: FinetuneSettings) -> None:
    finetune(settings, tmp_path / "run")
    cover, coarse = (item.set for item in settings.data.sets)
    with pytest.raises(SettingsRefused, match=r"heads\.coarse: .*run's head of that name has the classes land, sea"):
        mapper_of_run(tmp_path / "run", {"cover": cover, "coarse": cover})
    assert callable(mapper_of_run(tmp_path / "run", {"cover": cover, "others": cover}))
    one = settings.model_copy(
        update={
            "heads": {}, "model": settings.model.model_copy(update={"heads": {}}), "data": DataSettings(set=cover),
        }
    )  # fmt: skip
    finetune(one, tmp_path / "one")
    tile = np.zeros((3, 64, 64), np.uint8)
    assert list(mapper_of_run(tmp_path / "one", {"b": coarse, "a": cover})(tile)) == ["a"]
    with pytest.raises(SettingsRefused, match=r"its classes roof, green, water are those of no head \(b\)"):
        mapper_of_run(tmp_path / "one", {"b": coarse})


def test_a_bias_is_added_to_the_head_that_it_is_for(tmp_path: Path, settings: FinetuneSettings) -> None:
    finetune(settings, tmp_path / "run")
    tables = {name: head.classes_of for name, head in settings.heads.items()}
    tile = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    plain = mapper_of_run(tmp_path / "run", tables)(tile)
    for head, name, code in (("cover", "green", 2), ("coarse", "sea", 2)):
        maps = mapper_of_run(tmp_path / "run", tables, {head: {name: 1000.0}})(tile)
        (other,) = set(tables) - {head}
        assert (maps[head] == code).all()
        assert np.array_equal(maps[other], plain[other])
    for bias, said in (
        ({"sky": {}}, "no head 'sky'; there are cover, coarse"),
        ({"cover": {"sea": 1.0}}, "no class 'sea'"),
    ):
        with pytest.raises(SettingsRefused, match=said):
            mapper_of_run(tmp_path / "run", tables, bias)


def test_a_class_above_the_table_is_counted_nowhere(settings: FinetuneSettings) -> None:
    coarse = settings.heads["coarse"].classes_of
    count = PlaceCount(open_set(coarse), HeadCodes("coarse", read_description(coarse).classes), coarse)
    with pytest.raises(ValueError, match="class 3 predicted for head coarse of 2 classes"):
        count.add(np.ones((2, 2), np.uint8), np.full((2, 2), 3, np.uint8))


def test_crops_are_at_the_model_s_own_resolution(settings: FinetuneSettings) -> None:
    cover, coarse = (mixture_of(settings)).sources
    data = settings.data.model_copy(update={"gsd_m": 2.0})
    mixture = Mixture(data, {"cover": settings.heads["cover"].classes_of}, seed=0)
    rng = np.random.default_rng(0)
    assert mixture._zoom(cover, rng) == pytest.approx(0.5)
    assert mixture._zoom(coarse, rng) == pytest.approx(0.25)


def test_no_image_is_enlarged_beyond_the_limit(settings: FinetuneSettings) -> None:
    data = settings.data.model_copy(
        update={"gsd_m": 0.2, "augment": settings.data.augment.model_copy(update={"scale": (0.25, 2.0)})}
    )
    mixture = Mixture(data, {"cover": settings.heads["cover"].classes_of}, seed=0)
    zooms = [mixture._zoom(mixture.sources[0], np.random.default_rng(seed)) for seed in range(200)]
    assert max(zooms) <= settings.data.largest_enlargement + 1e-9
    assert min(zooms) >= 0.25 / 0.2 - 1e-9


def test_each_batch_holds_every_set_by_its_weight(settings: FinetuneSettings) -> None:
    mixture = mixture_of(settings)
    for offset in (0.0, 0.3, 0.9):
        drawn = [mixture.source_of(number, 8, offset).settings.set for number in range(8)]
        assert drawn.count(settings.data.sets[0].set) == 4


def test_the_same_step_draws_the_same_batch(settings: FinetuneSettings) -> None:
    task = ManySetsTask(settings, mixture_of(settings))
    part = Slice(3, settings.stages[0], range(4))
    for first, second in zip(task.draw(part), task.draw(part), strict=True):
        assert torch.equal(first, second)


def _logits(*classes: float) -> Tensor:
    return torch.tensor(classes).reshape(1, -1, 1, 1).repeat(1, 1, 4, 4)


def test_a_single_class_costs_what_it_costs_without_sets() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 4, (2, 8, 8))
    weights = torch.tensor([1.0, 2.0, 0.5])
    expected = segmentation_loss(logits, labels, weights=weights, dice=0.5)
    allowed = torch.cat([torch.zeros(1, 3), torch.eye(3)])
    found = allowed_loss(logits, labels, allowed=allowed, weights=torch.tensor([0.0, 1.0, 2.0, 0.5]), dice=0.5)
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_a_set_of_classes_costs_nothing_where_all_probability_lies_on_it() -> None:
    allowed = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    codes, weights = torch.full((1, 4, 4), 4), torch.ones(5)

    def cost(*classes: float) -> float:
        return float(allowed_loss(_logits(*classes), codes, allowed=allowed, weights=weights, dice=0.5))

    assert cost(9.0, 9.0, -9.0) == pytest.approx(0.0, abs=1e-4)
    assert cost(9.0, -9.0, -9.0) == pytest.approx(0.0, abs=1e-4)
    assert cost(0.0, 0.0, 0.0) == pytest.approx(-np.log(2 / 3), rel=1e-4)
    assert cost(-9.0, -9.0, 9.0) > 5


def test_ignored_pixels_have_no_loss_and_no_gradient() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    allowed = torch.cat([torch.zeros(1, 3), torch.eye(3)])
    loss = allowed_loss(
        logits, torch.zeros((1, 8, 8), dtype=torch.long), allowed=allowed, weights=torch.ones(4), dice=0.5
    )
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_soft_labels_teach_only_where_there_are_any() -> None:
    logits = torch.zeros((1, 2, 2, 2), requires_grad=True)
    probability = torch.zeros((1, 2, 2, 2))
    probability[0, 0, 0, 0] = 1.0
    soft_loss(logits, probability).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[0, 0, 0, 0] < 0
    assert logits.grad[0, :, 1].abs().max() == 0


def test_a_run_learns_exports_its_weights_and_is_scored_place_by_place(tmp_path: Path) -> None:
    settings = many_sets_settings(tmp_path, max_steps=60, learning_rate=2e-2, average=0.8)
    finetune(settings, tmp_path / "run")
    _, network = segmenter_of(tmp_path / "run")
    assert set(network.heads) == {"coarse"}
    cover, coarse = (item.set for item in settings.data.sets)
    places = PlacesSettings.model_validate({
        "heads": {"cover": cover, "coarse": coarse},
        "places": [
            {"name": "stripes", "set": cover, "split": "train", "head": "cover"},
            {"name": "coarse stripes", "set": coarse, "split": "train", "head": "cover"},
            {"name": "land and sea", "set": coarse, "split": "train", "head": "coarse"},
        ],
    })  # fmt: skip
    stripes, sets, land = score_places(places, mapper_of_run(tmp_path / "run", places.heads))
    assert stripes.figure > 0.6
    assert set(sets.iou) == {"water"}  # the only class that its labels are sure of
    assert set(land.iou) == {"land", "sea"}
    assert sum(land.said["land"].values()) == pytest.approx(1.0)
    assert "Mean over places" in places_table([stripes, sets, land])


def test_soft_labels_are_written_once_and_learnt_from(tmp_path: Path) -> None:
    teacher = many_sets_settings(tmp_path / "a")
    finetune(teacher, tmp_path / "teacher")
    sets = tuple(
        item.model_copy(update={"soft": tmp_path / "soft" / str(place)}) for place, item in enumerate(teacher.data.sets)
    )
    request = SoftenRequest(tmp_path / "teacher", sets, gsd_m=(1.0, 0.5))
    assert soften(request, quiet=True) == 8
    assert soften(request, quiet=True) == 0
    cells = np.load(tmp_path / "soft" / "0" / "0.npy")
    assert cells.shape == (5, 80, 80)
    assert np.abs(cells[:3].astype(int).sum(axis=0) - 255).max() <= 3
    student = teacher.model_copy(update={"data": teacher.data.model_copy(update={"sets": sets})})
    task = ManySetsTask(student, mixture_of(student))
    batch = task.draw(Slice(0, student.stages[0], range(4)))
    assert batch[2].shape == (4, 5, 16, 16)
    assert {"cover", "cover_soft", "coarse", "coarse_soft", "total"} == set(task.losses(task.network, batch))


def test_soft_labels_of_several_teachers_are_their_mean_head_by_head(tmp_path: Path) -> None:
    both = many_sets_settings(tmp_path / "a", max_steps=1)
    cover, coarse = (item.set for item in both.data.sets)
    # A second teacher, with one head of the first and patches that are no multiple of the grid of soft labels.
    vit = {
        "width": 16, "depth": 2, "heads": 2, "patch": 14, "stem": "linear", "window": None, "kv_pool": 1,
        "positions": 8, "global_blocks": [1, 2], "out_blocks": [1, 2],
    }  # fmt: skip
    other = checked_settings(
        {
            **both.model_dump(mode="json"), "heads": {"coarse": {"classes_of": coarse}},
            "data": {**both.data.model_dump(mode="json"), "sets": [{"set": coarse}]},
            "model": {
                "classes": 2, "student": vit, "decoder": {"kind": "upernet", "width": 8, "detail_widths": None},
            },
            "stages": [{"until": 1.0, "crop": 56, "batch": 2}],
        },
        FinetuneSettings, "made",
    )  # fmt: skip
    finetune(both, tmp_path / "first")
    finetune(other, tmp_path / "second")
    sets = tuple(SetSettings(set=item, soft=tmp_path / "soft" / Path(item).parent.name) for item in (cover, coarse))
    assert soften(SoftenRequest(tmp_path / "first", sets, (1.0,), others=(tmp_path / "second",)), quiet=True) == 8
    assert set(SoftLabels(tmp_path / "soft" / "cover", {"cover": 3, "coarse": 2}).facts.teacher.split(" and ")) == {
        Teacher.of(tmp_path / run).name for run in ("first", "second")
    }
    pixels = open_set(cover).read("0").pixels
    assert pixels.shape == (3, 160, 160)  # larger than the second's table of positions: it is seen in windows
    first, second = (
        soft_labels(Teacher.of(tmp_path / run), pixels, (1.0,), 2).astype(int) for run in ("first", "second")
    )
    found = np.load(tmp_path / "soft" / "cover" / "0.npy").astype(int)
    assert np.array_equal(found[:3], first[:3])
    assert np.abs(found[3:] - (first[3:] + second) / 2).max() <= 0.5
    assert np.abs(second - first[3:]).max() > 3
    with pytest.raises(SettingsRefused, match="it has none of the first teacher's heads \\(coarse\\)"):
        soften(SoftenRequest(tmp_path / "second", sets, (1.0,), others=(_cover_alone(both, tmp_path),)), quiet=True)


def test_a_teacher_with_a_table_of_positions_sees_windows_that_fit_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its patches of 14 pixels are no multiple of the cells of 4 that windows are joined on."""
    settings = {
        "classes": 2, "decoder": {"kind": "upernet", "width": 8, "detail_widths": None},
        "student": {
            "width": 16, "depth": 1, "heads": 2, "patch": 14, "stem": "linear", "window": None, "kv_pool": 1,
            "positions": 16, "global_blocks": [1], "out_blocks": [1],
        },
    }  # fmt: skip
    teacher = Teacher(Segmenter(SegmenterSettings.model_validate(settings)), {"a": 2}, "made")
    seen = []

    def wrong_at_edges(_: Teacher, images: Tensor) -> list[Tensor]:
        seen.append(images.shape[-1])
        logits = torch.zeros((1, 2, images.shape[-1] // 14, images.shape[-1] // 14))
        logits[:, 1, 1:-1, 1:-1] = 9.0
        return [logits]

    monkeypatch.setattr(Teacher, "__call__", wrong_at_edges)
    found = soft_labels(teacher, np.zeros((3, 455, 455), np.uint8), (1.0,), 4)
    assert max(seen) == 16 * 14
    assert all(side % 28 == 0 for side in seen)
    # The edges of windows are cut off, but for those that are the image's own.
    assert found.shape == (2, 114, 114)
    assert (found[1, 8:-20, 8:-20] > 200).all()


def test_a_further_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused, match="its head coarse has 3 classes, the first teacher's 2"):
        _check_heads(tmp_path, {"coarse": 3}, {"cover": 3, "coarse": 2})


def _cover_alone(settings: FinetuneSettings, folder: Path) -> Path:
    alone = settings.model_copy(
        update={
            "heads": {"cover": settings.heads["cover"]}, "model": settings.model.model_copy(update={"heads": {}}),
            "data": settings.data.model_copy(update={"sets": settings.data.sets[:1]}),
        }
    )  # fmt: skip
    finetune(alone, folder / "alone")
    return folder / "alone"


def softened(tmp_path: Path) -> tuple[FinetuneSettings, SoftenRequest]:
    """A teacher of one step, and the request by which all of its soft labels were made."""
    teacher = many_sets_settings(tmp_path / "a", max_steps=1)
    finetune(teacher, tmp_path / "teacher")
    sets = tuple(
        item.model_copy(update={"soft": tmp_path / "soft" / str(place)}) for place, item in enumerate(teacher.data.sets)
    )
    request = SoftenRequest(tmp_path / "teacher", sets, gsd_m=(1.0, 0.5))
    soften(request, quiet=True)
    return teacher, request


def test_soft_labels_of_another_teacher_stride_or_view_are_neither_kept_nor_renamed(tmp_path: Path) -> None:
    settings, request = softened(tmp_path)
    facts = (tmp_path / "soft" / "0" / "soft.json").read_text()
    (tmp_path / "soft" / "0" / "1.npy").unlink()
    finetune(settings.model_copy(update={"seed": 1}), tmp_path / "other")
    twice = request.sets[0].model_copy(update={"gsd_m": 0.5})
    for changed, problem in (
        (replace(request, run=tmp_path / "other"), "teacher made"),
        (replace(request, gsd_m=(1.0,)), "views_m"),
        (replace(request, largest_enlargement=1.1), "views_m"),
        (replace(request, sets=(twice,)), "stride 2, not 4"),
    ):
        with pytest.raises(DataRefused, match=f"holds soft labels of {problem}.*give another folder"):
            soften(changed, quiet=True)
        assert (tmp_path / "soft" / "0" / "soft.json").read_text() == facts
    assert soften(request, quiet=True) == 1


def test_a_refused_folder_is_told_before_any_set_is_predicted(tmp_path: Path) -> None:
    _, request = softened(tmp_path)
    for path in (tmp_path / "soft" / "0").iterdir():
        path.unlink()
    (tmp_path / "soft" / "1" / "soft.json").unlink()
    with pytest.raises(DataRefused, match=r"no soft\.json that says of what teacher"):
        soften(request, quiet=True)
    assert not list((tmp_path / "soft" / "0").glob("*.npy"))


def test_soft_labels_of_an_earlier_version_are_learnt_from_and_completed(tmp_path: Path) -> None:
    settings, request = softened(tmp_path)
    for folder in (tmp_path / "soft").iterdir():
        facts = json.loads((folder / "soft.json").read_text())
        assert facts.pop("views_m") == ([1.0, 0.8] if folder.name == "0" else [1.0, 0.5])
        (folder / "soft.json").write_text(json.dumps(facts))
    (tmp_path / "soft" / "0" / "1.npy").unlink()
    assert soften(request, quiet=True) == 1
    student = settings.model_copy(update={"data": settings.data.model_copy(update={"sets": request.sets})})
    task = ManySetsTask(student, mixture_of(student))
    assert len(task.draw(Slice(0, student.stages[0], range(4)))) == 3


def test_soft_labels_of_heads_in_another_order_are_refused(tmp_path: Path) -> None:
    """Their channels lie in the order of the heads: each head would learn those of the other."""
    made = SoftFacts({"cover": 3, "coarse": 3}, 2, "made")
    claim_folder(tmp_path, made)
    np.save(tmp_path / "0.npy", np.zeros((6, 4, 4), np.uint8))
    with pytest.raises(SettingsRefused, match="in this order"):
        SoftLabels(tmp_path, {"coarse": 3, "cover": 3})
    with pytest.raises(DataRefused, match="holds soft labels of heads"):
        claim_folder(tmp_path, replace(made, heads={"coarse": 3, "cover": 3}))


def test_soft_labels_that_lack_an_image_or_are_of_another_one_are_refused_before_a_step(tmp_path: Path) -> None:
    settings, request = softened(tmp_path)
    student = settings.model_copy(update={"data": settings.data.model_copy(update={"sets": request.sets})})
    path = tmp_path / "soft" / "0" / "1.npy"
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(DataMissing, match=r"1\.npy: no soft label of this image"):
        mixture_of(student)
    path.write_bytes((tmp_path / "soft" / "1" / "1.npy").read_bytes())
    with pytest.raises(DataRefused, match="it has 5x8x8 cells and its image of 160x160 pixels takes 5x80x80"):
        mixture_of(student)
    path.write_bytes(whole)
    mixture_of(student)


def test_two_images_never_share_a_file_of_soft_labels(tmp_path: Path) -> None:
    _, request = softened(tmp_path)
    # The images of both sets are called 0 and 1.
    one = tuple(item.model_copy(update={"soft": tmp_path / "one", "gsd_m": 1.0}) for item in request.sets)
    with pytest.raises(SettingsRefused, match=r"would be one file, 0\.npy: give each set a folder of its own"):
        soften(replace(request, sets=one), quiet=True)
    assert not list((tmp_path / "one").glob("*.npy"))
    with pytest.raises(SettingsRefused, match="none of them has `soft`"):
        soften(replace(request, sets=(SetSettings(set="dubai"),)), quiet=True)


def test_soften_finds_sets_where_the_configuration_says_that_they_lie(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, request = softened(tmp_path)
    cover, moved = Path(settings.data.sets[0].set), tmp_path / "moved"
    moved.mkdir()
    for folder in ("images", "labels"):
        (cover.parent / folder).rename(moved / folder)
    told = settings.model_dump(mode="json")
    told["data"] |= {"root": str(moved), "sets": [{"set": str(cover), "soft": str(tmp_path / "new")}]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    command = ["soften", "--config", str(tmp_path / "config.yaml"), "--teacher", str(request.run), "--quiet"]
    assert cli.main(command) == 0, capsys.readouterr().err
    assert "soft labels of 2 images written" in capsys.readouterr().out


def test_a_soft_label_has_its_name_only_once_its_bytes_are_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    _write(tmp_path / "0.npy", np.ones((2, 3, 3), np.uint8))
    assert synced == ["0.npy.new", tmp_path.name]
    assert np.load(tmp_path / "0.npy").sum() == 18


def test_a_soft_label_is_held_to_what_a_label_allows(settings: FinetuneSettings) -> None:
    head = ManySetsTask(settings, mixture_of(settings)).heads[0]
    probability = torch.tensor([0.2, 0.2, 0.6]).reshape(1, 3, 1, 1).repeat(1, 1, 2, 2)
    codes = torch.zeros((1, 4, 4), dtype=torch.long)
    codes[0, :2, :2] = 4  # roof 0.5, green 1.0, no water
    codes[0, 2:, 2:] = 3  # water, a single class
    held = head.held_to_labels(probability, codes)
    assert held[0, :, 0, 0].tolist() == pytest.approx([1 / 3, 2 / 3, 0.0])
    assert held[0, :, 0, 1].tolist() == pytest.approx([0.2, 0.2, 0.6])
    assert held[0, :, 1, 1].tolist() == pytest.approx([0.2, 0.2, 0.6])


def test_imagery_without_labels_needs_soft_ones(tmp_path: Path) -> None:
    settings = many_sets_settings(tmp_path)
    plain = write_set(tmp_path, "plain", 64, 1, labels=None, classes=[])
    assert open_set(plain).read("0").labels.max() == 0
    sets = (*settings.data.sets, settings.data.sets[0].model_copy(update={"set": plain}))
    with pytest.raises(SettingsRefused, match="mean nothing to any head"):
        mixture_of(settings.model_copy(update={"data": settings.data.model_copy(update={"sets": sets})}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": {}}, "go together"),
        ({"data": {"gsd_m": 0}}, "greater than 0"),
        ({"data": {"gsd_m": -1}}, "greater than 0"),
        ({"data": {"sets": [{"set": "dubai", "gsd_m": 0}]}}, "greater than 0"),
        ({"data": {"sets": [{"set": "dubai", "weight": 0}]}}, "greater than 0"),
        ({"data": {"sets": [{"set": "dubai"}], "names": ["a"]}}, "no `names`"),
        ({"model": {"classes": 3}}, "are those of|the others are"),
    ],
)
def test_settings_that_do_not_hold_together_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    told = many_sets_settings(tmp_path).model_dump(mode="json")
    for name, value in change.items():
        told[name] = told[name] | value if isinstance(value, dict) and value else value
    if "model" in change:
        told["model"]["heads"] = {}
    with pytest.raises(SettingsRefused, match=message):
        checked_settings(told, FinetuneSettings, "made")


@pytest.mark.parametrize("stride", [3, 8])
def test_labels_at_steps_that_soft_labels_do_not_share_are_refused_before_any_work(tmp_path: Path, stride: int) -> None:
    told = many_sets_settings(tmp_path).model_dump(mode="json") | {"label_stride": stride}
    checked_settings(told, FinetuneSettings, "made")
    told["data"]["sets"][0]["soft"] = str(tmp_path / "soft")
    with pytest.raises(SettingsRefused, match=f"label_stride {stride}: with soft labels it has to be 1, 2 or 4"):
        checked_settings(told, FinetuneSettings, "made")


def test_a_set_without_its_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    settings = many_sets_settings(tmp_path)
    gone = write_set(tmp_path, "gone", 64, 1, folder="elsewhere")
    sets = (*settings.data.sets, settings.data.sets[0].model_copy(update={"set": gone}))
    with pytest.raises(DataMissing, match="no folder"):
        finetune(
            settings.model_copy(update={"data": settings.data.model_copy(update={"sets": sets})}), tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_a_translation_into_classes_that_the_head_has_not_is_refused(tmp_path: Path) -> None:
    settings = many_sets_settings(tmp_path)
    cover = settings.heads["cover"].classes_of
    odd = write_set(tmp_path, "odd", 64, 1, translations={cover: {"roof": "tower"}})
    sets = (*settings.data.sets, settings.data.sets[0].model_copy(update={"set": odd}))
    with pytest.raises(SettingsRefused, match="translates into tower; head cover has roof, green, water"):
        mixture_of(settings.model_copy(update={"data": settings.data.model_copy(update={"sets": sets})}))


def test_a_head_that_no_set_has_labels_for_is_refused(tmp_path: Path) -> None:
    settings = many_sets_settings(tmp_path)
    sets = settings.data.sets[:1]
    with pytest.raises(SettingsRefused, match="no set has labels for it"):
        mixture_of(settings.model_copy(update={"data": settings.data.model_copy(update={"sets": sets})}))


def test_a_head_of_weight_0_needs_no_labels_and_stays_as_it_was(tmp_path: Path) -> None:
    settings = many_sets_settings(tmp_path)
    heads = settings.heads | {"coarse": settings.heads["coarse"].model_copy(update={"weight": 0.0})}
    data = settings.data.model_copy(update={"sets": settings.data.sets[:1]})
    own = settings.model_copy(update={"heads": heads, "data": data})
    task = ManySetsTask(own, mixture_of(own))
    losses = task.losses(task.network, task.draw(Slice(0, own.stages[0], range(4))))
    losses["total"].backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in task.segmenter.heads["coarse"].parameters()]
    assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_a_head_of_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    settings = many_sets_settings(tmp_path)
    model = settings.model.model_copy(update={"classes": 4})
    with pytest.raises(SettingsRefused, match="its table has 3 classes and the model's head 4"):
        ManySetsTask(settings.model_copy(update={"model": model}), mixture_of(settings))


def test_a_translation_of_a_class_that_the_set_has_not_is_refused(tmp_path: Path) -> None:
    odd = write_set(tmp_path, "odd", 64, 1, translations={"dubai": {"tower": "building"}})
    with pytest.raises(SettingsRefused, match="names \\['tower'\\]"):
        open_set(odd)
