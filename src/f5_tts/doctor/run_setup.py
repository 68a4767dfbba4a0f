"""What a run finds when it starts: libraries, machine, config, data, checkpoint. `scripts.doctor` asks."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import psutil
import torch

from f5_tts import __version__
from f5_tts.config.schema import HUB, RLRunConfig, RunConfig, dataset_dir
from f5_tts.data.quality import bad_rows, coverage, heard
from f5_tts.data.rows import Row
from f5_tts.data.tokenizer import build_vocabulary
from f5_tts.doctor.context import Patient
from f5_tts.extras import install_hint
from f5_tts.files import make_folder
from f5_tts.model.checkpoint import Checkpoint
from f5_tts.rewards.registry import provider_attribute
from f5_tts.rewards.speaker.voice_sim import INSTALL
from f5_tts.rl.grpo import GRPOLoss
from f5_tts.train.accelerator import build_accelerator, precision, prepare
from f5_tts.train.build import build_learner, build_plan, build_trainable, count_updates
from f5_tts.train.build_rl import rollout_plan
from f5_tts.train.checkpoint_dir import CheckpointDir
from f5_tts.train.infilling import InfillingLoss
from f5_tts.train.loop import keep_scale
from f5_tts.train.optimizer import check_length, choose_optimizer
from f5_tts.train.stage2 import build_models, find_start

SAMPLED = 16  # rows that are heard
READ = 1000  # rows whose texts are read


def packages(patient: Patient) -> str:
    """Versions; of extras those that this config asks for."""
    run = getattr(patient, "run", None)
    wanted = [] if run is None else list(dict.fromkeys(libraries(run)))
    missing = [name for name in wanted if find_spec(name) is None]
    if missing:
        raise ImportError("; ".join(f"no {name}: {install(name)}" for name in missing))
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    own = [f"python {platform.python_version()}", f"torch {torch.__version__} ({cuda})"]
    own += [f"accelerate {version('accelerate')}", f"f5_tts {__version__}"]
    return ", ".join(own + [f"{name} {version(name.replace('_', '-'))}" for name in wanted])


def libraries(run: RunConfig) -> Iterator[str]:
    """What a run imports of what only extras install."""
    if isinstance(run, RLRunConfig):
        for entry in run.rl.rewards.providers:
            yield from () if entry.worker else provider_attribute(entry.name, "requires", ())
        yield from ["peft"] if run.lora.rank else []
        yield from ["faster_whisper"] if run.eval.every_updates and "whisper" in run.eval.recognisers else []
    yield from [run.ckpts.logger] if run.ckpts.logger else []
    yield from ["bitsandbytes"] if run.optim.bnb_optimizer else []


def install(library: str) -> str:
    return INSTALL if library == "resemblyzer" else install_hint(library)


def machine(patient: Patient) -> str:
    """Where a run computes and where it saves."""
    cpu = f"{torch.get_num_threads()} CPU threads, {psutil.virtual_memory().available / 1e9:.1f} GB of memory free"
    seen = [f"{gpu()}, {cpu}" if torch.cuda.is_available() else cpu]
    if hasattr(patient, "run"):
        patient.accelerator = build_accelerator(patient.run.optim)
        folder = Path(patient.run.ckpts.save_dir)
        there = nearest(folder)
        make_folder(there, "ckpts.save_dir" if there == folder else "what should hold ckpts.save_dir, ")
        digits = precision(patient.run.optim)
        seen.append(f"precision {'single' if digits == 'no' else digits}")
        seen.append(f"{shutil.disk_usage(there).free / 1e9:.0f} GB of disk free for ckpts.save_dir={folder}")
    return ", ".join(seen)


def gpu() -> str:
    free, whole = torch.cuda.mem_get_info()
    return f"{torch.cuda.get_device_name()} with {free / 1e9:.1f} of {whole / 1e9:.1f} GB free"


def nearest(folder: Path) -> Path:
    """The folder, or what of the way to it is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def config(patient: Patient) -> str:
    if patient.problem is not None:
        raise patient.problem
    run = patient.run
    stage = 2 if isinstance(run, RLRunConfig) else 1
    return f"{patient.name}, stage {stage}, model.objective={run.model.objective}, datasets.name={run.datasets.name}"


def data(patient: Patient) -> str:
    """The plan of a run, and some of its rows: whether they can be heard, how long they are, what symbols they have."""
    run, said = patient.run, []
    plan = build_plan(run, said.append)
    order = sorted(index for batch in plan.epoch(0) for index, _, _ in batch)
    tried = spread(order, SAMPLED)
    rows = [plan.dataset.rows[index] for index in tried]
    findings = [heard(row, run.datasets.max_seconds) for row in rows]
    patient.rows = [row for row, found in zip(rows, findings, strict=True) if found.seconds is not None]
    total = count_updates(plan, run.optim, patient.uses)
    check_length(run.optim, total)
    if isinstance(run, RLRunConfig):
        rollout_plan(run, len(plan.frames(0)), 1)
    patient.plan, patient.total = plan, total  # bad rows are left out in training too
    bad = list(bad_rows(rows, findings))
    if bad:
        first, folder = f"row {tried[bad[0].index]}, {bad[0].kind}: {bad[0].reason}", dataset_dir(run)
        more = "" if run.datasets.name.startswith(HUB) else f" (python -m f5_tts.scripts.check_dataset {folder})"
        raise ValueError(f"{len(bad)} of {len(rows)} rows heard are bad: mend or remove them{more}; {first}")
    seconds = plan.frames(0)[order] / plan.frames_per_second
    said.append(f"{len(rows)} of {len(order)} rows heard, items of {seconds.min():.1f} to {seconds.max():.1f} s")
    return "; ".join([*said, texts(run, [plan.dataset.rows[index] for index in spread(order, READ)])])


def spread(items: list[int], num: int) -> list[int]:
    """So many of them, from the first to the last."""
    num = min(num, len(items))
    return [items[place * (len(items) - 1) // max(1, num - 1)] for place in range(num)]


def texts(run: RunConfig, rows: list[Row]) -> str:
    """How the vocabulary covers the texts; ValueError where most of them have a symbol that it lacks."""
    vocabulary = build_vocabulary(run)
    said = " ".join(" ".join(coverage(rows, vocabulary)).split())
    if sum(bool(vocabulary.unknown([row.text])) for row in rows) > len(rows) / 2:
        raise ValueError(f"{said}: is model.tokenizer_path the vocabulary that the model was trained with?")
    return said


def checkpoint(patient: Patient) -> str:
    """What the run would start or go on from, loaded as training loads it."""
    said: list[str] = []
    found = load_rl(patient, said) if isinstance(patient.run, RLRunConfig) else load(patient, said)
    if found is None:
        return f"none in ckpts.save_dir={patient.run.ckpts.save_dir}: training starts from random weights"
    patient.trainable.resume(found, said.append)
    return "; ".join(dict.fromkeys([described(found), *said]))


def load(patient: Patient, said: list[str]) -> Checkpoint | None:
    """Stage 1: a model and what its weights will be."""
    run, vocabulary = patient.run, build_vocabulary(patient.run)
    patient.policy = prepare(build_learner(run, vocabulary), patient.accelerator).train()
    patient.loss = InfillingLoss(run.model)
    found = CheckpointDir(run.ckpts).newest(pretrained=True)
    make_optimizer = choose_optimizer(run.optim, patient.accelerator.device, said.append)
    patient.trainable = build_trainable(run, patient.policy, vocabulary, patient.num_updates, make_optimizer)
    keep_scale(patient.trainable, patient.accelerator)
    return found


def load_rl(patient: Patient, said: list[str]) -> Checkpoint:
    """Stage 2: the policy, its reference and the algorithm."""
    run = patient.rl_run
    folder = CheckpointDir(run.ckpts)
    found = find_start(run, folder, said.append)
    said.append(f"Gaussian head {'trained' if found.has_trained_head else 'not trained'}: {run.rl.algorithm}")
    make_optimizer = choose_optimizer(run.optim, patient.accelerator.device, said.append)
    origin, total = folder.origin(found), patient.num_updates
    models = build_models(run, origin, build_vocabulary(run), total, make_optimizer, patient.accelerator, said.append)
    patient.policy, reference, patient.old, patient.trainable = models
    patient.loss = GRPOLoss(run.rl, reference, patient.old)
    return found


def described(found: Checkpoint) -> str:
    """File, stage, update and card."""
    stage = found.run.get("objective", "no run of ours")
    made = "says not of which model" if found.card is None else f"of {found.card.model['name']}"
    at = f"update {found.update} of " if found.update else ""
    return f"{found.path} fits: {at}{stage}, {made}"
