"""Builders of the objects that both stages need: data, vocabulary, model, optimizer state and average."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from itertools import islice
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from ema_pytorch import EMA
from torch.optim.lr_scheduler import LambdaLR

from f5_tts.config.checks import as_override
from f5_tts.config.schema import OptimConfig, RLTrainConfig, TrainConfig, updates_per_rollout
from f5_tts.config.yaml_files import read_yaml
from f5_tts.data.batching import BatchPlan, load_batches
from f5_tts.data.dataset import AudioReader, SpeechDataset
from f5_tts.data.quality import bad_texts
from f5_tts.data.rows import SPEAKER_COLUMNS, Row
from f5_tts.data.texts import TextRules, coverage
from f5_tts.data.tokenizer import Vocabulary, build_vocabulary
from f5_tts.model.build import build_model
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import Checkpoint, ModelSpec, check_spec, load_weights
from f5_tts.model.fsdp import shard_model
from f5_tts.model.grow import grow_to
from f5_tts.model.lora import add_adapters
from f5_tts.model.mel import LogMel
from f5_tts.rewards.registry import needs_words
from f5_tts.train.bad_rows import OutageWatch, all_rows_bad, usable_batches
from f5_tts.train.checkpoint_dir import initial_weights
from f5_tts.train.held_out import describe_held_out, split_rows
from f5_tts.train.optimizer import MakeOptimizer, learning_rate_factor
from f5_tts.train.run_settings import describe_threads, settings_of
from f5_tts.train.train_state import DataPosition, TrainState
from f5_tts.types import SpeechBatch, Utterance

if TYPE_CHECKING:
    from f5_tts.config.schema import EmaConfig

MAX_TEXTS = 100_000  # texts that are compared with the vocabulary before training


def unpair_unknown(cfg: TrainConfig, rows: Sequence[Row], log: Callable[[str], None] = print) -> None:
    """Turn datasets.pair_speakers off where no row names its speaker, and say so.

    In stage 2 prompts are then cut from the clips: rl.prompt_frac_range gets the range of _rl.yaml where it is null.
    """
    if not cfg.datasets.pair_speakers or any(row.speaker is not None for row in rows):
        return
    cfg.datasets.pair_speakers, follows = False, ""
    if isinstance(cfg, RLTrainConfig) and cfg.rl.prompt_frac_range is None:
        cfg.rl.prompt_frac_range = list(read_yaml("_rl").rl.prompt_frac_range)
        follows = f" rl.prompt_frac_range={as_override(cfg.rl.prompt_frac_range)}: prompts are cut from the clips"
    log(f"no row names its speaker (column {' or '.join(SPEAKER_COLUMNS)}): datasets.pair_speakers=false{follows}")


def check_vocabulary(checkpoint: Checkpoint, cfg: TrainConfig, vocabulary: Vocabulary) -> None:
    """Raise ValueError where the checkpoint of a run has another vocabulary, which the run's does not extend."""
    grown = grow_to(checkpoint, vocabulary.symbols, log=lambda message: None)
    check_spec(grown, ModelSpec.of(cfg.model, vocabulary), log=lambda message: None)


def build_plan(cfg: TrainConfig, rows: list[Row], log: Callable[[str], None] = print) -> BatchPlan:
    """Plan the order of the batches of a data set, without the rows that are held out, and report what is left out."""
    rows, held_out = split_rows(rows, cfg)
    if held_out:
        log(describe_held_out(rows, held_out))
    check_texts(rows, text_rules(cfg), log)
    plan = plan_batches(cfg, rows, held_out)
    if num := plan.num_too_long():
        budget = cfg.datasets.batch_size_per_gpu
        log(f"{num} of {len(rows)} items are longer than datasets.batch_size_per_gpu={budget} frames and left out")
    return plan


def plan_batches(cfg: TrainConfig, rows: list[Row], held_out: Sequence[Row] = ()) -> BatchPlan:
    """Plan the order of the batches of these rows."""
    spec, seed = cfg.model.mel_spec, cfg.optim.seed
    read = AudioReader(LogMel(spec), spec.target_sample_rate, cfg.datasets.max_seconds)
    pair_speakers, rules = cfg.datasets.pair_speakers, text_rules(cfg)
    return BatchPlan(
        dataset=SpeechDataset(rows, read, pair_speakers=pair_speakers, seed=seed, rules=rules),
        settings=cfg.datasets,
        frames_per_second=spec.frames_per_second,
        seed=seed,
        held_out=held_out,
    )


def text_rules(cfg: TrainConfig) -> TextRules:
    """Return what the texts of a run need: a symbol of its vocabulary, and words, where a reward compares them."""
    compares_words = isinstance(cfg, RLTrainConfig) and needs_words(cfg.rl.rewards.providers)
    return TextRules(build_vocabulary(cfg), needs_words=compares_words)


def check_texts(rows: Sequence[Row], rules: TextRules, log: Callable[[str], None]) -> None:
    """Report the symbols that the vocabulary lacks; raise ValueError where no row has a text that can be used.

    Of a large data set, MAX_TEXTS rows at equal intervals are looked at.
    """
    assert rules.vocabulary is not None
    if all(rules.problem(row) for row in rows):
        raise all_rows_bad(bad_texts(rows, rules))
    texts = [row.text for row in rows[:: math.ceil(len(rows) / MAX_TEXTS)]]
    found = coverage(texts, rules.vocabulary)
    if found.is_unusual:
        log("\n".join(found.lines(f"of {len(texts)} rows" if len(texts) < len(rows) else "rows")))


def count_updates(plan: BatchPlan, optim: OptimConfig, updates_per_rollout: int = 1, world_size: int = 1) -> int:
    """Count the updates of a whole run over all its epochs, at most optim.max_updates.

    Each batch is used for `updates_per_rollout` updates. `world_size` ranks share the batches.
    """
    updates, batches = 0, 0
    for epoch in range(optim.epochs):
        batches += len(plan.epoch(epoch))
        updates = batches // (optim.grad_accumulation_steps * world_size) * updates_per_rollout
        if optim.max_updates is not None and updates >= optim.max_updates:
            return optim.max_updates
    return updates


def epoch_counter(plan: BatchPlan) -> Callable[[int], float]:
    """Return a function that gives the number of passes over the data set, with fraction, after so many batches."""
    ends = [0]  # end of each epoch, in batches of all ranks

    def epoch(batches: int) -> float:
        while ends[-1] < batches:
            ends.append(ends[-1] + len(plan.epoch(len(ends) - 1)))
        last = bisect_left(ends, batches)
        return last - (ends[last] - batches) / (ends[last] - ends[last - 1]) if last else 0.0

    return epoch


def build_batches(
    plan: BatchPlan,
    vocabulary: Vocabulary,
    start: DataPosition,
    accelerator: Accelerator,
) -> Iterator[tuple[SpeechBatch, DataPosition]]:
    """Load this rank's batches from a position on, on its device, each with the position after it.

    Passes over the data follow each other without end: a run ends at its last update.
    """
    world_size, rank = accelerator.num_processes, accelerator.process_index
    loaded = load_batches(plan, vocabulary, first=start.batches, rank=rank, world_size=world_size)
    watch = OutageWatch(len(plan.dataset.rows) - plan.num_too_long(), plan.settings.max_empty_batches)
    batches = usable_batches(loaded, start, watch, accelerator)
    return ((batch.to(accelerator.device), position) for batch, position in batches)


def batches_of_updates(
    plan: BatchPlan, vocabulary: Vocabulary, optim: OptimConfig, state: TrainState, accelerator: Accelerator
) -> Iterator[list[SpeechBatch]]:
    """Yield the batches of each remaining update, and set `state.next_position` to the position after them."""
    batches = build_batches(plan, vocabulary, state.position, accelerator)
    while group := list(islice(batches, optim.grad_accumulation_steps)):
        state.next_position = group[-1][1]
        yield [batch for batch, _ in group]


def build_stage1_model(
    cfg: TrainConfig, vocabulary: Vocabulary, start: Checkpoint | None, log: Callable[[str], None] = print
) -> CFM:
    """Build the model of stage 1 with random weights; parameters that are not trained are frozen.

    With lora.rank it has the weights that the run began with, and adapters. ValueError is raised if there are none.
    """
    torch.manual_seed(cfg.optim.seed)
    model = build_model(cfg.model, vocabulary)
    if cfg.lora.rank:
        if start is None:
            raise ValueError(
                f"lora.rank={cfg.lora.rank} trains adapters of a trained model, and there is none: name it in "
                "ckpts.init_from, or set lora.rank=0"
            )
        load_weights(model, grow_to(initial_weights(start, cfg.model.objective), vocabulary.symbols, log), log)
        add_adapters(model, cfg.lora, log)
    if cfg.model.objective == "gaussian_nll" and cfg.model.warmup_scope == "head":
        model.freeze_all_but_head()
    return model


def build_train_state(
    cfg: TrainConfig, model: CFM, vocabulary: Vocabulary, total: int, make_optimizer: MakeOptimizer, processes: int = 1
) -> TrainState:
    """Build what is trained and saved: model, EMA, optimizer and schedule; sharded with optim.shard."""
    optim, ema = cfg.optim, build_ema(model, cfg.optim.ema)
    if optim.shard:
        for module in (model, ema.ema_model):
            assert isinstance(module, CFM)
            shard_model(module)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(parameters, lr=optim.learning_rate)
    scheduler = LambdaLR(optimizer, lambda i: learning_rate_factor(i, optim.num_warmup_updates, total))
    return TrainState(
        model=model,
        spec=ModelSpec.of(cfg.model, vocabulary),
        ema=ema,
        optimizer=optimizer,
        scheduler=scheduler,
        objective=cfg.model.objective,
        processes=processes,
        settings=settings_of(cfg) | describe_threads(),
        allow_changed=cfg.ckpts.allow_changed,
        lora=cfg.lora,
        batches_per_update=optim.grad_accumulation_steps * processes / updates_per_rollout(cfg),
    )


def build_ema(model: CFM, settings: EmaConfig) -> EMA:
    """Build the exponential moving average of the model's weights, with the settings of optim.ema.

    It may live on another device than the model; the weights are copied there.
    """
    ema = EMA(
        model,
        lambda: deepcopy(model).to(settings.device),
        beta=settings.beta,
        update_after_step=settings.update_after_step,
        update_every=settings.update_every,
        power=settings.power,
        include_online_model=False,
        allow_different_devices=True,
    )
    assert isinstance(ema, EMA)
    return ema


def init_bias_to_mean_mel(model: CFM, plan: BatchPlan, num: int = 64) -> None:
    """Set the output bias of an untrained model to the mean mel of `num` items.

    The first updates then need not learn it. Raises ValueError when no item can be read.
    """
    mels, bad_rows = [], []
    for batch in plan.epoch(0)[:num]:
        items = (plan.dataset[key] for key in batch)  # items are read until one is good
        for item in items:
            if isinstance(item, Utterance):
                mels.append(item.mel)
                break
            bad_rows.append(item)
    if not mels:
        raise all_rows_bad(bad_rows)
    with torch.no_grad():
        model.transformer.proj_out.bias.copy_(torch.cat(mels).mean(dim=0))
