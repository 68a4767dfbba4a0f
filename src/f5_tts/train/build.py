"""Config section -> object."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import islice
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from ema_pytorch import EMA
from torch.optim.lr_scheduler import LambdaLR

from f5_tts.config.schema import OptimConfig, TrainConfig, dataset_dir
from f5_tts.data.batching import BatchPlan, load_batches
from f5_tts.data.dataset import AudioReader, SpeechDataset
from f5_tts.data.rows import read_data_set
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.model.build import build_model
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import ModelSpec
from f5_tts.model.fsdp import shard_model
from f5_tts.model.mel import LogMel
from f5_tts.train.bad_rows import all_rows_bad, skip_bad_rows
from f5_tts.train.optimizer import MakeOptimizer, learning_rate_factor
from f5_tts.train.train_state import TrainState
from f5_tts.types import SpeechBatch, Utterance

if TYPE_CHECKING:
    from f5_tts.config.schema import EmaConfig


def build_plan(cfg: TrainConfig, log: Callable[[str], None] = print) -> BatchPlan:
    """The data set of a run and the order of its batches; says how many items are too long for any."""
    spec = cfg.model.mel_spec
    read = AudioReader(LogMel(spec), spec.target_sample_rate, cfg.datasets.max_seconds)
    rows = read_data_set(cfg.datasets.name, dataset_dir(cfg))
    dataset = SpeechDataset(rows, read, pair_speakers=cfg.datasets.pair_speakers, seed=cfg.optim.seed)
    frames_per_second = spec.frames_per_second
    plan = BatchPlan(dataset=dataset, settings=cfg.datasets, frames_per_second=frames_per_second, seed=cfg.optim.seed)
    if num := plan.num_too_long():
        budget = cfg.datasets.batch_size_per_gpu
        log(f"{num} of {len(rows)} items are longer than datasets.batch_size_per_gpu={budget} frames and left out")
    return plan


def count_updates(plan: BatchPlan, optim: OptimConfig, updates_per_rollout: int = 1, world_size: int = 1) -> int:
    """Updates of a whole run of `world` processes: what its epochs hold, or optim.max_updates if that is fewer.

    `uses` updates learn from the same batches.
    """
    updates, batches = 0, 0
    for epoch in range(optim.epochs):
        batches += len(plan.epoch(epoch))
        updates = batches // (optim.grad_accumulation_steps * world_size) * updates_per_rollout
        if optim.max_updates is not None and updates >= optim.max_updates:
            return optim.max_updates
    return updates


def epoch_counter(
    plan: BatchPlan, optim: OptimConfig, updates_per_rollout: int = 1, world_size: int = 1
) -> Callable[[int], float]:
    """How many passes over the data set a run has made at an update: whole ones, and the part of the next."""
    ends = [0.0]  # of each epoch, in updates

    def epoch(update: int) -> float:
        while ends[-1] < update:
            batches = len(plan.epoch(len(ends) - 1))
            ends.append(ends[-1] + batches * updates_per_rollout / (optim.grad_accumulation_steps * world_size))
        last = bisect_left(ends, update)
        return last - (ends[last] - update) / (ends[last] - ends[last - 1]) if last else 0.0

    return epoch


def build_batches(
    plan: BatchPlan,
    vocabulary: Vocabulary,
    optim: OptimConfig,
    update: int,
    accelerator: Accelerator,
    bad_rows: set[int],
) -> Iterator[SpeechBatch | None]:
    """This process's batches that come after `update` updates, on its device; None for one without a row to read.

    Rows that cannot be read are said and added to `bad_rows`.
    """
    world_size, rank = accelerator.num_processes, accelerator.process_index
    first = update * optim.grad_accumulation_steps
    loaded = load_batches(plan, vocabulary, first=first, epochs=optim.epochs, rank=rank, world_size=world_size)
    batches = skip_bad_rows(loaded, bad_rows, len(plan.dataset.rows) - plan.num_too_long(), accelerator)
    return (batch and batch.to(accelerator.device) for batch in batches)


def group_batches(size: int, batches: Iterator[SpeechBatch | None]) -> Iterator[list[SpeechBatch]]:
    """The batches of one update after another, but for those that are None; the last ones that fill none are left.

    An update may so get fewer batches, or none: which batches it gets depends on its number alone.
    """
    while len(group := list(islice(batches, size))) == size:
        yield [batch for batch in group if batch is not None]


def build_stage1_model(cfg: TrainConfig, vocabulary: Vocabulary) -> CFM:
    """The model of stage 1 with random weights, what is not trained frozen."""
    torch.manual_seed(cfg.optim.seed)
    model = build_model(cfg.model, vocabulary)
    if cfg.model.objective == "gaussian_nll" and cfg.model.warmup_scope == "head":
        model.freeze_all_but_head()
    return model


def build_train_state(
    cfg: TrainConfig, model: CFM, vocabulary: Vocabulary, total: int, make_optimizer: MakeOptimizer, processes: int = 1
) -> TrainState:
    """Model, its running average, optimizer and schedule for a run of `total` updates, in shards with optim.shard."""
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
    )


def build_ema(model: CFM, settings: EmaConfig) -> EMA:
    """A running average of the model's weights, as optim.ema asks and where: the weights are brought to it."""
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
    """Start an untrained model at the data's mean mel: its first updates need not learn it."""
    mels, bad_rows = [], []
    for batch in plan.epoch(0)[:num]:
        items = (plan.dataset[key] for key in batch)  # read until one is good
        for item in items:
            if isinstance(item, Utterance):
                mels.append(item.mel)
                break
            bad_rows.append(item)
    if not mels:
        raise all_rows_bad(bad_rows)
    with torch.no_grad():
        model.transformer.proj_out.bias.copy_(torch.cat(mels).mean(dim=0))
