from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.cli import main
from engines.errors import GoldenFailed, ManifestError, ModelMismatch
from engines.manifest import GoldenTile, Manifest
from engines.open import open_engine
from engines.testing import ConstantEngine
from engines.verify import pixel_agreement, read_golden, verify_golden, write_golden
from tests.tiny_heads import write_heads_model

MakeModel = Callable[..., Path]


def regolden(folder: Path, **arrays: Any) -> None:
    """Puts another golden file into the folder and its digest into the manifest."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    reseal(folder, buffer.getvalue())


def reseal(folder: Path, content: bytes, **least: float) -> None:
    (folder / "golden.npz").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    golden = GoldenTile.model_validate(
        {"file": "golden.npz", "sha256": digest, "least_agreement": least or {"fp32": 0.999}}
    )
    Manifest.load(folder).model_copy(update={"golden": golden}).save(folder)


def test_the_tiny_model_repeats_its_golden_tile(tiny_model: Path) -> None:
    with open_engine(tiny_model, check_golden=False) as engine:
        check = verify_golden(engine)
        assert check is not None
        tiles, expected = read_golden(engine.manifest, tiny_model)
    assert (check.agreement, check.required) == (1.0, 0.999)
    assert check.output_sha256 == hashlib.sha256(expected.tobytes()).hexdigest()
    assert tiles.shape == (1, 3, 32, 32)


def test_a_model_without_golden_tile_has_nothing_to_verify(make_model: MakeModel) -> None:
    with open_engine(make_model(manifest={"golden": None})) as engine:
        assert verify_golden(engine) is None
    assert verify_golden(ConstantEngine(tile_size=32)) is None


def test_an_engine_that_collapsed_to_one_class_fails(tiny_model: Path) -> None:
    collapsed = ConstantEngine(tile_size=32)
    collapsed.manifest, collapsed.folder = Manifest.load(tiny_model), tiny_model
    with pytest.raises(GoldenFailed, match="use another backend or precision") as caught:
        verify_golden(collapsed)
    assert 0 < caught.value.agreement < 0.9


@pytest.mark.parametrize(("wrong_pixels", "passes"), [(1, True), (2, False)])
def test_the_least_agreement_decides(make_model: MakeModel, wrong_pixels: int, passes: bool) -> None:
    folder = make_model()
    tiles, classes = read_golden(Manifest.load(folder), folder)
    classes.flat[:wrong_pixels] = classes.flat[:wrong_pixels] % 4 + 1
    golden = write_golden(folder, tile=tiles[0], classes=classes, least_agreement={"fp32": 1 - 1.5 / 1024})
    Manifest.load(folder).model_copy(update={"golden": golden}).save(folder)
    with open_engine(folder, check_golden=False) as engine:
        if passes:
            assert verify_golden(engine) is not None
        else:
            with pytest.raises(GoldenFailed):
                verify_golden(engine)


def test_the_least_agreement_itself_is_enough(make_model: MakeModel) -> None:
    folder = make_model()
    reseal(folder, (folder / "golden.npz").read_bytes(), fp32=1.0)
    with open_engine(folder, check_golden=False) as engine:
        assert verify_golden(engine) is not None


def test_a_precision_the_golden_tile_does_not_judge_is_refused(tiny_model: Path) -> None:
    engine = ConstantEngine(tile_size=32)
    engine.manifest, engine.folder = Manifest.load(tiny_model), tiny_model
    engine.precision = "fp16"
    with pytest.raises(ManifestError, match=r"golden\.least_agreement: says nothing of fp16"):
        verify_golden(engine)


def test_a_golden_file_that_was_changed_is_refused(tiny_model: Path) -> None:
    path = tiny_model / "golden.npz"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ModelMismatch, match=r"golden\.npz: sha256"):
        open_engine(tiny_model)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 broken", b"\x93NUMPY"])
def test_a_golden_file_that_is_none_is_refused(tiny_model: Path, content: bytes) -> None:
    reseal(tiny_model, content)
    with pytest.raises(ModelMismatch, match="arrays tile and classes"):
        open_engine(tiny_model)


TILE, CLASSES = np.zeros((3, 32, 32), np.uint8), np.ones((32, 32), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"tile": TILE}, "arrays tile and classes"),
        ({"tile": TILE.astype(np.float32), "classes": CLASSES}, "array tile is float32"),
        ({"tile": TILE[:2], "classes": CLASSES}, "array tile is uint8"),
        ({"tile": TILE, "classes": CLASSES[:5]}, "array classes is uint8"),
        ({"tile": TILE, "classes": np.array([{"a": 1}], dtype=object)}, "arrays tile and classes"),
    ],
)
def test_golden_arrays_of_another_kind_are_refused(tiny_model: Path, arrays: dict[str, Any], says: str) -> None:
    regolden(tiny_model, **arrays)
    with pytest.raises(ModelMismatch, match=says):
        open_engine(tiny_model)


def test_one_array_or_a_damaged_archive_is_refused(tiny_model: Path) -> None:
    """Damaged before its digest was taken."""
    alone = io.BytesIO()
    np.save(alone, np.zeros((3, 32, 32), np.uint8))
    whole = bytearray((tiny_model / "golden.npz").read_bytes())
    whole[60:90] = bytes(255 - byte for byte in whole[60:90])  # within the first array's compressed bytes
    for content in (alone.getvalue(), bytes(whole)):
        reseal(tiny_model, content)
        with pytest.raises(ModelMismatch, match="content is not readable"):
            read_golden(Manifest.load(tiny_model), tiny_model)


def test_inspect_reads_the_golden_answers_of_all_heads(tmp_path: Path) -> None:
    folder = write_heads_model(tmp_path / "model")
    file = folder / "manifest.json"
    told = json.loads(file.read_text())
    answer = told["heads"][1]["golden"]
    (folder / answer["file"]).write_bytes(b"none")
    answer["sha256"] = hashlib.sha256(b"none").hexdigest()
    file.write_text(json.dumps(told))
    assert main(["inspect", str(folder)]) == 2


def test_equal_golden_tiles_are_equal_files(tmp_path: Path) -> None:
    first = write_golden(tmp_path, tile=TILE, classes=CLASSES, least_agreement={"fp32": 1})
    content = (tmp_path / first.file).read_bytes()
    assert write_golden(tmp_path, tile=TILE, classes=CLASSES, least_agreement={"fp32": 1}) == first
    assert (tmp_path / first.file).read_bytes() == content


def test_agreement_is_the_share_of_equal_pixels() -> None:
    one = np.array([[1, 2], [3, 4]], np.uint8)
    assert pixel_agreement(one, np.array([[1, 2], [3, 1]], np.uint8)) == 0.75
    with pytest.raises(ValueError, match="cannot be compared"):
        pixel_agreement(one, one[:1])
