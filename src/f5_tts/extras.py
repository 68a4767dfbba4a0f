"""Optional libraries, and the extra of this package that installs each."""

from __future__ import annotations

import re
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, requires

PACKAGE = "f5-tts-rl"
ASSET_PACKAGES = ("resemblyzer", "distillmos")  # import names of packages of which only the weights are used
INSTALL_ASSETS = "pip install --no-deps -r requirements-assets.txt"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+).*; extra == ['\"](?P<extra>[\w-]+)['\"]")


def install_hint(library: str) -> str:
    """Return the command that installs a library, given by its import name: the smallest extra that requires it."""
    if library in ASSET_PACKAGES:
        return INSTALL_ASSETS
    name = library.replace("_", "-")
    members = extras_of_this_package()
    candidates = [extra for extra, names in members.items() if name in names]
    if not candidates:
        return f"pip install {name}"
    return f'pip install -e ".[{min(candidates, key=lambda extra: len(members[extra])).replace("-", "_")}]"'


def extras_of_this_package() -> dict[str, set[str]]:
    """Return the names that each extra requires, as the installed metadata has them; none where it is not installed."""
    members: dict[str, set[str]] = defaultdict(set)
    try:
        lines = requires(PACKAGE) or []
    except PackageNotFoundError:
        return members
    for line in lines:
        if match := REQUIREMENT.match(line):
            members[match["extra"]].add(match["name"].replace("_", "-").lower())
    return members
