"""Validation on held-out items while a run trains, and the choice of the best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache
from torch import nn

from f5_tts.config.reward_names import is_reward, rewarded
from f5_tts.config.schema import ProviderConfig
from f5_tts.eval.evaluator import Evaluator, Share
from f5_tts.eval.results import metric_prefix
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import BEST
from f5_tts.train.checkpoint_dir import CheckpointDir
from f5_tts.train.distributed import RanksOfRun
from f5_tts.train.oom import is_oom
from f5_tts.train.train_state import TrainState

# drop of eval/sim since the start that is always allowed: a lower error rate must not cost speaker similarity
MIN_ALLOWED_DROP = 0.02
LOWEST_SIMILARITY = -1.0


def selecting_metric(recognizers: Sequence[str], rewards: Sequence[ProviderConfig]) -> str | None:
    """Return the error rate that selects `model_best.pt` and that the alarm reward_hacked watches.

    It is that of the first of eval.recognisers that is no reward of the run (a reward has a weight other than 0); None
    if all of them are.
    """
    names = rewarded(rewards)
    judges = [name for name in recognizers if not is_reward(name, names)]
    return f"{metric_prefix(judges[0])}/wer" if judges else None


class Best:
    """Best validation of a run so far; `model_best.pt` holds its weights.

    It has the lowest error rate by `selecting` (see `selecting_metric`) of all validations whose eval/sim is not below
    that of the first one by more than 0.02 or its own uncertainty there, eval/sim_ci95; of equal ones the oldest. The
    raw and the averaged weights are candidates of each validation.
    """

    def __init__(self, selecting: str, speaker_judge: str) -> None:
        self.judges = [selecting, speaker_judge]  # of this run, and once they are known the conditions of a validation
        self.compared: list[str] = []  # the same of the record
        self.value = 0.0  # lowest value of that metric
        self.update = -1  # update of that value
        self.first_similarity = 0.0
        self.allowed_drop = MIN_ALLOWED_DROP

    def is_new_best(self, metrics: Mapping[str, float], update: int, has_file: bool = True) -> bool:
        """Check whether a validation is the new best, and record it if so.

        The first validation always is, and so is the first one by other judges or on other items than before. Where the
        weights of the record are gone (`has_file` is False), whatever is similar enough is better than none.
        """
        error, similarity = metrics[self.judges[0]], metrics["eval/sim"]
        if math.isnan(error):  # no item has a word
            return False
        if math.isnan(similarity):  # in no clip is there a voice
            similarity = LOWEST_SIMILARITY
        if self.judges != self.compared:
            self.compared, self.first_similarity = self.judges, similarity
            self.allowed_drop = max(MIN_ALLOWED_DROP, metrics.get("eval/sim_ci95", 0.0))
        elif (has_file and error >= self.value) or similarity < self.lowest_similarity:
            return False
        self.value, self.update = error, update
        return True

    @property
    def lowest_similarity(self) -> float:
        """Return the eval/sim that the best must have."""
        return self.first_similarity - self.allowed_drop

    def describe_refusal(self, metrics: Mapping[str, float]) -> str:
        """Say that a validation has a lower error rate and has lost the voice; return an empty string for others."""
        if not (metrics[self.judges[0]] < self.value and metrics["eval/sim"] < self.lowest_similarity):
            return ""
        return f": here {self.judges[0]} is lower, but eval/sim is below {self.lowest_similarity:.3f}"

    def __str__(self) -> str:
        return (
            f"lowest {self.judges[0]} so far with eval/sim at least {self.lowest_similarity:.3f}"
            f" ({self.allowed_drop:.2g} below the start)"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the record as plain values, for a checkpoint."""
        return {name: value for name, value in vars(self).items() if name != "judges"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the record from a checkpoint."""
        vars(self).update(state)


@contextmanager
def exchanged(model: nn.Module, other: nn.Module) -> Iterator[None]:
    """Exchange the weights of two equal models in the body, each on its own device, one tensor at a time."""
    swap(model, other)
    try:
        yield
    finally:
        swap(model, other)


@torch.no_grad()
def swap(model: nn.Module, other: nn.Module) -> None:
    """Exchange the values of the parameters and buffers of two equal models."""
    for get in (nn.Module.parameters, nn.Module.buffers):
        for one, two in zip(get(model), get(other), strict=True):
            kept = one.to(two.device, copy=True)
            one.copy_(two)
            two.copy_(kept)


@contextmanager
def evaluation_mode(model: CFM) -> Iterator[None]:
    """Switch dropout off in the body."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def advise() -> Iterator[None]:
    """Add to an error of a judge in the body how the run goes on without it."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        raise ValueError(
            f"a validation failed: {error}; the same command goes on after this update, and makes no more validations "
            "with eval.every_updates=0 (where rows are held out, with eval.dev=held_out too)"
        ) from error


class Validation:
    """Evaluation of raw and averaged weights at the start and at regular updates, which also saves `model_best.pt`.

    It draws no random numbers of the training and changes no weights, so it does not affect the updates. The items are
    divided among the ranks. All of them call it, get the same metrics and take the same decisions; the main one writes.

    Args:
        best: the record of the best one; None: no judge may choose, because all of them are rewards.
        start_guidance: guidance strength at update 0, where the policy is its own reference; None: the evaluator's.
        forgot: evaluator of a second list, whose metrics of the raw weights begin with forgot/; None: none.
        of_rewards: metrics by models that are rewards of the run; they are marked.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        every_updates: int,
        best: Best | None,
        checkpoints: CheckpointDir,
        log: Callable[[str], None],
        ranks: RanksOfRun,
        *,
        start_guidance: float | None = None,
        forgot: Evaluator | None = None,
        of_rewards: Collection[str] = (),
    ) -> None:
        self.evaluator, self.every_updates, self.best = evaluator, every_updates, best
        self.checkpoints, self.log, self.ranks, self.forgot = checkpoints, log, ranks, forgot
        self.of_rewards = of_rewards
        self.ended: float | None = None  # time at which the last validation of this process ended
        self.at_start = evaluator if start_guidance is None else replace(evaluator, cfg_strength=start_guidance)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Evaluate the model if this update is due and save a new best; return the metrics, or none."""
        if state.update % self.every_updates:
            return {}
        started = time.perf_counter()
        evaluator, average = self.evaluator if state.update else self.at_start, state.ema.ema_model
        assert isinstance(average, CFM)
        with evaluation_mode(state.model):
            raw = self.evaluate(state.model, evaluator)
            second = {} if self.forgot is None else self.evaluate(state.model, self.forgot)
            with exchanged(state.model, average):  # which may be on the CPU, where it would take hours
                averaged = self.evaluate(state.model, evaluator)
        metrics = raw | {f"{name}_ema": averaged[name] for name in averaged if not name.endswith(("_ci95", "/rtf"))}
        metrics |= {f"forgot/{name}": value for name, value in second.items()}
        summary, duration = self.summarize(metrics), self.describe_duration(started)
        candidates = {"raw": raw, "ema": averaged}
        self.log(f"validation at update {state.update}: {summary}; {duration}{self.keep_best(candidates, state)}")
        self.ended = time.perf_counter()
        return metrics | {"time/validation": self.ended - started}

    def summarize(self, metrics: Mapping[str, float]) -> str:
        """List the error rates and similarities; those by a reward are marked."""
        kinds = {name: name.removeprefix("forgot/").removesuffix("_ema") for name in metrics}
        return ", ".join(
            f"{name}={metrics[name]:.4f}{' (reward)' if kind in self.of_rewards else ''}"
            for name, kind in kinds.items()
            if kind.endswith(("/wer", "/sim"))
        )

    def describe_duration(self, started: float) -> str:
        """Describe how long the validation that started then took, and its share of the time since the one before."""
        now = time.perf_counter()
        share = "" if self.ended is None else f", {(now - started) / (now - self.ended):.1%} of the time since the last"
        return f"took {now - started:.1f} s{share}"

    def evaluate(self, model: CFM, evaluator: Evaluator) -> dict[str, float]:
        """Evaluate a model on all ranks; an error on one of them ends all."""
        with self.ranks.raise_on_all_ranks(), advise():
            share = self.measure(model, evaluator)
        return evaluator.metrics(self.ranks.gather_objects(share))

    def measure(self, model: CFM, evaluator: Evaluator) -> Share:
        """Measure the share of this rank, from now on in smaller batches where memory does not suffice."""
        settings = evaluator.synthesizer.settings
        while True:
            try:
                return evaluator.measure(model, self.ranks.rank, self.ranks.world_size)
            except RuntimeError as error:
                if not is_oom(error) or settings.batch_size == 1:
                    raise
                reason = str(error).partition("\n")[0]
            clear_device_cache(garbage_collection=True)
            settings.batch_size = (settings.batch_size + 1) // 2
            self.log(f"{reason}: the validation is repeated with eval.batch_size={settings.batch_size}")

    def keep_best(self, candidates: Mapping[str, Mapping[str, float]], state: TrainState) -> str:
        """Save the weights (raw or ema) that are the best so far, if any are; return the end of the line about it."""
        if self.best is None:
            return ""
        has_file = self.ranks.gather_objects((self.checkpoints.path / BEST).is_file())[0]  # as the main rank sees it
        is_lost = self.best.update >= 0 and not has_file
        chosen = ""
        for kind, metrics in candidates.items():
            if self.best.is_new_best(metrics, state.update, has_file or chosen != ""):
                chosen = kind
        if not chosen:
            problems = ", whose file is gone" if is_lost else self.describe_refusals(candidates)
            return f"; the best so far is that of update {self.best.update}{problems}"
        with self.ranks.raise_on_all_ranks():
            self.checkpoints.save_best(state, chosen)
        what = "the best before is no longer there" if is_lost else f"{self.best}"
        return f"; {what}: {'averaged weights ' if chosen == 'ema' else ''}written to {BEST}"

    def describe_refusals(self, candidates: Mapping[str, Mapping[str, float]]) -> str:
        """Say why candidates with fewer errors are not the best; return an empty string without any."""
        assert self.best is not None
        return next(filter(None, map(self.best.describe_refusal, candidates.values())), "")
