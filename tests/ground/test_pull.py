"""Passes against a real service, over links that break."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from ground.folders import MapFolders
from ground.link import Link
from ground.station import Station
from tests.ground.conftest import FEW, MAPS
from tests.ground.proxy import bad_link, slow_link
from tests.onboard.service import ROOT, Served, until


def ground(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ground.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)


def digests(folder: Path, pattern: str = "*/map.tif") -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob(pattern)
    }


def received(served: Served) -> int:
    with served.ledger() as ledger:
        return sum(row.delivered is not None for row in ledger.maps.page(limit=1000))


def test_a_pass_brings_every_map_and_the_next_one_nothing(holding: Served, archive: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    done = ground("pull", holding.url, "--dest", str(dest), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (len(report["maps"]), len(report["receipts"]), report["left"]) == (FEW, FEW, 0)
    for name in ("map.tif", "map.json", "quicklook.webp"):
        assert digests(dest, f"*/{name}") == digests(archive, f"*/{name}")
    assert list(dest.glob("*/*.part")) == []
    assert received(holding) == FEW
    again = json.loads(ground("pull", holding.url, "--dest", str(dest), "--json").stdout)
    assert (again["files"], again["received_bytes"], again["receipts"]) == (0, 0, [])


def test_fifty_maps_come_whole_over_a_link_that_breaks(holding_many: Served, many: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    with bad_link(holding_many.url, seed=1) as link:
        for _ in range(20):
            done = ground("pull", link.url, "--dest", str(dest), "--quiet", "--stall", "0.5")
            assert done.returncode in (0, 3, 4), done.stderr
            if done.returncode == 0:
                break
        assert done.returncode == 0
        assert digests(dest) == digests(many)
        assert received(holding_many) == MAPS
        assert min(link.harm[kind] for kind in ("reset", "close", "stall")) > 0
        files = sum(path.stat().st_size for path in many.glob("*/*"))
        with holding_many.client() as client:
            plans = 400 * 3 * MAPS + len(client.get("/downlink/plan").content)
        heads = 500 * (3 * MAPS + MAPS + 2 * link.connections)
        again = link.sent - files - heads - 3 * plans
        assert again < 0.02 * files, (link.sent, files, link.harm)


def test_a_station_killed_again_and_again_ends_with_every_map_whole(
    holding: Served, archive: Path, tmp_path: Path
) -> None:
    dest, whole, chance = tmp_path / "dest", digests(archive), random.Random(3)
    kills = 0
    with slow_link(holding.url) as link:
        command = [sys.executable, "-m", "ground.cli", "pull", link.url, "--dest", str(dest), "--quiet"]
        while len(digests(dest)) < FEW:
            process = subprocess.Popen(command, cwd=ROOT)
            _wait_for_bytes(dest, size_of(dest) + chance.randrange(300_000), process)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.wait()
            here = digests(dest)
            assert all(whole[name] == digest for name, digest in here.items()), "wrong bytes under a map's name"
            assert received(holding) <= len(here)
    assert ground("pull", holding.url, "--dest", str(dest), "--quiet").returncode == 0
    assert kills >= 3
    assert digests(dest) == whole
    assert received(holding) == FEW


def _wait_for_bytes(dest: Path, goal: int, process: subprocess.Popen[bytes]) -> None:
    until(lambda: size_of(dest) > goal or process.poll() is not None, "no progress")


def size_of(folder: Path) -> int:
    """Bytes in it, of files that may come and go meanwhile."""
    total = 0
    for path in folder.glob("*/*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def test_a_pass_of_few_bytes_ends_with_work_left_and_is_continued(
    holding: Served, archive: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    budget = sum(path.stat().st_size for path in archive.glob("*/*")) // 4
    first = ground("pull", holding.url, "--dest", str(dest), "--bytes", str(budget), "--json")
    assert first.returncode == 3
    report = json.loads(first.stdout)
    assert report["received_bytes"] <= budget
    assert 0 < len(report["maps"]) < FEW
    total = report["received_bytes"]
    for _ in range(12):
        done = ground("pull", holding.url, "--dest", str(dest), "--bytes", str(budget), "--json")
        told = json.loads(done.stdout)
        total += told["received_bytes"]
        assert told["repeated_bytes"] == 0
        if done.returncode == 0:
            break
    assert done.returncode == 0
    assert digests(dest) == digests(archive)
    assert total == sum(path.stat().st_size for path in dest.glob("*/*") if path.name != "receipt.json")


def test_a_window_of_time_ends_a_pass(holding: Served, tmp_path: Path) -> None:
    with slow_link(holding.url, pace_s=0.2) as link:  # 72 s for all of it
        done = ground("pull", link.url, "--dest", str(tmp_path / "dest"), "--window", "6s", "--quiet")
    assert done.returncode == 3
    assert ground("pull", holding.url, "--dest", str(tmp_path / "dest"), "--quiet").returncode == 0


def test_a_head_that_came_first_is_continued_by_its_map(holding: Served, archive: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    with holding.client() as client:
        plan = client.get("/downlink/plan", params={"bytes": 40_000}).json()
    heads = [item for item in plan["items"] if not item["whole"]]
    assert plan["planned_bytes"] <= 40_000
    assert heads
    assert "leading part, 1/8 of the resolution" in heads[0]["reason"]
    ground("pull", holding.url, "--dest", str(dest), "--bytes", "40000", "--quiet")
    coarse = sorted(dest.glob("*/coarse.tif"))
    assert coarse
    import rasterio

    path = archive / coarse[0].parent.name / "map.tif"
    with rasterio.open(coarse[0], overview_level=0) as head, rasterio.open(path, overview_level=0) as whole:
        assert (head.read(1) == whole.read(1)).all()
    done = ground("pull", holding.url, "--dest", str(dest), "--json")
    assert json.loads(done.stdout)["repeated_bytes"] == 0
    assert digests(dest) == digests(archive)
    assert list(dest.glob("*/coarse.tif")) == []


def test_a_part_of_another_version_is_begun_afresh(holding: Served, archive: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    (dest / "m000").mkdir(parents=True)
    (dest / "m000" / "map.tif.0123456789abcdef.part").write_bytes(b"of an older map")
    digest = hashlib.sha256((archive / "m001" / "map.tif").read_bytes()).hexdigest()
    (dest / "m001").mkdir()
    (dest / "m001" / f"map.tif.{digest[:16]}.part").write_bytes(b"\0" * 1000)  # torn by a power cut at the station
    assert ground("pull", holding.url, "--dest", str(dest), "--quiet").returncode == 0
    assert digests(dest) == digests(archive)
    assert list(dest.glob("*/*.part")) == []


def test_a_full_disk_keeps_the_part_and_says_so(holding: Served, archive: Path, tmp_path: Path) -> None:
    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    dest = tmp_path / "dest"
    done = ground("pull", holding.url, "--dest", str(dest), "--quiet", preexec_fn=small_files)
    assert done.returncode == 1
    assert "make room, then run the same command: it continues" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert ground("pull", holding.url, "--dest", str(dest), "--quiet").returncode == 0
    assert digests(dest) == digests(archive)


def test_a_receipt_that_did_not_get_through_is_sent_first(holding: Served, archive: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    (dest / "m007").mkdir(parents=True)
    (dest / "m007" / "map.tif").write_bytes((archive / "m007" / "map.tif").read_bytes())
    done = ground("pull", holding.url, "--dest", str(dest), "--bytes", "2000", "--json")
    assert json.loads(done.stdout)["receipts"][0] == "m007"
    with holding.ledger() as ledger:
        found = ledger.maps.get("m007")
    assert found is not None
    assert found.delivered is not None


def test_a_map_that_was_made_in_the_folder_gets_no_receipt(holding: Served, archive: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    mine = shutil.copytree(next(archive.iterdir()), dest / "mine")
    item = json.loads((mine / "map.json").read_text())
    link = next(link for link in item["links"] if link["rel"] == "derived_from" and link["title"] == "the scene")
    (mine / link["href"]).write_bytes(b"the scene, where `onboard process` was run")
    done = ground("pull", holding.url, "--dest", str(dest), "--json")
    assert done.returncode == 0, done.stderr
    assert "mine" not in json.loads(done.stdout)["receipts"]
    assert not (mine / "receipt.json").exists()


def test_a_model_at_the_same_place_beside_the_folder_makes_no_map_one_s_own(archive: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    folder = shutil.copytree(next(archive.iterdir()), dest / "m")
    links = json.loads((folder / "map.json").read_text())["links"]
    (model,) = [link["href"] for link in links if link["title"] != "the scene"]
    (folder / model).parent.mkdir(parents=True, exist_ok=True)
    (folder / model).write_bytes(b"a model")
    assert not MapFolders(dest).made_here("m")


def test_a_link_that_is_down_and_wrong_words_have_their_own_codes(tmp_path: Path) -> None:
    down = ground("pull", "http://127.0.0.1:9", "--dest", str(tmp_path / "a"), "--window", "1s", "--quiet")
    assert down.returncode == 4
    assert "nothing came through" in down.stderr
    for arguments in (("pull", "satellite", "--dest", "x"), ("pull", "http://x", "--dest", "x", "--bytes", "many"),
                      ("ls",), ("pull", "http://x", "--dest", "x", "--token-file", "/nothing")):  # fmt: skip
        done = ground(*arguments, env=os.environ | {"HTTP_PROXY": ""})
        assert done.returncode == 2, (arguments, done.stderr)
        assert len(done.stderr.strip().splitlines()) == 1


def first_planned(served: Served) -> str:
    with served.client() as client:
        return str(client.get("/downlink/plan").json()["items"][0]["map"])


@pytest.mark.parametrize("harm", ["a bit", "its end"])
def test_a_damaged_map_keeps_no_other_aboard_and_costs_one_pass(
    holding: Served, archive: Path, tmp_path: Path, harm: str
) -> None:
    dest = tmp_path / "dest"
    first = first_planned(holding)
    aboard = holding.data / "maps" / first / "map.tif"
    content = aboard.read_bytes()
    aboard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if harm == "a bit" else content[:-100])
    done = ground("pull", holding.url, "--dest", str(dest), "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, len(report["maps"]), report["damaged"], report["left"]) == (1, FEW - 1, [first], 0)
    assert list(report["why"]) == [first]
    assert done.stderr == f"ground: {report['why'][first]}\n"
    assert f"{first}/map.tif: arrived with" in done.stderr
    assert "aboard map.tif is damaged, and the map erased: deliver its scene again" in done.stderr
    with holding.ledger() as ledger:
        assert ledger.maps.get(first) is None
        events = [(event.severity, event.kind) for event in ledger.events.page(limit=1000) if event.about == first]
    assert ("error", "map-damaged") in events
    assert not aboard.parent.exists()
    again = json.loads(ground("pull", holding.url, "--dest", str(dest), "--json").stdout)
    assert (again["maps"], again["damaged"], again["received_bytes"]) == ([], [], 0)
    whole = digests(archive)
    del whole[f"{first}/map.tif"]
    assert digests(dest) == whole


def test_what_is_damaged_aboard_is_said_where_people_read(holding: Served, tmp_path: Path) -> None:
    first = first_planned(holding)
    aboard = holding.data / "maps" / first / "quicklook.webp"
    aboard.write_bytes(aboard.read_bytes()[::-1])
    said = ground("pull", holding.url, "--dest", str(tmp_path / "dest"))
    assert (said.returncode, said.stderr) == (1, "")
    assert f"{first}/quicklook.webp: arrived with" in said.stdout
    assert f"{first}: aboard quicklook.webp is damaged\n" in said.stdout
    assert "; 1 map damaged" in said.stdout
    with holding.ledger() as ledger:
        found = ledger.maps.get(first)
    assert found is not None
    assert "quicklook.webp" not in found.assets
    # The map itself is whole: the next pass brings it, without the picture.
    again = json.loads(ground("pull", holding.url, "--dest", str(tmp_path / "dest"), "--json").stdout)
    assert (again["maps"], again["damaged"]) == ([first], [])


def test_a_link_that_damages_a_map_loses_none_aboard(holding: Served, tmp_path: Path) -> None:
    first = first_planned(holding)
    with Link(holding.url) as link:
        station = Station(link, tmp_path / "dest")
        send = link._client.send

        def spoilt(request: httpx.Request, **options: Any) -> httpx.Response:
            answer = send(request, **options)
            if request.url.path != f"/maps/{first}/map.tif":
                return answer
            content = answer.read()
            body = httpx.ByteStream(content[:-1] + bytes([content[-1] ^ 1]))
            return httpx.Response(answer.status_code, headers=answer.headers, stream=body, request=request)

        link._client.send = spoilt  # type: ignore[method-assign]
        report = station.pull()
    assert report.damaged == [first]
    assert report.why[first].endswith("; aboard all its files are whole")
    again = json.loads(ground("pull", holding.url, "--dest", str(tmp_path / "dest"), "--json").stdout)
    assert (again["maps"], again["damaged"]) == ([first], [])


def test_a_map_that_goes_while_the_pass_runs_is_done_without(holding: Served, tmp_path: Path) -> None:
    def forget_the_last(_: str) -> None:
        with holding.ledger() as ledger:
            ledger.maps.remove(ledger.maps.page(limit=100)[-1].id)

    with Link(holding.url) as link:
        report = Station(link, tmp_path / "dest", forget_the_last).pull()
    assert (len(report.maps) + len(report.gone), report.damaged, report.left) == (FEW, [], 0)
    assert len(report.gone) > 1
    assert set(report.why) == set(report.gone)


def test_a_map_whose_file_vanished_aboard_keeps_no_other_one_from_coming(
    holding: Served, archive: Path, tmp_path: Path
) -> None:
    dest, first = tmp_path / "dest", first_planned(holding)
    (holding.data / "maps" / first / "map.tif").unlink()
    done = ground("pull", holding.url, "--dest", str(dest), "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["gone"], report["left"]) == (0, [first], 0)
    assert "is gone from the disk" in report["why"][first]
    whole = digests(archive)
    del whole[f"{first}/map.tif"]
    assert digests(dest) == whole


def test_a_map_made_anew_while_the_pass_runs_comes_in_the_same_pass(holding: Served, tmp_path: Path) -> None:
    changed: dict[str, str] = {}

    def make_the_last_anew(_: str) -> None:
        if changed:
            return
        with holding.ledger() as ledger:
            row = ledger.maps.page(limit=100)[-1]
            path = holding.data / "maps" / row.id / "map.tif"
            path.write_bytes(path.read_bytes() + b"anew")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            facts = {"bytes": path.stat().st_size, "sha256": digest}
            ledger.maps.remove(row.id)
            ledger.maps.adopt(replace(row, assets={**row.assets, "map.tif": facts}), {})
            changed[f"{row.id}/map.tif"] = digest

    with Link(holding.url) as link:
        report = Station(link, tmp_path / "dest", make_the_last_anew).pull()
    assert (len(report.maps), report.why, report.left, report.window_closed) == (FEW, {}, 0, False)
    assert changed.items() <= digests(tmp_path / "dest").items()


def test_a_map_made_anew_since_it_came_is_fetched_again(holding: Served, archive: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    older = dest / "m003" / "map.tif"
    older.parent.mkdir(parents=True)
    older.write_bytes(b"another version")
    done = ground("pull", holding.url, "--dest", str(dest), "--json")
    assert (done.returncode, len(json.loads(done.stdout)["receipts"])) == (0, FEW)
    assert digests(dest) == digests(archive)


def test_what_is_aboard_and_here_is_listed_and_watched(holding: Served, tmp_path: Path) -> None:
    rows = json.loads(ground("ls", holding.url, "--json").stdout)
    assert len(rows) == FEW
    assert not rows[0]["received"]
    ground("pull", holding.url, "--dest", str(tmp_path / "dest"), "--bytes", "300000", "--quiet")
    here = json.loads(ground("ls", "--dest", str(tmp_path / "dest"), "--json").stdout)
    assert any(row["acknowledged"] for row in here)
    with holding.client() as client:
        until(lambda: client.get("/health/ready").status_code == 200, "never ready")
    status = ground("status", holding.url)
    assert status.stdout.startswith("engine    ready onnxruntime fp32 tiny 1.0")
    watched = ground("watch", holding.url, "--every", "0.1s", "--count", "2")
    assert len(watched.stdout.splitlines()) == 2
    assert "idle" in watched.stdout
    reading, writing = os.pipe()
    os.close(reading)  # as `ground status | head -0` has it
    with os.fdopen(writing, "w") as gone:
        command = [sys.executable, "-m", "ground.cli", "status", holding.url]
        left = subprocess.run(command, cwd=ROOT, stdout=gone, stderr=subprocess.PIPE, text=True, check=False)
    assert (left.returncode, left.stderr) == (141, "")


def test_receipts_that_were_lost_aboard_are_given_again(holding: Served, archive: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    assert ground("pull", holding.url, "--dest", str(dest), "--json").returncode == 0
    with holding.ledger() as ledger:  # as a ledger that was built anew knows them
        for row in ledger.maps.page(limit=100):
            ledger.maps.remove(row.id)
            ledger.maps.adopt(replace(row, delivered=None), {})
        other = ledger.maps.page(limit=1)[0].id
    assert received(holding) == 0
    (dest / other / "map.tif").write_bytes(b"not what is aboard")
    # A short pass, whose plan names few maps.
    short = json.loads(ground("pull", holding.url, "--dest", str(dest), "--json", "--bytes", "4000").stdout)
    assert len(short["receipts"]) == FEW - 1
    assert received(holding) == FEW - 1
    again = json.loads(ground("pull", holding.url, "--dest", str(dest), "--json").stdout)
    assert (again["maps"], again["receipts"], received(holding)) == ([other], [other], FEW)
    assert digests(dest) == digests(archive)
