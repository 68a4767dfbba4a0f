"""Choice of the validations of a run whose eval.every_updates is null: whether there are any, and how often."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from statistics import fmean
from typing import Any

from f5_tts.config.reward_names import rewarded
from f5_tts.config.schema import RLTrainConfig, TrainConfig, dataset_dir, group_size, updates_per_rollout
from f5_tts.data.audio import MIN_SECONDS
from f5_tts.data.batching import BatchPlan
from f5_tts.data.rows import Row, read_data_set
from f5_tts.eval.judges import Judges, build_judges, check_judges, describe_rewarded, judge_libraries
from f5_tts.eval.texts import read_eval_list
from f5_tts.extras import install_hint
from f5_tts.model.build import build_vocoder
from f5_tts.model.checkpoint import Checkpoint
from f5_tts.train.build import build_plan, count_updates, plan_batches, text_rules, unpair_unknown
from f5_tts.train.build_eval import dev_items, listed_items
from f5_tts.train.distributed import RanksOfRun
from f5_tts.train.held_out import HELD_OUT, split_rows, too_few_rows
from f5_tts.train.run_settings import resumed_payload

MAX_COST = 0.05  # of the computation of a run, which its validations may take
MOST, FEWEST = 20, 4  # validations of a run, besides that before the first update
TRAINED_PASS = 3  # computation of a pass with gradients, in passes without
JUDGES = 4  # computation of the judges, as a multiple of the synthesis: they run on the CPU, models mostly on a GPU


def plan_with_validation(
    cfg: TrainConfig, start: Checkpoint | None, ranks: RanksOfRun, log: Callable[[str], None]
) -> tuple[BatchPlan, Judges | None]:
    """Plan the batches of a run and build the judges of its validations; None where it has none.

    `start` is the checkpoint that the run starts or resumes from.
    """
    rows = read_data_set(cfg.datasets.name, dataset_dir(cfg))
    unpair_unknown(cfg, rows, log)
    judges = choose_validation(cfg, rows, start, ranks, log)
    if judges is None and cfg.eval.every_updates:
        with ranks.raise_on_all_ranks():
            judges = build_judges(cfg.eval)
    return build_plan(cfg, rows, log), judges


def choose_validation(
    cfg: TrainConfig,
    rows: list[Row],
    start: Checkpoint | None,
    ranks: RanksOfRun,
    log: Callable[[str], None],
) -> Judges | None:
    """Set eval.every_updates and eval.dev where they are null, and say so in a line; return judges of a new run.

    A resumed run has the validations that its checkpoint records.
    """
    settings = cfg.eval
    if settings.every_updates is None:
        return None if is_resumed(cfg, start, log) else choose(cfg, rows, ranks, log)
    if settings.every_updates and settings.items_dir is None:
        settings.dev = settings.dev or HELD_OUT
    return None


def is_resumed(cfg: TrainConfig, start: Checkpoint | None, log: Callable[[str], None]) -> bool:
    """Set what the checkpoint of this run records, if it is of this run: another choice would train on other rows."""
    payload = resumed_payload(cfg, start)
    if not payload:
        return False
    recorded = payload.get("validation", {})
    cfg.eval.every_updates = recorded.get("every_updates", 0)
    cfg.eval.dev = cfg.eval.dev or recorded.get("dev")
    if cfg.eval.every_updates:
        log(f"validation after every {cfg.eval.every_updates} updates, as before")
    else:
        log("no validation while training, as before; eval.every_updates=N and a list, eval.dev=FILE, add it")
    return True


def describe_validation(cfg: TrainConfig) -> dict[str, Any]:
    """Return what a checkpoint records of the validations; empty without any."""
    return {"every_updates": cfg.eval.every_updates, "dev": cfg.eval.dev} if cfg.eval.every_updates else {}


def choose(cfg: TrainConfig, rows: list[Row], ranks: RanksOfRun, log: Callable[[str], None]) -> Judges | None:
    """Choose the validations of a new run, the same on all ranks; return their judges, or None for no validations.

    A list in eval.dev or eval.items_dir is used, else rows are held out. It is no error where nothing can judge, there
    is too little to hold out, or too much to compute.
    """
    chosen = cfg.eval.dev
    cfg.eval.every_updates = 0
    if cfg.eval.items_dir is None:
        cfg.eval.dev = chosen or HELD_OUT
    with ranks.raise_on_all_ranks():
        reason, judges = obstacle(cfg, rows), None
        cost = None if reason else Cost.of(cfg, rows, ranks.world_size)
        if cost is not None and (reason := cost.problem) is None:
            judges, reason = try_judges(cfg, rows)
    reason = next(filter(None, ranks.gather_objects(reason)), None)
    if cost is None or reason is not None:
        cfg.eval.dev = chosen
        log(f"no validation while training: {reason}")
        return None
    cfg.eval.every_updates = cost.interval
    log(f"validation before the first update and after every {cost}; eval.every_updates=0 makes none")
    return judges


def obstacle(cfg: TrainConfig, rows: list[Row]) -> str | None:
    """Say why a run cannot validate, with what to do about it, or return None."""
    settings, rewards = cfg.eval, cfg.rl.rewards.providers if isinstance(cfg, RLTrainConfig) else []
    if cfg.optim.shard:
        return "a sharded model (optim.shard=true) does not speak while it trains; evaluate its checkpoints"
    if settings.dev == HELD_OUT and (problem := too_few_rows(len(rows), settings.dev_items)):
        return problem
    if rewards and (problem := describe_rewarded([entry.name for entry in settings.recognisers], rewarded(rewards))):
        return problem
    missing = [name for name in dict.fromkeys(judge_libraries(settings)) if find_spec(name) is None]
    return "; ".join(f"no {name}: {install_hint(name)}" for name in missing) or None


def try_judges(cfg: TrainConfig, rows: list[Row]) -> tuple[Judges | None, str | None]:
    """Build what a validation needs; return the judges, or None with the reason why one cannot be built or judge."""
    try:
        build_vocoder(cfg.model)  # may have to be fetched
        judges = build_judges(cfg.eval)
        check_judges(judges, dev_items(cfg, split_rows(rows, cfg)[1], text_rules(cfg)), cfg.eval)
    except Exception as error:  # of libraries, the network or a judge of the user's own
        return None, f"{error or type(error).__name__}"
    return judges, None


class Cost:
    """Computation of validations and of a run, in frames that pass through the network.

    A run is counted with the trained passes of stage 1 and the drawing of stage 2, without rewards. A validation is
    counted with its judges, on items as long as two rows: a prompt and a text.
    """

    def __init__(self, one: float, run: float, total: int) -> None:
        self.one, self.run, self.total = one, run, total  # of a validation, of the run; updates of the run

    @classmethod
    def of(cls, cfg: TrainConfig, rows: list[Row], world_size: int) -> Cost:
        """Compute it for a run that trains on all rows."""
        plan = plan_batches(cfg, rows)
        total = count_updates(plan, cfg.optim, updates_per_rollout(cfg), world_size)
        batches = total * cfg.optim.grad_accumulation_steps * world_size / updates_per_rollout(cfg)
        frames, first = plan.frames(0), plan.epoch(0)
        frames_per_batch = sum(frames[index] for batch in first for index, _, _ in batch) / max(1, len(first))
        clip = 2 * max(MIN_SECONDS, fmean(row.duration for row in rows)) * plan.frames_per_second
        one = num_clips(cfg) * clip * eval_passes(cfg) * (1 + JUDGES)
        return cls(one, batches * frames_per_batch * passes_per_batch(cfg), total)

    @property
    def num(self) -> int:
        """Return how many validations besides the first one the run can afford, at most MOST."""
        return min(MOST, self.total, int(MAX_COST * self.run / self.one) - 1)

    @property
    def problem(self) -> str | None:
        """Say that the run can afford fewer than FEWEST, or return None."""
        if self.num >= FEWEST:
            return None
        share = (1 + FEWEST) * self.one / max(self.run, 1.0)
        return (
            f"{1 + FEWEST} validations would take about {share:.1%} of this run of {self.total} updates, more than "
            f"{MAX_COST:.0%}; eval.every_updates={max(1, self.total // FEWEST)} makes them, and fewer eval.dev_items "
            "(or a shorter list in eval.dev) take less"
        )

    @property
    def interval(self) -> int:
        """Return the updates from one validation to the next, such that the last one is near the end."""
        return next(every for every in (self.total // self.num, self.total // self.num + 1) if self.fits(every))

    def fits(self, every: int) -> bool:
        """Check whether an interval makes no more validations than the run can afford."""
        return self.total // every <= self.num

    def __str__(self) -> str:
        share = (1 + self.total // self.interval) * self.one / self.run
        return f"{self.interval} updates, about {share:.1%} of the run"


def num_clips(cfg: TrainConfig) -> int:
    """Count the clips of a validation: of raw and averaged weights, and of raw weights on the list eval.forgot."""
    settings = cfg.eval
    items = settings.dev_items if settings.dev == HELD_OUT else len(listed_items(settings))
    forgot = len(read_eval_list(settings.forgot, settings)) if settings.forgot else 0
    return (2 * items + forgot) * settings.dev_takes


def eval_passes(cfg: TrainConfig) -> int:
    """Count the passes of a clip; guidance doubles them."""
    guidance = cfg.rl.cfg_strength if isinstance(cfg, RLTrainConfig) else cfg.infer.cfg_strength
    return cfg.eval.steps * (1 + (guidance > 0))


def passes_per_batch(cfg: TrainConfig) -> int:
    """Count the passes of a batch: in stage 2 those that draw a group, and one trained step per update."""
    if not isinstance(cfg, RLTrainConfig):
        return TRAINED_PASS
    drawing = cfg.rl.steps * (1 + (cfg.rl.cfg_strength > 0))
    return group_size(cfg.rl) * (drawing + TRAINED_PASS * cfg.rl.updates_per_rollout)
