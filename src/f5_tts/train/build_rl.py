"""Sections of a stage-2 config -> what stage 2 needs besides a model and data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from f5_tts.config.schema import ModelConfig, RLConfig, RLRunConfig, group_size
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.eval.evaluator import Exam, Voice, build_judges, build_recogniser
from f5_tts.eval.test_set import read_items, unseen_of
from f5_tts.model.build import build_model, build_vocoder
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import Checkpoint, load_weights, matched_weights, read_checkpoint
from f5_tts.model.fsdp import divided
from f5_tts.model.lora import add_adapters, unchanged
from f5_tts.model.mel import LogMel
from f5_tts.model.snapshot import Snapshot
from f5_tts.rewards.registry import build_providers
from f5_tts.rl.advantage import GroupComparison, RunningBaseline
from f5_tts.rl.algorithms import find_algorithm
from f5_tts.rl.kernel import window
from f5_tts.rl.rollout import rollout_grid
from f5_tts.rl.scoring import Scorer
from f5_tts.train.alarms import ALARMS, Look
from f5_tts.types import Vocoder


def build_policy(
    run: RLRunConfig, vocabulary: Vocabulary, origin: Checkpoint, say: Callable[[str], None] = print
) -> CFM:
    """The model of stage 2 with the weights that stage 2 starts from, what is not trained frozen."""
    torch.manual_seed(run.optim.seed)
    model = build_model(run.model, vocabulary).eval()  # no dropout, neither drawing nor learning
    load_weights(model, origin, say)
    add_adapters(model, run.lora, say)
    return model


def build_scorer(model: ModelConfig, rl: RLConfig) -> Scorer:
    """Vocoder and rewards of a run."""
    return Scorer(build_vocoder(model), build_providers(rl.rewards.providers), rl, model.mel_spec)


def build_comparison(
    scorer: Scorer, rl: RLConfig, say: Callable[[str], None] = print
) -> GroupComparison | RunningBaseline:
    """How rewards become advantages; a group of one has nobody to be compared with but its past."""
    if group_size(rl) > 1:
        return GroupComparison(scorer.weights, scorer.floors, rl)
    say(
        f"warning: rl.repeat_count={rl.repeat_count} x rl.mini_repeat_count={rl.mini_repeat_count} makes groups of "
        "one; each reward is compared with its running mean instead, which learns more slowly: better "
        "rl.mini_repeat_count=8"
    )
    return RunningBaseline(scorer.weights, scorer.floors, clip=rl.advantage_clip)


def build_reference(model: CFM, rl: RLConfig, say: Callable[[str], None] = print) -> Snapshot | None:
    """What the KL is measured to: the model as it is now, or rl.ref_model_ckpt; none without rl.kl_weight."""
    if rl.kl_weight == 0:
        return None
    reference = Snapshot(model, rl.ref_model_device)
    if rl.ref_model_ckpt is not None:
        checkpoint = read_checkpoint(Path(rl.ref_model_ckpt)).using("ema" if rl.ref_model_use_ema else "raw")
        place = rl.ref_model_device or next(model.parameters()).device
        theirs = divided(unchanged(model, matched_weights(model, checkpoint, say)), model.state_dict())
        reference.tensors = {name: value.to(place) for name, value in theirs.items()}
    return reference


def chosen_algorithm(asked: str, checkpoint: Checkpoint, say: Callable[[str], None] = print) -> str:
    """`rl.algorithm`, with `auto` decided by what the checkpoint can do.

    Raises ValueError when the algorithm needs a trained Gaussian head that the checkpoint lacks.
    """
    trained = checkpoint.has_trained_head
    if asked == "auto":
        chosen, why = ("gaussian_grpo", "a") if trained else ("flow_grpo", "no")
        say(f"rl.algorithm=auto: {checkpoint.path} has {why} trained Gaussian head, so {chosen}")
        return chosen
    algorithm = find_algorithm(asked)
    if algorithm.needs_trained_head and not trained:
        raise ValueError(
            f"rl.algorithm={asked} draws from a trained Gaussian head, and {checkpoint.path} has none: warm it up "
            "first (model.objective=gaussian_nll), or use rl.algorithm=flow_grpo or nft"
        )
    if algorithm.warning is not None:
        say(algorithm.warning)
    return asked


def check_window(rl: RLConfig) -> None:
    """Raises ValueError with the grid when rl.window holds no step that could be trained."""
    if find_algorithm(rl.algorithm).uses_window:
        window(rollout_grid(rl), rl)


def build_exam(run: RLRunConfig, vocabulary: Vocabulary, vocoder: Vocoder) -> Exam:
    """What a run is validated by: dev items in voices never seen, at the guidance that the policy is trained with."""
    path = Path(run.eval.items_dir) / "dev.jsonl"
    items = unseen_of(read_items(path), path) * run.eval.dev_takes
    return Exam(
        items=items,
        voice=Voice(mel=LogMel(run.model.mel_spec), vocoder=vocoder, vocabulary=vocabulary, settings=run.eval),
        recognisers={name: build_recogniser(name) for name in run.eval.recognisers},
        judges=build_judges(run.eval),
        cfg_strength=run.rl.cfg_strength,
    )


def build_alarms(rl: RLConfig) -> dict[str, Look]:
    """All alarms that mean something for this run: a group of one never has a spread."""
    return {name: look for name, look in ALARMS.items() if name != "no_spread" or group_size(rl) > 1}


def rollout_plan(run: RLRunConfig, num_items: int, world: int) -> str:
    """One line that says what an update draws.

    Raises ValueError when the data set cannot fill one update.
    """
    rl, datasets = run.rl, run.datasets
    batches, size = run.optim.grad_accumulation_steps * world, group_size(rl)
    on = f"on {world} process{'es' if world > 1 else ''}"
    if datasets.batch_size_type == "frame":
        of_prompts = "1 batch" if batches == 1 else f"{batches} batches"
        return f"{rl.algorithm}: {of_prompts} of prompts x {size} samples per update, {on}"
    prompts = datasets.batch_size_per_gpu * batches
    if prompts > num_items:
        raise ValueError(
            f"an update needs datasets.batch_size_per_gpu={datasets.batch_size_per_gpu} x optim.grad_accumulation_steps"
            f"={run.optim.grad_accumulation_steps} x {world} processes = {prompts} prompts, and the data set has "
            f"{num_items}: lower one of them"
        )
    return (
        f"{rl.algorithm}: {prompts} prompts x {size} samples = {prompts * size} rollouts per update, "
        f"{datasets.batch_size_per_gpu * rl.mini_repeat_count} per forward, {on}"
    )
