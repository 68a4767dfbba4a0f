"""Custom rewards for tests with other processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from f5_tts.rewards.remote.protocol import TOKEN
from f5_tts.types import RewardInput

print("what a library may say on stdout when it is imported")


def seconds(inputs: list[RewardInput]) -> Tensor:
    return torch.tensor([len(item.audio) / item.sample_rate for item in inputs])


class Surroundings:
    """Reward that reports its interpreter's prefix as the name of a component."""

    component = "acc"

    def score(self, inputs: list[RewardInput]) -> dict[str, Tensor | list[None]]:
        knows_token = torch.full((len(inputs),), float(TOKEN in os.environ))
        return {sys.prefix: [None] * len(inputs), "acc": seconds(inputs), "knows_token": knows_token}


class Held:
    """Reward that writes its process id to one FIFO of a folder, and scores when the other FIFO is written."""

    component = "acc"

    def __init__(self, folder: str):
        self.entered, self.leave = Path(folder, "entered"), Path(folder, "leave")

    def score(self, inputs: list[RewardInput]) -> Tensor:
        self.entered.write_text(str(os.getpid()))
        self.leave.read_text()
        return seconds(inputs)


class Unlucky:
    component = "acc"

    def __init__(self) -> None:
        raise RuntimeError("no model\nanywhere")
