"""Doctor checks of a run's set-up: libraries, hardware, config, data and checkpoint."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import psutil
import torch

from f5_tts import __version__
from f5_tts.config.schema import RLTrainConfig, TrainConfig, dataset_dir
from f5_tts.data.quality import bad_rows, bad_texts, scan_row
from f5_tts.data.rows import Row, read_data_set
from f5_tts.data.texts import coverage
from f5_tts.data.tokenizer import build_vocabulary
from f5_tts.doctor.context import RunUnderTest
from f5_tts.eval.judges import judge_libraries
from f5_tts.extras import install_hint
from f5_tts.files import HUB, ensure_writable_dir
from f5_tts.model.build import default_device
from f5_tts.model.checkpoint import Checkpoint
from f5_tts.rewards.registry import provider_attribute
from f5_tts.rl.gather import SingleRank
from f5_tts.rl.grpo import PolicyLoss
from f5_tts.train.accelerator import build_accelerator, precision, prepare_model
from f5_tts.train.auto_validation import choose_validation
from f5_tts.train.build import build_plan, build_stage1_model, build_train_state, count_updates, unpair_unknown
from f5_tts.train.build_rl import describe_rollouts
from f5_tts.train.checkpoint_dir import CheckpointDir, initial_weights, saved_state
from f5_tts.train.infilling import InfillingLoss
from f5_tts.train.loop import register_grad_scaler
from f5_tts.train.optimizer import check_schedule, choose_optimizer
from f5_tts.train.run_settings import describe_rows
from f5_tts.train.stage2 import build_models, find_start
from f5_tts.types import BadRow

NUM_SCANNED = 16  # rows whose audio is decoded
NUM_TEXTS = 1000  # rows whose texts are read


def packages(run: RunUnderTest) -> str:
    """Report versions, and raise ImportError if the config needs an optional library that is not installed."""
    cfg = getattr(run, "cfg", None)
    required = [] if cfg is None else list(dict.fromkeys(libraries(cfg)))
    missing = [name for name in required if find_spec(name) is None]
    if missing:
        raise ImportError("; ".join(f"no {name}: {install_hint(name)}" for name in missing))
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    versions = [f"python {platform.python_version()}", f"torch {torch.__version__} ({cuda})"]
    versions += [f"accelerate {version('accelerate')}", f"f5_tts {__version__}"]
    return ", ".join(versions + [f"{name} {version(name.replace('_', '-'))}" for name in required])


def libraries(cfg: TrainConfig) -> Iterator[str]:
    """Yield the libraries that the run imports and only extras install."""
    if isinstance(cfg, RLTrainConfig):
        for entry in cfg.rl.rewards.providers:
            yield from () if entry.worker else provider_attribute(entry.name, "requires", ())
    yield from ["peft"] if cfg.lora.rank else []
    yield from judge_libraries(cfg.eval) if cfg.eval.every_updates else []
    yield from [cfg.ckpts.logger] if cfg.ckpts.logger else []
    yield from ["bitsandbytes"] if cfg.optim.bnb_optimizer else []


def machine(run: RunUnderTest) -> str:
    """Report the hardware and the precision, and check that the save folder can be written."""
    cpu = f"{torch.get_num_threads()} CPU threads, {psutil.virtual_memory().available / 1e9:.1f} GB of memory free"
    messages = [f"{gpu()}, {cpu}" if default_device().type != "cpu" else cpu]
    if hasattr(run, "cfg"):
        run.accelerator = build_accelerator(run.cfg)
        folder = Path(run.cfg.ckpts.save_dir)
        existing = nearest(folder)
        ensure_writable_dir(
            existing, "ckpts.save_dir" if existing == folder else f"ckpts.save_dir={folder}, existing parent"
        )
        digits = precision(run.cfg.optim)
        messages.append(f"precision {'single' if digits == 'no' else digits}")
        messages.append(f"{shutil.disk_usage(existing).free / 1e9:.3g} GB of disk free for ckpts.save_dir={folder}")
    return ", ".join(messages)


def gpu() -> str:
    """Describe the GPU, a CUDA one with its free memory in GB."""
    if not torch.cuda.is_available():
        return f"{default_device().type} device"
    free, total = torch.cuda.mem_get_info()
    return f"{torch.cuda.get_device_name()} with {free / 1e9:.1f} of {total / 1e9:.1f} GB free"


def nearest(folder: Path) -> Path:
    """Return the folder, or its closest parent that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def config(run: RunUnderTest) -> str:
    """Report the config's stage, objective and data set; a config that is not valid was refused before."""
    cfg = run.cfg
    stage = 2 if isinstance(cfg, RLTrainConfig) else 1
    return f"{run.name}, stage {stage}, model.objective={cfg.model.objective}, datasets.name={cfg.datasets.name}"


def data(run: RunUnderTest) -> str:
    """Build the batch plan of the run, check all texts, decode some rows, and compare them with the vocabulary.

    Raises:
        ValueError: a text or a decoded row is bad, or most texts have a symbol that the vocabulary lacks.
    """
    cfg, messages = run.cfg, []
    table = read_data_set(cfg.datasets.name, dataset_dir(cfg))
    unpair_unknown(cfg, table, messages.append)
    run.judges = choose_validation(cfg, table, saved_state(cfg.ckpts), SingleRank(), messages.append)
    plan = build_plan(cfg, table, messages.append)
    order = sorted(index for batch in plan.epoch(0) for index, _, _ in batch)
    indices = evenly_spaced(order, NUM_SCANNED)
    rows = [plan.dataset.rows[index] for index in indices]
    scans = [scan_row(row, cfg.datasets.max_seconds, plan.dataset.rules) for row in rows]
    run.rows = [row for row, scan in zip(rows, scans, strict=True) if scan.seconds is not None]
    total = count_updates(plan, cfg.optim, run.updates_per_rollout)
    check_schedule(cfg.optim, total)
    if isinstance(cfg, RLTrainConfig):
        describe_rollouts(cfg, len(plan.frames(0)), 1)
    run.plan, run.total = plan, total  # set before bad rows raise: training skips them as well
    symbols = texts(cfg, [plan.dataset.rows[index] for index in evenly_spaced(order, NUM_TEXTS)])
    if failures := bad_texts(plan.dataset.rows, plan.dataset.rules):
        raise unusable_rows(cfg, f"{len(failures)} of {len(plan.dataset.rows)} rows have bad texts", failures[0])
    if failures := [replace(row, index=indices[row.index]) for row in bad_rows(rows, scans)]:
        raise unusable_rows(cfg, f"{len(failures)} of {len(rows)} rows decoded are bad", failures[0])
    seconds = plan.frames(0)[order] / plan.frames_per_second
    messages.append(f"{len(rows)} of {len(order)} rows decoded, items of {seconds.min():.1f} to {seconds.max():.1f} s")
    return "; ".join([*messages, symbols])


def unusable_rows(cfg: TrainConfig, problem: str, first: BadRow) -> ValueError:
    """Build the error for rows that training would leave out; it names the first one."""
    command = f" (f5-tts check-dataset {dataset_dir(cfg)})"
    more = "" if cfg.datasets.name.startswith(HUB) else command
    return ValueError(f"{problem}: repair or remove them{more}; row {first.index}, {first.kind}: {first.reason}")


def evenly_spaced(items: list[int], num: int) -> list[int]:
    """Select up to `num` items at equal intervals, from the first to the last."""
    num = min(num, len(items))
    return [items[index * (len(items) - 1) // max(1, num - 1)] for index in range(num)]


def texts(cfg: TrainConfig, rows: list[Row]) -> str:
    """Describe the vocabulary's coverage of the texts; raise ValueError if most have a symbol that it lacks."""
    found = coverage([row.text for row in rows], build_vocabulary(cfg))
    summary = " ".join(" ".join(found.lines()).split())
    if found.num_texts > len(rows) / 2:
        raise ValueError(f"{summary}: is model.tokenizer_path the vocabulary that the model was trained with?")
    return summary


def checkpoint(run: RunUnderTest) -> str:
    """Load the checkpoint that the run would start or resume from, in the same way as training."""
    messages: list[str] = []
    loaded = load_rl(run, messages) if isinstance(run.cfg, RLTrainConfig) else load(run, messages)
    if loaded is None:
        return f"no checkpoint in ckpts.save_dir={run.cfg.ckpts.save_dir}: training starts from random weights"
    run.state.settings |= describe_rows(run.plan.dataset.rows) if hasattr(run, "plan") else {}
    run.state.resume(loaded, messages.append)
    return "; ".join(dict.fromkeys([describe_checkpoint(loaded), *messages]))


def load(run: RunUnderTest, messages: list[str]) -> Checkpoint | None:
    """Build the model and the loss of stage 1; return the checkpoint that it starts from, if there is one."""
    cfg, vocabulary = run.cfg, build_vocabulary(run.cfg)
    loaded = CheckpointDir(cfg.ckpts).find_latest(pretrained=True)
    run.policy = prepare_model(build_stage1_model(cfg, vocabulary, loaded, messages.append), run.accelerator).train()
    run.loss = InfillingLoss(cfg.model)
    make_optimizer = choose_optimizer(cfg.optim, run.accelerator.device, messages.append)
    run.state = build_train_state(cfg, run.policy, vocabulary, run.num_updates, make_optimizer)
    register_grad_scaler(run.state, run.accelerator)
    return loaded


def load_rl(run: RunUnderTest, messages: list[str]) -> Checkpoint:
    """Build the policy, its reference and the loss of stage 2; return the checkpoint that it starts from."""
    cfg = run.rl_cfg
    folder = CheckpointDir(cfg.ckpts)
    loaded = find_start(cfg, folder, run.accelerator, messages.append)
    messages.append(f"Gaussian head {'trained' if loaded.has_trained_head else 'not trained'}: {cfg.rl.algorithm}")
    make_optimizer = choose_optimizer(cfg.optim, run.accelerator.device, messages.append)
    initial, total = initial_weights(loaded, cfg.model.objective), run.num_updates
    models = build_models(cfg, initial, build_vocabulary(cfg), total, make_optimizer, run.accelerator, messages.append)
    run.policy, reference, run.old_policy, run.state = models
    run.loss = PolicyLoss(cfg.rl, reference, run.old_policy)
    return loaded


def describe_checkpoint(loaded: Checkpoint) -> str:
    """Describe a checkpoint: its file, update, stage and model."""
    stage = loaded.payload.get("objective", "a run of another program")
    model_note = "which does not say of which model" if loaded.spec is None else f"of {loaded.spec.model.get('name')}"
    at = f"update {loaded.update} of " if loaded.update else ""
    return f"{loaded.path} fits: {at}{stage}, {model_note}"
