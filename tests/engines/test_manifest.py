from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engines.errors import ManifestError, ModelMismatch
from engines.manifest import (
    Band,
    ClassInfo,
    DataSet,
    Evaluation,
    GoldenTile,
    Manifest,
    ModelFile,
    ModelInput,
    ModelOutput,
    Training,
)
from engines.open import manifest_path
from engines.testing import manifest_for_testing

slugs = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,20}", fullmatch=True)
files = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
shares = st.floats(0, 1)
zones = st.integers(-12 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2200, 1, 1), timezones=zones)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    names = draw(st.lists(slugs, min_size=1, max_size=6, unique=True))
    tile_size = draw(st.integers(1, 4096))
    precision = draw(st.sampled_from(["fp32", "fp16", "int8"]))
    settings = st.dictionaries(texts, st.booleans() | st.integers(-(2**53), 2**53) | texts, max_size=3)
    iou = st.dictionaries(st.sampled_from(names), st.none() | shares)
    return Manifest(
        name=draw(slugs),
        version=draw(slugs),
        created=draw(times),
        description=draw(st.text(st.characters(codec="utf-8"), max_size=20)),
        total_parameters=draw(st.none() | st.integers(0, 10**12)),
        model=ModelFile(file=draw(files), sha256=draw(digests), bytes=draw(st.integers(1, 10**12))),
        input=ModelInput(
            bands=tuple(Band(name=name, common_name=name) for name in names),
            tile_size=tile_size,
            value_scaling=draw(texts),
        ),
        output=ModelOutput(confidence=draw(st.none() | texts)),
        halo=draw(st.integers(0, (tile_size - 1) // 2)),
        classes=tuple(
            ClassInfo(code=code, name=name, title=name, color=f"#{draw(st.integers(0, 0xFFFFFF)):06x}")
            for code, name in enumerate(names, 1)
        ),
        precision=precision,
        opset=draw(st.integers(1, 30)),
        training=draw(
            st.none()
            | st.builds(
                Training,
                data_sets=st.tuples(st.builds(DataSet, name=texts, license=texts)),
                license=texts, commit=texts, seed=st.integers(), epochs=st.floats(0, 1e6), hyperparameters=settings,
            )
        ),
        evaluation=tuple(
            draw(
                st.lists(
                    st.builds(
                        Evaluation, data_set=texts, split=texts, per_class_iou=iou, miou=shares, oa=shares, mf1=shares
                    ),
                    max_size=2,
                )
            )
        ),
        golden=draw(
            st.none() | st.builds(GoldenTile, file=files, sha256=digests, least_agreement=st.just({precision: 0.5}))
        ),
    )  # fmt: skip


@given(manifests())
def test_a_manifest_survives_its_own_json(manifest: Manifest) -> None:
    again = Manifest.model_validate_json(manifest.to_json(), strict=True)
    assert again == manifest
    assert again.to_json() == manifest.to_json()


def test_it_is_written_and_read_in_its_folder(tmp_path: Path) -> None:
    manifest = manifest_for_testing()
    assert Manifest.load(manifest.save(tmp_path)) == manifest
    assert Manifest.load(tmp_path) == manifest


def test_times_are_kept_in_utc() -> None:
    fields = manifest_for_testing().model_dump() | {"created": "2024-05-06T07:00:00+02:00"}
    assert '"created": "2024-05-06T05:00:00Z"' in Manifest.model_validate(fields).to_json()
    with pytest.raises(ValidationError, match="timezone"):
        Manifest.model_validate(fields | {"created": "2024-05-06T07:00:00"})


def test_it_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        manifest_for_testing().halo = 3  # type: ignore[misc]


def test_class_titles_go_by_code() -> None:
    assert manifest_for_testing(classes=2).class_titles == {1: "class 1", 2: "class 2"}


def _renumbered(fields: dict[str, Any]) -> None:
    fields["classes"][1]["code"] = 3


def _named_twice(fields: dict[str, Any]) -> None:
    fields["classes"][1]["name"] = "class_1"


def _titled_twice(fields: dict[str, Any]) -> None:
    fields["classes"][1]["title"] = "class 1"


def _evaluated_elsewhere(fields: dict[str, Any]) -> None:
    figures = {"miou": 0.5, "oa": 0.5, "mf1": 0.5}
    fields["evaluation"] = [{"data_set": "d", "split": "s", "per_class_iou": {"swamp": 0.1}, **figures}]


def _golden_of_another_precision(fields: dict[str, Any]) -> None:
    fields["golden"] = {"file": "golden.npz", "sha256": "0" * 64, "least_agreement": {"int8": 0.9}}


def _put(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def put(fields: Any) -> None:
        for key in path[:-1]:
            fields = fields[key]
        fields[path[-1]] = value

    return put


@pytest.mark.parametrize(
    ("spoil", "key", "says"),
    [
        (_renumbered, "classes", "number them 1..5"),
        (_named_twice, "classes", "names given twice: class_1"),
        (_titled_twice, "classes", "titles given twice: class 1"),
        (_evaluated_elsewhere, "", "swamp"),
        (_golden_of_another_precision, "", "own precision, fp32"),
        (_put("halo", value=512), "", "halo 512 is not less than half the tile of 1024"),
        (_put("halo", value=-1), "halo", "greater than or equal to 0"),
        (_put("halo", value="4"), "halo", "valid integer"),
        (_put("classes", 0, "color", value="red"), "classes.0.color", "pattern"),
        (_put("classes", 0, "code", value=0), "classes.0.code", "greater than or equal to 1"),
        (_put("classes", value=[]), "classes", "at least 1"),
        (_put("model", "sha256", value="A" * 64), "model.sha256", "pattern"),
        (_put("model", "file", value="../model.onnx"), "model.file", "pattern"),
        (_put("model", "file", value="/etc/passwd"), "model.file", "pattern"),
        (_put("input", "data_type", value="float32"), "input.data_type", "'uint8'"),
        (_put("input", "bands", value=[]), "input.bands", "at least 1"),
        (_put("schema_version", value=3), "schema_version", "update this software if the model is newer"),
        (_put("colour", value="x"), "colour", "remove this key, or update this software"),
        (_put("classes", 0, "alpha", value=1), "classes.0.alpha", "remove this key"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_wrong_is_refused_by_file_key_and_remedy(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], None], key: str, says: str
) -> None:
    fields = json.loads(manifest_for_testing().to_json())
    spoil(fields)
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(fields))
    with pytest.raises(ManifestError) as caught:
        Manifest.load(file)
    message = str(caught.value)
    assert (caught.value.path, caught.value.key) == (file, key)
    assert message.startswith(f"{file}: {key}")
    assert says in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    fields = json.loads(manifest_for_testing().to_json())
    del fields["input"]["tile_size"], fields["opset"]
    (tmp_path / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(ManifestError, match=r"input\.tile_size: Field required \(and 1 more\); add this key"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_what_is_no_manifest_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "manifest.json"
    file.write_bytes(content)
    with pytest.raises(ManifestError, match=r"manifest\.json: .+; .+") as caught:
        Manifest.load(file)
    assert "\n" not in str(caught.value)


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    file.write_text(manifest_for_testing().to_json() + " " * (2 << 20))
    with pytest.raises(ManifestError, match="larger than 1048576 bytes"):
        Manifest.load(file)


def test_a_manifest_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="No such file"):
        Manifest.load(tmp_path)


def test_a_model_file_is_read_only_as_the_one_described(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights")
    entry = ModelFile.of(path)
    assert entry.read_verified(tmp_path) == b"weights"
    with pytest.raises(ModelMismatch, match="7 bytes"):
        entry.model_copy(update={"bytes": 8}).read_verified(tmp_path)
    path.write_bytes(b"weighty")
    with pytest.raises(ModelMismatch) as caught:
        entry.read_verified(tmp_path)
    assert entry.sha256 in str(caught.value)
    assert ModelFile.of(path).sha256 in str(caught.value)
    assert "copy model file and manifest again" in str(caught.value)
    path.unlink()
    with pytest.raises(ModelMismatch, match="not readable"):
        entry.read_verified(tmp_path)


def with_sides(**changes: object) -> dict[str, Any]:
    fields = json.loads(manifest_for_testing(tile_size=1024).to_json())
    fields["input"] |= changes
    return cast("dict[str, Any]", fields)


def test_sides_of_tiles_come_back_as_they_were_written(tmp_path: Path) -> None:
    manifest = manifest_for_testing(tile_size=1024, tile_sides=(512, 704, 1024))
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    assert Manifest.load(tmp_path).input.sides == (512, 704, 1024)
    assert json.loads((tmp_path / "manifest.json").read_text())["input"]["tile_sides"] == [512, 704, 1024]


def test_a_manifest_without_sides_says_nothing_of_them(tmp_path: Path) -> None:
    """Byte for byte: software of before there were sides refuses keys that it does not know."""
    manifest = manifest_for_testing(tile_size=1024)
    assert "tile_sides" not in manifest.to_json()
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path).to_json() == manifest.to_json()
    assert Manifest.load(tmp_path).input.sides == (1024,)


@pytest.mark.parametrize("name", ["landcover", "landcover-fp16", "dubai-lite"])
def test_shipped_manifests_are_written_as_they_are(name: str) -> None:
    file = manifest_path(name)
    assert json.loads(Manifest.load(file).to_json()).get("input") == json.loads(file.read_text())["input"]


@pytest.mark.parametrize(
    ("sides", "problem"),
    [
        ([512, 700, 1024], "give multiples of 64 from 256 on, in rising order"),
        ([768, 512, 1024], "give multiples of 64 from 256 on, in rising order"),
        ([512, 512, 1024], "give multiples of 64 from 256 on, in rising order"),
        ([0, 1024], "give multiples of 64 from 256 on, in rising order"),
        ([192, 1024], "give multiples of 64 from 256 on, in rising order"),
        ([512, 768], "the largest of tile_sides is 768, tile_size is 1024"),
        ([512, 1280], "the largest of tile_sides is 1280, tile_size is 1024"),
        ([], "at least 1 item"),
    ],
)
def test_sides_that_no_tile_can_have_are_refused(tmp_path: Path, sides: list[int], problem: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(with_sides(tile_sides=sides)))
    with pytest.raises(ManifestError, match=problem):
        Manifest.load(tmp_path)
