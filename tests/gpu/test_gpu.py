"""What needs a GPU: updates in bf16, with a snapshot, LoRA and an average on the CPU; their memory and their time.

`make test-gpu` runs this at the published size and writes card and numbers to runs/gpu/report.json. `make rehearsal`
makes the updates of both stages at that size on the CPU. Otherwise the sizes are tiny, so that this code is tested
anywhere. Weights and rewards are random.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from accelerate.state import AcceleratorState
from tests.tiny import SIZES
from torch import Tensor

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig, TrainConfig
from f5_tts.data.tokenizer import EMILIA_VOCAB, read_vocabulary
from f5_tts.doctor.update import CHANCE, RandomRewards
from f5_tts.estimate.memory import budget, total_bytes
from f5_tts.infer.sample import Request, sample_requests
from f5_tts.model.build import build_model
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import Checkpoint
from f5_tts.model.flow import time_grid
from f5_tts.rl.grpo import PolicyLoss, collect_experience
from f5_tts.train.accelerator import build_accelerator, prepare_model
from f5_tts.train.build import build_train_state
from f5_tts.train.infilling import InfillingLoss
from f5_tts.train.loop import train_update
from f5_tts.train.oom import OomRetry
from f5_tts.train.optimizer import choose_optimizer
from f5_tts.train.stage2 import build_models
from f5_tts.train.train_state import TrainState
from f5_tts.types import SpeechBatch

SIZE = os.environ.get("F5_TTS_TEST_SIZE", "tiny")  # tiny | full: that of F5TTS_v1_Base, clips of 10 s
SECONDS = 10.0 if SIZE == "full" else 0.5
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
UPDATES = 1 if SIZE == "full" and DEVICE.type == "cpu" else 3  # of each measurement; the last one is timed
TINY = [] if SIZE == "full" else [f"model.arch.{key}={value}" for key, value in SIZES.items() if key != "dropout"]
SHARED = [
    *("datasets.batch_size_type=sample", "datasets.batch_size_per_gpu=1", "model.vocoder.name=griffin_lim"),
    *("model.arch.checkpoint_activations=true", "optim.num_warmup_updates=0", "optim.mixed_precision=bf16", *TINY),
]
STAGE_1 = ["model.output_dist=gaussian", "model.objective=gaussian_nll", "model.use_rl_head=true"]
GUIDE = [
    *("rl.algorithm=gaussian_grpo", "rl.steps=2", "rl.mini_repeat_count=1", "rl.group_size=1", "rl.cfg_strength=1.0"),
    *("rl.prompt_frac_range=[0.1,0.1]", "rl.sway_sampling_coef=null", "rl.kl_weight=1.0"),
]  # as the guide's command, but for its rewards
DRAFT = ["rl.algorithm=draft", "rl.draft.last_steps=1", "rl.steps=4", "rl.mini_repeat_count=1", "rl.kl_weight=0.02"]
LORA = ["lora.rank=16", "rl.algorithm=nft", "rl.shared_noise=false", "rl.steps=4", "rl.mini_repeat_count=2"]

OF_FULL_SIZE = [pytest.mark.soak, pytest.mark.timeout(3600)] if SIZE == "full" else []
pytestmark = [pytest.mark.slow, *OF_FULL_SIZE]
clock = time.perf_counter if DEVICE.type == "cuda" else time.process_time  # CPU seconds, whatever else runs


class Measured(NamedTuple):
    """Updates of one run."""

    state: TrainState
    before: dict[str, Tensor]  # weights before the updates, on the CPU
    metrics: dict[str, float]  # of the last update
    seconds: float  # of the last update, by `clock`
    num_bytes: int  # at the peak: allocated on the GPU, or the resident memory of this process


@pytest.fixture(scope="session")
def report() -> Iterator[dict[str, Any]]:
    """Collect the numbers; at the full size they are written to runs/gpu/report.json."""
    card = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"{platform.machine()} CPU"
    numbers: dict[str, Any] = {"card": card, "torch": torch.__version__, "seconds of a clip": SECONDS}
    yield numbers
    if SIZE == "full":
        path = Path("runs/gpu/report.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(numbers, indent=1), encoding="utf-8")


@pytest.fixture(autouse=True)
def new_process() -> Iterator[None]:
    """Let each test choose its precision: accelerate keeps one per process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def batch_of(cfg: TrainConfig) -> SpeechBatch:
    """Make one clip of noise, at the level of a log-mel, with a short text."""
    frames = round(SECONDS * cfg.model.mel_spec.frames_per_second)
    lens = torch.tensor([frames])
    return SpeechBatch(
        mel=torch.randn(1, frames, cfg.model.mel_spec.n_mel_channels),
        lens=lens,
        prompt_lens=torch.zeros_like(lens),
        text=torch.randint(100, (1, frames // 10)),
        target_texts=["noise"],
        group_ids=torch.zeros_like(lens),
        audio=[torch.zeros(1)],
    ).to(DEVICE)


def random_model(cfg: TrainConfig) -> CFM:
    """Build a model whose output layers are not zero, so that every weight gets a gradient."""
    torch.manual_seed(0)
    model = build_model(cfg.model, read_vocabulary(EMILIA_VOCAB))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.02)
    return model


def chance(components: dict[str, Tensor], group_ids: Tensor, target: Tensor) -> Tensor:
    """Return the random scores as advantages: a group may be one sample."""
    return components[CHANCE]


def updates_of_stage_2(*changes: str) -> Measured:
    """Build stage 2 as a run does, from random weights, and make its updates."""
    cfg = compose_config("F5TTS_RL", [*SHARED, *changes], RLTrainConfig)
    vocabulary, accelerator = read_vocabulary(EMILIA_VOCAB), build_accelerator(cfg)
    initial = Checkpoint(path=Path("random"), weights=random_model(cfg).state_dict(), payload={})
    make_optimizer = choose_optimizer(cfg.optim, DEVICE)
    models = build_models(cfg, initial, vocabulary, UPDATES, make_optimizer, accelerator, lambda line: None)
    del initial
    batches = [[batch_of(cfg)] for _ in range(UPDATES)]
    items = collect_experience(models.policy, batches, RandomRewards(), chance, cfg.rl, old_policy=models.old_policy)
    loss = PolicyLoss(cfg.rl, models.reference, models.old_policy)
    return measure(cfg, models.state, models.policy, items, loss, accelerator)


def updates_of_stage_1(*changes: str) -> Measured:
    """Build stage 1 from random weights and make its updates."""
    cfg = compose_config("F5TTS_v1_Base", [*SHARED, *STAGE_1, *changes], TrainConfig)
    accelerator = build_accelerator(cfg)
    model = random_model(cfg)
    policy = prepare_model(model, accelerator)
    make_optimizer = choose_optimizer(cfg.optim, DEVICE)
    state = build_train_state(cfg, model, read_vocabulary(EMILIA_VOCAB), UPDATES, make_optimizer)
    items = iter([[batch_of(cfg)] for _ in range(UPDATES)])
    return measure(cfg, state, policy, items, InfillingLoss(cfg.model), accelerator)


def measure(
    cfg: TrainConfig, state: TrainState, policy: CFM, items: Iterator[Any], loss: Any, accelerator: Any
) -> Measured:
    """Make the updates, and measure the time of the last one and the peak of the memory."""
    before = {name: weight.detach().to("cpu", copy=True) for name, weight in policy.named_parameters()}
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    metrics, started = dict[str, float](), 0.0
    for update in range(UPDATES):
        synchronize()
        started = clock()
        torch.manual_seed(update)
        metrics = train_update(state, policy, next(items), loss, accelerator, cfg.optim, OomRetry(print))
    synchronize()
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else peak
    return Measured(state, before, metrics, clock() - started, peak)


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def moved(run: Measured) -> dict[str, bool]:
    """Return for each weight whether the updates changed it."""
    return {name: not torch.equal(run.before[name], value.cpu()) for name, value in run.state.model.named_parameters()}


def note(report: dict[str, Any], name: str, run: Measured) -> None:
    """Check that the updates were made, and note their time and memory."""
    assert run.state.update == UPDATES and run.state.skips.total == 0
    assert torch.tensor([run.metrics["loss"], run.metrics["grad_norm"]]).isfinite().all()
    report[name] = {"seconds an update": round(run.seconds, 2), "peak GB": round(run.num_bytes / 1e9, 2)}


def test_stage_1_learns_in_bf16(report: dict[str, Any]):
    run = updates_of_stage_1()
    note(report, "stage 1", run)
    assert all(moved(run).values())


def test_stage_2_learns_in_bf16_beside_a_snapshot_and_with_an_average_on_the_cpu(report: dict[str, Any]):
    run = updates_of_stage_2(*GUIDE, "optim.ema.device=cpu", "rl.ref_model_device=cpu")
    note(report, "stage 2, average and reference on the CPU", run)
    assert run.metrics["loss/kl"] > 0 and run.metrics["ratio/initial_max_dev"] < 1e-5
    assert {value.device.type for value in run.state.ema.parameters()} == {"cpu"}
    assert sum(moved(run).values()) >= len(run.before) - 2  # a frozen sigma leaves the head as it is


def test_adapters_alone_learn_in_bf16(report: dict[str, Any]):
    run = updates_of_stage_2(*LORA, "rl.rollout_precision=bf16")
    note(report, "stage 2, LoRA and nft", run)
    trained = {name for name, has_moved in moved(run).items() if has_moved}
    assert trained and all("lora" in name for name in trained)


def test_draft_learns_through_its_last_step(report: dict[str, Any]):
    run = updates_of_stage_2(*DRAFT)
    note(report, "stage 2, draft with K = 1", run)
    assert any(moved(run).values())


def test_memory_is_what_the_budget_says(report: dict[str, Any]):
    """Compare within 10 % on a GPU; a CPU holds all items, libraries, and this test's copy of the weights."""
    run = updates_of_stage_2(*GUIDE)
    cfg = compose_config("F5TTS_RL", [*SHARED, *GUIDE], RLTrainConfig)
    items, weights = budget(cfg, SECONDS), sum(weight.nbytes for weight in run.before.values())
    on_gpu, on_cpu = (total_bytes(items, device) for device in ("GPU", "CPU"))
    note(report, "stage 2, the guide's", run)
    report["stage 2, the guide's"]["budget GB"] = round(on_gpu / 1e9, 2)
    if DEVICE.type == "cuda":
        assert run.num_bytes == pytest.approx(on_gpu, rel=0.1)
    elif SIZE == "full":
        assert run.num_bytes - weights == pytest.approx(on_gpu + on_cpu, rel=0.15)
    assert on_gpu + on_cpu > 6 * weights  # weights, gradients, two moments, average and reference


def test_a_validation_speaks_in_bf16(report: dict[str, Any]):
    cfg = compose_config("F5TTS_RL", [*SHARED, *GUIDE], RLTrainConfig)
    model = prepare_model(random_model(cfg).eval(), build_accelerator(cfg))
    frames = round(SECONDS * cfg.model.mel_spec.frames_per_second)
    requests = [
        Request(prompt_mel=torch.randn(frames // 2, 100, device=DEVICE), text="a b c", frames=frames, seed=seed)
        for seed in range(2)
    ]
    synchronize()
    started = clock()
    mels = sample_requests(model, requests, read_vocabulary(EMILIA_VOCAB), time_grid(4, -1.0), 2.0)
    synchronize()
    report["speaking twice, 4 steps"] = {"seconds": round(clock() - started, 2)}
    assert [mel.shape for mel in mels] == [(frames, 100)] * 2
    assert all(mel.isfinite().all() for mel in mels)
