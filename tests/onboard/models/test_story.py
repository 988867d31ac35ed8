"""Models come up bad links, are verified or refused, map, and are left again; all processes are real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from ground import cli
from ground.model import difference
from ground.model.sign import LIST_FILE
from ground.model.unit import Unit, unit_of
from tests.ground.proxy import cutting_link
from tests.onboard.models.satellite import Station, activate, kinds, mapped_by, models_of, wait_for_state
from tests.onboard.service import Served, running, until, write_scene
from tests.tiny_heads import HEADS, write_heads_model

FAULTY = "tests.onboard.models.faulty_models"
RETRAINED = {"bands": HEADS["bands"], "light": np.float32(2) * HEADS["light"]}
"""The head "light" has other weights, and says the same."""
WITH_ROADS = {**RETRAINED, "roads": -HEADS["light"]}


def put_list(served: Served, raw: bytes) -> tuple[int, str]:
    with served.client() as client:
        answer = client.put("/models/metadata/list", content=raw)
    return answer.status_code, answer.text


def test_a_second_model_comes_up_a_bad_link_in_passes_maps_and_is_left_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(difference, "LEAST_BYTES", 1)
    station = Station(tmp_path / "ground")
    root = station.make_keys()
    second = station.model("2.0", scale=2.0)
    with running(tmp_path / "aboard" / "data", ONBOARD_TRUST_ROOT=str(root)) as served:
        assert mapped_by(served, 1) == "1.0"
        with cutting_link(served.url, seed=3, reach_up=2500) as link:
            codes = [station.push(second, link.url, "--bytes", size, "--whole") for size in ("4k", "6k")]
            assert set(codes) == {3}  # passes that ended with work left
            assert models_of(served)["2.0"]["state"] == "receiving"
            assert station.push(second, link.url) == 0
            assert link.cut_up > 1
        assert "verified" in capsys.readouterr().out
        assert mapped_by(served, 2) == "1.0"
        activate(served, "2.0")
        assert mapped_by(served, 3) == "2.0"
        assert {version: model["state"] for version, model in models_of(served).items()} == {
            "1.0": "standby",
            "2.0": "active",
        }
        until(lambda: models_of(served)["2.0"]["in_service"], "never in service")
        served.stop()
        served.start()
        assert mapped_by(served, 4) == "2.0"
        activate(served, "1.0")
        assert mapped_by(served, 5) == "1.0"
        assert station.push(second, served.url) == 0  # nothing is left to send
    assert {"list-taken", "model-awaited", "model-received", "model-verified", "model-activated"} <= set(kinds(served))


def test_what_is_wrong_is_refused_while_the_service_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    station, stranger = Station(tmp_path / "ground"), Station(tmp_path / "stranger")
    root = station.make_keys("--model-keys", "2", "--model-threshold", "2")
    stranger.make_keys()
    keys = station.keys / "private"
    with running(tmp_path / "aboard" / "data", FAULTY, ONBOARD_TRUST_ROOT=str(root)) as served:
        # Signed by one key too few: the station does not send it, and the satellite would not take it.
        second = station.model("2.0", signed=False, scale=2.0)
        assert station.sign(second, "--key", str(keys / "models-1.pem")) == 0
        assert station.push(second, served.url) == 2
        assert "2 keys must sign the list, models-1 has" in capsys.readouterr().err
        status, text = put_list(served, (station.keys / LIST_FILE).read_bytes())
        assert (status, "1 of the 2 keys" in text) == (422, True)
        # Signed by keys of somebody else.
        stranger.model("9.0", scale=3.0)
        status, text = put_list(served, (stranger.keys / LIST_FILE).read_bytes())
        assert (status, "0 of the 2 keys" in text) == (422, True)
        assert set(models_of(served)) == {"1.0"}
        assert mapped_by(served, 1) == "1.0"
        # The second key signs, and an older list comes after the newer one.
        old = (station.keys / LIST_FILE).read_bytes()
        assert station.sign(second, "--key", str(keys / "models-2.pem")) == 0
        dies = station.model("3.0", manifest={"description": "probe dies"}, scale=2.0)
        assert station.push(second, served.url) == 0
        wait_for_state(served, "2.0", "verified")
        status, text = put_list(served, old)
        assert (status, "versions never fall" in text or "keys" in text) == (422, True)
        # A model that ends the process that opens it.
        assert station.push(dies, served.url) == 2
        assert "the probe that opened it died (signal 9)" in capsys.readouterr().err
        assert models_of(served)["3.0"]["state"] == "refused"
        # A model that opens and fails when it runs; and one that does not answer as recorded.
        assert station.push(station.model("4.0", failing=True), served.url) == 2
        assert station.push(station.model("5.0", scale=-1.0), served.url) == 2
        said = capsys.readouterr().err
        assert "golden tile" in said
        assert mapped_by(served, 2) == "1.0"
        states = {version: model["state"] for version, model in models_of(served).items()}
        assert states == {"1.0": "active", "2.0": "verified", "3.0": "refused", "4.0": "refused", "5.0": "refused"}
        with served.client() as client:  # a refused one cannot be activated
            assert client.post(f"/models/{models_of(served)['3.0']['digest']}/activate").status_code == 409
        activate(served, "2.0")
        assert mapped_by(served, 3) == "2.0"
    assert kinds(served).count("list-refused") == 3


@pytest.mark.parametrize(
    ("harm", "has_heads"),
    [(harm, has_heads) for has_heads in (False, True) for harm in ("wrong", "worker dies", "one class", "memory")],
)
def test_a_model_that_fails_in_service_is_left_for_the_last_good_one(
    tmp_path: Path, harm: str, has_heads: bool
) -> None:
    station = Station(tmp_path / "ground")
    root = station.make_keys()
    if has_heads:
        write_heads_model(tmp_path / "aboard" / "model")
        good = station.heads_model("2.0", heads=RETRAINED)
        bad = station.heads_model("3.0", heads=RETRAINED, only_head="light", head_changes={"description": harm})
    else:
        good = station.model("2.0", scale=2.0)
        bad = station.model("3.0", manifest={"description": harm}, scale=3.0)
    settings = {"ONBOARD_TRUST_ROOT": str(root), "ONBOARD_MAX_MODEL_FAILURES": "2", "ONBOARD_MAX_CRASHES": "5"}
    with running(tmp_path / "aboard" / "data", FAULTY, **settings) as served:
        for folder in (good, bad):
            assert station.push(folder, served.url) == 0
        wait_for_state(served, "3.0", "verified")
        activate(served, "2.0")
        heads = {"heads": "bands,light"} if has_heads else {}

        def mapped_with(seed: int) -> str:
            return mapped_by(served, seed, 60, **heads)

        assert mapped_with(1) == "2.0"
        activate(served, "3.0")
        mapped = [mapped_with(seed) for seed in (2, 3, 4)]
        assert mapped == (["3.0", "3.0", "2.0"] if harm == "one class" else ["2.0"] * 3)
        states = {version: model["state"] for version, model in models_of(served).items()}
        assert states == {"1.0": "standby", "2.0": "active", "3.0": "retired"}
    assert kinds(served).count("model-rolled-back") == 1
    if harm == "one class":
        assert ("by its head light" in _text_of(served, "model-rolled-back")) == has_heads


def _text_of(served: Served, kind: str) -> str:
    with served.ledger() as ledger:
        return next(event.text for event in ledger.events.page(limit=1000) if event.kind == kind)


def test_a_head_comes_up_a_bad_link_is_verified_shadowed_and_maps_beside_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(difference, "LEAST_BYTES", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    station = Station(tmp_path / "ground")
    root = station.make_keys("--model-keys", "2", "--model-threshold", "2")
    keys, aboard = station.keys / "private", write_heads_model(tmp_path / "aboard" / "model")
    # What the first passes bring, whole: a long manifest.
    long = {"description": np.random.default_rng(0).bytes(12_000).hex()}
    second = station.heads_model("2.0", heads=WITH_ROADS, signed=False, changes=long)
    settings = {"ONBOARD_TRUST_ROOT": str(root), "ONBOARD_SHADOW_SCENES": "2", "ONBOARD_SHADOW_SHARE": "1"}
    both = "bands,light"
    with running(tmp_path / "aboard" / "data", FAULTY, **settings) as served:
        assert mapped_by(served, 1, heads=both) == "1.0"
        # Signed by one key too few.
        assert station.sign(second, "--key", str(keys / "models-1.pem")) == 0
        assert station.push(second, served.url) == 2
        status, text = put_list(served, (station.keys / LIST_FILE).read_bytes())
        assert (status, "1 of the 2 keys" in text) == (422, True)
        assert station.sign(second, "--key", str(keys / "models-2.pem")) == 0
        _push_in_cut_passes(served, station, second, aboard)
        wait_for_state(served, "2.0", "verified")
        _only_what_is_new_went_up(served, tmp_path, unit_of(aboard), unit_of(second))
        assert cli.main(["model", "ls", served.url]) == 0
        assert "bands 4, light 2, roads 2" in capsys.readouterr().out
        # Two scenes beside the active model.
        scenes = [mapped_by(served, seed, side=100, heads=both) for seed in (2, 3)]
        assert scenes == ["1.0", "1.0"]
        until(lambda: models_of(served)["2.0"]["figures"].get("shadow", {}).get("scenes") == 2, "never shadowed")
        shadow = models_of(served)["2.0"]["figures"]["shadow"]
        assert {name: head["agreement"] for name, head in shadow["heads"].items()} == {"bands": 1.0, "light": 1.0}
        assert list(shadow["new_heads"]) == ["roads"]
        activate(served, "2.0")
        assert _pulled_heads(served, tmp_path, "bands,roads") == {"map.tif": 4, "roads.tif": 2}
        _refuse_what_is_wrong(served, station, capsys)
        assert mapped_by(served, 9, heads="roads") == "2.0"
    assert kinds(served).count("list-refused") == 2


def _push_in_cut_passes(served: Served, station: Station, model: Path, aboard: Path) -> None:
    """Three passes that bring bytes, over a link that is cut again and again."""
    with cutting_link(served.url, seed=3, reach_up=2500) as link:
        held = [0]
        for _ in range(20):  # a pass may be cut before it has brought a byte
            assert station.push(model, link.url, "--whole", "--bytes", "24k") in (3, 4)
            if (now := _held_of(served, "2.0")) > held[-1]:
                held.append(now)
            if len(held) == 3:
                break
        assert len(held) == 3
        assert models_of(served)["2.0"]["state"] == "receiving"
        assert station.push(model, link.url, "--base", str(aboard)) == 0
        assert link.cut_up > 1


def _only_what_is_new_went_up(served: Served, tmp_path: Path, before: Unit, unit: Unit) -> None:
    """And the difference of the head was made against the old head alone."""
    held = {path.name for path in (served.data / "models" / "files").iterdir()}
    assert held == {file.sha256 for file in unit.files.values()}
    tried = [path.name.split(".") for path in (tmp_path / "cache" / "onboard-ground" / "differences").iterdir()]
    light, old = unit.files["light.onnx"].sha256, before.files["light.onnx"].sha256
    assert {base for file, base, _ in tried if file == light} == {old, "none"}
    new = ("manifest.json", "light.onnx", "roads.onnx", "roads.golden.npz")  # encoder and "bands" stayed here
    assert {file for file, _, _ in tried} <= {unit.files[name].sha256 for name in new}


def _held_of(served: Served, version: str) -> int:
    """Bytes aboard of a model's files, and of differences on their way; 0 before its list was taken."""
    model = models_of(served).get(version)
    return sum(file["held"] + sum(file["differences"].values()) for file in model["files"]) if model else 0


def _pulled_heads(served: Served, tmp_path: Path, heads: str) -> dict[str, int]:
    """Maps a scene by these heads and pulls it; the number of classes in each map that came."""
    scene = served.post(write_scene(tmp_path / "pulled.tif", 100, seed=4), heads=heads)
    served.wait_for(scene["id"], "mapped")
    assert cli.main(["pull", served.url, "--dest", str(tmp_path / "maps")]) == 0
    folder = next(path.parent for path in (tmp_path / "maps").rglob("roads.tif"))
    counts = {}
    for name in ("map.tif", "roads.tif"):
        with rasterio.open(folder / name) as source:
            counts[name] = len(np.unique(source.read(1)))
    return counts


def _refuse_what_is_wrong(served: Served, station: Station, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged head, an old list, a head that ends the process that opens it, one whose name has other classes."""
    old = (station.keys / LIST_FILE).read_bytes()
    third = station.heads_model("3.0", heads={**WITH_ROADS, "roads": -3 * HEADS["light"]})
    status, _ = put_list(served, (station.keys / LIST_FILE).read_bytes())
    assert status == 200
    file = unit_of(third).files["roads.onnx"]
    damaged = bytearray(file.path.read_bytes())
    damaged[-40] ^= 4
    with served.client() as client:
        answer = client.put(f"/models/files/{file.sha256}", content=bytes(damaged))
    assert (answer.status_code, "it was erased, send it again" in answer.text) == (400, True)
    assert mapped_by(served, 5) == "2.0"
    assert station.push(third, served.url) == 0  # nothing is lost by it
    wait_for_state(served, "3.0", "verified")
    status, text = put_list(served, old)
    assert (status, "versions never fall" in text) == (422, True)
    dies = station.heads_model("4.0", heads=WITH_ROADS, head_changes={"description": "probe dies"})
    other = station.heads_model("5.0", heads={**WITH_ROADS, "roads": HEADS["bands"]})
    capsys.readouterr()
    assert station.push(dies, served.url) == 2
    assert "the probe that opened it died (signal 9)" in capsys.readouterr().err
    assert mapped_by(served, 6) == "2.0"
    assert station.push(other, served.url) == 2
    line = capsys.readouterr().err
    assert "its head roads has other classes" in line
    assert "give the head a new name" in line
    states = {version: model["state"] for version, model in models_of(served).items()}
    assert states == {"1.0": "standby", "2.0": "active", "3.0": "verified", "4.0": "refused", "5.0": "refused"}
