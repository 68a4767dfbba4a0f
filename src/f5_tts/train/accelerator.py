"""Accelerator of a run: devices, precision and number of ranks."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object

from f5_tts.config.schema import OptimConfig, TrainConfig
from f5_tts.model.build import default_device
from f5_tts.model.cfm import CFM
from f5_tts.model.precision import choose_precision
from f5_tts.train.checkpoint_dir import saved_state
from f5_tts.train.run_settings import keep_precision, resumed_payload

PRECISIONS = ("no", "fp16", "bf16")
PRECISION_ENV = "ACCELERATE_MIXED_PRECISION"
KEY = "optim.mixed_precision"


def build_accelerator(cfg: TrainConfig) -> Accelerator:
    """Build the accelerator, which holds devices and precision of a run.

    optim.mixed_precision=auto is replaced by the precision that is chosen. How float32 matrices are multiplied is set
    for the whole process. Each of several ranks leaves its process group at exit (see also `entrypoint.exit_process`).

    Raises ValueError for optim.shard with one process.
    """
    check_launch(os.environ)
    optim, on_cpu = cfg.optim, default_device().type == "cpu"
    torch.set_float32_matmul_precision("high" if optim.tf32 else "highest")
    if optim.mixed_precision == "auto":
        optim.mixed_precision = resolve_auto(cfg, on_cpu)
    chosen_precision = precision(optim, log_on_main)
    accelerator = Accelerator(mixed_precision=chosen_precision, cpu=on_cpu)
    if optim.shard and accelerator.num_processes == 1:
        raise ValueError(
            "optim.shard=true shards a model over processes, and this is the only one: start several (python -m "
            "torch.distributed.run --nproc-per-node=8 -m f5_tts.train.train ...), or set optim.shard=false"
        )
    if chosen_precision == "fp16" and on_cpu:  # torch supports fp16 on a CPU, and accelerate would ignore it
        accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu")
    atexit.register(accelerator.state.destroy_process_group)
    return accelerator


def resolve_auto(cfg: TrainConfig, on_cpu: bool) -> str:
    """Return the precision for `auto`, on all ranks that of rank 0; a resumed run keeps its own."""
    chosen = precision(cfg.optim, log_on_main, resumed_payload(cfg, saved_state(cfg.ckpts)))
    PartialState(cpu=on_cpu)  # joins the other ranks
    return gather_object([chosen])[0]


def check_launch(environment: Mapping[str, str]) -> None:
    """Raise ValueError where accelerate was asked for several processes and started one, as it does on a CPU."""
    started = int(environment.get("WORLD_SIZE", 1))
    if "ACCELERATE_USE_CPU" in environment and "MASTER_ADDR" in environment and started == 1:
        raise ValueError(
            "accelerate launch was asked for several processes and started one, as it always does on a CPU; run "
            "torchrun --nproc_per_node N -m f5_tts.train..., or accelerate launch --num_processes 1"
        )


def log_on_main(line: str) -> None:
    """Print a line before there is an accelerator, on the main rank."""
    if os.environ.get("RANK", "0") == "0":
        print(line)


def precision(
    optim: OptimConfig, log: Callable[[str], None] = lambda line: None, payload: Mapping[str, Any] | None = None
) -> str:
    """Choose the precision: no, fp16 or bf16.

    optim.mixed_precision=launcher and auto use ACCELERATE_MIXED_PRECISION. Without that, launcher means no, and auto
    what a resumed run with this checkpoint had, else what suits the processor. Raises ValueError where that variable
    has another value.
    """
    chosen, requested = optim.mixed_precision, os.environ.get(PRECISION_ENV, "").lower()
    if chosen not in ("launcher", "auto"):
        if requested not in ("", "no", chosen):
            log(
                f"{PRECISION_ENV}={requested} of the launcher has no effect, since optim.mixed_precision={chosen}; "
                "optim.mixed_precision=launcher takes its value"
            )
        return chosen
    if requested and requested not in PRECISIONS:
        raise ValueError(
            f"{PRECISION_ENV}={requested} in the environment is not allowed; allowed: {' or '.join(PRECISIONS)}"
        )
    if requested or chosen == "launcher":
        return requested or "no"
    return choose_precision(keep_precision(chosen, KEY, payload or {}, log), default_device(), KEY, log)


def prepare_model(model: CFM, accelerator: Accelerator) -> CFM:
    """Prepare the model for its device and precision; the loop itself averages gradients over ranks."""
    prepared = accelerator.prepare_model(model, evaluation_mode=True)
    assert isinstance(prepared, CFM)
    return prepared
