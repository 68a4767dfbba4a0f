"""Examples, run as shipped, and their claims."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

RING = Path(__file__).parents[1] / "examples" / "ring.py"
RISE = 0.15  # minimum gain of the reward after 20 updates; 100 updates give 0.77


@pytest.mark.slow
def test_on_the_ring_every_algorithm_learns_but_the_published_one(tmp_path: Path):
    picture = tmp_path / "ring.png"
    command = [sys.executable, str(RING), "--seeds", "1", "--updates", "20", "--out", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: shares(line) for line in done.stdout.splitlines() if "±" in line}
    assert list(rows) == ["gaussian_grpo", "flow_grpo", "nft", "f5r"]
    for name in ("gaussian_grpo", "flow_grpo", "nft"):
        before, after, *validity = rows[name]
        assert after > before + RISE, name
        assert all(0 <= share <= 1 for share in validity)
    assert rows["f5r"][0] == rows["f5r"][1] and rows["f5r"][2] == rows["f5r"][3]
    assert picture.read_bytes().startswith(b"\x89PNG")


def shares(row: str) -> list[float]:
    """Parse reward before and after, and validity before and after.

    With one seed the standard deviations are zero.
    """
    numbers = re.findall(r"([\d.]+) ± 0\.000", row)
    assert len(numbers) == 4, row
    return [float(number) for number in numbers]


@pytest.mark.slow
def test_the_ring_says_which_numbers_it_takes():
    done = subprocess.run([sys.executable, str(RING), "--updates", "7"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: --seeds must be 1 or more, --updates a multiple of 5\n"
