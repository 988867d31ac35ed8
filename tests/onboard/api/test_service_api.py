"""The API of a running service, as clients see it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from pydantic import ValidationError

from onboard.api.uploads import DeliveryQuery
from tests.onboard.service import ROOT, Served, running, write_scene

TIFF = {"Content-Type": "image/tiff"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with running(folder / "data", ONBOARD_MAX_UPLOAD_BYTES="500000", ONBOARD_INBOX=str(folder / "inbox")) as served:
        yield served


@pytest.fixture(scope="module")
def mapped(served: Served, folder: Path) -> str:
    """The id of a scene of 300 pixels that is mapped."""
    posted = served.post(write_scene(folder / "mapped.tif"), acquired="2026-03-01T00:00:00Z")
    served.wait_for(posted["id"], "mapped")
    return str(posted["id"])


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


def content_digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def refused(answer: httpx.Response, status: int, slug: str) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert (told["type"], told["status"]) == (f"urn:onboard:problem:{slug}", status)
    return str(told["detail"])


def test_a_digest_that_is_given_is_checked(client: httpx.Client, folder: Path) -> None:
    data = write_scene(folder / "digest.tif", 50, seed=1).read_bytes()
    answer = client.post("/scenes", content=data, headers=TIFF | {"Content-Digest": content_digest(data + b"x")})
    assert "send the scene again" in refused(answer, 400, "digest-mismatch")
    answer = client.post("/scenes", content=data, headers=TIFF | {"Content-Digest": "sha-256=nonsense"})
    assert "RFC 9530" in refused(answer, 400, "bad-request")
    both = f"sha-512=:AAAA:, {content_digest(data)}"
    answer = client.post("/scenes", content=data, headers=TIFF | {"Content-Digest": both})
    assert answer.status_code == 202
    assert client.get(answer.headers["location"]).json()["sha256"] == hashlib.sha256(data).hexdigest()


def test_a_form_brings_a_scene_with_its_digest_and_its_fields(client: httpx.Client, folder: Path) -> None:
    data = write_scene(folder / "form.tif", 50, seed=2).read_bytes()
    fields = {"content-digest": content_digest(data), "priority": "urgent", "name": "from a form"}
    answer = client.post("/scenes", files={"scene": ("../x.tif", data)}, data=fields)
    assert answer.status_code == 202
    assert (answer.json()["priority"], answer.json()["name"]) == ("urgent", "from a form")
    fields["content-digest"] = content_digest(b"")
    wrong = client.post("/scenes", files={"scene": ("x.tif", data)}, data=fields)
    refused(wrong, 400, "digest-mismatch")
    odd = client.post("/scenes", files={"scene": ("x.tif", data)}, data={"priority": "soon"})
    assert "'priority'" in refused(odd, 400, "bad-request")


@pytest.mark.parametrize(
    ("seed", "sent", "expected"),
    [
        (51, "bay 7 (ü).tif", "bay 7 (ü).tif"),
        (52, "../up/bay.tif", "bay.tif"),
        (53, "C:\\scenes\\bay.tif", "bay.tif"),
        (54, "b" * 300 + ".tif", "b" * 200),
    ],
)
def test_a_scene_of_a_form_is_named_after_its_file_as_one_of_the_inbox_is(
    client: httpx.Client, folder: Path, seed: int, sent: str, expected: str
) -> None:
    data = write_scene(folder / "named.tif", 40, seed=seed).read_bytes()
    answer = client.post("/scenes", files={"scene": (sent, data)})
    assert (answer.status_code, answer.json()["name"]) == (202, expected)
    # Bytes without a name are named by their digest.
    other = write_scene(folder / "named.tif", 40, seed=seed + 10).read_bytes()
    nameless = client.post("/scenes", content=other, headers=TIFF).json()
    assert nameless["name"] == f"scene {nameless['sha256'][:8]}"


def test_a_file_of_the_inbox_is_taken_by_its_path(client: httpx.Client, folder: Path) -> None:
    write_scene(folder / "inbox" / "day" / "a.tif", 50, seed=3)
    answer = client.post("/scenes", json={"path": "day/a.tif"})
    assert answer.status_code == 202
    assert answer.json()["name"] == "a.tif"
    assert not (folder / "inbox" / "day" / "a.tif").exists()
    for path in ("day/a.tif", "../mapped.tif", "/etc/passwd", "a\0.tif", "x" * 4000, "/proc/self/fd/0"):
        assert "is no file in the inbox" in refused(client.post("/scenes", json={"path": path}), 422, "scene-refused")
    refused(client.post("/scenes", json={"file": "x"}), 400, "bad-request")


def test_what_is_too_large_or_no_tiff_or_broken_is_refused(client: httpx.Client, folder: Path) -> None:
    large = client.post("/scenes", content=b"II*\0" + bytes(600_000), headers=TIFF)
    assert "cut the scene into smaller ones" in refused(large, 413, "too-large")
    refused(client.post("/scenes", content=b"\x89PNG....", headers=TIFF), 415, "not-a-tiff")
    refused(client.post("/scenes", content=b"", headers=TIFF), 415, "not-a-tiff")
    broken = client.post("/scenes", content=b"II*\0" + bytes(500), headers=TIFF)
    detail = refused(broken, 422, "scene-refused")
    assert "/" not in detail.replace("://", "")  # no path of ours
    scene = write_scene(folder / "cut.tif", 64).read_bytes()
    for content in (b"II*\0\x08\0\0\0", scene[: len(scene) // 2]):
        detail = refused(client.post("/scenes", content=content, headers=TIFF), 422, "scene-refused")
        assert ".part" not in detail  # no name of ours either
    refused(client.post("/scenes", content=b"II*\0", headers=TIFF, params={"priority": "soon"}), 422, "invalid")
    refused(client.post("/scenes", content=b"II*\0", headers=TIFF, params={"prio": "high"}), 422, "invalid")


def answer_of(link: socket.socket) -> str:
    """Head and body of an answer that declares its length."""
    found = b""
    while not (match := re.search(rb"content-length: (\d+).*?\r\n\r\n(.*)", found, re.DOTALL)) or len(match[2]) < int(
        match[1]
    ):
        found += (some := link.recv(4096))
        assert some, found
    return found.decode()


def test_a_large_body_that_stops_or_breaks_or_is_none_leaves_nothing(folder: Path) -> None:
    scene = write_scene(folder / "large.tif", 300, seed=9).read_bytes()
    head = f"POST /scenes HTTP/1.1\r\nHost: x\r\nContent-Type: image/tiff\r\nContent-Length: {len(scene)}\r\n\r\n"
    with running(folder / "broken" / "data", ONBOARD_BODY_TIMEOUT_S="0.5") as served, served.client() as client:
        address = (client.base_url.host, client.base_url.port or 0)
        with socket.create_connection(address, timeout=10) as link:
            link.sendall(head.encode() + scene[:100_000])
            assert "no byte came for 0.5 s" in answer_of(link)
        with socket.create_connection(address, timeout=10) as link:
            link.sendall(head.encode() + scene[:100_000])
            link.shutdown(socket.SHUT_WR)
            assert link.recv(4096) == b""  # uvicorn takes the end of the input for the end of the connection
        # The answer to what is no TIFF comes while most of it is still on its way; the connection stays usable.
        refused(client.post("/scenes", content=bytes(5_000_000), headers=TIFF), 415, "not-a-tiff")
        assert client.get("/scenes").json()["scenes"] == []
        assert list((served.data / "scenes" / ".incoming").iterdir()) == []
        answer = client.post("/scenes", content=scene, headers=TIFF | {"Content-Digest": content_digest(scene)})
        assert answer.status_code == 202
        assert answer.json()["sha256"] == hashlib.sha256(scene).hexdigest()


def test_without_room_nothing_is_taken_in(folder: Path) -> None:
    with running(folder / "full" / "data", ONBOARD_DISK_RESERVE_BYTES=str(1 << 60)) as full, full.client() as client:
        answer = client.post("/scenes", content=write_scene(folder / "f.tif", 50).read_bytes(), headers=TIFF)
        assert "pull maps and give their receipts" in refused(answer, 507, "no-room")
        assert [path.name for path in (full.data / "scenes").rglob("*.part")] == []
        ready = client.get("/health/ready")
        assert "scenes are not taken" in ready.text


def test_pages_follow_each_other(client: httpx.Client, served: Served, folder: Path) -> None:
    for seed in range(20, 25):
        served.post(write_scene(folder / f"{seed}.tif", 40, seed=seed))
    whole = [scene["id"] for scene in client.get("/scenes").json()["scenes"]]
    paged: list[str] = []
    cursor: int | None = 0
    while cursor is not None:
        page = client.get("/scenes", params={"cursor": cursor, "limit": 2}).json()
        paged += [scene["id"] for scene in page["scenes"]]
        cursor = page["next"]
    assert paged == whole
    assert len(whole) >= 5
    for scene in whole:
        served.wait_for(scene, "mapped")
    # A page that ends with the last row has no next one.
    for listing, rows in (("/scenes", "scenes"), ("/downlink/undelivered", "maps"), ("/events", "events")):
        everything = client.get(listing, params={"limit": 1000}).json()
        assert everything["next"] is None
        count = len(everything[rows])
        if count:
            last = client.get(listing, params={"limit": count}).json()
            assert (len(last[rows]), last["next"]) == (count, None), listing
        if count > 1:
            assert client.get(listing, params={"limit": count - 1}).json()["next"] is not None
    url: str | None = "/maps?limit=2"
    maps: list[str] = []
    while url is not None:
        told = client.get(url).json()
        maps += [item["id"] for item in told["features"]]
        url = next((link["href"] for link in told["links"] if link["rel"] == "next"), None)
    assert sorted(maps) == sorted(whole)


def test_maps_are_found_by_place_and_time(client: httpx.Client, mapped: str) -> None:
    def found(**query: Any) -> bool:
        answer = client.get("/maps", params={"limit": 1000} | query)
        assert answer.status_code == 200, answer.text
        return mapped in [item["id"] for item in answer.json()["features"]]

    west, south, east, north = client.get(f"/maps/{mapped}").json()["bbox"]
    assert found(bbox=f"{west},{south},{east},{north}")
    assert found(bbox="170,-90,169,90")  # over the antimeridian, nearly all the way round
    assert not found(bbox=f"{east + 1},{south},{east + 2},{north}")
    assert found(datetime="2026-03-01T00:00:00Z")
    assert found(datetime="2026-02-01T00:00:00Z/..")
    assert not found(datetime="../2026-02-28T00:00:00Z")
    sequence = client.get(f"/maps/{mapped}").json()["properties"]["onboard:sequence"]
    assert found(since=sequence - 1)
    assert not found(since=sequence)
    for name, value in (("bbox", "1,2,3"), ("bbox", "0,5,1,4"), ("datetime", "now"), ("datetime", "2026-01-01T00:00")):
        refused(client.get("/maps", params={name: value}), 400, "bad-request")


@pytest.mark.parametrize(
    ("crs", "place", "within", "beside"),
    [
        ("EPSG:4326", Affine(0.016, 0, 179.8, 0, -0.016, 10), "-179.9,9.5,-179.6,9.9", "-179.1,9.5,-178.9,9.9"),
        ("EPSG:4326", Affine(0.016, 0, 200, 0, -0.016, 10), "-159.9,9.5,-159.6,9.9", "-159.3,9.5,-159.1,9.9"),
        ("EPSG:3995", Affine(8000, 0, -160_000, 0, -8000, 160_000), "70,89,71,89.5", "70,80,71,85"),
        ("EPSG:4326", Affine(9, 0, 0, 0, -1, 20), "-30,0,-29,1", "-30,30,-29,31"),
    ],
    ids=["over the antimeridian", "at 200 degrees", "around the pole", "all the way round"],
)
def test_a_map_is_found_wherever_its_scene_lies(
    served: Served, client: httpx.Client, tmp_path: Path, crs: str, place: Affine, within: str, beside: str
) -> None:
    with rasterio.open(tmp_path / "s.tif", "w", "GTiff", 40, 40, 3, dtype="uint8", crs=crs, transform=place) as file:
        file.write(np.full((3, 40, 40), 9, np.uint8))
    posted = served.post(tmp_path / "s.tif")
    served.wait_for(posted["id"], "mapped")
    for box, found in ((within, True), (beside, False)):
        items = client.get("/maps", params={"limit": 1000, "bbox": box}).json()["features"]
        assert (posted["id"] in [item["id"] for item in items]) == found


def test_a_map_is_fetched_in_ranges_under_its_digest(client: httpx.Client, mapped: str) -> None:
    whole = client.get(f"/maps/{mapped}/map.tif")
    digest = hashlib.sha256(whole.content).hexdigest()
    assert whole.headers["etag"] == f'"{digest}"'
    head = client.head(f"/maps/{mapped}/map.tif")
    assert int(head.headers["content-length"]) == len(whole.content)
    rest = client.get(f"/maps/{mapped}/map.tif", headers={"Range": "bytes=100-", "If-Range": f'"{digest}"'})
    assert (rest.status_code, rest.content) == (206, whole.content[100:])
    item = client.get(f"/maps/{mapped}").json()
    assert item["assets"]["map"]["file:checksum"] == "1220" + digest
    for name in ("map.json", "quicklook.webp"):
        assert client.get(f"/maps/{mapped}/{name}").status_code == 200
    for name in ("scene.json", "..%2f..%2fledger.sqlite", "map.tif%00", "%2e%2e"):
        assert client.get(f"/maps/{mapped}/{name}").status_code == 404
    refused(client.get("/maps/nothing/map.tif"), 404, "not-found")


def test_a_receipt_needs_the_right_digest(client: httpx.Client, mapped: str) -> None:
    digest = client.head(f"/maps/{mapped}/map.tif").headers["etag"].strip('"')
    wrong = client.post(f"/maps/{mapped}/receipt", json={"sha256": "0" * 64})
    assert "fetch it again" in refused(wrong, 409, "conflict")
    assert not client.get(f"/maps/{mapped}").json()["properties"]["onboard:received"]
    assert client.post(f"/maps/{mapped}/receipt", json={"sha256": digest}).json()["known_before"] is False
    assert client.post(f"/maps/{mapped}/receipt", json={"sha256": digest}).json()["known_before"] is True
    assert client.get(f"/maps/{mapped}").json()["properties"]["onboard:received"]


def test_pystac_opens_what_is_held_aboard(served: Served, mapped: str) -> None:
    catalog = pystac.Catalog.from_file(f"{served.url}/catalog.json")
    items = {item.id: item for item in catalog.get_items()}
    assert mapped in items
    assert items[mapped].assets["map"].href == f"{served.url}/maps/{mapped}/map.tif"
    assert items[mapped].datetime is not None


def test_rasterio_reads_only_part_of_a_map_over_http(served: Served, tmp_path: Path) -> None:
    posted = served.post(write_scene(tmp_path / "large.tif", 380, seed=77))
    served.wait_for(posted["id"], "mapped")
    url = f"/vsicurl/{served.url}/maps/{posted['id']}/map.tif"
    code = f"import rasterio\nwith rasterio.open({url!r}) as file: print(file.read(1, window=((0, 9), (0, 9))).shape)"
    kept = {name: value for name, value in os.environ.items() if "PROXY" not in name.upper()}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT,
        env=kept | {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "CPL_CURL_VERBOSE": "YES", "GDAL_HTTP_PROXY": ""},
    )  # fmt: skip
    assert done.stdout.strip() == "(9, 9)"
    assert "range: bytes=" in done.stderr.lower()
    assert "206 partial content" in done.stderr.lower()
    assert "http/1.1 200" not in done.stderr.lower().split("range: bytes=", 1)[1]


def test_telemetry_says_what_is_and_why_something_is_not(client: httpx.Client) -> None:
    told = client.get("/telemetry").json()
    assert told["engine"]["state"] == "ready"
    assert told["engine"]["model"] == "tiny 1.0"
    for reading in told["readings"]:
        assert (reading["value"] is None) == bool(reading["reason"])
    from prometheus_client.parser import text_string_to_metric_families

    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    assert families["onboard_engine_ready"].samples[0].value == 1.0
    assert {sample.labels["state"] for sample in families["onboard_scenes"].samples} >= {"queued", "mapped"}


def test_roles_reach_as_far_as_they_say(folder: Path) -> None:
    data = folder / "tokens" / "data"

    def token(role: str) -> dict[str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "onboard.cli", "token", "add", role, "--role", role],
            env=os.environ | {"ONBOARD_DATA_DIR": str(data)}, cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return {"Authorization": f"Bearer {done.stdout.strip()}"}

    headers = {role: token(role) for role in ("ingest", "ground", "telemetry", "operator")}
    scene = write_scene(folder / "t.tif", 40).read_bytes()
    allowed = {
        "POST /scenes": {"ingest", "operator"}, "GET /maps": {"ground", "telemetry", "operator"},
        "GET /metrics": {"telemetry", "operator"}, "POST /maps/x/receipt": {"ground", "operator"},
        "DELETE /scenes/x": {"ingest", "operator"},
    }  # fmt: skip
    with running(data, ONBOARD_HOST="0.0.0.0") as served, served.client() as client:
        base = served.url.replace("0.0.0.0", "127.0.0.1")
        for request, roles in allowed.items():
            method, path = request.split()
            body: dict[str, Any] = {"content": scene} if path == "/scenes" else {"json": {"sha256": "0" * 64}}
            if method != "POST":
                body = {}
            extra = TIFF if path == "/scenes" else {}
            answer = client.request(method, base + path, headers=extra, **body)
            refused(answer, 401, "not-authenticated")
            assert answer.headers["www-authenticate"] == "Bearer"
            for role, header in headers.items():
                status = client.request(method, base + path, headers=extra | header, **body).status_code
                assert (status != 403) == (role in roles), (request, role, status)
        assert client.get(f"{base}/health/live").status_code == 200
        assert client.get(f"{base}/health/ready").status_code in (200, 503)


def test_without_tokens_it_does_not_listen_to_strangers(folder: Path) -> None:
    environment = os.environ | {"ONBOARD_DATA_DIR": str(folder / "open"), "ONBOARD_HOST": "0.0.0.0"}
    done = subprocess.run(
        [sys.executable, "-m", "onboard.cli", "serve"], env=environment, cwd=ROOT, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "anybody could command this satellite" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_over_tls_only_clients_of_the_authority_come_in(folder: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    keys = folder / "tls" / "keys"
    keys.mkdir(parents=True)

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=keys, check=True, capture_output=True)

    new = ("-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl("req", "-x509", *new, "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    for name, place in (("server", "IP:127.0.0.1"), ("client", "DNS:station")):
        extension = f"subjectAltName={place}"
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", extension)
        leaf = ("-addext", "basicConstraints=critical,CA:FALSE", "-keyout", f"{name}.key", "-out", f"{name}.pem")
        openssl("req", "-x509", *new, "-subj", f"/CN={name}", *signed, *leaf)
    settings = {
        "ONBOARD_TLS_CERTIFICATE": str(keys / "server.pem"), "ONBOARD_TLS_KEY": str(keys / "server.key"),
        "ONBOARD_TLS_CLIENT_CA": str(keys / "ca.pem"),
    }  # fmt: skip
    with running(folder / "tls" / "data", **settings) as served:
        assert served.url.startswith("https://")
        trust = ssl.create_default_context(cafile=keys / "ca.pem")
        with served.client(verify=trust) as stranger, pytest.raises(httpx.TransportError):
            stranger.get("/health/live")
        trust.load_cert_chain(keys / "client.pem", keys / "client.key")
        with served.client(verify=trust) as station:
            assert station.get("/health/live").status_code == 200


def test_too_many_requests_are_told_to_wait(folder: Path) -> None:
    limits = {"ONBOARD_MAX_REQUESTS_PER_S": "0.01", "ONBOARD_REQUESTS_BURST": "3"}
    with running(folder / "fast" / "data", **limits) as served, served.client() as client:
        answers = [client.get("/scenes") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert client.get("/health/live").status_code == 200


def test_settings_are_printed_and_unknown_ones_refused() -> None:
    def told(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "onboard.cli", "settings", *arguments], env=os.environ | environment, cwd=ROOT,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    rows = {row["key"]: row for row in json.loads(told("--json", ONBOARD_PORT="81").stdout)}
    assert (rows["ONBOARD_PORT"]["value"], rows["ONBOARD_PORT"]["default"]) == (81, 8000)
    assert all(row["meaning"] for row in rows.values())
    assert "* ONBOARD_PORT" in told(ONBOARD_PORT="81").stdout
    wrong = told(ONBOARD_PROT="81")
    assert wrong.returncode == 2
    assert wrong.stderr.strip() == "onboard: there is no setting ONBOARD_PROT; did you mean ONBOARD_PORT?"
    assert "ONBOARD_PORT is 'x'" in told(ONBOARD_PORT="x").stderr


def test_a_scene_that_is_delivered_again_has_what_the_new_delivery_says(served: Served, folder: Path) -> None:
    scene = write_scene(folder / "again.tif", 60, seed=7)
    with served.client() as client:
        first = served.post(scene, name="first")
        assert client.delete(f"/scenes/{first['id']}").status_code == 204
        again = served.post(scene, acquired="2020-01-01T05:00:00.25+05:00", priority="high")
        told = (again["id"], again["name"], again["acquired"], again["priority"])
        assert told == (first["id"], "first", "2020-01-01T00:00:00.250000Z", "high")
        # The folder says it too: what is adopted after a loss of the ledger is the same.
        facts = json.loads((served.data / "scenes" / first["id"] / "scene.json").read_text())
        assert (facts["name"], facts["acquired"]) == ("first", "2020-01-01T00:00:00.250000Z")
        served.wait_for(first["id"], "mapped")
        assert client.get(f"/maps/{first['id']}").json()["properties"]["datetime"] == "2020-01-01T00:00:00.250000Z"
        client.delete(f"/scenes/{first['id']}")
        last = served.post(scene, name="last")
        assert (last["name"], last["acquired"]) == ("last", "2020-01-01T00:00:00.250000Z"), "what is not said stays"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("2020-01-01T05:00:00+05:00", "2020-01-01T00:00:00Z"),
        ("2020-01-01%2005:00:00.25+05:00", "2020-01-01T00:00:00.250000Z"),
        ("2020-01-01T05:00:00%2B05:00", "2020-01-01T00:00:00Z"),
        ("2020-01-01T05:00:00-05:00", "2020-01-01T10:00:00Z"),
        ("2020-01-01+05:00", None),  # a date and a time of a zone that is not said
    ],
)
def test_a_plus_that_is_not_escaped_in_a_url_is_the_offsets(typed: str, expected: str | None) -> None:
    (text,) = parse_qs(f"acquired={typed}")["acquired"]
    if expected is None:
        with pytest.raises(ValidationError, match="timezone"):
            DeliveryQuery.model_validate({"acquired": text})
        return
    assert DeliveryQuery.model_validate({"acquired": text}).delivery("scene").acquired == expected


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"])
def test_a_time_that_utc_cannot_say_is_refused(client: httpx.Client, folder: Path, time: str) -> None:
    data = write_scene(folder / "far.tif", 40, seed=8).read_bytes()
    answer = client.post("/scenes", content=data, headers=TIFF, params={"acquired": time})
    assert "years 1 to 9999" in refused(answer, 422, "invalid")
    assert client.get("/stac/collections").status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/health/live", "/health/ready", "/maps", "/scenes", "/stac", "/metrics", "/telemetry", "/events"]
)
def test_head_gives_the_head_of_get(client: httpx.Client, path: str) -> None:
    get, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    # The connection is still good: a body that was sent all the same would be taken for the next answer.
    assert client.get("/health/live").status_code == 200


def test_head_of_what_is_not_there_or_has_no_end(client: httpx.Client, mapped: str) -> None:
    assert client.head("/scenes/s00000099-00000000").status_code == 404
    assert client.head("/nothing").status_code == 404
    assert client.head("/telemetry/stream").status_code == 405
    head = client.head(f"/maps/{mapped}/map.tif")
    assert int(head.headers["content-length"]) == len(client.get(f"/maps/{mapped}/map.tif").content)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/scenes", "GET, HEAD, POST"), ("PUT", "/scenes/x", "DELETE, GET, HEAD, PATCH"),
        ("POST", "/telemetry/stream", "GET"), ("HEAD", "/telemetry/stream", "GET"),
        ("POST", "/areas", "DELETE, GET, HEAD, PUT"),
    ],
)  # fmt: skip
def test_a_405_names_all_methods_of_its_path(client: httpx.Client, method: str, path: str, allowed: str) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_an_asset_that_is_not_there_says_where_they_are_listed(client: httpx.Client, mapped: str) -> None:
    said = refused(client.get(f"/maps/{mapped}/nope.tif"), 404, "not-found")
    assert said == f"there is no asset 'nope.tif' here; GET /maps/{mapped} lists them"
    assert client.get(f"/maps/{mapped}").status_code == 200
