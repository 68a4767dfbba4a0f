from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.e2e.runs import Bright
from tests.tiny import tiny_arch
from torch import Tensor

from f5_tts.config.load import compose_config
from f5_tts.config.schema import ProviderConfig, RLTrainConfig
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import HEAD, Checkpoint, write_checkpoint
from f5_tts.model.heads import VelocityModel
from f5_tts.model.lora import add_adapters
from f5_tts.rl.advantage import GroupAdvantage, RunningBaseline
from f5_tts.rl.scoring import RewardScorer
from f5_tts.train.alarms import AlarmMonitor
from f5_tts.train.build_rl import (
    build_advantage,
    build_alarms,
    build_reference,
    check_window,
    describe_rollouts,
    resolve_algorithm,
    resolve_rollout_precision,
)


def run_of(*overrides: str) -> RLTrainConfig:
    return compose_config("F5TTS_Mini_RL", list(overrides), RLTrainConfig)


def checkpoint(head: Tensor | None) -> Checkpoint:
    """Build a checkpoint of a model without a head, or with a head of these weights."""
    weights = {} if head is None else {f"{HEAD}weight": head, f"{HEAD}bias": torch.ones(2)}
    return Checkpoint(path=Path("model_last.pt"), weights=weights, payload={})


NO_HEAD, NEW_HEAD, TRAINED = checkpoint(None), checkpoint(torch.zeros(2, 3)), checkpoint(torch.ones(2, 3))


@pytest.mark.parametrize("found, chosen", [(TRAINED, "gaussian_grpo"), (NEW_HEAD, "flow_grpo"), (NO_HEAD, "flow_grpo")])
def test_auto_goes_by_what_the_checkpoint_can_do_and_says_so(found: Checkpoint, chosen: str):
    messages: list[str] = []
    assert resolve_algorithm("auto", found, messages.append) == chosen
    (line,) = messages
    assert line.startswith("rl.algorithm=auto: model_last.pt has ") and line.endswith(f", so {chosen}")


@pytest.mark.parametrize("asked", ["gaussian_grpo", "f5r"])
@pytest.mark.parametrize("found", [NO_HEAD, NEW_HEAD])
def test_a_policy_of_the_head_is_refused_where_none_was_trained(asked: str, found: Checkpoint):
    with pytest.raises(ValueError, match=f"rl.algorithm={asked} needs a trained Gaussian head, .* has none: train"):
        resolve_algorithm(asked, found)


@pytest.mark.parametrize("asked", ["flow_grpo", "nft"])
def test_other_algorithms_take_any_checkpoint(asked: str):
    assert resolve_algorithm(asked, NO_HEAD) == asked == resolve_algorithm(asked, TRAINED)


def test_the_plan_of_an_update_is_said_in_one_line():
    run = run_of("optim.grad_accumulation_steps=2", "rl.group_size=16", "rl.mini_repeat_count=8")
    assert describe_rollouts(run, 100, world_size=2) == (
        "nft: 16 prompts x 16 samples = 256 rollouts per update, 32 per forward, on 2 processes"
    )
    by_frames = run_of("datasets.batch_size_type=frame", "rl.mini_repeat_count=8")
    assert describe_rollouts(by_frames, 100, world_size=1) == (
        "nft: 1 batch of prompts x 8 samples per update, on 1 process"
    )


def test_a_plan_with_more_prompts_than_there_are_is_refused_with_the_numbers():
    run = run_of("optim.grad_accumulation_steps=2")
    assert describe_rollouts(run, 16, world_size=2)
    with pytest.raises(ValueError, match=r"=4 x .*=2 x 2 processes = 16 prompts, and the data set has 15"):
        describe_rollouts(run, 15, world_size=2)


def test_a_window_without_a_trainable_step_is_refused_before_anything_is_drawn():
    with pytest.raises(ValueError, match=r"no solver step starts in rl\.window\.t_range=\[0\.9, 0\.95\]; the grid is"):
        check_window(run_of("rl.algorithm=flow_grpo", "rl.shared_noise=true", "rl.window.t_range=[0.9,0.95]").rl)
    check_window(run_of("rl.window.t_range=[0.9,0.95]").rl)  # nft has no window


class Silent:
    component = "r"

    def score(self, inputs) -> Tensor:
        return torch.zeros(len(inputs))


def test_a_group_of_one_is_compared_with_its_past_and_a_warning_is_said():
    messages: list[str] = []
    run = run_of("rl.repeat_count=1", "rl.mini_repeat_count=1", "rl.credit=sample")
    run.rl.rewards.providers = [ProviderConfig(name="test", weight=1.0, floor=0.1, config={})]
    scorer = RewardScorer(lambda mel, lens: [], {"test": Silent()}, run.rl, run.model.mel_spec)
    assert isinstance(build_advantage(scorer, run.rl, messages.append), RunningBaseline)
    (line,) = messages
    assert line.startswith("warning: rl.repeat_count=1 x rl.mini_repeat_count=1 makes groups of one")
    run.rl.mini_repeat_count = 2
    assert isinstance(build_advantage(scorer, run.rl, messages.append), GroupAdvantage)
    assert len(messages) == 1


def test_gradients_of_rewards_need_no_groups():
    run = run_of("rl.algorithm=draft", "rl.mini_repeat_count=1", "rl.credit=sample")
    run.rl.rewards.providers = [ProviderConfig(name="test", weight=1.0, floor=0.1, config={})]
    scorer = RewardScorer(lambda mel, lens: [], {"test": Bright()}, run.rl, run.model.mel_spec)
    messages: list[str] = []
    assert build_advantage(scorer, run.rl, messages.append) is None and messages == []
    run.rl.mini_repeat_count = 8
    assert "no_spread" not in build_alarms(run)


def test_the_kl_to_a_reference_of_another_guidance_has_no_limit_but_its_growth_has():
    steady, growing = [{"loss/kl": 0.6}] * 5, [{"loss/kl": value} for value in [0.06] * 5 + [0.9] * 5]
    for guidance, rings_steady in ((None, True), (1.0, False)):
        run = run_of("rl.algorithm=draft", "rl.mini_repeat_count=1", "rl.credit=sample")
        run.rl.ref_cfg_strength = guidance
        for rows, rings in ((steady, rings_steady), (growing, True)):
            monitor = AlarmMonitor({"kl_out_of_range": build_alarms(run)["kl_out_of_range"]}, rows[:-1])
            assert bool(monitor(rows[-1])[0]) == rings


# --- the reference ---


def model(seed: int) -> CFM:
    torch.manual_seed(seed)
    made = CFM(DiT(tiny_arch(), mel_dim=6, num_tokens=9, gaussian=True)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


@torch.no_grad()
def mean(policy: VelocityModel) -> Tensor:
    torch.manual_seed(2)
    return policy(torch.randn(1, 5, 6), torch.randn(1, 5, 6), torch.tensor([[1, 2]]), torch.tensor([0.3])).mean


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.slow
def test_another_checkpoint_is_the_reference_also_beside_adapters_that_have_learnt(tmp_path, rank: int):
    write_checkpoint(tmp_path / "a.pt", {"model_state_dict": model(1).state_dict()})
    cfg = compose_config("F5TTS_Mini_RL", [f"lora.rank={rank}", f"rl.ref_model_ckpt={tmp_path}/a.pt"], RLTrainConfig)
    policy = model(0)
    add_adapters(policy, cfg.lora, lambda line: None)
    reference = build_reference(policy, cfg.rl, Vocabulary(" a"))
    assert reference is not None
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 if parameter.requires_grad else 0.0)
    assert torch.equal(mean(reference), mean(model(1)))


@pytest.mark.parametrize(("unit", "chosen"), [("AMX", "bf16"), (None, None)])
def test_samples_are_drawn_in_bfloat16_where_a_unit_computes_in_it_and_as_they_are_learned_elsewhere(
    monkeypatch, unit: str | None, chosen: str | None
):
    monkeypatch.setattr("f5_tts.model.precision.bf16_unit", lambda device: unit)
    monkeypatch.setattr("f5_tts.model.precision.product_seconds", lambda: (10.0, 1.0))
    lines: list[str] = []
    found = {
        asked: resolve_rollout_precision(
            run_of(f"rl.rollout_precision={asked}"), NO_HEAD, torch.device("cpu"), lines.append
        )
        for asked in ("auto", "bf16", "null")
    }
    assert found == {"auto": chosen, "bf16": "bf16", "null": None}
    assert len(lines) == 1 and lines[0].startswith("rl.rollout_precision=auto: ")


@pytest.mark.parametrize(("before", "said"), [("bf16", "bf16"), (None, "single precision")])
def test_a_resumed_run_draws_its_samples_as_before(before: str | None, said: str):
    cfg, lines = run_of("rl.rollout_precision=auto"), []
    payload = {"objective": "grpo", "optimizer_state_dict": {}, "settings": {"rl.rollout_precision": before}}
    resumed = replace(NO_HEAD, payload=payload)
    assert resolve_rollout_precision(cfg, resumed, torch.device("meta"), lines.append) == before
    assert lines == [f"rl.rollout_precision=auto: {said}, as before"]
