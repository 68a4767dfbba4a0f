"""Headless Chromium of Debian: where it is, and its installation by apt.

`python -m tests.browser.chromium` prints one line if there is none; with `--install` it installs it where it may.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

PROGRAMS = ("chromium", "chromedriver")
PACKAGES = ("chromium", "chromium-driver")


def missing() -> str:
    """Return what the browser tests lack; empty where they can run."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    absent += [] if find_spec("selenium") else ["selenium"]
    return f"no {' and no '.join(absent)}: make test-browser" if absent else ""


def install() -> None:
    """Install Chromium by apt, as root."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        sys.exit(f"apt-get, as root, would install the browser; say: sudo apt-get install {' '.join(PACKAGES)}")
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    subprocess.run(["apt-get", "install", "-y", "-qq", *PACKAGES], check=True)


if __name__ == "__main__":
    if missing() and "--install" in sys.argv:
        install()
    if missing():
        print(f"browser tests not run: {missing()}")
