from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from tests.trainer.lite_weights import published
from trainer.config import Stage
from trainer.data.augment import Crop, resized_crop
from trainer.errors import DataMissing
from trainer.finetune import source_teacher
from trainer.finetune.source_teacher import (
    ImageNetTarget,
    SourceNetwork,
    SourceSettings,
    SourceTask,
    read_places,
    train_source_teacher,
)
from trainer.models.mmoa import MMoASettings
from trainer.models.teachers.sam import sam_teacher
from trainer.models.teachers.settings import SamShape, TeacherSettings
from trainer.training.record import read_record
from trainer.training.task import Slice

SHAPE = SamShape(width=16, depth=2, heads=2, window=3, global_blocks=(2,), image=64, patch=8)


def settings(root: Path, **more: object) -> SourceSettings:
    given = {
        "name": "tiny", "shape": SHAPE, "root": root, "images": "places", "seeds": (3001,), "max_steps": 2,
        "stages": [{"until": 1.0, "crop": 64, "batch": 4}], "learning_rate": 1e-3, **more,
    }  # fmt: skip
    return SourceSettings.model_validate(given)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for kind in ("field", "harbour"):
        (tmp_path / "places" / kind).mkdir(parents=True)
        for number in range(3):
            image = Image.fromarray(rng.integers(0, 255, (70, 80, 3), dtype=np.uint8))
            image.save(tmp_path / "places" / kind / f"{number}.jpg")
    torch.save(published("lite2"), tmp_path / "lite2.pth")
    return tmp_path


def test_what_comes_out_is_a_teacher_that_computes_what_was_learnt(root: Path) -> None:
    figures = train_source_teacher(settings(root), root / "run", root / "teacher")
    assert set(figures) == {"place_accuracy", "ground_miou"}
    teacher = sam_teacher(
        TeacherSettings(weights=root / "teacher", levels=(1, 2), patch=8, mmoa=MMoASettings(adapters="none"))
    )
    learnt = SourceNetwork(SHAPE, 2)
    learnt.encoder.load_state_dict(teacher.encoder.state_dict())
    seen: list[torch.Tensor] = []
    learnt.norm.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    pixels = torch.rand(1, 3, 64, 64) * 255
    learnt(pixels)
    torch.testing.assert_close(teacher(pixels, None).last, seen[0].flatten(1, 2), rtol=1e-4, atol=1e-5)


def test_what_another_network_sees_is_one_of_the_losses(root: Path) -> None:
    train_source_teacher(settings(root, seen_by=root / "lite2.pth"), root / "run", root / "teacher")
    rows = read_record(root / "run")
    for row in rows:
        parts = sum(float(row[name]) for name in ("place", "ground", "sight"))
        assert float(row["total"]) == pytest.approx(parts, rel=1e-5)


def test_what_is_seen_has_mean_nought_and_deviation_one_and_learns_nothing(root: Path) -> None:
    seer = ImageNetTarget(root / "lite2.pth").train()
    seen = seer(torch.randn(2, 3, 64, 64), 8)
    assert seen.shape == (2, 8, 8, seer.channels)
    varied = seen.std(dim=(0, 1, 2)) > 0.5  # a channel that ReLU6 holds still stays still
    assert varied.float().mean() > 0.9
    torch.testing.assert_close(seen.mean(dim=(0, 1, 2)), torch.zeros(seer.channels), atol=1e-4, rtol=0)
    assert not any(parameter.requires_grad for parameter in seer.parameters())


def test_small_crops_learn_every_corner_of_the_positions() -> None:
    torch.manual_seed(0)
    network = SourceNetwork(SHAPE, 2)
    table = network.encoder.pos_embed
    assert table is not None
    learnt = torch.zeros(8, 8)
    for _ in range(100):  # crops of 3 x 3 tokens, out of 8 x 8
        table.grad = None
        network(torch.rand(1, 3, 24, 24) * 255)["place"].sum().backward()
        grad: torch.Tensor | None = table.grad
        assert grad is not None
        moved = grad[0].abs().amax(dim=-1) > 0
        assert int(moved.sum()) == 9
        learnt += moved
    assert (learnt > 0).all()


def test_a_small_crop_of_a_place_shows_as_much_less_of_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = SourceTask(settings(root), read_places(root / "places"))
    extents: dict[int, list[int]] = {}

    def noted(crop: Crop, side: int) -> tuple[torch.Tensor, torch.Tensor]:
        extents.setdefault(side, []).append(crop.labels.shape[0])
        return resized_crop(crop, side)

    monkeypatch.setattr(source_teacher, "resized_crop", noted)
    for side in (64, 32):
        for step in range(8):
            task.draw(Slice(step, Stage(until=1.0, crop=side, batch=2), range(0, 1)))
    assert all(52 <= extent <= 70 for extent in extents[64])
    assert all(26 <= extent <= 35 for extent in extents[32])


def test_crops_that_are_no_whole_patches_are_refused(root: Path) -> None:
    with pytest.raises(ValidationError, match="whole patches of 8, 64 at most"):
        settings(root, stages=[{"until": 1.0, "crop": 60, "batch": 4}])


def test_a_folder_without_places_says_what_it_wants(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="JPEG in folders"):
        read_places(tmp_path)
