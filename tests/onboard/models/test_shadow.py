"""A candidate beside the active model: its agreement, its failures, and that no map changes by it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.engine import HeadPrediction
from engines.manifest import ClassInfo, Manifest
from engines.open import open_engine
from engines.testing import IdentityEngine
from onboard.jobs.ledger import Ledger
from onboard.models.model_files import ModelFiles
from onboard.models.reconcile import reconcile_models
from onboard.models.shadow_figures import Comparison
from onboard.models.shadow_process import ShadowRequest
from onboard.processes import shadow as shadow_module
from onboard.processes.shadow import Candidate, Shadow, ShadowedEngine
from onboard.settings import Settings, read_settings
from tests.tiny_heads import HEADS, write_heads_model
from tests.tiny_model import random_tiles, write_model


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    model = write_model(tmp_path / "model")
    for name, value in {"MODEL": str(model), "DATA_DIR": str(tmp_path / "data"), "BACKEND": "onnxruntime"}.items():
        monkeypatch.setenv(f"ONBOARD_{name}", value)  # the candidate's process reads them too
    return read_settings(disk_reserve_bytes=0, shadow_scenes=2, shadow_share=1.0)


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with Ledger(settings.ledger_path) as ledger:
        reconcile_models(settings, ledger)
        yield ledger


def candidate(settings: Settings, ledger: Ledger, tmp_path: Path, **graph: Any) -> str:
    """A verified model of one graph; gives its id."""
    folder = write_model(tmp_path / "candidate", {"version": "2.0", "golden": None}, **graph)
    return verified(settings, ledger, folder, "tiny")


def verified(settings: Settings, ledger: Ledger, folder: Path, name: str) -> str:
    """Puts a model's folder among those that were verified; gives its id."""
    files = ModelFiles(settings.models_dir, 0)
    files.prepare()
    named = {}
    for path in sorted(folder.iterdir()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        named[path.name] = {"sha256": digest, "bytes": path.stat().st_size}
        assert files.adopt(path, digest)
    model_id = str(named["manifest.json"]["sha256"])
    files.build(model_id, named)
    ledger.models.name_signed(model_id, name, "2.0", named, 1)
    ledger.models.complete(model_id)
    ledger.models.verify(model_id, "it opens", {})
    return model_id


def map_scene(shadow: Shadow, settings: Settings, scene: str, heads: Sequence[str] = ()) -> None:
    """Three batches, as of a scene; each is waited for, so that all of them are seen."""
    with open_engine(settings.model, heads=heads, backend="onnxruntime") as engine:
        beside = shadow.beside(engine)
        for seed in range(3):
            tiles = random_tiles(2, seed=seed)
            assert (beside.infer(tiles).classes == engine.infer(tiles).classes).all()
            if shadow._candidate is not None:
                shadow._candidate._is_idle.wait(120)
        shadow.end_scene(scene)


@pytest.mark.parametrize(("scale", "agreement"), [(2.0, 1.0), (-1.0, 0.0)])
def test_agreement_comes_down_and_the_rule_activates(
    settings: Settings, ledger: Ledger, tmp_path: Path, scale: float, agreement: float
) -> None:
    settings = settings.model_copy(update={"shadow_activate_agreement": 0.95})
    model_id = candidate(settings, ledger, tmp_path, scale=scale)
    shadow = Shadow(settings, ledger)
    for number in range(3):
        map_scene(shadow, settings, f"s{number}")
    shadow.close()
    row = ledger.models.get(model_id)
    assert row is not None
    facts = row.figures["shadow"]
    assert (facts["scenes"], facts["tiles"]) == (2, 12)  # the third scene has no shadow any more
    assert abs(facts["agreement"] - agreement) < 0.01
    assert facts["heads"][""]["agreement"] == facts["agreement"]
    assert facts["heads"][""]["pixels"] == 12 * 32 * 32
    assert 0.25 <= facts["heads"][""]["active_confidence"] <= 1
    assert facts["new_heads"] == {}
    assert row.state == ("active" if agreement > 0.9 else "verified")
    assert [event.kind for event in ledger.events.page()].count("model-shadowed") == 2


@pytest.fixture
def with_heads(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    model = write_heads_model(tmp_path / "heads")
    monkeypatch.setenv("ONBOARD_MODEL", str(model))
    return settings.model_copy(update={"model": str(model), "shadow_activate_agreement": 0.9})


@pytest.mark.parametrize("heads", [(), ("light",), ("light", "bands")])
def test_heads_that_both_models_have_are_compared_and_new_ones_are_named(
    with_heads: Settings, tmp_path: Path, heads: tuple[str, ...]
) -> None:
    """The head "light" says the contrary of what it said; "bands" the same, less surely."""
    weights = {"bands": HEADS["bands"] * np.float32(0.5), "light": -HEADS["light"], "roads": HEADS["light"]}
    with Ledger(with_heads.ledger_path) as ledger:
        reconcile_models(with_heads, ledger)
        folder = write_heads_model(tmp_path / "candidate", weights, changes={"version": "2.0"})
        model_id = verified(with_heads, ledger, folder, "tiny-heads")
        shadow = Shadow(with_heads, ledger)
        for number in range(3):
            map_scene(shadow, with_heads, f"s{number}", heads)
        shadow.close()
        row = ledger.models.get(model_id)
        events = [event.text for event in ledger.events.page() if event.kind == "model-shadowed"]
    assert row is not None
    facts = row.figures["shadow"]
    compared = heads or ("bands",)
    assert set(facts["heads"]) == set(compared)
    shares = {"bands": 1.0, "light": 0.0}
    for name in compared:
        assert abs(facts["heads"][name]["agreement"] - shares[name]) < 0.01
    assert abs(facts["agreement"] - min(shares[name] for name in compared)) < 0.01
    assert row.state == ("active" if compared == ("bands",) else "verified")
    if "bands" in compared:
        assert facts["heads"]["bands"]["confidence"] < facts["heads"]["bands"]["active_confidence"] - 0.05
    assert set(facts["new_heads"]) == {"roads"}
    assert 0.5 <= facts["new_heads"]["roads"]["confidence"] <= 1
    assert len(events) == 2
    assert "new: roads" in events[0]
    assert all(f"by head {name}" in events[0] for name in compared)


@pytest.mark.parametrize(
    ("active", "other", "wanted"),
    [
        ("heads", "graph", (("", "bands"),)),
        ("graph", "heads", (("bands", ""),)),
        ("heads", "new", None),
        ("heads", "another table", (("bands", "bands"),)),
    ],
)
def test_a_model_of_one_graph_is_compared_with_the_head_of_its_classes(
    tmp_path: Path, active: str, other: str, wanted: tuple[tuple[str, str], ...] | None
) -> None:
    names = [f"bands{code}" for code in range(1, 5)]
    classes = tuple(ClassInfo(code=code, name=name, title=name, color="#000000") for code, name in enumerate(names, 1))
    folders: dict[str, Callable[[Path], Path]] = {
        "heads": write_heads_model,
        "graph": lambda path: write_model(path, {"classes": classes}),
        "new": lambda path: write_heads_model(path, {"roads": HEADS["light"]}),
        "another table": lambda path: write_heads_model(path, {**HEADS, "light": HEADS["bands"]}),
    }
    manifests = [Manifest.load(folders[name](tmp_path / name)) for name in (other, active)]
    comparison = Comparison.of(*manifests)
    assert (None if comparison is None else tuple(comparison.pairs.items())) == wanted


def test_a_candidate_that_fails_is_refused_and_mapping_goes_on(
    settings: Settings, ledger: Ledger, tmp_path: Path
) -> None:
    model_id = candidate(settings, ledger, tmp_path, failing=True)
    shadow = Shadow(settings, ledger)
    map_scene(shadow, settings, "s1")
    row = ledger.models.get(model_id)
    assert row is not None
    assert row.state == "refused"
    map_scene(shadow, settings, "s2")


def test_a_candidate_that_hangs_stops_nothing(
    settings: Settings, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_module, "COMMAND", ["sh", "-c", "sleep 60"])
    monkeypatch.setattr(shadow_module, "LAST_ANSWER_S", 0.1)
    model_id = candidate(settings, ledger, tmp_path)
    shadow = Shadow(settings, ledger)
    with open_engine(settings.model, backend="onnxruntime") as engine:
        beside = shadow.beside(engine)
        for seed in range(3):
            beside.infer(random_tiles(1, seed=seed))
        shadow.end_scene("s1")
    row = ledger.models.get(model_id)
    assert row is not None
    assert row.state == "refused"


class Shown:
    """A candidate that is idle, or busy, and counts what it is shown."""

    def __init__(self) -> None:
        self.is_idle, self.shown = True, 0

    def offer(self, _request: Callable[[], Any]) -> bool:
        self.shown += self.is_idle
        return self.is_idle


def test_the_candidate_is_shown_its_share_of_the_batches_and_makes_up_for_two_at_most() -> None:
    shown = Shown()
    with IdentityEngine(tile_size=32) as engine:
        beside = ShadowedEngine(engine, shown, Comparison({}, ()), 0.25)  # type: ignore[arg-type]
        tiles = np.ones((1, 3, 32, 32), np.uint8)

        def infer(times: int) -> int:
            before = shown.shown
            for _ in range(times):
                beside.infer(tiles)
            return shown.shown - before

        assert infer(3) == 0
        assert infer(37) == 10
        shown.is_idle = False  # it is slow: what it missed is not owed for ever
        assert infer(100) == 0
        shown.is_idle = True
        assert infer(40) <= 12


def test_without_the_setting_there_is_no_shadow(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    candidate(settings, ledger, tmp_path)
    shadow = Shadow(settings.model_copy(update={"shadow_scenes": 0}), ledger)
    with open_engine(settings.model, backend="onnxruntime") as engine:
        assert shadow.beside(engine) is engine


def test_tiles_of_a_shape_that_only_the_active_model_takes_are_compared_with_nothing(
    settings: Settings, ledger: Ledger, tmp_path: Path
) -> None:
    row = ledger.models.get(candidate(settings, ledger, tmp_path))
    assert row is not None
    beside = Candidate(row, str(tmp_path / "candidate"))
    try:
        for size, compared in ((64, False), (32, True)):
            tiles = random_tiles(2, size=size)
            answers = {"": HeadPrediction(np.ones((2, size, size), np.uint8))}
            assert beside.offer(lambda: ShadowRequest(tiles, answers))  # noqa: B023 -- called at once
            sums = beside.settle()
            assert beside.failure == ""
            assert sums.get("tiles") == (2 if compared else None)
    finally:
        beside.close()


def test_a_scene_of_which_the_candidate_takes_no_tile_is_told_and_does_not_count(
    settings: Settings, ledger: Ledger, tmp_path: Path
) -> None:
    model_id = candidate(settings, ledger, tmp_path)
    row = ledger.models.get(model_id)
    assert row is not None
    shadow = Shadow(settings, ledger)
    shadow._candidate = Candidate(row, str(tmp_path / "candidate"))
    try:
        tiles = random_tiles(2, size=64)
        answers = {"": HeadPrediction(np.ones((2, 64, 64), np.uint8))}
        assert shadow._candidate.offer(lambda: ShadowRequest(tiles, answers))
        for scene in ("s1", "s2"):  # the second was shown nothing at all
            shadow.end_scene(scene)
    finally:
        shadow.close()
    texts = [event.text for event in ledger.events.page() if event.kind == "model-shadowed"]
    assert len(texts) == 1
    assert "no tile of s1 has a size that it takes" in texts[0]
    row = ledger.models.get(model_id)
    assert row is not None
    assert "shadow" not in row.figures
