"""Passes of few bytes: maps larger than a pass come over several, in the plan's order."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import rasterio
import uvicorn

from engines.open import open_engine
from ground import cli, link, station
from ground.link import Link, Window
from ground.passes import read_passes
from ground.station import Station
from onboard.api import downlink
from onboard.api.app import app_of
from onboard.api.service import Service
from onboard.jobs.ledger import Ledger
from onboard.jobs.mapping_config import MappingConfig
from onboard.jobs.published import DELIVERY
from onboard.jobs.reconcile import reconcile
from onboard.mapping import run
from onboard.mapping.run import MapRequest, map_scene
from onboard.settings import read_settings
from tests.ground.liar import lying, respond
from tests.onboard.api.conftest import running as in_thread
from tests.onboard.service import write_scene
from tests.tiny_heads import HEADS, write_heads_model
from tests.tiny_model import write_model

SIDES = {"large": 1000, "small": 200, "plain": 420}
"""Pixels; map.tif has about 240 kB, 11 kB and 43 kB, and only the first has a leading part that opens."""
MOST_PASSES = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the maps of SIDES, and of `heads`, which has two."""
    folder = tmp_path_factory.mktemp("made")
    write_model(folder / "model")
    write_heads_model(folder / "heads-model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "probe_scene", lambda *_: None)  # a process a scene: its own tests run it
        with open_engine(str(folder / "model"), backend="onnxruntime") as engine:
            for name, side in SIDES.items():
                map_scene(MapRequest(write_scene(folder / f"{name}.tif", side, seed=1), folder / "maps"), engine)
        with open_engine(str(folder / "heads-model"), heads=tuple(HEADS), backend="onnxruntime") as engine:
            map_scene(MapRequest(write_scene(folder / "heads.tif", 1000, seed=2), folder / "maps"), engine)
    return folder


@dataclass
class Aboard:
    """The API of a service in a thread; nothing maps there."""

    data: Path
    url: str

    def delivered(self, name: str) -> bool:
        with Ledger(self.data / "ledger.sqlite") as ledger:
            row = ledger.maps.get(name)
            return row is not None and row.delivered is not None


Serve = Callable[..., Aboard]


@pytest.fixture
def serve(made: Path, tmp_path: Path) -> Iterator[Serve]:
    """Starts a service that holds maps: by name, which of the made ones and its priority."""
    with ExitStack() as stack:
        yield lambda **maps: stack.enter_context(serving(made, tmp_path / "data", maps))


@contextmanager
def serving(made: Path, data: Path, maps: dict[str, tuple[str, str]]) -> Iterator[Aboard]:
    for name, (source, priority) in maps.items():
        folder = shutil.copytree(made / "maps" / source, data / "maps" / name)
        item = json.loads((folder / "map.json").read_text())
        item["id"] = name
        item["properties"][DELIVERY] = {"priority": priority}
        (folder / "map.json").write_text(json.dumps(item))
    settings = read_settings(data_dir=data, model=str(made / "model"), max_requests_per_s=1e5)
    with Ledger(settings.ledger_path) as ledger:
        reconcile(settings, ledger)
    service = Service(settings, MappingConfig.of(settings))
    with in_thread(uvicorn.Config(app_of(service), port=0, log_level="error")) as (host, port):
        yield Aboard(data, f"http://{host}:{port}")
    service.close()


@dataclass
class Pass:
    """One pass of the command line: its exit code and its report."""

    code: int
    report: dict[str, Any]


def pull(aboard: Aboard, dest: Path, budget: int, capsys: pytest.CaptureFixture[str]) -> Pass:
    code = cli.main(["pull", aboard.url, "--dest", str(dest), "--bytes", str(budget), "--json"])
    return Pass(code, json.loads(capsys.readouterr().out))


def pull_all(aboard: Aboard, dest: Path, budget: int, capsys: pytest.CaptureFixture[str]) -> list[Pass]:
    """Passes until one ends with nothing left."""
    passes = []
    for _ in range(MOST_PASSES):
        passes.append(pull(aboard, dest, budget, capsys))
        if passes[-1].code != 3:
            return passes
    raise AssertionError(f"work is left after {MOST_PASSES} passes: {[each.report for each in passes]}")


def same_files(dest: Path, aboard: Aboard, name: str) -> bool:
    """Whether every file of the map aboard is here, byte for byte."""
    return all((dest / name / path.name).read_bytes() == path.read_bytes()
               for path in (aboard.data / "maps" / name).iterdir())  # fmt: skip


def test_a_map_of_several_passes_comes_whole_in_as_many(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aboard, dest, budget = serve(one=("large", "urgent")), tmp_path / "dest", 80_000
    size = sum(path.stat().st_size for path in (aboard.data / "maps" / "one").iterdir())
    first = pull(aboard, dest, budget, capsys)
    assert (first.code, first.report["coarse"], first.report["maps"]) == (3, ["one"], [])
    with rasterio.open(dest / "one" / "coarse.tif", overview_level=0) as coarse:
        assert coarse.read(1).any()
    passes = [first, *pull_all(aboard, dest, budget, capsys)]
    assert len(passes) == math.ceil(size / budget)
    for each in passes[:-1]:
        assert each.code == 3
        assert each.report["left"] > 0
        # The plans of a pass are answers that count as well.
        assert 0.95 * budget < each.report["received_bytes"] <= budget
    assert (passes[-1].code, passes[-1].report["left"], passes[-1].report["maps"]) == (0, 0, ["one"])
    assert sum(each.report["received_bytes"] for each in passes) == size
    assert sum(each.report["repeated_bytes"] for each in passes) == 0
    assert same_files(dest, aboard, "one")
    assert aboard.delivered("one")
    assert sorted(path.name for path in (dest / "one").iterdir()) == [
        "map.json", "map.tif", "quicklook.webp", "receipt.json",
    ]  # fmt: skip
    logged = read_passes(dest)
    assert [record.left > 0 for record in logged] == [True] * (len(passes) - 1) + [False]


def test_an_urgent_map_of_several_passes_goes_on_before_maps_that_fit(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    routine = {f"r{number}": ("small", "routine") for number in range(8)}
    aboard, dest, budget = serve(**routine, urgent=("large", "urgent")), tmp_path / "dest", 80_000
    first = pull(aboard, dest, budget, capsys)
    assert first.report["coarse"] == ["urgent"]
    # What has room behind the urgent map's head, by the first plan.
    assert 0 < len(first.report["maps"]) < len(routine)
    rest = pull_all(aboard, dest, budget, capsys)
    came = [name for each in rest for name in each.report["maps"]]
    assert came[0] == "urgent"
    assert len(first.report["maps"]) + len(came) == len(routine) + 1
    assert all(each.report["received_bytes"] <= budget for each in (first, *rest))
    assert rest[-1].code == 0
    assert all(aboard.delivered(name) for name in (*routine, "urgent"))
    assert same_files(dest, aboard, "urgent")


def test_a_more_urgent_map_goes_before_one_that_is_begun(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aboard, dest, budget = serve(begun=("large", "high"), other=("small", "routine")), tmp_path / "dest", 60_000
    with Ledger(aboard.data / "ledger.sqlite") as ledger:
        row = ledger.maps.get("other")
        assert row is not None
        ledger.maps.remove("other")
        assert pull(aboard, dest, budget, capsys).report["coarse"] == ["begun"]
        ledger.maps.adopt(replace(row, priority="urgent"), {})
    second = pull(aboard, dest, budget, capsys)
    assert second.report["maps"] == ["other"]
    # The begun map has what is left of the pass; the answers that are plans count too.
    assert second.report["received_bytes"] > 0.9 * budget
    assert pull_all(aboard, dest, budget, capsys)[-1].report["maps"] == ["begun"]


def test_further_heads_come_before_the_map_whose_receipt_lets_go_of_them(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aboard, dest, budget = serve(two=("heads", "routine")), tmp_path / "dest", 60_000
    sizes = {path.name: path.stat().st_size for path in (aboard.data / "maps" / "two").iterdir()}
    assert min(sizes["map.tif"], sizes["light.tif"]) > budget
    passes = pull_all(aboard, dest, budget, capsys)
    assert len(passes) <= math.ceil(sum(sizes.values()) / budget) + 1
    assert passes[-1].code == 0
    for name in ("map.tif", "light.tif", "map.json"):
        assert (dest / "two" / name).read_bytes() == (aboard.data / "maps" / "two" / name).read_bytes()
    assert (dest / "two" / "light.tif").stat().st_mtime <= (dest / "two" / "map.tif").stat().st_mtime


def test_a_map_without_a_leading_part_that_fits_is_begun_all_the_same(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aboard, dest, budget = serve(one=("plain", "routine")), tmp_path / "dest", 20_000
    passes = pull_all(aboard, dest, budget, capsys)
    # Without the picture: by the plan's rule it goes where all of the map fits into one pass.
    size = sum((aboard.data / "maps" / "one" / name).stat().st_size for name in ("map.tif", "map.json"))
    assert len(passes) == math.ceil(size / budget)
    assert [each.code for each in passes] == [3] * (len(passes) - 1) + [0]
    assert all(each.report["received_bytes"] <= budget for each in passes)
    assert (dest / "one" / "map.tif").read_bytes() == (aboard.data / "maps" / "one" / "map.tif").read_bytes()


def test_routine_maps_wait_for_an_urgent_one_of_which_not_even_a_part_fits(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    routine = {f"r{number}": ("small", "routine") for number in range(4)}
    aboard, dest, budget = serve(**routine, urgent=("plain", "urgent")), tmp_path / "dest", 20_000
    first = pull(aboard, dest, budget, capsys)
    assert (first.code, first.report["maps"], first.report["coarse"]) == (3, [], [])
    assert first.report["left"] >= len(routine) + 1
    # The whole pass went to the urgent map; plans are answers that count as well.
    assert sum(path.stat().st_size for path in (dest / "urgent").iterdir()) == first.report["received_bytes"]
    assert first.report["received_bytes"] > 0.5 * budget
    came = [name for each in pull_all(aboard, dest, budget, capsys) for name in each.report["maps"]]
    assert (came[0], sorted(came)) == ("urgent", ["r0", "r1", "r2", "r3", "urgent"])
    assert all(aboard.delivered(name) for name in came)


def test_a_damaged_map_that_is_larger_than_a_pass_is_found_and_keeps_no_other_up_there(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aboard, dest = serve(r0=("small", "routine"), urgent=("plain", "urgent")), tmp_path / "dest"
    raster = aboard.data / "maps" / "urgent" / "map.tif"
    raster.write_bytes(raster.read_bytes()[:1000] + bytes(raster.stat().st_size - 1000))
    passes = pull_all(aboard, dest, 20_000, capsys)
    assert [name for each in passes for name in each.report["damaged"]] == ["urgent"]
    assert [name for each in passes for name in each.report["maps"]] == ["r0"]


def test_a_plan_that_is_longer_than_an_answer_comes_in_several(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of 14,000 maps the plan had more than the 16 MiB that a station takes, and no map came down.
    monkeypatch.setattr(link, "LONGEST_JSON", 5000)
    monkeypatch.setattr(downlink, "MOST_FILES", 7, raising=False)
    maps = {f"m{number}": ("small", "routine") for number in range(6)}
    aboard, dest = serve(**maps), tmp_path / "dest"
    answer = httpx.get(f"{aboard.url}/downlink/plan").json()
    assert (len(answer["items"]), answer["planned_files"], answer["planned_maps"]) == (7, 18, 6)
    assert cli.main(["pull", aboard.url, "--dest", str(dest), "--json"]) == 0
    assert sorted(json.loads(capsys.readouterr().out)["maps"]) == sorted(maps)
    assert all(aboard.delivered(name) for name in maps)


def test_a_plan_of_an_earlier_version_is_taken_as_it_is(tmp_path: Path) -> None:
    files = {"m1": bytes(range(200)), "m2": bytes(range(100))}
    with lying(files) as liar, Link(liar.url, window=Window(bytes=50_000)) as link:
        rows = [liar.planned(name) | {"priority": name} for name in files]
        liar.answers["GET /downlink/plan"] = respond({"items": rows, "left_out": 1})
        assert Station(link, tmp_path).pull().maps == ["m1", "m2"]


def test_a_coarse_map_that_a_cut_kept_from_being_made_is_made_by_the_next_pass(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    aboard, dest = serve(one=("large", "routine")), tmp_path / "dest"

    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, Link(aboard.url, window=Window(bytes=30_000)) as link:
        patch.setattr(station, "write_beginning", cut)
        with pytest.raises(KeyboardInterrupt):
            Station(link, dest).pull()
    coarse = dest / "one" / "coarse.tif"
    (part,) = (dest / "one").glob("map.tif.*.part")
    length = part.stat().st_size
    for torn in (None, b"", part.read_bytes()[:1000], b"of another version" * 10_000):
        if torn is not None:
            coarse.write_bytes(torn)
        told = pull(aboard, dest, 20_000, capsys)
        assert (told.code, told.report["coarse"]) == (3, ["one"])
        assert coarse.read_bytes() == part.read_bytes()[:length]
    # Whole as it is, it is not made again.
    assert pull(aboard, dest, 20_000, capsys).report["coarse"] == []
    coarse.with_name("coarse.tif.new").write_bytes(b"of a pass that was killed")
    pull_all(aboard, dest, 1_000_000, capsys)
    assert sorted(path.name for path in dest.glob("*/coarse*")) == []


def test_a_satellite_that_always_leaves_something_out_ends_the_pass(tmp_path: Path) -> None:
    with lying() as liar, Link(liar.url, window=Window(bytes=50_000)) as link:
        liar.answers["GET /downlink/plan"] = respond({"items": [], "left_out": 1})
        report = Station(link, tmp_path).pull()
        assert (report.left, report.window_closed) == (1, False)
        assert len(liar.requests) < 60


def test_the_rest_of_a_coarse_map_is_left_where_the_window_closes_behind_it(tmp_path: Path) -> None:
    now = [0.0]

    def close(line: str) -> None:
        if "a coarse map" in line:
            now[0] = 100.0

    window = Window(seconds=10, clock=lambda: now[0])
    with lying({"m1": bytes(range(200))}) as liar, Link(liar.url, window=window) as link:
        liar.answers["GET /downlink/plan"] = respond({"items": [liar.planned("m1", length=50)], "left_out": 0})
        report = Station(link, tmp_path, close).pull()
    assert (report.coarse, report.left, report.window_closed) == (["m1"], 1, True)
    assert (tmp_path / "m1" / "coarse.tif").read_bytes() == bytes(range(50))


def test_a_long_plan_that_begins_with_pictures_that_are_here_does_not_end_the_pass(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downlink, "MOST_FILES", 2)
    maps = {f"m{number}": ("small", "routine") for number in range(6)}
    aboard, dest = serve(**maps), tmp_path / "dest"
    passes = pull_all(aboard, dest, 60_000, capsys)
    assert all(each.report["received_bytes"] > 0 for each in passes)
    assert sorted(name for each in passes for name in each.report["maps"]) == sorted(maps)
