"""Two processes on one machine: what one of them sees, all do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import math, os
import torch
from accelerate import Accelerator
from f5_tts.train.loop import is_finite_everywhere

accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
first = accelerator.process_index == 0
found = [
    is_finite_everywhere(1.0, 1.0, accelerator),
    is_finite_everywhere(math.nan if first else 1.0, 1.0, accelerator),
    is_finite_everywhere(1.0, 1.0 if first else math.inf, accelerator),
    is_finite_everywhere(1.0, 1.0, accelerator),
]
print(f"{found}\\n", end="", flush=True)  # in one piece, whatever the other process prints
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_process_skips_the_update_on_both(tmp_path: Path):
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, str(tmp_path / "program.py")], env=os.environ | paths, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[True, False, False, True]"] * 2
