"""A real browser: Debian's Chromium by its own driver, without a screen."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WAIT_S = float(os.environ.get("TEST_DEADLINE_S", "60"))
BROWSERS, DRIVERS = ("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)


def missing() -> str:
    """What of it is not on this machine; empty if nothing is."""
    for names, what in ((BROWSERS, "chromium"), (DRIVERS, "chromedriver (Debian: chromium-driver)")):
        if not any(shutil.which(name) for name in names):
            return f"{what} is not installed"
    return ""


@contextmanager
def browser(width: int = 1280, height: int = 800, *, dark: bool = False) -> Iterator[Any]:
    """A window of so many pixels; skips the test where a part is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if problem := missing():
        pytest.skip(problem)
    options = webdriver.ChromeOptions()
    options.binary_location = next(path for name in BROWSERS if (path := shutil.which(name)))
    for option in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars",
        "force-device-scale-factor=1", "disable-background-networking", "disable-component-update", "no-first-run",
        f"window-size={max(width, 500)},{height}",
    ):  # fmt: skip
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which(DRIVERS[0])))
    try:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        driver.set_page_load_timeout(WAIT_S)
        driver.set_script_timeout(WAIT_S)
        yield driver
    finally:
        driver.quit()


def until(driver: Any, told: Callable[[], Any], what: str) -> Any:
    """Asks again and again until the answer is true; gives it."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(driver, WAIT_S, poll_frequency=0.1, ignored_exceptions=[StaleElementReferenceException])
    return wait.until(lambda _: told(), f"waited in vain: {what}")


def text_of(driver: Any, selector: str) -> str:
    """Text of an element, as the page shows it."""
    return str(driver.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector))


def find(driver: Any, selector: str) -> list[Any]:
    """Elements by a CSS selector."""
    return list(driver.find_elements("css selector", selector))


def click(driver: Any, selector: str) -> None:
    """Clicks the first such element, once it is there."""
    until(driver, lambda: find(driver, selector), selector)
    driver.execute_script("arguments[0].click()", find(driver, selector)[0])


def serious_faults(driver: Any, axe: Path) -> list[str]:
    """What axe-core finds of impact serious or critical on the page as it is."""
    driver.execute_cdp_cmd("Runtime.evaluate", {"expression": axe.read_text(encoding="utf-8")})
    found = driver.execute_async_script(
        "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then((r) => done(r.violations))"
    )
    return [
        f"{row['id']} ({row['impact']}): {node['html'][:200]}"
        for row in found if row["impact"] in ("serious", "critical") for node in row["nodes"]
    ]  # fmt: skip
