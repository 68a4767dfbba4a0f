from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from tests.tiny import MINI_MEL, tiny_arch

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig, TrainConfig
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.eval.evaluator import EvalSynthesizer, Evaluator
from f5_tts.eval.judges import Judges
from f5_tts.eval.test_set import EvalItem
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import ModelSpec
from f5_tts.model.mel import LogMel
from f5_tts.rl.advantage import METHODS, group_advantages
from f5_tts.rl.gather import Ranks, SingleRank
from f5_tts.rl.grpo import PolicyLoss, collect_experience
from f5_tts.rl.scoring import RewardScorer
from f5_tts.train.build import build_ema
from f5_tts.train.checkpoint_dir import CheckpointDir
from f5_tts.train.distributed import AllRanks
from f5_tts.train.train_state import TrainState
from f5_tts.train.validation import Best, Validation
from f5_tts.types import RewardInput, SpeechBatch

PROMPT = Path(__file__).parents[2] / "data/mini_custom/wavs/dev_00_dev_prompt_0.flac"
REWARDS = [0.9, 0.1, 0.4, 0.4, 0.2, 0.7, 0.3]
PROMPTS = [5, 8, 5, 8, 5, 8, 5]
SHARES = [slice(0, 4), slice(4, 7)]  # rows of two ranks, of unequal number; prompts are split between them
RANK = """
import json, sys
import torch
from accelerate import Accelerator
from tests.train.test_distributed import SHARES, compared, draft_gradient, rows, validated
from f5_tts.train.distributed import AllRanks

accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
ranks, rank = AllRanks(accelerator), accelerator.process_index
mine = SHARES[rank]
found = {method: ranks.local_rows(compared(method, *map(ranks.gather, rows(mine)))).tolist() for method in sys.argv[2:]}
frames = ranks.local_rows(ranks.gather(torch.ones(rank + 1, 3 + rank, dtype=torch.bool)))
gradient = draft_gradient(range(2) if rank == 0 else range(2, 3), ranks)
gradient = accelerator.reduce(gradient, reduction="mean").tolist()
metrics, error = validated(sys.argv[1], ranks)
result = {"metrics": metrics, "error": error}
result |= {"advantages": found, "frames": frames.int().tolist(), "gradient": gradient}
json.dump(result, open(f"{sys.argv[1]}/{rank}.json", "w"))
accelerator.state.destroy_process_group()
"""


def rows(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(REWARDS[part]), torch.tensor(PROMPTS[part])


def compared(method: str, rewards: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
    target = torch.ones(len(rewards), 1, dtype=torch.bool)
    return group_advantages(
        {"r": rewards}, prompts, {"r": 1.0}, {"r": 0.02}, target, mode="gdpo", method=method, clip=5.0
    )


class Quiet:
    """Reward of low log-mels."""

    component, takes = "score", "mel"

    def score(self, inputs: Sequence[RewardInput]) -> torch.Tensor:
        return torch.zeros(len(inputs))

    def loss(self, inputs: Sequence[RewardInput]) -> torch.Tensor:
        return torch.stack([(item.mel + 1).square().mean() for item in inputs if item.mel is not None])


class Seeded(list[SpeechBatch]):
    """Batches whose samples depend on their prompt alone, whichever process draws them."""

    def __iter__(self):
        for batch in super().__iter__():
            torch.manual_seed(int(batch.group_ids[0]))
            yield batch


def prompt(place: int) -> SpeechBatch:
    draw = torch.Generator().manual_seed(place)
    return SpeechBatch(
        mel=torch.randn(1, 9 + place, 6, generator=draw),
        lens=torch.tensor([9 + place]),
        prompt_lens=torch.tensor([3]),
        text=torch.randint(0, 9, (1, 4), generator=draw),
        target_texts=["six"],
        group_ids=torch.tensor([place]),
        audio=[torch.zeros(90)],
    )


def draft_gradient(places: range, ranks: Ranks) -> torch.Tensor:
    """Compute the gradient of one update of draft on these prompts, without the average over processes."""
    overrides = ["rl.algorithm=draft", "rl.draft.last_steps=3", "rl.mini_repeat_count=1", "rl.kl_weight=0"]
    rl = compose_config(
        "F5TTS_Mini_RL", [*overrides, "rl.rewards.providers=[{name: 'mine:quiet'}]", "rl.credit=sample"], RLTrainConfig
    ).rl
    torch.manual_seed(0)
    model = CFM(DiT(tiny_arch(), 6, num_tokens=9, gaussian=False))
    with torch.no_grad():
        for parameter in model.parameters():  # a new model predicts zeros
            parameter.add_(0.1 * torch.randn_like(parameter))
    scorer = RewardScorer(lambda mel, lens: [], {"mine:quiet": Quiet()}, rl, MINI_MEL)
    batches = Seeded(map(prompt, places))
    experience = next(collect_experience(model, [batches], scorer, None, rl, ranks=ranks))
    for output in PolicyLoss(rl)(model, experience):
        output.loss.backward()
    gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in model.parameters()]
    return torch.cat([gradient.flatten() for gradient in gradients])


class Hears:
    """Recognizer that hears a word less in quiet clips, and on one rank fails in the second validation."""

    component = "acc"

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.calls = fails, 0

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        self.calls += 1
        if self.fails and self.calls > 2:  # two models in each validation
            raise RuntimeError("the ear fell off")
        return {"acc": [1.0] * len(inputs), "heard": ["b a" if clip.audio.mean() > 0 else "b" for clip in inputs]}


class Loudness:
    """Speaker judge that measures the mean of a clip."""

    component = "sim"

    def score(self, inputs: Sequence[RewardInput]) -> torch.Tensor:
        return torch.stack([clip.audio.mean() for clip in inputs])


def validated(folder: str, ranks: AllRanks) -> tuple[dict[str, float], str]:
    """Validate twice; return the metrics of the first time, and the error of the second."""
    cfg = compose_config("F5TTS_Mini", ["eval.steps=2", f"ckpts.save_dir={folder}/{ranks.world_size}"], TrainConfig)
    checkpoints = CheckpointDir(cfg.ckpts, is_main=ranks.rank == 0)
    checkpoints.prepare()
    evaluator = Evaluator(
        items=[
            EvalItem(id=str(i), prompt_audio=str(PROMPT), prompt_text="a", text="b a", duration=0.1 + 0.1 * i)
            for i in range(5)
        ],
        synthesizer=EvalSynthesizer(
            mel=LogMel(MINI_MEL),
            vocoder=lambda mels, lens: [mel[:length].mean(dim=1) for mel, length in zip(mels, lens, strict=True)],
            vocabulary=Vocabulary(" ab"),
            settings=cfg.eval,
        ),
        judges=Judges(recognizers={"whisper": Hears(fails=ranks.rank == 1)}, scorers={"voice": Loudness()}),
        cfg_strength=0.0,
    )
    validate = Validation(evaluator, 1, Best("judge/wer", "voice_sim"), checkpoints, lambda line: None, ranks)
    torch.manual_seed(0)
    model = CFM(DiT(tiny_arch(), 100, num_tokens=3))
    optimizer = torch.optim.SGD(model.parameters())
    state = TrainState(
        model=model,
        spec=ModelSpec.of(cfg.model, Vocabulary(" ab")),
        ema=build_ema(model, cfg.optim.ema),
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: 1.0),
        objective="mse",
    )
    metrics, error = validate(state), ""
    assert validate.best is not None and validate.best.update == 0
    if ranks.world_size > 1:
        with pytest.raises(ValueError) as caught:
            validate(state)
        error = str(caught.value)
    return metrics, error


def test_one_process_gathers_what_it_has():
    ranks = AllRanks(Accelerator(cpu=True))
    assert ranks.world_size == 1
    assert torch.equal(ranks.local_rows(ranks.gather(torch.arange(3.0))), torch.arange(3.0))


@pytest.mark.slow
def test_two_processes_get_the_advantages_the_draft_gradient_and_the_validation_of_one(tmp_path: Path):
    """Run two processes through torch.distributed with gloo. Frames of different lengths are padded.

    Of five items of the validation one process has three, the other two; a judge that fails on one ends both.
    """
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
    whole = draft_gradient(range(3), SingleRank())
    assert whole.abs().max() > 0.01
    for rank in ranks:
        torch.testing.assert_close(torch.tensor(rank["gradient"]), whole, rtol=1e-5, atol=1e-6)
    alone, _ = validated(str(tmp_path), AllRanks(Accelerator(cpu=True)))
    assert alone["judge/wer_ci95"] > 0 and alone["eval/sim_ci95"] > 0  # the clips differ
    clock = {"time/validation", "eval/rtf"}
    for rank in ranks:
        assert {**rank["metrics"], **dict.fromkeys(clock, 0)} == pytest.approx(
            {**alone, **dict.fromkeys(clock, 0)}, abs=1e-6
        )
        assert "the ear fell off" in rank["error"]
    assert ranks[0]["error"].startswith("process 1 of 2 failed: ")
    assert (tmp_path / "2" / "model_best.pt").is_file()
    assert ranks[0]["frames"] == [[1, 1, 1, 0]]
    assert ranks[1]["frames"] == [[1, 1, 1, 1]] * 2
