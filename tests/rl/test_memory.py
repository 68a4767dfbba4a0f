"""Memory of an update against rl.steps; run as a program, this file measures updates, each in its own process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import MINI_MEL, tiny_arch
from torch import Tensor

from f5_tts.config.load import compose_config
from f5_tts.config.schema import ProviderConfig, RLConfig, RLTrainConfig
from f5_tts.estimate.live_bytes import PeakMemoryCounter
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.cfm import CFM
from f5_tts.model.snapshot import Snapshot
from f5_tts.rl.grpo import PolicyLoss, collect_experience
from f5_tts.rl.scoring import RewardScorer
from f5_tts.train.build_rl import build_advantage
from f5_tts.types import RewardInput, SpeechBatch

ROOT = Path(__file__).parents[2]
SAMPLES, FRAMES, DEPTH, MEL_BINS = 32, 60, 4, 1000  # much memory for little work: wide mels, a small network
ALIVE_SAMPLES, ALIVE_FRAMES, ALIVE_BINS = 3, 20, 50  # of the updates whose live tensors are counted
ALGORITHMS = ("gaussian_grpo", "flow_grpo")
STATUS = Path("/proc/self/status")
# Large blocks are mapped and returned one by one, so that resident memory is that of the tensors.
FOR_MEASURING = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}


class MeanFrame:
    """Vocoder of one audio sample per frame: the frame's mean."""

    def __call__(self, mel: Tensor, lens: Tensor) -> list[Tensor]:
        return [frames[:num].mean(dim=1) for frames, num in zip(mel, lens.tolist(), strict=True)]


class Loud:
    """Reward of loudness: the mean square of a clip; its loss is that of the log-mel."""

    component, takes = "level", "mel"

    def score(self, inputs: Sequence[RewardInput]) -> Tensor:
        return torch.stack([item.audio.square().mean() for item in inputs])

    def loss(self, inputs: Sequence[RewardInput]) -> Tensor:
        return torch.stack([item.mel.square().mean() for item in inputs if item.mel is not None])


def settings(algorithm: str, steps: int, size: int, samples: int) -> RLConfig:
    """Build settings of one group in one forward pass; the first `size` steps from 0.25, or the last, are trained."""
    changes = {"algorithm": algorithm, "steps": steps, "window.size": size, "mini_repeat_count": samples}
    changes |= {
        "group_size": "null",
        "shared_noise": "true",
        "window.schedule": "fixed",
        "window.t_range": "[0.25,0.9]",
    }
    changes |= {"sway_sampling_coef": "null", "prompt_frac_range": "[0.2,0.2]", "credit": "sample", "kl_weight": 0.1}
    changes |= {"anchor_weight": 0.0, "draft.last_steps": size}
    overrides = [f"rl.{key}={value}" for key, value in changes.items()]
    rl = compose_config("F5TTS_Mini_RL", ["datasets.pair_speakers=false", *overrides], RLTrainConfig).rl
    rl.rewards.providers = [ProviderConfig(name="loud", weight=1.0, floor=1e-3, config={})]
    return rl


def one_prompt(frames: int, bins: int) -> SpeechBatch:
    return SpeechBatch(
        mel=torch.randn(1, frames, bins),
        lens=torch.tensor([frames]),
        prompt_lens=torch.tensor([0]),
        text=torch.tensor([[1, 2, 3, 4]]),
        target_texts=["four"],
        group_ids=torch.tensor([0]),
        audio=[torch.zeros(frames * 320)],
    )


def small_policy(depth: int, bins: int) -> CFM:
    torch.manual_seed(0)
    return CFM(DiT(tiny_arch(depth=depth), bins, num_tokens=9, gaussian=True)).eval()


def update(policy: CFM, reference: Snapshot, rl: RLConfig, frames: int) -> None:
    """Run one update without the optimizer step: samples, rewards, advantages, gradients of every slice."""
    scorer = RewardScorer(MeanFrame(), {"loud": Loud()}, rl, MINI_MEL)
    prompt = one_prompt(frames, policy.transformer.proj_out.out_features)
    (experience,) = collect_experience(policy, [[prompt]], scorer, build_advantage(scorer, rl), rl)
    for output in PolicyLoss(rl, reference)(policy, experience):
        output.loss.backward()


def resident(name: str) -> float:
    """Read VmRSS (resident memory of this process now) or VmHWM (its peak so far), in MiB."""
    result = re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())
    assert result is not None
    return int(result[1]) / 1024


def measure(warm: RLConfig, rl: RLConfig) -> float:
    """Measure the peak memory of one update beyond what this process held before it, in MiB."""
    policy = small_policy(DEPTH, MEL_BINS)
    reference = Snapshot(policy)
    update(policy, reference, warm, 20)  # allocates kernels, caches and gradients
    before = resident("VmRSS")
    update(policy, reference, rl, FRAMES)
    return resident("VmHWM") - before


def resident_at_peak(algorithm: str) -> dict[str, float]:
    """Measure the peak memory by number of steps, with two trained steps, each in its own process."""
    results = {}
    with get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for steps in (4, 32):
            job = [settings(algorithm, steps, 2, samples) for samples in (2, SAMPLES)]
            results[str(steps)] = pool.apply(measure, job)
    return results


def alive_at_peak() -> dict[str, int]:
    """Count the bytes of live tensors by algorithm, number of steps and of trained steps."""
    jobs = product((*ALGORITHMS, "draft"), ((4, 2), (32, 2), (16, 2), (16, 6)))
    return {f"{algorithm} {steps} {size}": alive(algorithm, steps, size) for algorithm, (steps, size) in jobs}


def alive(algorithm: str, steps: int, size: int) -> int:
    policy = small_policy(2, ALIVE_BINS)
    reference, rl = Snapshot(policy), settings(algorithm, steps, size, ALIVE_SAMPLES)
    update(policy, reference, settings(algorithm, 4, 2, ALIVE_SAMPLES), ALIVE_FRAMES)  # allocates the gradients
    with PeakMemoryCounter() as live:
        update(policy, reference, rl, ALIVE_FRAMES)
    return live.peak


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {"resident": resident_at_peak, "alive": alive_at_peak}


@cache
def measured(what: str, *words: str, attempt: int = 0) -> dict[str, Any]:
    """Run a measurement in its own process, where no shapes are checked.

    The shape checks would keep tensors alive for a while.
    """
    command = [sys.executable, __file__, what, *words]
    return json.loads(subprocess.check_output(command, env=os.environ | FOR_MEASURING, cwd=ROOT))


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.is_file(), reason="reads a process's memory from /proc")
@pytest.mark.parametrize("algorithm", ["gaussian_grpo", pytest.param("flow_grpo", marks=pytest.mark.soak)])
def test_peak_memory_of_an_update_is_that_of_4_steps_at_32(algorithm: str):
    """Measure again where something else took memory meanwhile: an array a step more would be there each time."""
    few = many = 0.0
    for attempt in range(3):
        few, many = measured("resident", algorithm, attempt=attempt).values()
        if is_close(few, many):
            break
    assert few > 150  # MiB
    assert is_close(few, many)


def is_close(few: float, many: float) -> bool:
    return many == pytest.approx(few, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "draft"])
def test_tensors_alive_at_the_peak_are_those_of_4_steps_at_32_but_for_28_times_of_4_bytes(algorithm: str):
    result = measured("alive")
    assert result[f"{algorithm} 32 2"] == pytest.approx(result[f"{algorithm} 4 2"], abs=28 * 4)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm, arrays", [("gaussian_grpo", 4), ("flow_grpo", 3), ("draft", 1)])
def test_a_trained_step_more_adds_what_is_recorded_of_it_alone(algorithm: str, arrays: int):
    """Compare six trained steps with two: each has its state, and where actions are drawn their distribution, too.

    The standard deviation of flow_grpo is one number; times and the like are a few bytes.
    """
    result = measured("alive")
    growth = result[f"{algorithm} 16 6"] - result[f"{algorithm} 16 2"]
    assert growth == pytest.approx(4 * arrays * ALIVE_SAMPLES * ALIVE_FRAMES * ALIVE_BINS * 4, abs=100)


if __name__ == "__main__":
    print(json.dumps(MEASURES[sys.argv[1]](*sys.argv[2:])))
