"""Estimate of the memory that stage 2 holds, from shapes alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from torch._subclasses import FakeTensorMode

from f5_tts.config.load import compose_run
from f5_tts.config.schema import ProviderConfig, RLRunConfig, group_size
from f5_tts.data.tokenizer import RELEASED, Vocabulary, build_vocabulary, read_vocabulary
from f5_tts.estimate.live_bytes import forward_bytes
from f5_tts.model.build import build_model
from f5_tts.model.cfm import CFM
from f5_tts.model.fsdp import part_sizes, whole_at_work
from f5_tts.model.lora import adapter_sizes, trained_sizes
from f5_tts.rewards.registry import provider_attribute
from f5_tts.rl.algorithms import find_algorithm
from f5_tts.train.accelerator import precision
from f5_tts.train.optimizer import SMALLEST

FLOAT = 4  # bytes of a number in single precision
BLOCK = 256  # numbers with one scale in 8-bit AdamW; tensors of fewer than SMALLEST stay in 32 bits
VOCOS = 13_531_650  # parameters of the published vocoder
KNOBS = (
    "model.arch.checkpoint_activations=true",
    "optim.mixed_precision=bf16",
    "lora.rank=16",
    "datasets.batch_size_type=sample datasets.batch_size_per_gpu=1",
)
WITHOUT_SHARDS = ("optim.bnb_optimizer=true", "optim.ema.device=cpu", "rl.ref_model_device=cpu")  # knobs too


@dataclass(frozen=True)
class Part:
    """Something that takes memory, and the key that decides how much or where."""

    what: str
    where: str  # GPU or CPU
    num: int  # bytes
    key: str
    passing: bool = False  # there for a moment, never together with the other passing parts


def budget(run: RLRunConfig, seconds: float, processes: int = 1) -> list[Part]:
    """All that each process of a run holds while it learns from clips of so many seconds."""
    with FakeTensorMode():
        model = build_model(run.model, vocabulary_of(run)).eval()
        return [*kept(run, model, seconds, processes), *passes(run, model, seconds)]


def kept(run: RLRunConfig, model: CFM, seconds: float, processes: int = 1) -> list[Part]:
    """What stays from update to update, and the samples of one."""
    rl, lora, old = run.rl, run.lora, find_algorithm(run.rl.algorithm).build_old_policy(model, run.rl)
    among = processes if run.optim.shard else 1
    sizes = trained_sizes(model, lora, among)
    trained, weights = FLOAT * sum(sizes), FLOAT * sum(part_sizes(model, among))
    adapters = FLOAT * sum(adapter_sizes(model, lora, among))
    parts = [
        Part("weights", "GPU", weights + adapters, "model.arch"),
        Part("gradients", "GPU", trained, "lora.rank"),
        Part("AdamW, 8 bits" if run.optim.bnb_optimizer else "AdamW", "GPU", state(run, sizes), "optim.bnb_optimizer"),
        Part("running average (EMA)", place(run.optim.ema.device), weights + adapters, "optim.ema.device"),
    ]
    if rl.kl_weight > 0:
        parts.append(Part("reference", place(rl.ref_model_device), trained, "rl.ref_model_device"))
    if old is not None:
        parts.append(Part("policy that drew (nft)", "GPU", trained, "rl.nft.old_decay"))
    if run.model.vocoder.name == "vocos":
        parts.append(Part("vocoder", "GPU", FLOAT * VOCOS, "model.vocoder.name"))
    if run.optim.shard:
        parts.append(Part("layers that are whole at work", "GPU", FLOAT * whole_at_work(model), "optim.shard"))
    recorded = Part("recorded samples", "GPU", rollout_bytes(run, seconds), "rl.window.size")
    return [*parts, *rewards(run), recorded]


def passes(run: RLRunConfig, model: CFM, seconds: float) -> list[Part]:
    """What a forward and backward pass of the policy holds, and a forward pass of a reference that waits on the CPU."""
    rl, num = run.rl, prompts(run, seconds) * run.rl.mini_repeat_count
    size = {"frames": frames_of(run, seconds), "cfg_strength": rl.cfg_strength, "bf16": is_half(run)}
    key = "model.arch.checkpoint_activations"
    parts = [Part("activations, forward and backward", "GPU", forward_bytes(model, num, **size), key, passing=True)]
    if rl.kl_weight > 0 and rl.ref_model_device == "cpu":
        copy = FLOAT * sum(trained_sizes(model, run.lora))
        asked = forward_bytes(model.requires_grad_(False), num, learn=False, **size)
        parts.append(Part("reference while it is asked", "GPU", copy + asked, "rl.ref_model_device", passing=True))
    return parts


def state(run: RLRunConfig, sizes: list[int]) -> int:
    """Bytes of AdamW's two averages."""
    is_small = [size < SMALLEST or not run.optim.bnb_optimizer for size in sizes]
    return sum(
        2 * (FLOAT * size if small else size + FLOAT * ceil(size / BLOCK))
        for size, small in zip(sizes, is_small, strict=True)
    )


def rollout_bytes(run: RLRunConfig, seconds: float) -> int:
    """Of all samples of an update: the clip, its prompt, what was drawn, and what is recorded of each trained step."""
    samples = prompts(run, seconds) * run.optim.grad_accumulation_steps * group_size(run.rl)
    arrays = 3 + find_algorithm(run.rl.algorithm).recorded_arrays(run.rl)
    return samples * arrays * frames_of(run, seconds) * run.model.mel_spec.n_mel_channels * FLOAT


def rewards(run: RLRunConfig) -> list[Part]:
    """The reward models whose size is known, each where its own `config.device` says, else on the CPU."""
    return [
        Part(entry.name, place(entry.config.get("device", "cpu")), FLOAT * num, device_key(i))
        for i, entry in enumerate(run.rl.rewards.providers)
        if (num := num_parameters(entry))
    ]


def num_parameters(entry: ProviderConfig) -> int:
    """Return the number of parameters of a reward model; 0 where its class does not say."""
    return provider_attribute(entry.name, "num_parameters", 0)


def device_key(index: int) -> str:
    return f"rl.rewards.providers.{index}.config.device"


def place(device: str | None) -> str:
    return "CPU" if device == "cpu" else "GPU"


def frames_of(run: RLRunConfig, seconds: float) -> int:
    """Mel frames of a clip, made longer by rl.duration_jitter."""
    return ceil(seconds * run.model.mel_spec.frames_per_second * (1 + run.rl.duration_jitter))


def prompts(run: RLRunConfig, seconds: float) -> int:
    """Prompts of such clips in a batch."""
    datasets = run.datasets
    if datasets.batch_size_type == "sample":
        return datasets.batch_size_per_gpu
    fitting = max(1, datasets.batch_size_per_gpu // frames_of(run, seconds))
    return min(fitting, datasets.max_samples or fitting)


def is_half(run: RLRunConfig) -> bool:
    return precision(run.optim) != "no"


def vocabulary_of(run: RLRunConfig, say: Callable[[str], None] = print) -> Vocabulary:
    """The run's vocabulary; where its file is not here, the released one."""
    try:
        return build_vocabulary(run)
    except FileNotFoundError as error:
        say(f"{error}; counted with the {len(read_vocabulary(RELEASED))} symbols of the released one")
        return read_vocabulary(RELEASED)


def total(parts: list[Part], where: str) -> int:
    """Bytes in a place: what stays, and of what passes the largest."""
    here = [part for part in parts if part.where == where]
    passing = max((part.num for part in here if part.passing), default=0)
    return sum(part.num for part in here if not part.passing) + passing


def knobs(
    name: str, overrides: list[str], run: RLRunConfig, seconds: float, processes: int = 1
) -> list[tuple[int, str]]:
    """Changes that would spare the GPU something, in bytes, the largest first."""

    def used(run: RLRunConfig) -> int:
        return total(budget(run, seconds, processes), "GPU")

    now = used(run)
    changes = [
        *KNOBS,
        *(() if run.optim.shard else WITHOUT_SHARDS),
        f"rl.group_size={group_size(run.rl)} rl.mini_repeat_count=1",
    ]
    changes += [f"{device_key(i)}=cpu" for i, entry in enumerate(run.rl.rewards.providers) if "device" in entry.config]
    runs = {change: compose_run(name, [*overrides, *change.split()], RLRunConfig) for change in changes}
    spared = [(now - used(other), change) for change, other in runs.items() if other != run]
    return sorted((pair for pair in spared if pair[0] > 0), reverse=True)
