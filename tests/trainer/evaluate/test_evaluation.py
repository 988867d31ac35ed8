"""Evaluation with an engine whose answers are known: it says the red band."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from numpy.typing import NDArray
from PIL import Image

from engines.metrics import Confusion
from engines.testing import IdentityEngine, manifest_for_testing
from trainer.cli import main
from trainer.data.sets import LabelledSet, open_set
from trainer.errors import DataRefused
from trainer.evaluate.bootstrap import block_bootstrap
from trainer.evaluate.evaluation import evaluate
from trainer.evaluate.report import Report

MANIFEST = manifest_for_testing("identity", tile_size=128, classes=3)
SIZES = {"north/1": (600, 530), "south/1": (90, 40)}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a model that the engine stands in for."""
    (tmp_path / "model").mkdir()
    MANIFEST.save(tmp_path / "model")

    def opened(folder: Path, **_: Any) -> IdentityEngine:
        assert folder == tmp_path / "model"
        engine = IdentityEngine(128)
        engine.manifest = MANIFEST
        return engine

    monkeypatch.setattr("trainer.evaluate.evaluation.open_engine", opened)
    return tmp_path / "model"


@pytest.fixture
def labelled(tmp_path: Path) -> LabelledSet:
    """Two PNGs of one file name in two folders; red is right in about two thirds of the pixels."""
    classes = [
        {"code": code, "name": f"class_{code}", "title": f"Class {code}", "colour": "#000000", "codes": [code]}
        for code in (1, 2, 3)
    ]
    description = {
        "name": "made", "title": "Made", "source": "made", "licence": "CC0", "folder": "made",
        "images": "{area}/{id}.png", "labels": "labels/{area}/{id}.png", "ignore": {"codes": [0]}, "classes": classes,
        "splits": {"test": {"names": ["*"]}},
    }  # fmt: skip
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(description))
    for seed, (name, (height, width)) in enumerate(SIZES.items()):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 4, (height, width)).astype(np.uint8)
        labels[:, 512:] = 0  # a block without labels
        red = np.where(rng.random((height, width)) < 0.5, labels, rng.integers(1, 4, (height, width)))
        image = np.stack([np.maximum(red, 1), *np.full((2, height, width), 128)], axis=-1).astype(np.uint8)
        for path, values in ((f"{name}.png", image), (f"labels/{name}.png", labels)):
            (tmp_path / "made" / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(tmp_path / "made" / path)
    return open_set(str(tmp_path / "made.yaml"))


def truth_and_map(labelled: LabelledSet, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    scene = labelled.read(name)
    return scene.labels, scene.pixels[0]


def test_images_that_are_no_geotiffs_are_mapped_whole_and_every_labelled_pixel_counts_once(
    model: Path, labelled: LabelledSet
) -> None:
    evaluated = evaluate([(model, labelled.split("test"))], labelled)
    expected = Confusion(3)
    for name in SIZES:
        one = Confusion(3)
        one.add(*truth_and_map(labelled, name))
        assert evaluated.images[name].iou == pytest.approx(one.scores().iou)
        expected.merge(one)
    assert np.array_equal(evaluated.confusion.counts[1:], expected.counts[1:])
    assert evaluated.pooled.pixels == expected.counts[1:].sum()


def test_blocks_are_of_512_pixels_and_those_without_labels_are_left_out(model: Path, labelled: LabelledSet) -> None:
    evaluated = evaluate([(model, ["north/1"])], labelled)
    truth, mapped = truth_and_map(labelled, "north/1")
    expected = []
    for rows in (slice(0, 512), slice(512, 600)):
        block = Confusion(3)
        block.add(truth[rows, :512], mapped[rows, :512])
        expected.append(block.counts)
    assert np.array_equal(evaluated.blocks, np.stack(expected))


@pytest.mark.usefixtures("labelled")
def test_what_is_read_at_another_resolution_is_counted_on_the_labels_grid(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells of four pixels of 0.5 m, a model of 1 m: nothing of them is lost."""
    cells = np.random.default_rng(0).integers(1, 4, (25, 30), dtype=np.uint8)
    codes = np.repeat(np.repeat(cells, 4, 0), 4, 1)
    keys: dict[str, Any] = {"driver": "GTiff", "width": 120, "height": 100, "dtype": "uint8", "crs": "EPSG:32640"}
    for path, count in (("image.tif", 3), ("labels/image.tif", 1)):
        place = rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 2.8e6)
        with rasterio.open(tmp_path / "made" / path, "w", count=count, transform=place, **keys) as file:
            file.write(np.broadcast_to(codes, (count, 100, 120)))
    description = yaml.safe_load((tmp_path / "made.yaml").read_text())
    (tmp_path / "placed.yaml").write_text(
        yaml.safe_dump(description | {"images": "{id}.tif", "labels": "labels/{id}.tif"})
    )
    engine = IdentityEngine(128)
    engine.manifest = MANIFEST.model_copy(update={"gsd_m": 1.0})
    monkeypatch.setattr("trainer.evaluate.evaluation.open_engine", lambda *_, **__: engine)
    evaluated = evaluate([(model, ["image"])], open_set(str(tmp_path / "placed.yaml")))
    assert evaluated.pooled.pixels == 120 * 100
    assert evaluated.pooled.miou == 1


def test_a_bad_label_is_told_before_anything_is_mapped(
    model: Path, labelled: LabelledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    (labelled.folder / "labels" / "south" / "1.png").unlink()
    monkeypatch.setattr("trainer.evaluate.evaluation.open_engine", None)
    with pytest.raises(DataRefused, match="without this label"):
        evaluate([(model, labelled.split("test"))], labelled)


@pytest.mark.usefixtures("labelled")
def test_an_image_of_two_folds_is_refused(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folds = [part for names in ("north/1,south/1", "south/1") for part in ("--fold", f"{model}={names}")]
    assert main(["evaluate", "--model", str(model), "--set", str(tmp_path / "made.yaml"), *folds]) == 2
    assert "image south/1 is given for two models; name each image once" in capsys.readouterr().err


def test_a_report_says_the_same_in_json_and_markdown(tmp_path: Path, model: Path, labelled: LabelledSet) -> None:
    evaluated = evaluate([(model, labelled.split("test"))], labelled)
    intervals = block_bootstrap(evaluated.blocks, draws=100, seed=5)
    Report("identity 1", "split test", evaluated, intervals).write(tmp_path / "out" / "deep")
    told = json.loads((tmp_path / "out" / "deep" / "evaluation.json").read_text())
    pooled = evaluated.pooled
    assert told["all"]["miou"] == pytest.approx(pooled.miou, abs=1e-6)
    assert list(told["images"]) == ["north/1", "south/1"]
    assert told["confusion"]["columns"] == ["no_data", "class_1", "class_2", "class_3"]
    assert told["confusion"]["pixels"] == evaluated.confusion.counts[1:].tolist()
    assert told["bootstrap"]["miou"]["low"] <= pooled.miou <= told["bootstrap"]["miou"]["high"]
    assert (told["bootstrap"]["blocks"], told["bootstrap"]["seed"]) == (3, 5)
    markdown = (tmp_path / "out" / "deep" / "evaluation.md").read_text()
    assert f"**mIoU {pooled.miou:.4f}**" in markdown
    assert f"| Class 2 | {pooled.iou[1]:.4f} | {pooled.f1[1]:.4f} |" in markdown
    assert "(confusion.png)" in markdown
    with Image.open(tmp_path / "out" / "deep" / "confusion.png") as picture:
        assert picture.width > 400


def test_a_class_in_neither_map_nor_truth_is_none_not_zero(model: Path, labelled: LabelledSet) -> None:
    evaluated = evaluate([(model, labelled.split("test"))], labelled)
    evaluated.confusion.counts[3, :] = evaluated.confusion.counts[:, 3] = 0
    report = Report("identity 1", "split test", evaluated, None)
    assert report.as_json()["all"]["iou"]["class_3"] is None
    assert "| Class 3 | none | none | 0.0% |" in report.markdown()
    assert "interval" not in report.markdown()


def test_the_command_prints_the_figures_and_writes_the_report(
    tmp_path: Path, model: Path, labelled: LabelledSet, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml_path, out = str(tmp_path / "made.yaml"), tmp_path / "out"
    command = ["evaluate", "--model", str(model), "--set", yaml_path]
    assert main([*command, "--names", "south/*", "--out", str(out), "--bootstrap", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["class_1", "south/1", "all", "mIoU"]
    assert json.loads((out / "evaluation.json").read_text())["bootstrap"]["draws"] == 20
    assert main([*command, "--fold", f"{model}=north/1", "--fold", f"{model}=south/1"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["north/1", "south/1", "all"]
    assert main([*command, "--split", "none"]) == 2
    assert f"trainer: {labelled.name}: no split 'none'" in capsys.readouterr().err


@pytest.mark.usefixtures("labelled")
def test_a_shipped_model_may_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is found: what is refused is that its classes are not those of the set."""
    made = ["--set", str(tmp_path / "made.yaml")]
    assert main(["evaluate", "--model", "dubai-lite", *made]) == 2
    assert "dubai-lite: its classes are [(1, 'building')" in capsys.readouterr().err
    assert main(["evaluate", "--model", "dubai-lite", *made, "--fold", "dubai-lite=north/1"]) == 2
    assert "dubai-lite: its classes are [(1, 'building')" in capsys.readouterr().err


@pytest.mark.usefixtures("labelled")
def test_a_model_may_be_named_by_its_manifest_and_is_recorded_there(tmp_path: Path, model: Path) -> None:
    manifest = model / "manifest.json"
    command = ["evaluate", "--model", str(manifest), "--set", str(tmp_path / "made.yaml"), "--names", "south/*"]
    assert main([*command, "--record", "south"]) == 0
    assert [row["split"] for row in json.loads(manifest.read_text())["evaluation"]][-1] == "south"


def test_what_cannot_be_written_or_recorded_is_one_line_before_anything_is_mapped(
    tmp_path: Path, model: Path, labelled: LabelledSet, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    command = ["evaluate", "--model", str(model), "--set", str(tmp_path / "made.yaml"), "--names", "south/*"]
    monkeypatch.setattr("trainer.evaluate.evaluation.open_engine", None)
    assert main([*command, "--out", str(tmp_path / "made.yaml")]) == 1
    assert capsys.readouterr().err == f"trainer: {tmp_path}/made.yaml: file exists\n"
    Image.fromarray(np.zeros(SIZES["south/1"], np.uint8)).save(labelled.folder / "labels" / "south" / "1.png")
    assert main([*command, "--record", "south"]) == 2
    assert "no pixel of these images of made is labelled" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--bootstrap", "-3"])
    assert "--bootstrap: -3 is less than 0" in capsys.readouterr().err
