"""State that the checks of the doctor share: a run, and the parts that they built of it."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from itertools import islice

from accelerate import Accelerator

from f5_tts.config.schema import RLTrainConfig, TrainConfig, updates_per_rollout
from f5_tts.data.batching import BatchPlan
from f5_tts.data.rows import Row
from f5_tts.data.tokenizer import build_vocabulary
from f5_tts.eval.judges import Judges
from f5_tts.model.cfm import CFM
from f5_tts.rl.algorithms import find_algorithm
from f5_tts.rl.nft import EmaPolicy
from f5_tts.rl.scoring import RewardScorer
from f5_tts.train.build import build_batches
from f5_tts.train.loop import ComputeLoss
from f5_tts.train.train_state import DataPosition, TrainState
from f5_tts.types import ExperienceBatch, SpeechBatch


class RunUnderTest:
    """A run under test, with what earlier checks built; an attribute is missing if no check could build it."""

    accelerator: Accelerator
    plan: BatchPlan
    judges: Judges | None  # that were built to choose the validations
    rows: list[Row]  # sampled rows whose audio can be decoded
    total: int  # updates of the whole run
    policy: CFM
    state: TrainState
    loss: ComputeLoss
    old_policy: EmaPolicy | None = None
    scorer: RewardScorer
    experience: list[ExperienceBatch]  # of one update, with random advantages
    metrics: dict[str, float]  # metrics of a backward pass over it

    def __init__(self, name: str, cfg: TrainConfig) -> None:
        self.name, self.cfg = name, cfg

    @property
    def rl_cfg(self) -> RLTrainConfig:
        """Return the config of a stage-2 run."""
        assert isinstance(self.cfg, RLTrainConfig), "asked of stage 2 alone"
        return self.cfg

    @property
    def updates_per_rollout(self) -> int:
        """Return the number of updates that train on one rollout."""
        return updates_per_rollout(self.cfg)

    @property
    def freezes_sigma(self) -> bool:
        """Check whether the run computes no gradient of ln sigma, so that the Gaussian head does not change."""
        cfg = self.cfg
        return isinstance(cfg, RLTrainConfig) and not find_algorithm(cfg.rl.algorithm).trains_sigma(cfg.rl)

    @property
    def num_updates(self) -> int:
        """Updates of the whole run; 1 where the data could not be read."""
        return getattr(self, "total", 1)

    @cached_property
    def batches(self) -> list[SpeechBatch]:
        """Load the batches of the first update; they are read in this process."""
        in_process_plan = replace(self.plan, settings=replace(self.plan.settings, num_workers=0))
        read = build_batches(in_process_plan, build_vocabulary(self.cfg), DataPosition(), self.accelerator)
        return [batch for batch, _ in islice(read, self.cfg.optim.grad_accumulation_steps)]


def one_line_error(error: Exception) -> str:
    """Format an error as one line, with its type unless it is one of those that we raise for users."""
    text = " ".join(str(error).split())
    is_own_error = isinstance(error, ValueError | OSError | ImportError | FloatingPointError) and text
    return text if is_own_error else f"{type(error).__name__}: {text}"
