"""Memory of an update does not grow with rl.steps; run as a program this file measures updates, each in its process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import pytest
import torch
from tests.tiny import tiny_arch
from torch import Tensor

from f5_tts.config import compose_run
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.cfm import CFM
from f5_tts.model.footprint import LiveBytes
from f5_tts.model.snapshot import Snapshot
from f5_tts.rl.grpo import GRPOLoss, draw_experience
from f5_tts.rl.scoring import Scorer
from f5_tts.sections import ProviderConfig, RLConfig, RLRunConfig
from f5_tts.train.build_rl import build_comparison
from f5_tts.types import RewardInput, SpeechBatch

ROOT = Path(__file__).parents[2]
SAMPLES, FRAMES, DEPTH, MEL_BINS, FLOAT = 132, 60, 18, 50, 4
ALGORITHMS = ("gaussian_grpo", "flow_grpo")
STATUS = Path("/proc/self/status")
# Large blocks are mapped and given back one by one: what a process holds is then what its tensors hold.
MEASURED = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}


class MeanFrame:
    """A vocoder of one sample a frame: its mean."""

    def __call__(self, mel: Tensor, lens: Tensor) -> list[Tensor]:
        return [frames[:num].mean(dim=1) for frames, num in zip(mel, lens.tolist(), strict=True)]


class Loud:
    """Rewards loud clips."""

    component = "level"

    def score(self, inputs: Sequence[RewardInput]) -> Tensor:
        return torch.stack([item.audio.square().mean() for item in inputs])


def settings(algorithm: str, steps: int, size: int, samples: int) -> RLConfig:
    """One group in one forward pass; the first `size` steps from 0.25 on are trained."""
    changes = {"algorithm": algorithm, "steps": steps, "window.size": size, "mini_repeat_count": samples}
    changes |= {
        "group_size": "null",
        "shared_noise": "true",
        "window.schedule": "fixed",
        "window.t_range": "[0.25,0.9]",
    }
    changes |= {"sway_sampling_coef": "null", "prompt_frac_range": "[0.2,0.2]", "credit": "sample", "kl_weight": 0.1}
    overrides = [f"rl.{key}={value}" for key, value in changes.items()]
    rl = compose_run("F5TTS_Mini_RL", ["datasets.pair_speakers=false", *overrides], RLRunConfig).rl
    rl.rewards.providers = [ProviderConfig(name="loud", weight=1.0, floor=1e-3, config={})]
    return rl


def one_prompt(frames: int) -> SpeechBatch:
    return SpeechBatch(
        mel=torch.randn(1, frames, MEL_BINS),
        lens=torch.tensor([frames]),
        prompt_lens=torch.tensor([0]),
        text=torch.tensor([[1, 2, 3, 4]]),
        target_texts=["four"],
        group_ids=torch.tensor([0]),
        audio=[torch.zeros(frames * 320)],
    )


def small_policy(depth: int) -> CFM:
    torch.manual_seed(0)
    return CFM(DiT(tiny_arch(depth=depth), MEL_BINS, num_tokens=9, gaussian=True)).eval()


def update(policy: CFM, reference: Snapshot, rl: RLConfig, frames: int) -> None:
    """Draw, score, compare, and the gradients of every slice."""
    mel_spec = compose_run("F5TTS_Mini_RL", [], RLRunConfig).model.mel_spec
    scorer = Scorer(MeanFrame(), {"loud": Loud()}, rl, mel_spec)
    (experience,) = draw_experience(policy, [[one_prompt(frames)]], scorer, build_comparison(scorer, rl), rl)
    for output in GRPOLoss(rl, reference)(policy, experience):
        output.loss.backward()


def resident(name: str) -> float:
    """VmRSS (what this process holds now) or VmHWM (the most that it ever held), in MiB."""
    found = re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())
    assert found is not None
    return int(found[1]) / 1024


def measure(algorithm: str, steps: int) -> float:
    """MiB that one update with two trained steps holds at its peak beyond what this process held before it."""
    policy = small_policy(DEPTH)
    reference = Snapshot(policy)
    update(policy, reference, settings(algorithm, steps, 2, 2), 20)  # warms up: kernels, caches, gradients
    before = resident("VmRSS")
    update(policy, reference, settings(algorithm, steps, 2, SAMPLES), FRAMES)
    return resident("VmHWM") - before


def measure_all(algorithm: str) -> dict[int, list[float]]:
    """By number of steps what three updates held, each in a process of its own."""
    with get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        return {steps: pool.starmap(measure, 3 * [(algorithm, steps)], chunksize=1) for steps in (4, 32)}


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.is_file(), reason="reads a process's memory from /proc")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_peak_memory_of_an_update_is_that_of_4_steps_at_32(algorithm: str):
    command = [sys.executable, __file__, algorithm]
    said = subprocess.check_output(command, env=os.environ | MEASURED, cwd=ROOT)
    few, many = (median(runs) for runs in json.loads(said).values())
    assert few > 300  # MiB
    assert many == pytest.approx(few, rel=0.05)


def most_alive(algorithm: str, steps: int, size: int) -> int:
    """Bytes of tensors at the peak of an update of 6 samples of 60 frames."""
    policy = small_policy(6)
    reference, rl = Snapshot(policy), settings(algorithm, steps, size, 6)
    update(policy, reference, rl, 60)  # gradients are there then
    with LiveBytes() as live:
        update(policy, reference, rl, 60)
    return live.most


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_tensors_alive_at_the_peak_are_those_of_4_steps_at_32(algorithm: str):
    assert most_alive(algorithm, 32, 2) == pytest.approx(most_alive(algorithm, 4, 2), rel=1e-3)


@pytest.mark.parametrize("algorithm, arrays", [("gaussian_grpo", 4), ("flow_grpo", 3)])
def test_a_trained_step_more_adds_its_state_action_mean_and_standard_deviation_alone(algorithm: str, arrays: int):
    """flow_grpo's standard deviation is one number; times and such are a few bytes."""
    growth = most_alive(algorithm, 16, 6) - most_alive(algorithm, 16, 2)
    assert growth == pytest.approx(4 * arrays * 6 * 60 * MEL_BINS * FLOAT, rel=1e-3)


if __name__ == "__main__":
    print(json.dumps(measure_all(sys.argv[1])))
