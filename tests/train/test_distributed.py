from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from f5_tts.rl.advantage import METHODS, group_advantages
from f5_tts.train.distributed import AllRanks

REWARDS = [0.9, 0.1, 0.4, 0.4, 0.2, 0.7, 0.3]
PROMPTS = [5, 8, 5, 8, 5, 8, 5]
SHARES = [slice(0, 4), slice(4, 7)]  # rows of two ranks, of unequal number; prompts are split between them
RANK = """
import json, sys
import torch
from accelerate import Accelerator
from tests.train.test_distributed import SHARES, compared, rows
from f5_tts.train.distributed import AllRanks

accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
ranks, rank = AllRanks(accelerator), accelerator.process_index
mine = SHARES[rank]
found = {method: ranks.local_rows(compared(method, *map(ranks.gather, rows(mine)))).tolist() for method in sys.argv[2:]}
frames = ranks.local_rows(ranks.gather(torch.ones(rank + 1, 3 + rank, dtype=torch.bool)))
json.dump({"advantages": found, "frames": frames.int().tolist()}, open(f"{sys.argv[1]}/{rank}.json", "w"))
accelerator.state.destroy_process_group()
"""


def rows(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(REWARDS[part]), torch.tensor(PROMPTS[part])


def compared(method: str, rewards: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
    target = torch.ones(len(rewards), 1, dtype=torch.bool)
    return group_advantages(
        {"r": rewards}, prompts, {"r": 1.0}, {"r": 0.02}, target, mode="gdpo", method=method, clip=5.0
    )


def test_one_process_gathers_what_it_has():
    ranks = AllRanks(Accelerator(cpu=True))
    assert ranks.world_size == 1
    assert torch.equal(ranks.local_rows(ranks.gather(torch.arange(3.0))), torch.arange(3.0))


@pytest.mark.slow
def test_samples_of_a_prompt_on_two_processes_get_the_advantages_of_one(tmp_path: Path):
    """Run two processes through torch.distributed with gloo. Frames of different lengths are padded."""
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    root = Path(__file__).parents[2]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])}
    done = subprocess.run(
        [*launch, str(tmp_path), *METHODS], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for method in METHODS:
        together = [value for rank in ranks for value in rank["advantages"][method]]
        assert together == pytest.approx(compared(method, *rows(slice(None))).tolist(), abs=1e-6)
    assert ranks[0]["frames"] == [[1, 1, 1, 0]]
    assert ranks[1]["frames"] == [[1, 1, 1, 1]] * 2
