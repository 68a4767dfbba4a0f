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

from f5_tts.config.schema import OptimConfig, RunConfig, dataset_dir
from f5_tts.data.batching import BatchPlan, load_batches
from f5_tts.data.dataset import AudioReader, SpeechDataset
from f5_tts.data.rows import read_data_set
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.model.build import build_model
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import ModelCard
from f5_tts.model.fsdp import shard
from f5_tts.model.mel import LogMel
from f5_tts.train.bad_rows import all_bad, without_bad_rows
from f5_tts.train.optimizer import MakeOptimizer, learning_rate_factor
from f5_tts.train.train_state import Trainable
from f5_tts.types import SpeechBatch, Utterance

if TYPE_CHECKING:
    from f5_tts.config.schema import EmaConfig


def build_plan(run: RunConfig, say: Callable[[str], None] = print) -> BatchPlan:
    """The data set of a run and the order of its batches; says how many items are too long for any."""
    spec = run.model.mel_spec
    read = AudioReader(LogMel(spec), spec.target_sample_rate, run.datasets.max_seconds)
    rows = read_data_set(run.datasets.name, dataset_dir(run))
    dataset = SpeechDataset(rows, read, pairs=run.datasets.pair_speakers, seed=run.optim.seed)
    frames_per_second = spec.frames_per_second
    plan = BatchPlan(dataset=dataset, settings=run.datasets, frames_per_second=frames_per_second, seed=run.optim.seed)
    if num := plan.too_long():
        budget = run.datasets.batch_size_per_gpu
        say(f"{num} of {len(rows)} items are longer than datasets.batch_size_per_gpu={budget} frames and left out")
    return plan


def count_updates(plan: BatchPlan, optim: OptimConfig, uses: int = 1, world: int = 1) -> int:
    """Updates of a whole run of `world` processes: what its epochs hold, or optim.max_updates if that is fewer.

    `uses` updates learn from the same batches.
    """
    updates, batches = 0, 0
    for epoch in range(optim.epochs):
        batches += len(plan.epoch(epoch))
        updates = batches // (optim.grad_accumulation_steps * world) * uses
        if optim.max_updates is not None and updates >= optim.max_updates:
            return optim.max_updates
    return updates


def epoch_at(plan: BatchPlan, optim: OptimConfig, uses: int = 1, world: int = 1) -> Callable[[int], float]:
    """How many passes over the data set a run has made at an update: whole ones, and the part of the next."""
    ends = [0.0]  # of each epoch, in updates

    def epoch(update: int) -> float:
        while ends[-1] < update:
            batches = len(plan.epoch(len(ends) - 1))
            ends.append(ends[-1] + batches * uses / (optim.grad_accumulation_steps * world))
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
    world, rank = accelerator.num_processes, accelerator.process_index
    first = update * optim.grad_accumulation_steps
    loaded = load_batches(plan, vocabulary, first=first, epochs=optim.epochs, rank=rank, world=world)
    batches = without_bad_rows(loaded, bad_rows, len(plan.dataset.rows) - plan.too_long(), accelerator)
    return (batch and batch.to(accelerator.device) for batch in batches)


def lists_of(size: int, batches: Iterator[SpeechBatch | None]) -> Iterator[list[SpeechBatch]]:
    """The batches of one update after another, but for those that are None; the last ones that fill none are left.

    An update may so get fewer batches, or none: which batches it gets depends on its number alone.
    """
    while len(found := list(islice(batches, size))) == size:
        yield [batch for batch in found if batch is not None]


def build_learner(run: RunConfig, vocabulary: Vocabulary) -> CFM:
    """The model of stage 1 with random weights, what is not trained frozen."""
    torch.manual_seed(run.optim.seed)
    model = build_model(run.model, vocabulary)
    if run.model.objective == "gaussian_nll" and run.model.warmup_scope == "head":
        model.freeze_all_but_head()
    return model


def build_trainable(
    run: RunConfig, model: CFM, vocabulary: Vocabulary, total: int, make_optimizer: MakeOptimizer, processes: int = 1
) -> Trainable:
    """Model, its running average, optimizer and schedule for a run of `total` updates, in shards with optim.shard."""
    optim, average = run.optim, build_ema(model, run.optim.ema)
    if optim.shard:
        for part in (model, average.ema_model):
            assert isinstance(part, CFM)
            shard(part)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(trained, lr=optim.learning_rate)
    scheduler = LambdaLR(optimizer, lambda i: learning_rate_factor(i, optim.num_warmup_updates, total))
    return Trainable(
        model=model,
        card=ModelCard.of(run.model, vocabulary),
        ema=average,
        optimizer=optimizer,
        scheduler=scheduler,
        objective=run.model.objective,
        processes=processes,
    )


def build_ema(model: CFM, ema: EmaConfig) -> EMA:
    """A running average of the model's weights, as optim.ema asks and where: the weights are brought to it."""
    average = EMA(
        model,
        lambda: deepcopy(model).to(ema.device),
        beta=ema.beta,
        update_after_step=ema.update_after_step,
        update_every=ema.update_every,
        power=ema.power,
        include_online_model=False,
        allow_different_devices=True,
    )
    assert isinstance(average, EMA)
    return average


def start_at_mean(model: CFM, plan: BatchPlan, num: int = 64) -> None:
    """Start an untrained model at the data's mean mel: its first updates need not learn it."""
    mels, bad = [], []
    for batch in plan.epoch(0)[:num]:
        items = (plan.dataset[key] for key in batch)  # read until one is good
        for item in items:
            if isinstance(item, Utterance):
                mels.append(item.mel)
                break
            bad.append(item)
    if not mels:
        raise all_bad(bad)
    with torch.no_grad():
        model.transformer.proj_out.bias.copy_(torch.cat(mels).mean(dim=0))
