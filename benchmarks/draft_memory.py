"""Benchmark of the memory of `rl.algorithm=draft`: peak of one update by the number of differentiated steps K.

`python benchmarks/draft_memory.py` prints a table for one clip of the published model, in single precision and with
guidance: MiB of activations at the peak of the backward pass. "Recomputed" is how `rl/draft.py` differentiates K solver
steps: it keeps their states and computes one step at a time again. "One graph" keeps the activations of all steps.
Weights and their gradients are not counted. Tensors have no memory (torch's FakeTensorMode), so that the table takes
seconds on any machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig
from f5_tts.data.tokenizer import EMILIA_VOCAB, read_vocabulary
from f5_tts.estimate.live_bytes import PeakMemoryCounter
from f5_tts.model.build import build_model
from f5_tts.rl.draft import ReplayedSteps, Step

LAST_STEPS = (1, 2, 4)
MIB = 2**20
GUIDANCE = 1.0


def recomputed(states: Tensor, step: Step) -> Tensor:
    """Return the finished samples, whose backward pass computes each step again."""
    replayed = ReplayedSteps.apply(states.new_zeros((), requires_grad=True), states[-1], states, step)
    assert isinstance(replayed, Tensor)
    return replayed


def one_graph(states: Tensor, step: Step) -> Tensor:
    """Return the finished samples with the graph of all steps."""
    x = states[0]
    for index in range(len(states)):
        x = step(x, index)
    return x


def peak_mib(last_steps: int, seconds: float, checkpointed: bool, finish: Callable[[Tensor, Step], Tensor]) -> float:
    """Measure the peak of one backward pass in MiB."""
    changes = [f"model.arch.checkpoint_activations={str(checkpointed).lower()}", "model.output_dist=deterministic"]
    cfg = compose_config("F5TTS_RL", [*changes, "model.use_rl_head=false"], RLTrainConfig)
    spec = cfg.model.mel_spec
    frames = round(seconds * spec.frames_per_second)
    with FakeTensorMode():
        model = build_model(cfg.model, read_vocabulary(EMILIA_VOCAB)).eval()
        for weight in model.parameters():
            weight.grad = torch.zeros_like(weight)
        cond, text = torch.zeros(1, frames, spec.n_mel_channels), torch.zeros(1, frames, dtype=torch.long)

        def step(x: Tensor, index: int) -> Tensor:
            return x + 0.25 * model(x, cond, text, torch.zeros(1), cfg_strength=GUIDANCE).mean

        with PeakMemoryCounter() as counter:
            states = torch.zeros(last_steps, *cond.shape)
            finish(states, step).sum().backward()
    return counter.peak / MIB


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the clip, with its prompt")
    seconds = parser.parse_args().seconds
    print("| K | recomputed, checkpointed | recomputed | one graph, checkpointed | one graph |")
    print("|---|---:|---:|---:|---:|")
    for last_steps in LAST_STEPS:
        peaks = [
            peak_mib(last_steps, seconds, checkpointed, finish)
            for finish in (recomputed, one_graph)
            for checkpointed in (True, False)
        ]
        print(f"| {last_steps} | {' | '.join(f'{peak:,.0f}' for peak in peaks)} |", flush=True)


if __name__ == "__main__":
    main()
