"""Out-of-memory retries under a real limit on the address space of a real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from f5_tts.train.oom import OomRetry

REPOSITORY = Path(__file__).parents[2]
PROGRAM = """
import json, re, resource, sys
import torch
from accelerate import Accelerator
from torch._subclasses import FakeTensorMode
from tests.tiny import tiny_arch
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.cfm import CFM
from f5_tts.estimate.live_bytes import forward_bytes
from f5_tts.train.loop import accumulate_gradients
from f5_tts.train.oom import OomRetry, explain_oom
from f5_tts.types import LossOutput, SpeechBatch

torch.backends.mkldnn.enabled = False  # its scratch space is no tensor, and not in what is counted
SIZES = {"dim": 64, "depth": 6, "heads": 4}
FRAMES, NUM, BINS = 600, int(sys.argv[1]), 20

def policy():
    torch.manual_seed(0)
    return CFM(DiT(tiny_arch(**SIZES), BINS, num_tokens=9, gaussian=False))

def squares(model, batches):  # the mean over samples, in slices of a batch
    for batch in batches:
        weight = len(batch.lens) / NUM
        velocity = model(batch.mel, batch.mel, batch.text, batch.mel.new_full((len(batch.lens),), 0.5))
        loss = velocity.mean.square().mean() * weight
        yield LossOutput(loss=loss, metrics={}, seconds=1.0)

def norm(model):
    return float(torch.stack([p.grad.square().sum() for p in model.parameters() if p.grad is not None]).sum().sqrt())

with FakeTensorMode():
    need = forward_bytes(policy(), NUM, FRAMES)
torch.manual_seed(1)
batch = SpeechBatch(
    mel=torch.randn(NUM, FRAMES, BINS), lens=torch.full((NUM,), FRAMES), prompt_lens=torch.zeros(NUM, dtype=torch.long),
    text=torch.zeros(NUM, 9, dtype=torch.long), target_texts=[""] * NUM, group_ids=torch.arange(NUM),
    audio=[torch.zeros(1)] * NUM,
)
model, oom_retry, messages = policy(), OomRetry(lambda line: messages.append(line)), []
optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
accelerator = Accelerator(cpu=True)
now = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
_, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (now + int(float(sys.argv[2]) * need), hard))
with explain_oom():
    slices = oom_retry.run([batch], lambda chunks: accumulate_gradients(model, chunks, squares, accelerator), optimizer)
found = {"norm": norm(model), "retries": oom_retry.retries, "slices": len(slices), "said": messages}
later = oom_retry.run([batch], lambda chunks: accumulate_gradients(model, chunks, squares, accelerator), optimizer)
found |= {"later": len(later), "later_retries": oom_retry.retries}
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
optimizer.zero_grad()
accumulate_gradients(model, [batch], squares, accelerator)
print(json.dumps(found | {"need": need, "whole": norm(model)}))
"""


def run(num: int, share: float) -> subprocess.CompletedProcess[str]:
    """Run an update of `num` samples in a process whose memory is `share` of what one pass takes."""
    paths = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(num), str(share)]
    return subprocess.run(command, env=os.environ | paths, capture_output=True, text=True, check=False, timeout=200)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
def test_an_update_that_memory_does_not_suffice_for_is_done_in_halves_with_the_gradient_of_the_whole():
    """Allow sixteen samples, which need about 270 MB, only 0.8 of that; later updates are smaller at once.

    Halves suffice unless the first attempt left the heap fragmented: then quarters do.
    """
    done = run(16, 0.8)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["need"] > 200e6
    assert result["retries"] in (1, 2) and result["slices"] == 2 ** result["retries"]
    assert result["later"] == 2 ** result["later_retries"] >= result["slices"]
    assert result["norm"] == pytest.approx(result["whole"], rel=1e-5)
    assert len(result["said"]) == result["later_retries"]
    assert all("can't allocate memory" in line for line in result["said"])
    assert result["said"][0].endswith("the update is repeated with micro-batches of at most half the size")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
def test_one_sample_that_does_not_fit_ends_the_run_with_what_would_spare_memory():
    done = run(1, 0.1)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("MemoryError: ") and "can't allocate memory" in last
    assert "f5-tts budget" in last


@dataclass
class Clips:
    """Micro-batch of clips of these sizes."""

    sizes: list[int]

    @property
    def num_entries(self) -> int:
        return sum(self.sizes)

    def split(self) -> list[Clips]:
        middle = (len(self.sizes) + 1) // 2
        return [Clips(half) for half in (self.sizes[:middle], self.sizes[middle:]) if half]


class Memory:
    """Function that runs out of memory above a size, with the message of a GPU; it counts its calls."""

    def __init__(self, most: int) -> None:
        self.most, self.asked = most, 0

    def __call__(self, parts: list[Clips]) -> list[int]:
        self.asked += 1
        if any(part.num_entries > self.most for part in parts):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [part.num_entries for part in parts]


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


@pytest.mark.slow
def test_parts_are_halved_as_often_as_it_takes_and_later_items_at_once(capsys):
    """Use 8 clips of size 1 where only 2 fit: the limit becomes 4, then 2.

    A later micro-batch of 3 is split into 2 and 1; one of 2 is not split.
    """
    memory, oom_retry = Memory(2), OomRetry()
    assert oom_retry.run([Clips([1] * 8)], memory, optimizer()) == [2, 2, 2, 2]
    assert (memory.asked, oom_retry.retries) == (3, 2)
    assert oom_retry.run([Clips([1] * 3), Clips([1, 1])], memory, optimizer()) == [2, 1, 2]
    assert (memory.asked, oom_retry.retries) == (4, 2)
    assert capsys.readouterr().out.count("the update is repeated") == 2


def test_gradients_of_an_attempt_that_failed_are_gone():
    weights = optimizer()
    (parameter,) = weights.param_groups[0]["params"]
    memory = Memory(1)

    def learn(parts: list[Clips]) -> list[int]:
        parameter.grad = torch.ones(1) if parameter.grad is None else parameter.grad + 1
        return memory(parts)

    OomRetry(lambda line: None).run([Clips([1, 1])], learn, weights)
    assert parameter.grad.item() == 1


def test_a_part_of_one_clip_that_does_not_fit_and_any_other_error_are_raised():
    with pytest.raises(torch.OutOfMemoryError):
        OomRetry().run([Clips([3])], Memory(2), optimizer())

    def broken(parts: list[Clips]) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        OomRetry().run([Clips([1, 1])], broken, optimizer())
