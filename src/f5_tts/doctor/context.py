"""State that the checks of the doctor share: a run, and the parts that they built of it."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from accelerate import Accelerator

from f5_tts.config.schema import ConfigError, RLRunConfig, RunConfig
from f5_tts.data.batching import BatchPlan
from f5_tts.data.rows import Row
from f5_tts.data.tokenizer import build_vocabulary
from f5_tts.model.cfm import CFM
from f5_tts.rl.algorithms import find_algorithm
from f5_tts.rl.nft import OldPolicy
from f5_tts.rl.scoring import Scorer
from f5_tts.train.build import build_batches, lists_of
from f5_tts.train.loop import ComputeLoss
from f5_tts.train.train_state import Trainable
from f5_tts.types import GRPOBatch, SpeechBatch


class Patient:
    """A run, and what earlier checks have built of it; what none could build is no attribute."""

    run: RunConfig
    accelerator: Accelerator
    plan: BatchPlan
    rows: list[Row]  # some that can be heard
    total: int  # updates of the whole run
    policy: CFM
    trainable: Trainable
    loss: ComputeLoss
    old: OldPolicy | None = None
    scorer: Scorer
    experience: list[GRPOBatch]  # of one update, with advantages by chance
    measured: dict[str, float]  # by a backward pass over it

    def __init__(self, name: str, problem: ConfigError | None = None) -> None:
        self.name, self.problem = name, problem

    @property
    def rl_run(self) -> RLRunConfig:
        assert isinstance(self.run, RLRunConfig), "asked of stage 2 alone"
        return self.run

    @property
    def uses(self) -> int:
        """Updates that learn from one rollout."""
        return self.run.rl.updates_per_rollout if isinstance(self.run, RLRunConfig) else 1

    @property
    def freezes_sigma(self) -> bool:
        """Whether nothing asks for the gradient of ln sigma."""
        run = self.run
        return isinstance(run, RLRunConfig) and not find_algorithm(run.rl.algorithm).trains_sigma(run.rl)

    @property
    def num_updates(self) -> int:
        """Updates of the whole run; 1 where the data could not be read."""
        return getattr(self, "total", 1)

    @cached_property
    def batches(self) -> list[SpeechBatch]:
        """Those of the first update that has any, read in this process."""
        here = replace(self.plan, settings=replace(self.plan.settings, num_workers=0))
        read = build_batches(here, build_vocabulary(self.run), self.run.optim, 0, self.accelerator, set())
        return next(filter(None, lists_of(self.run.optim.grad_accumulation_steps, read)))


def sentence(error: Exception) -> str:
    """An error in one line, with its kind where it is none of those that we raise for users."""
    text = " ".join(str(error).split())
    ours = isinstance(error, ValueError | OSError | ImportError | FloatingPointError) and text
    return text if ours else f"{type(error).__name__}: {text}"
