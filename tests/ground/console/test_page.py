"""Each view in a real browser, over a station without a satellite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ground.console.browser import browser, click, find, serious_faults, text_of, until
from tests.ground.console.conftest import console
from tests.ground.console.made import HOSTILE, NORTH, SIDE, STEP, WEST

AXE = Path(__file__).parent / "axe" / "axe.min.js"
VIEWS = ("map", "pictures", "curves", "events", "queue", "passes", "model")
# Something of each view that is there once it is drawn.
DRAWN = {
    "map": "#map-list button", "pictures": "#pictures button", "curves": "#charts canvas", "events": "#events tbody tr",
    "queue": "#queue .empty", "passes": "#passes tbody tr", "model": "#model h3",
}  # fmt: skip
MIDDLE = (WEST + STEP * SIDE / 2, NORTH - STEP * SIDE / 2)


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """One window for the module's tests, 1280 pixels wide."""
    with browser() as driver:
        yield driver


def show(driver: Any, address: str, view: str) -> None:
    """Opens a view afresh and waits until it is drawn."""
    driver.get("about:blank")
    driver.get(f"{address}/#{view}")
    until(driver, lambda: find(driver, DRAWN[view]), f"{view} is never drawn")


def select(driver: Any, name: str) -> None:
    click(driver, f'[data-map="{name}"]')
    until(driver, lambda: find(driver, "#map-detail table.legend"), "no legend")


def click_on_map(driver: Any, longitude: float, latitude: float) -> str:
    """Clicks where a place is drawn; gives the words of the answer."""
    before = text_of(driver, "#clicked")
    until(driver, lambda: driver.execute_script("return window.consoleMap.getZoom() > 10"), "the map does not go there")
    x, y = driver.execute_script(
        "const p = consoleMap.latLngToContainerPoint([arguments[1], arguments[0]]);"
        "const box = consoleMap.getContainer().getBoundingClientRect(); return [box.x + p.x, box.y + p.y]",
        longitude, latitude,
    )  # fmt: skip
    for kind in ("mousePressed", "mouseReleased"):
        event = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)
    until(driver, lambda: text_of(driver, "#clicked") != before, "the click has no answer")
    return text_of(driver, "#clicked")


def test_the_world_view_lists_maps_and_draws_their_outlines(page: Any, address: str) -> None:
    show(page, address, "map")
    assert "5 maps with a place" in text_of(page, "#map-count")
    assert [button.get_attribute("data-map") for button in find(page, "#map-list button")] == [
        "after", "hostile", "polynomials", "points", "before",
    ]  # fmt: skip
    assert page.execute_script("return document.querySelectorAll('#leaflet canvas').length") >= 2
    colours = page.execute_script(
        "return [...document.querySelectorAll('.leaflet-overlay-pane canvas')].some((canvas) =>"
        " canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value))"
    )
    assert colours, "no outline is drawn"


def test_a_map_has_a_legend_tiles_and_a_class_where_one_clicks(page: Any, address: str) -> None:
    show(page, address, "map")
    select(page, "before")
    legend = text_of(page, "#map-detail table.legend")
    assert "Building" in legend
    assert "25.0 %" in legend
    assert "1.97 km²" in legend
    until(page, lambda: find(page, ".leaflet-before-pane img.leaflet-tile-loaded"), "no tile comes")
    words = click_on_map(page, MIDDLE[0] - STEP * SIDE / 4, MIDDLE[1] + STEP * SIDE / 4)
    assert "Building, confidence 80.0 %" in words
    assert "° N" in words
    page.execute_script(
        "const s = document.querySelector('#layer'); s.value = 'confidence'; s.dispatchEvent(new Event('change'))"
    )
    until(page, lambda: find(page, '.leaflet-before-pane img[src*="tiles/confidence"]'), "the layer stays as it is")


@pytest.mark.parametrize("name", ["points", "polynomials"])
def test_maps_of_control_points_and_polynomials_are_drawn_where_they_lie(page: Any, address: str, name: str) -> None:
    shift = {"points": 0.01, "polynomials": 0.02}[name]
    show(page, address, "map")
    select(page, name)
    until(page, lambda: find(page, ".leaflet-before-pane img.leaflet-tile-loaded"), "no tile comes")
    words = click_on_map(page, MIDDLE[0] + shift + STEP * SIDE / 4, MIDDLE[1] - STEP * SIDE / 4)
    assert words.startswith("Water")


def test_two_dates_of_a_place_are_compared_by_a_slider(page: Any, address: str) -> None:
    show(page, address, "map")
    select(page, "after")
    assert not page.execute_script("return document.querySelector('#swipe').checkVisibility()")
    page.execute_script(
        "const s = document.querySelector('#compare'); s.value = 'before'; s.dispatchEvent(new Event('change'))"
    )
    until(page, lambda: text_of(page, "#swipe .left") == "Before: 2026-05-03 06:40 UTC", "no slider")
    assert text_of(page, "#swipe .right") == "After: 2026-11-02 06:40 UTC"
    # Whichever of the two was opened first: the older one is left of the line.
    panes = "return ['before', 'after'].map((name) => getComputedStyle(consoleMap.getPane(name)).clipPath)"
    newer, older = page.execute_script(panes)
    assert newer != older
    assert older.startswith("polygon(-100000px")
    page.execute_script(
        "const s = document.querySelector('#swipe input'); s.value = 10; s.dispatchEvent(new Event('input'))"
    )
    assert page.execute_script(panes) != [newer, older]
    words = click_on_map(page, MIDDLE[0] - STEP * SIDE / 4, MIDDLE[1] + STEP * SIDE / 4)
    assert "Water" in words
    assert "Building" in words


def test_the_list_is_filtered_by_time_and_by_words(page: Any, address: str) -> None:
    show(page, address, "map")
    page.execute_script(
        "document.querySelector('#filter-begin').value = '2026-06-01';"
        "document.querySelector('#filter-end').value = '2026-07-31';"
        "document.querySelector('#filter').dispatchEvent(new Event('input', {bubbles: true}))"
    )
    until(page, lambda: len(find(page, "#map-list button")) == 2, "the time filters nothing")
    click(page, '#filter button[type="reset"]')
    until(page, lambda: len(find(page, "#map-list button")) == 5, "the filter stays")
    find(page, "#filter-text")[0].send_keys("nothing of this name")
    until(page, lambda: "No map fits" in text_of(page, "#map-list"), "the words filter nothing")


def test_a_title_in_markup_is_text_in_every_view(page: Any, address: str) -> None:
    show(page, address, "map")
    assert HOSTILE in text_of(page, '[data-map="hostile"]')
    select(page, "hostile")
    assert text_of(page, "#map-detail h3") == HOSTILE
    show(page, address, "events")
    assert HOSTILE in text_of(page, "#events")
    for view in ("curves", "passes", "model", "pictures"):
        show(page, address, view)
    assert find(page, "img[src='x']") == []
    assert page.title != "broken in"
    blocked = [line for line in page.get_log("browser") if "Content Security Policy" in line["message"]]
    assert blocked == [], "the page itself asks for what its policy forbids"


def test_maps_without_a_place_have_a_grid_of_pictures(page: Any, address: str) -> None:
    show(page, address, "pictures")
    assert text_of(page, "#pictures-count") == "1 map without a place"
    click(page, "#pictures button")
    until(page, lambda: "Building" in text_of(page, "#picture"), "no legend")
    assert "the scene has no georeferencing" in text_of(page, "#picture")
    decoded = "const i = document.querySelector('#picture img'); return i.decode().then(() => i.naturalWidth)"
    assert page.execute_script(decoded) == SIDE


def test_curves_are_drawn_from_what_was_pulled(page: Any, address: str) -> None:
    show(page, address, "curves")
    titles = [element.text for element in find(page, "#charts figcaption")]
    assert titles[:3] == ["Power by rail, W", "Tiles a second, tiles/s", "Temperature, °C"]
    assert titles[3].startswith("Energy of VDD_IN, each orbit of 95 min")
    assert len(find(page, "#charts canvas")) == 4
    table = text_of(page, "#rails")
    assert "VDD_IN (main)" in table
    assert "13.00 W" in table  # above idle
    assert "governor" in text_of(page, "#governor").lower()
    click(page, '[data-span="live"]')
    until(page, lambda: "No contact" in text_of(page, "#charts"), "live curves without a satellite")


def test_events_are_acknowledged(page: Any, station: Path) -> None:
    (station / "telemetry" / "acknowledged.json").unlink(missing_ok=True)
    options = ("--dest", str(station / "maps"), "--telemetry", str(station / "telemetry"))
    with console(*options) as address:
        show(page, address, "events")
        assert "2 warnings not acknowledged" in text_of(page, "#events-note")
        click(page, '[aria-label="Acknowledge up to event 5"]')
        until(page, lambda: "1 warning not acknowledged" in text_of(page, "#events-note"), "it stays as it is")
        click(page, "#acknowledge")
        until(page, lambda: "all warnings acknowledged" in text_of(page, "#events-note"), "it stays as it is")
        assert '"until": 9' in (station / "telemetry" / "acknowledged.json").read_text()


def test_passes_say_what_came_and_what_is_left(page: Any, address: str) -> None:
    show(page, address, "passes")
    words = text_of(page, "#passes")
    assert "2 passes" in words
    assert "4.20 MB" in words or "4.2 MB" in words
    assert "3 files" in words
    assert "the window closed" in words
    assert "no contact" in text_of(page, "#passes-now")


def test_a_view_is_reached_by_the_keyboard_alone(page: Any, address: str) -> None:
    show(page, address, "map")
    keys = pytest.importorskip("selenium.webdriver").Keys
    body = find(page, "body")[0]
    body.send_keys(keys.TAB)
    assert page.switch_to.active_element.text == "Skip to the content"
    for _ in range(20):
        page.switch_to.active_element.send_keys(keys.TAB)
        if page.switch_to.active_element.text.startswith("Curves"):
            break
    page.switch_to.active_element.send_keys(keys.ENTER)
    until(page, lambda: find(page, DRAWN["curves"]), "Enter opens nothing")
    assert page.title == "Curves – Ground console"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_view_has_a_serious_fault_or_is_wider_than_its_window(address: str, width: int, dark: bool) -> None:
    with browser(width, 844, dark=dark) as driver:
        for view in VIEWS:
            show(driver, address, view)
            theme = driver.execute_script("return document.documentElement.dataset.theme")
            assert theme == ("dark" if dark else "light")
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width, view
            assert serious_faults(driver, AXE) == [], view
        show(driver, address, "map")
        select(driver, "before")
        assert serious_faults(driver, AXE) == []
        click(driver, "#theme")
        assert driver.execute_script("return document.documentElement.dataset.theme") == "dark"


def test_a_server_that_is_gone_is_said_so(page: Any, station: Path) -> None:
    with console("--dest", str(station / "maps")) as address:
        show(page, address, "map")
        assert text_of(page, "#trouble") == ""
    until(page, lambda: "does not answer" in text_of(page, "#trouble"), "the page says nothing")
