"""What tests ask of a page in Chromium."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it is installed where browser tests run
    from selenium.webdriver import Chrome

WAIT_S = 20
CHECKS = (Path(__file__).parent / "checks.js").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Browser:
    """Chromium with one page."""

    driver: Chrome
    downloads: Path  # folder of what the page saves

    def open(self, address: str | Path, *, width: int = 1280, dark: bool = False) -> None:
        """Open a page or a file in a window of this width, and forget what earlier pages logged."""
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get_log("browser")
        self.driver.get(address.as_uri() if isinstance(address, Path) else address)

    def run(self, script: str) -> Any:
        """Run JavaScript; return its value."""
        return self.driver.execute_script(script)

    def text(self, selector: str) -> str:
        """Return the text of an element."""
        return self.run(f"return document.querySelector('{selector}').innerText")

    def press(self, keys: str) -> None:
        """Press keys, one after the other, where the focus is."""
        self.driver.switch_to.active_element.send_keys(keys)

    def click(self, selector: str) -> None:
        """Click an element."""
        self.driver.find_element("css selector", selector).click()

    def choose(self, selector: str, title: str) -> None:
        """Choose an entry of a list."""
        from selenium.webdriver.support.select import Select

        Select(self.driver.find_element("css selector", selector)).select_by_visible_text(title)

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = WAIT_S) -> Any:
        """Wait until a condition holds; return its value."""
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.driver, seconds, poll_frequency=0.05).until(lambda _: condition(), what)

    def problems(self) -> dict[str, list[str]]:
        """Return what is wrong with the page: contrast, overflow, missing names, and messages on the console."""
        found = {name: self.run(f"{CHECKS} return {name}()") for name in ("pale", "wide", "unnamed")}
        found["console"] = [entry["message"] for entry in self.driver.get_log("browser")]
        return {name: problems for name, problems in found.items() if problems}

    def durations(self) -> list[float]:
        """Return the durations of all players in seconds; 0 for one that cannot play."""
        return self.run(f"{CHECKS} return durations()")
