"""Models with heads on their way to flight: what is wrong with a head is found, and said in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.manifest import ModelFile
from ground.model.unit import unit_of
from onboard.jobs.ledger import Ledger
from onboard.jobs.model_store import ModelRow
from onboard.models.activation import activate
from onboard.models.errors import ModelRefused
from onboard.models.reconcile import reconcile_models
from onboard.models.uplink import Uplink
from onboard.models.verification import Verification
from onboard.settings import Settings, read_settings
from tests.onboard.models.satellite import Station
from tests.onboard.models.test_delivery import announce, delivery_of, send
from tests.tiny_heads import HEADS, write_head, write_heads_model
from tests.tiny_model import COLORS

SCALED = {"bands": HEADS["bands"], "light": np.float32(2) * HEADS["light"]}
"""The same answers by other weights: a retrained head."""
ROADS = {**HEADS, "roads": -HEADS["light"]}
"""One head more."""


@pytest.fixture
def station(tmp_path: Path) -> Station:
    station = Station(tmp_path / "ground")
    station.make_keys()
    return station


@pytest.fixture
def settings(tmp_path: Path, station: Station, monkeypatch: pytest.MonkeyPatch) -> Settings:
    values = {"MODEL": str(write_heads_model(tmp_path / "model")), "DATA_DIR": str(tmp_path / "data")}
    for name, value in {**values, "BACKEND": "onnxruntime", "THREADS": "1"}.items():
        monkeypatch.setenv(f"ONBOARD_{name}", value)  # the probe's process reads them too
    return read_settings(disk_reserve_bytes=0, trust_root=station.keys / "1.root.json")


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with Ledger(settings.ledger_path) as ledger:
        reconcile_models(settings, ledger)
        yield ledger


def flown(settings: Settings, ledger: Ledger, station: Station, folder: Path) -> ModelRow:
    """A signed model sent up and verified in a probe process; gives its row."""
    delivery = delivery_of(settings, ledger)
    unit = announce(delivery, station, folder)
    for name, file in unit.files.items():
        if not delivery.files.holds(file.sha256):
            send(delivery, unit, name)
    row = ledger.models.get(unit.digest)
    assert row is not None
    assert row.state == "received"
    Verification(settings, lambda: ledger, delivery.files, delivery.erase).verify(row)
    row = ledger.models.get(unit.digest)
    assert row is not None
    return row


def rewritten(folder: Path, change: Callable[[Any], object]) -> None:
    facts = json.loads((folder / "manifest.json").read_text())
    change(facts)
    (folder / "manifest.json").write_text(json.dumps(facts))


def forged(folder: Path, name: str) -> None:
    """Puts the digest of a head's changed file into the manifest: only what is in the file is wrong."""
    entry = ModelFile.of(folder / f"{name}.onnx").model_dump()
    rewritten(folder, lambda facts: facts["heads"][1].update(model=entry))


def test_all_heads_are_probed_and_shown(settings: Settings, ledger: Ledger, station: Station) -> None:
    row = flown(settings, ledger, station, station.heads_model("2.0", heads=ROADS))
    assert row.state == "verified", row.reason
    assert row.figures["heads"] == {"bands": 1.0, "light": 1.0, "roads": 1.0}
    assert "with heads bands, light, roads, golden agreement 100.0000%" in row.reason
    uplink = Uplink(settings, lambda: ledger)
    assert uplink.heads_of(row) == {"bands": 4, "light": 2, "roads": 2}
    (shipped,) = ledger.models.in_state("active")
    assert uplink.heads_of(shipped) == {"bands": 4, "light": 2}
    assert uplink.heads_of(ModelRow("0" * 64, 0, "x", "1", "uplink", "receiving")) == {}


def test_only_the_files_of_a_changed_head_are_wanted(settings: Settings, ledger: Ledger, station: Station) -> None:
    delivery = delivery_of(settings, ledger)
    unit = announce(delivery, station, station.heads_model("2.0", heads=SCALED))
    assert len(unit.files) == 7
    wanted = [name for name, file in unit.files.items() if not delivery.files.holds(file.sha256)]
    assert wanted == ["manifest.json", "light.onnx"]


def another_graph(folder: Path) -> None:
    write_head(folder / "light.onnx", HEADS["light"], reads="/student/other")
    forged(folder, "light")


def no_graph(folder: Path) -> None:
    (folder / "light.onnx").write_bytes(b"no graph at all")
    forged(folder, "light")


def answers_of_another_encoder(folder: Path) -> None:
    """Its graph fits, and its answers are those behind the encoder that it was trained on."""
    other = write_heads_model(folder.parent / "other", mean=20.0)
    (folder / "light.golden.npz").write_bytes((other / "light.golden.npz").read_bytes())
    entry = json.loads((other / "manifest.json").read_text())["heads"][1]["golden"]
    rewritten(folder, lambda facts: facts["heads"][1].update(golden=entry))


def in_manifest(change: Callable[[Any], object]) -> Callable[[Path], None]:
    return lambda folder: rewritten(folder, change)


@pytest.mark.parametrize(
    ("harm", "options", "words"),
    [
        (
            in_manifest(lambda facts: facts["heads"][1].update(encoder_sha256="0" * 64)), {},
            "head light was trained on another encoder",
        ),
        (another_graph, {}, "head light: .*reads /student/other, which the encoder does not give"),
        (no_graph, {}, "head light: .*no ONNX file"),
        (answers_of_another_encoder, {}, "head light: .*golden tile"),
        (in_manifest(lambda facts: facts.update(schema_version=3)), {}, "schema_version: .*update this software"),
        (in_manifest(lambda facts: facts["heads"][1].update(name="bands")), {}, "heads given twice: bands"),
        (
            in_manifest(lambda facts: facts["heads"][1].update(model=facts["heads"][0]["model"])), {},
            "files named twice: bands.onnx",
        ),
        (in_manifest(lambda facts: facts["heads"][1].update(name="map")), {}, "files of every map are named"),
        (None, {"failing": ("light",)}, "head light: .*onnxruntime"),
        (
            None, {"heads": {**HEADS, "light": HEADS["bands"]}},
            "its head light has other classes than that of tiny-heads 1.0 .* which is active: code 3 was none, "
            "would be light3; give the head a new name",
        ),
    ],
)  # fmt: skip
def test_a_head_that_is_wrong_is_refused_and_the_active_model_stays(
    settings: Settings,
    ledger: Ledger,
    station: Station,
    harm: Callable[[Path], None] | None,
    options: dict[str, Any],
    words: str,
) -> None:
    folder = station.heads_model("2.0", signed=False, **options)
    if harm is not None:
        harm(folder)
    assert station.sign(folder) == 0
    row = flown(settings, ledger, station, folder)
    assert row.state == "refused"
    assert "\n" not in row.reason
    assert re.search(words, row.reason), row.reason
    assert not delivery_of(settings, ledger).files.unit(row.id).exists()
    (active,) = ledger.models.in_state("active")
    assert active.version == "1.0"
    assert [event.kind for event in ledger.events.page()].count("model-refused") == 1


def test_titles_and_colours_may_change_and_a_new_name_is_free(
    settings: Settings, ledger: Ledger, station: Station
) -> None:
    folder = station.heads_model("2.0", signed=False, heads={**HEADS, "light-4": HEADS["bands"]})
    rewritten(folder, lambda facts: facts["heads"][1]["classes"][0].update(title="Another", color=COLORS[3]))
    station.sign(folder)
    assert flown(settings, ledger, station, folder).state == "verified"


def test_tables_are_held_against_each_other_again_at_the_activation(
    settings: Settings, ledger: Ledger, station: Station
) -> None:
    """Both were verified beside a model without such a head."""
    first = flown(settings, ledger, station, station.heads_model("2.0", heads=ROADS))
    other = flown(settings, ledger, station, station.heads_model("3.0", heads={**HEADS, "roads": HEADS["bands"]}))
    assert (first.state, other.state) == ("verified", "verified")
    assert activate(settings, ledger, first, "by a test")
    with pytest.raises(ModelRefused, match=r"head roads has other classes than that of tiny-heads 2.0 .*active"):
        activate(settings, ledger, other, "by a test")
    (shipped,) = ledger.models.in_state("standby")
    assert activate(settings, ledger, shipped, "by a test")
    with pytest.raises(ModelRefused, match=r"tiny-heads 2.0 .* which is standby"):
        activate(settings, ledger, other, "by a test")
    assert ledger.models.active_id() == shipped.id


def test_a_unit_has_the_files_of_every_head(station: Station) -> None:
    unit = unit_of(station.heads_model("2.0", signed=False))
    assert list(unit.files) == [
        "manifest.json", "encoder.onnx", "golden.npz", "bands.onnx", "bands.golden.npz", "light.onnx",
        "light.golden.npz",
    ]  # fmt: skip
