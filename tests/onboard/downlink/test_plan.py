from __future__ import annotations

from pathlib import Path

import pytest
import rasterio
import rasterio.errors
from hypothesis import given
from hypothesis import strategies as st

from onboard.downlink.plan import Held, LeftOut, Weights, first_left_out, plan
from onboard.downlink.retention import erasable
from onboard.jobs.map_store import MapRow
from onboard.mapping.cog_prefix import prefixes_of


def held(name: str, rank: int = 2, sequence: int = 1, size: int = 1000, **more: object) -> Held:
    told = {"files": {"map.tif": (size, "a"), "map.json": (100, "b"), "quicklook.webp": (50, "c")},
            "leading": [(size // 10, 16), (size // 4, 8)], "cover": {"water": 1.0}, "valid_px": 1000}  # fmt: skip
    return Held(name, ("urgent", "high", "routine")[rank], rank, sequence, **(told | more))  # type: ignore[arg-type]


maps = st.lists(
    st.builds(
        lambda rank, size, water, valid: (rank, size, water, valid),
        st.integers(0, 2), st.integers(40, 5000), st.floats(0, 1), st.integers(0, 10**6),
    ),
    max_size=12,
)  # fmt: skip


@given(maps, st.integers(0, 30_000))
def test_a_plan_keeps_its_budget_and_names_each_file_once(made: list[tuple[int, int, float, int]], budget: int) -> None:
    rows = [
        held(f"m{n}", rank, n, size, cover={"water": water, "bare": 1 - water}, valid_px=valid)
        for n, (rank, size, water, valid) in enumerate(made)
    ]
    items = plan(rows, budget)
    assert sum(item.length for item in items) <= budget
    assert len({(item.map, item.asset) for item in items}) == len(items)
    assert all(item.whole or (item.asset == "map.tif" and item.length < item.bytes) for item in items)
    assert plan(rows, budget) == items
    for item in items:
        # A map's own item comes with it, and before it: the map's receipt lets go of the rest.
        if item.asset == "map.tif":
            before = items[: items.index(item)]
            assert (item.map, "map.json") in {(other.map, other.asset) for other in before}


@given(maps)
def test_without_a_budget_everything_goes(made: list[tuple[int, int, float, int]]) -> None:
    rows = [held(f"m{n}", rank, n, size) for n, (rank, size, _, _) in enumerate(made)]
    items = plan(rows, None)
    assert len(items) == 3 * len(rows)
    assert all(item.whole for item in items)


def test_the_first_map_that_is_left_out_is_named_with_the_least_that_brings_something_of_it() -> None:
    rows = [held("routine", 2, 1, 300), held("urgent", 0, 2, 8000), held("second", 0, 3, 9000)]
    items = plan(rows, 600)
    assert {item.map for item in items if item.asset == "map.tif"} == {"routine"}
    # Its item is planned with its picture, so that a leading part is all that it needs.
    assert first_left_out(rows, items) == LeftOut("urgent", "urgent", 800)
    assert first_left_out(rows, []) == LeftOut("urgent", "urgent", 900)
    assert first_left_out([held("whole", leading=[])], []) == LeftOut("whole", "routine", 1100)
    assert first_left_out(rows, plan(rows, None)) is None


def test_optional_files_go_with_what_all_maps_leave_and_before_their_map() -> None:
    """The receipt of the map lets go of them; another map is worth more than polygons."""
    files = {"map.tif": (1000, "a"), "map.json": (100, "b"), "polygons.parquet": (3000, "p")}
    rows = [held("one", files=files, optional=["polygons.parquet"], leading=[]), held("two", sequence=2, leading=[])]
    everything = sum(size for row in rows for size, _ in row.files.values())
    for budget in (None, everything):
        names = [(item.map, item.asset) for item in plan(rows, budget)]
        assert names.index(("one", "polygons.parquet")) < names.index(("one", "map.tif"))
        assert len(names) == 6
    short = plan(rows, everything - 1)
    assert {(item.map, item.asset) for item in short} >= {("one", "map.tif"), ("two", "map.tif")}
    assert "polygons.parquet" not in {item.asset for item in short}


def test_changes_stand_in_for_the_map_and_come_last() -> None:
    files = {"changes.tif": (90, "c"), "light-changes.tif": (80, "d"), "map.json": (100, "b")}
    row = held("one", files=files, since="zero", leading=[], further_maps=["light-changes.tif"])
    items = plan([row], 270)
    assert [item.asset for item in items] == ["map.json", "light-changes.tif", "changes.tif"]
    assert "what changed since zero, in place of the map" in items[0].reason
    # Without the last file there is no map: its changes alone would let nothing go.
    assert [item.asset for item in plan([row], 200)] == ["map.json", "light-changes.tif"]


def test_a_map_whose_further_maps_do_not_fit_is_not_let_go() -> None:
    """The receipt is for map.tif: sent whole, it would have the satellite erase what never came."""
    files = {"map.tif": (1000, "a"), "map.json": (100, "b"), "deepglobe.tif": (800, "d"), "confidence.tif": (900, "e")}
    row = held("m", files=files, further_maps=["deepglobe.tif"])

    def planned(budget: int) -> list[tuple[str, int]]:
        return [(item.asset, item.length) for item in plan([row], budget)]

    assert planned(2800) == [("map.json", 100), ("confidence.tif", 900), ("deepglobe.tif", 800), ("map.tif", 1000)]
    assert planned(1900) == [("map.json", 100), ("deepglobe.tif", 800), ("map.tif", 1000)]
    assert planned(1899) == [("map.json", 100), ("deepglobe.tif", 800), ("map.tif", 250)]
    assert planned(950) == [("map.json", 100), ("deepglobe.tif", 800)]
    assert planned(600) == [("map.json", 100), ("map.tif", 250)]
    assert planned(99) == []


def test_pictures_of_further_heads_come_where_they_fit_after_the_first() -> None:
    files = {
        "map.tif": (5000, "a"), "map.json": (100, "b"), "quicklook.webp": (50, "c"), "one.tif": (5000, "d"),
        "one-quicklook.webp": (60, "e"), "two-quicklook.webp": (40, "f"),
    }  # fmt: skip
    row = held("m", files=files, further_maps=["one.tif"],
               further_quicklooks=["one-quicklook.webp", "two-quicklook.webp"])  # fmt: skip

    def planned(budget: int) -> list[str]:
        return [item.asset for item in plan([row], budget, Weights(quicklooks=1)) if item.asset.endswith("webp")]

    assert planned(149) == []
    assert planned(150) == ["quicklook.webp"]
    assert planned(190) == ["quicklook.webp", "two-quicklook.webp"]
    assert planned(250) == ["quicklook.webp", "one-quicklook.webp", "two-quicklook.webp"]
    assert {item.asset for item in plan([row], None)} == set(files)


def order(items: list[str]) -> list[str]:
    return list(dict.fromkeys(items))


def test_urgent_comes_first_whatever_it_is_worth() -> None:
    rows = [held("routine", 2, valid_px=10**9), held("urgent", 0, valid_px=1), held("high", 1)]
    assert order([item.map for item in plan(rows, None)]) == ["urgent", "high", "routine"]


def test_rare_classes_large_areas_small_files_and_long_waits_are_worth_more() -> None:
    common = [held(f"c{n}", sequence=n + 10, cover={"bare": 1.0}) for n in range(5)]
    for better in (
        held("x", sequence=30, cover={"flood": 1.0}), held("x", sequence=30, cover={"bare": 1.0}, valid_px=9000),
        held("x", sequence=30, cover={"bare": 1.0}, size=100), held("x", sequence=1, cover={"bare": 1.0}),
        held("x", sequence=30, cover={"bare": 1.0}, confidence=3.0),
    ):  # fmt: skip
        assert order([item.map for item in plan([*common, better], None)])[0] == "x"
    assert "100% flood" in plan([*common, held("x", cover={"flood": 1.0})], None)[0].reason


def test_a_map_of_unfamiliar_ground_is_worth_less_and_says_so() -> None:
    rows = [held("known"), held("strange", unfamiliar=0.8), held("unsaid", unfamiliar=None)]
    values = {item.map: item for item in plan(rows, None) if item.asset == "map.tif"}
    assert values["strange"].value < values["known"].value == values["unsaid"].value
    assert (values["strange"].unfamiliar, values["unsaid"].unfamiliar) == (0.8, None)
    assert "80% of tiles unlike the training imagery" in values["strange"].reason
    indifferent = {item.map: item.value for item in plan(rows, None, Weights(guess=0)) if item.asset == "map.tif"}
    assert indifferent["strange"] == indifferent["known"]
    waited = [held("old", sequence=1, unfamiliar=1.0), held("new", sequence=10**6)]
    assert plan(waited, None, Weights(guess=1))[0].map == "old", "nothing waits for ever"


def test_of_maps_that_wait_only_those_that_waited_longer_say_so() -> None:
    reasons = {item.map: item.reason for item in plan([held(name, sequence=n) for n, name in enumerate("abc")], None)}
    assert reasons["a"].endswith(", waited longest")
    assert reasons["b"].endswith(", waited longer than 50% of the others")
    assert "waited" not in reasons["c"]


def test_nothing_waits_for_ever() -> None:
    fresh = [held(f"n{n}", sequence=20_000 + n, cover={"flood": 1.0}, valid_px=5000) for n in range(9)]
    for waited, place in ((100, 9), (20_000, 0)):
        old = held("old", sequence=20_000 - waited, cover={"bare": 1.0}, size=3000)
        assert order([item.map for item in plan([*fresh, old], None)]).index("old") == place


def test_weights_decide() -> None:
    rows = [held("old", sequence=1, cover={"bare": 1.0}), held("rare", sequence=9, cover={"flood": 1.0}),
            held("b", sequence=5, cover={"bare": 1.0})]  # fmt: skip
    assert plan(rows, None, Weights(rare=0, age=1))[0].map == "old"
    assert plan(rows, None, Weights(rare=1, age=0))[0].map == "rare"


def test_a_short_budget_brings_quicklooks_then_maps_then_a_head() -> None:
    rows = [held(f"m{n}", sequence=n, size=10_000) for n in range(4)]
    items = plan(rows, 15_000)
    assert [item.asset for item in items[:8]] == ["quicklook.webp", "map.json"] * 4
    assert [item.length for item in items[8:]] == [10_000, 2500, 1000]
    assert "leading part, 1/8 of the resolution" in items[9].reason
    assert [item.asset for item in plan(rows, 149)] == []


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_the_head_of_a_real_map_opens_as_a_coarse_map(shared_data: Path, tmp_path: Path) -> None:
    from engines.testing import IdentityEngine
    from onboard.mapping.run import MapRequest, map_scene

    scene = shared_data / "dubai" / "scenes" / "scene_3.tif"
    if not scene.is_file():
        pytest.skip(f"no such scene: {scene}")
    path = map_scene(MapRequest(scene, tmp_path / "maps"), IdentityEngine()).map_path
    heads = prefixes_of(path)
    assert heads
    for head in heads:
        cut = tmp_path / "cut.tif"
        cut.write_bytes(path.read_bytes()[: head["bytes"]])
        with rasterio.open(path) as file:
            level = file.overviews(1).index(head["factor"])
        with rasterio.open(path, overview_level=level) as whole, rasterio.open(cut, overview_level=level) as coarse:
            assert (whole.read(1) == coarse.read(1)).all()
        cut.write_bytes(path.read_bytes()[: head["bytes"] - 20])
        with pytest.raises(rasterio.errors.RasterioIOError), rasterio.open(cut, overview_level=level) as short:
            short.read(1)


def row(name: str, priority: str, sequence: int, delivered: int | None = None) -> MapRow:
    return MapRow(name, sequence, priority, {}, {}, delivered)


def test_what_the_ground_holds_goes_first_and_urgent_maps_it_lacks_last() -> None:
    rows = [
        row("urgent", "urgent", 1), row("new", "routine", 9), row("old", "routine", 2), row("high", "high", 3),
        row("held late", "urgent", 4, delivered=20), row("held early", "routine", 5, delivered=10),
    ]  # fmt: skip
    assert [one.id for one in erasable(rows)] == ["held early", "held late", "old", "new", "high", "urgent"]
