"""Makes the console's pictures of docs: `python -m benchmarks.screenshots`.

Starts the demonstration, waits for its maps, has a pass going on, and photographs the views in a real browser at 1280
and 390 pixels, light and dark. `--address` takes a console that runs already.
"""

from __future__ import annotations

import argparse
import io
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.console_demo import PLACES, WAITING, Demo
from tests.ground.console.browser import browser, click, find, until

LARGEST = 200_000
_SETTLE_S = 3.0


@dataclass(frozen=True)
class Shot:
    """One picture: a view, what is clicked or chosen in it, and what is there when it is drawn."""

    name: str
    view: str
    drawn: str
    clicks: tuple[str, ...] = ()
    script: str = ""
    width: int = 1280
    height: int = 800
    dark: bool = False


_OPEN_HARBOUR = (
    "[...document.querySelectorAll('#map-list button')].find((b) => b.innerText.includes(arguments[0])).click()"
)
_COMPARE = "const s = document.querySelector('#compare'); s.selectedIndex = 1; s.dispatchEvent(new Event('change'))"
SHOTS = (
    Shot("world", "map", "#map-list button"),
    Shot("map", "map", "#map-list button", script=_OPEN_HARBOUR),
    Shot("compare", "map", "#map-list button", script=f"{_OPEN_HARBOUR}; setTimeout(() => {{ {_COMPARE} }}, 1500)"),
    Shot("curves", "curves", "#charts canvas", ('[data-span="604800"]',), height=1120),
    Shot("passes-dark", "passes", "#passes tbody tr", dark=True, height=560),
    Shot("queue-dark", "queue", "#queue tbody tr", dark=True, height=520),
    Shot("map-narrow-dark", "map", "#map-list button", script=_OPEN_HARBOUR, width=390, height=844, dark=True),
    Shot("curves-narrow", "curves", "#charts canvas", ('[data-span="86400"]',), width=390, height=844),
)


def main() -> None:
    """Parses and writes the pictures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.screenshots", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--folder", type=Path, default=Path("out/console-pictures"), help="of the demonstration")
    parser.add_argument("--address", help="of a console with the demonstration that runs already")
    parser.add_argument("names", nargs="*", help="some of the pictures; all by default")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # Before the first picture all maps are there, scenes wait and a pass goes on: each view has something.
        address = options.address or _started(stack, options.folder.absolute())
        for shot in SHOTS:
            if not options.names or shot.name in options.names:
                path = options.out / f"console-{shot.name}.png"
                print(f"{path}: {_photograph(address, shot, path):,} bytes", flush=True)


def _started(stack: ExitStack, folder: Path) -> str:
    demo = stack.enter_context(Demo(folder))
    for name in [*PLACES, "somewhere"]:
        demo.deliver(name)
    demo.wait_for_maps(len(PLACES) + 1, deadline_s=3600)
    demo.pull()
    for name, priority in WAITING.items():
        demo.deliver(name, priority)
    demo.keep_passing()
    return demo.open_console()


def _photograph(address: str, shot: Shot, path: Path) -> int:
    """Writes one picture with at most 128 colours; gives its bytes.

    Raises:
        RuntimeError: it has more than LARGEST bytes.
    """
    with browser(shot.width, shot.height, dark=shot.dark) as driver:
        driver.get(f"{address}/#{shot.view}")
        until(driver, lambda: find(driver, shot.drawn), shot.drawn)
        # A page that has just been opened has not heard the satellite yet, and says so.
        until(driver, lambda: "in contact" in driver.page_source, "no contact")
        for selector in shot.clicks:
            click(driver, selector)
        if shot.script:
            driver.execute_script(shot.script, "harbour-after")
        # A script opens a map, which takes requests of its own, and that of `compare` waits 1.5 s.
        time.sleep(_SETTLE_S + (3.0 if shot.script else 0.0))
        _wait_for_tiles(driver)
        picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    # Without dithering: flat areas stay flat, and the PNG small.
    picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    if size > LARGEST:
        raise RuntimeError(f"{path} has {size:,} bytes, more than {LARGEST:,}")
    return size


def _wait_for_tiles(driver: Any) -> None:
    loading = "return document.querySelectorAll('img.leaflet-tile:not(.leaflet-tile-loaded)').length"
    until(driver, lambda: driver.execute_script(loading) == 0, "tiles are still loading")


if __name__ == "__main__":
    main()
