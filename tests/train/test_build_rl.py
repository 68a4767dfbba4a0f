from __future__ import annotations

import pytest
import torch
from tests.tiny import tiny_arch
from torch import Tensor

from f5_tts.config import compose_run
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import write_checkpoint
from f5_tts.model.heads import VelocityModel
from f5_tts.model.lora import add_adapters
from f5_tts.sections import RLRunConfig
from f5_tts.train.build_rl import build_reference


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
def test_another_checkpoint_is_the_reference_also_beside_adapters_that_have_learnt(tmp_path, rank: int):
    write_checkpoint(tmp_path / "a.pt", {"model_state_dict": model(1).state_dict()})
    run = compose_run("F5TTS_Mini_RL", [f"lora.rank={rank}", f"rl.ref_model_ckpt={tmp_path}/a.pt"], RLRunConfig)
    policy = model(0)
    add_adapters(policy, run.lora, lambda line: None)
    reference = build_reference(policy, run.rl)
    assert reference is not None
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 if parameter.requires_grad else 0.0)
    assert torch.equal(mean(reference), mean(model(1)))
