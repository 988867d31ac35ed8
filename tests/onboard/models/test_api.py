"""The interface of models: roles before bodies, ranges that continue, and what is refused with which answer."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ground.model.sign import LIST_FILE
from ground.model.unit import Unit, unit_of
from onboard.api.app import app_of
from onboard.api.auth import add_token
from onboard.api.serve import _verify_models
from onboard.api.service import Service
from onboard.models.reconcile import reconcile_models
from onboard.settings import read_settings
from tests.onboard.models.satellite import Station
from tests.onboard.service import until
from tests.tiny_heads import HEADS
from tests.tiny_model import write_model

with warnings.catch_warnings():
    # Newer versions warn where httpx2 is not installed; httpx does as well here.
    warnings.simplefilter("ignore")  # of a class of its own
    from starlette.testclient import TestClient


@pytest.fixture
def station(tmp_path: Path) -> Station:
    station = Station(tmp_path / "ground")
    station.make_keys()
    return station


@pytest.fixture
def service(station: Station, tmp_path: Path) -> Iterator[Service]:
    model, root = write_model(tmp_path / "model"), station.keys / "1.root.json"
    settings = read_settings(data_dir=tmp_path / "data", model=str(model), disk_reserve_bytes=0, trust_root=root)
    settings.data_dir.mkdir()
    roles = ("uplink", "operator", "ground", "ingest")
    secrets = {role: add_token(settings.tokens_path, role, [role]) for role in roles}
    service = Service.of(settings)
    reconcile_models(settings, service.ledger)
    service.secrets = secrets  # type: ignore[attr-defined]
    yield service
    service.close()


def client(service: Service, role: str) -> TestClient:
    headers = {"Authorization": f"Bearer {service.secrets[role]}"}  # type: ignore[attr-defined]
    return TestClient(app_of(service), headers=headers, raise_server_exceptions=False)


@pytest.fixture
def unit(service: Service, station: Station) -> Unit:
    """A model whose list was taken."""
    folder = station.model("2.0", scale=2.0)
    answer = client(service, "uplink").put("/models/metadata/list", content=(station.keys / LIST_FILE).read_bytes())
    assert (answer.status_code, answer.json()) == (200, {"version": 1})
    return unit_of(folder)


def send_all(service: Service, unit: Unit) -> None:
    for file in unit.files.values():
        if not service.uplink.files.holds(file.sha256):
            content = file.path.read_bytes()
            assert client(service, "uplink").put(f"/models/files/{file.sha256}", content=content).status_code == 200


@pytest.fixture
def verified_by_a_thread(service: Service) -> Iterator[Callable[[], None]]:
    """What starts the verification, as `onboard serve` does; it ends before the ledgers are closed."""
    yield lambda: _verify_models(service)
    service.is_damaged = True  # what its loops look at
    service.wake.set()
    for thread in threading.enumerate():
        if thread.name == "models":
            thread.join(60)


def test_models_are_verified_also_where_the_root_of_trust_came_aboard_after_the_start(
    service: Service, station: Station, verified_by_a_thread: Callable[[], None]
) -> None:
    root = station.keys / "1.root.json"
    root.rename(station.keys / "later.json")
    verified_by_a_thread()
    uplink, folder = client(service, "uplink"), station.model("2.0", scale=2.0)
    listed = (station.keys / LIST_FILE).read_bytes()
    assert uplink.put("/models/metadata/list", content=listed).status_code == 409
    (station.keys / "later.json").rename(root)
    assert uplink.put("/models/metadata/list", content=listed).status_code == 200
    send_all(service, unit := unit_of(folder))

    def state() -> str | None:
        row = service.ledger.models.get(unit.digest)
        return row.state if row is not None and row.state != "received" else None

    assert until(state, "it stays received") == "verified"


@pytest.mark.parametrize("role", ["ingest", "ground"])
def test_only_the_role_uplink_sends_models(service: Service, unit: Unit, role: str) -> None:
    stranger = client(service, role)
    for path in ("/models/metadata/root", "/models/metadata/list", f"/models/files/{unit.digest}"):
        assert stranger.put(path, content=b"x").status_code == 403
    assert stranger.get("/models").status_code == (200 if role == "ground" else 403)


def test_activating_is_the_operators(service: Service, unit: Unit) -> None:
    for verb in ("activate", "retire"):
        answer = client(service, "uplink").post(f"/models/{unit.digest}/{verb}")
        assert answer.status_code == 403
        assert "needs the role operator" in answer.json()["detail"]


def test_ranges_continue_and_say_where(service: Service, unit: Unit) -> None:
    uplink, file = client(service, "uplink"), unit.files["model.onnx"]
    content, path = file.path.read_bytes(), f"/models/files/{unit.files['model.onnx'].sha256}"
    first = {"Content-Range": f"bytes 0-99/{file.bytes}"}
    assert uplink.put(path, content=content[:100], headers=first).json()["held"] == 100
    again = uplink.put(path, content=content[:100], headers=first)
    assert (again.status_code, again.json()["held"]) == (409, 100)
    assert again.json()["type"] == "urn:onboard:problem:wrong-start"
    short = uplink.put(path, content=content[100:150], headers={"Content-Range": f"bytes 100-199/{file.bytes}"})
    assert (short.status_code, "ends 50 bytes early" in short.json()["detail"]) == (400, True)
    (model,) = [model for model in uplink.get("/models").json()["models"] if model["version"] == "2.0"]
    assert {entry["name"]: entry["held"] for entry in model["files"]}["model.onnx"] == 150  # what came stays
    rest = {"Content-Range": f"bytes 150-{file.bytes - 1}/{file.bytes}"}
    assert uplink.put(path, content=content[150:], headers=rest).json()["whole"]
    assert uplink.put(path, content=content).status_code == 404  # it is whole


@pytest.mark.parametrize("header", ["bytes 0-9/11", "bytes 9-0/10", "bytes=0-9", "bytes 0-999999/999999", "x"])
def test_a_range_that_cannot_be_is_refused(service: Service, unit: Unit, header: str) -> None:
    path = f"/models/files/{unit.files['model.onnx'].sha256}"
    answer = client(service, "uplink").put(path, content=b"0123456789", headers={"Content-Range": header})
    assert answer.status_code == 400


def test_a_body_longer_than_its_range_is_refused(service: Service, unit: Unit) -> None:
    file = unit.files["model.onnx"]
    headers = {"Content-Range": f"bytes 0-9/{file.bytes}"}
    answer = client(service, "uplink").put(f"/models/files/{file.sha256}", content=bytes(11), headers=headers)
    assert answer.status_code == 413


@pytest.mark.usefixtures("unit")
def test_wrong_metadata_and_unknown_files_are_named_as_such(service: Service) -> None:
    uplink = client(service, "uplink")
    answer = uplink.put("/models/metadata/list", content=b"{}")
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:onboard:problem:metadata-refused")
    answer = uplink.put(f"/models/files/{'ab' * 32}", content=b"x")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:onboard:problem:not-wanted")
    assert uplink.put("/models/files/short", content=b"x").status_code == 422


def test_a_model_is_activated_and_the_one_before_is_retired(service: Service, unit: Unit) -> None:
    operator = client(service, "operator")
    early = operator.post(f"/models/{unit.digest}/activate")
    assert early.status_code == 409
    send_all(service, unit)
    assert operator.post(f"/models/{unit.digest}/activate").status_code == 409  # received is not verified
    service.ledger.models.verify(unit.digest, "by a test", {})
    assert operator.post(f"/models/{unit.digest}/activate").json()["state"] == "active"
    assert service.mapping_config.manifest.version == "2.0"
    assert operator.post(f"/models/{unit.digest}/retire").status_code == 409  # it is active
    shipped = next(row for row in service.ledger.models.all() if row.origin == "shipped")
    assert operator.post(f"/models/{shipped.id}/retire").status_code == 409  # the last resort
    assert operator.post(f"/models/{shipped.id}/activate").status_code == 200
    assert service.mapping_config.manifest.version == "1.0"
    assert operator.post(f"/models/{unit.digest}/retire").json()["state"] == "retired"
    assert not service.uplink.files.folders()
    gone = operator.post(f"/models/{unit.digest}/activate")
    assert (gone.status_code, "push it again" in gone.json()["detail"]) == (409, True)
    assert operator.post(f"/models/{'0' * 64}/activate").status_code == 404


def test_heads_are_named_and_a_head_of_other_classes_is_not_activated(service: Service, station: Station) -> None:
    """Both models were verified beside one that has no such heads."""
    folders = [station.heads_model("2.0"), station.heads_model("3.0", heads={"light": HEADS["bands"]})]
    units = [unit_of(folder) for folder in folders]
    client(service, "uplink").put("/models/metadata/list", content=(station.keys / LIST_FILE).read_bytes())
    for unit in units:
        send_all(service, unit)
        service.ledger.models.verify(unit.digest, "by a test", {})
    models = {model["version"]: model for model in client(service, "uplink").get("/models").json()["models"]}
    assert models["2.0"]["heads"] == [{"name": "bands", "classes": 4}, {"name": "light", "classes": 2}]
    assert models["1.0"]["heads"] == []
    operator = client(service, "operator")
    assert operator.post(f"/models/{units[0].digest}/activate").status_code == 200
    refused = operator.post(f"/models/{units[1].digest}/activate")
    assert (refused.status_code, "give the head a new name" in refused.json()["detail"]) == (409, True)
    assert service.ledger.models.active_id() == units[0].digest


def test_without_a_root_of_trust_nothing_is_taken_and_the_shipped_model_is_listed(tmp_path: Path) -> None:
    settings = read_settings(data_dir=tmp_path / "data", model=str(write_model(tmp_path / "model")))
    service = Service.of(settings)
    reconcile_models(settings, service.ledger)
    local = TestClient(app_of(service))
    answer = local.get("/models").json()
    assert (answer["takes_models"], answer["models"][0]["state"]) == (False, "active")
    assert "ONBOARD_TRUST_ROOT" in answer["problem"]
    refused = local.put("/models/metadata/list", content=b"{}")
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:onboard:problem:no-uplink")
    service.close()
