"""Two ranks on one machine: what one of them finds out, all act on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import math, os
import torch
from f5_tts.config.load import compose_config
from f5_tts.config.schema import TrainConfig
from f5_tts.model import precision
from f5_tts.train import accelerator as of_run
from f5_tts.train.loop import is_finite_everywhere
from f5_tts.train.distributed import any_rank, check_weights_in_sync

first = os.environ["RANK"] == "0"
of_run.default_device = lambda: torch.device("cpu")
precision.bf16_unit = lambda device: "AMX"
precision.product_seconds = lambda: (2.0, 1.0) if first else (1.0, 2.0)  # ranks that find different times
cfg = compose_config("F5TTS_Mini", ["optim.mixed_precision=auto"], TrainConfig)
accelerator = of_run.build_accelerator(cfg)
assert accelerator.num_processes == 2 and accelerator.is_main_process == first
found = [accelerator.mixed_precision, cfg.optim.mixed_precision]
found += [
    is_finite_everywhere(1.0, 1.0, accelerator),
    is_finite_everywhere(math.nan if first else 1.0, 1.0, accelerator),
    is_finite_everywhere(1.0, 1.0 if first else math.inf, accelerator),
    is_finite_everywhere(1.0, 1.0, accelerator),
]
found += [any_rank(first, accelerator), any_rank(False, accelerator)]
model = torch.nn.Linear(3, 2)
with torch.no_grad():
    model.weight.copy_(torch.arange(6.0).view(2, 3))
    model.bias.zero_()
found.append(check_weights_in_sync(model, accelerator, 7))
with torch.no_grad():
    model.weight[1, 1] = 4.0 if first else 4.0 + 2**-21  # the last bit
try:
    check_weights_in_sync(model, accelerator, 8)
except ValueError as error:
    found.append(str(error)[:72])
print(f"{found}\\n", end="", flush=True)  # in one piece, whatever the other process prints
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_what_one_process_finds_holds_on_both_and_weights_that_part_end_both(tmp_path: Path):
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, str(tmp_path / "program.py")], env=os.environ | paths, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    apart = "after update 8 the weights of processes [1] are no longer those of process 0"
    expected = ["bf16", "bf16", True, False, False, True, True, False, {"health/weights_apart": 0.0}, apart[:72]]
    assert [line for line in done.stdout.splitlines() if not line.startswith("optim.")] == [str(expected)] * 2
