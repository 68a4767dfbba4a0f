"""Estimate of the memory that stage 2 holds, from shapes alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from torch._subclasses import FakeTensorMode

from f5_tts.config.load import compose_config
from f5_tts.config.schema import ProviderConfig, RLTrainConfig, group_size
from f5_tts.data.tokenizer import EMILIA_VOCAB, Vocabulary, build_vocabulary, read_vocabulary
from f5_tts.estimate.live_bytes import forward_bytes
from f5_tts.model.build import build_model
from f5_tts.model.cfm import CFM
from f5_tts.model.fsdp import max_unsharded_numel, shard_numels
from f5_tts.model.lora import adapter_sizes, trained_sizes
from f5_tts.rewards.registry import provider_attribute
from f5_tts.rl.algorithms import find_algorithm
from f5_tts.train.accelerator import precision
from f5_tts.train.optimizer import MIN_8BIT_NUMEL

BYTES_PER_FLOAT = 4  # bytes of a float32 value
# values that share a scale in 8-bit AdamW; tensors with fewer than MIN_8BIT_NUMEL values stay in 32 bits
QUANTIZATION_BLOCK = 256
VOCOS_PARAMETERS = 13_531_650  # parameters of the published vocoder
VOCOS_MIB_PER_S = 10.6  # memory of the published vocoder, forward and backward, per second of speech; measured
SAVINGS = (
    "model.arch.checkpoint_activations=true",
    "optim.mixed_precision=bf16",
    "lora.rank=16",
    "datasets.batch_size_type=sample datasets.batch_size_per_gpu=1",
)
# these save memory too, but exclude sharding
UNSHARDED_SAVINGS = ("optim.bnb_optimizer=true", "optim.ema.device=cpu", "rl.ref_model_device=cpu")


@dataclass(frozen=True)
class MemoryItem:
    """One use of memory, and the config key that determines its size or its device."""

    name: str
    device: str  # GPU or CPU
    num_bytes: int  # bytes
    key: str
    transient: bool = False  # allocated for a short time, never together with another transient item


def budget(cfg: RLTrainConfig, seconds: float, processes: int = 1) -> list[MemoryItem]:
    """List what each process of the run holds in memory while it trains on clips of this length (s)."""
    with FakeTensorMode():
        model = build_model(cfg.model, vocabulary_or_default(cfg)).eval()
        return [*persistent_items(cfg, model, seconds, processes), *transient_items(cfg, model, seconds)]


def persistent_items(cfg: RLTrainConfig, model: CFM, seconds: float, processes: int = 1) -> list[MemoryItem]:
    """List what stays in memory from update to update, and the recorded samples of one update."""
    rl, lora, old_policy = cfg.rl, cfg.lora, find_algorithm(cfg.rl.algorithm).build_old_policy(model, cfg.rl)
    world_size = processes if cfg.optim.shard else 1
    sizes = trained_sizes(model, lora, world_size)
    trained, weights = BYTES_PER_FLOAT * sum(sizes), BYTES_PER_FLOAT * sum(shard_numels(model, world_size))
    adapters = BYTES_PER_FLOAT * sum(adapter_sizes(model, lora, world_size))
    items = [
        MemoryItem("weights", "GPU", weights + adapters, "model.arch"),
        MemoryItem("gradients", "GPU", trained, "lora.rank"),
        MemoryItem(
            "AdamW, 8 bits" if cfg.optim.bnb_optimizer else "AdamW",
            "GPU",
            optimizer_bytes(cfg, sizes),
            "optim.bnb_optimizer",
        ),
        MemoryItem("running average (EMA)", device_of(cfg.optim.ema.device), weights + adapters, "optim.ema.device"),
    ]
    if rl.kl_weight > 0:
        items.append(MemoryItem("reference", device_of(rl.ref_model_device), trained, "rl.ref_model_device"))
    if is_reference_copied(cfg):
        items.append(MemoryItem("reference, answers", "GPU", answer_bytes(cfg, seconds), "rl.ref_model_device"))
    if old_policy is not None:
        items.append(MemoryItem("old policy (nft)", "GPU", trained, "rl.nft.old_decay"))
    if cfg.model.vocoder.name == "vocos":
        items.append(MemoryItem("vocoder", "GPU", BYTES_PER_FLOAT * VOCOS_PARAMETERS, "model.vocoder.name"))
    if cfg.optim.shard:
        items.append(
            MemoryItem("unsharded layers in use", "GPU", BYTES_PER_FLOAT * max_unsharded_numel(model), "optim.shard")
        )
    recorded = MemoryItem("recorded samples", "GPU", rollout_bytes(cfg, seconds), "rl.window.size")
    return [*items, *reward_items(cfg), recorded]


def transient_items(cfg: RLTrainConfig, model: CFM, seconds: float) -> list[MemoryItem]:
    """List what a forward and backward pass of the policy holds, and a reference kept on the CPU while it is copied.

    Once an update its weights are copied, it is asked all that the update needs, and the copy is freed before the first
    pass of the policy.
    """
    rl, num = cfg.rl, prompts_per_batch(cfg, seconds) * cfg.rl.mini_repeat_count
    size = {"frames": frames_per_clip(cfg, seconds), "bf16": is_mixed_precision(cfg)}
    size |= {"cfg_strength": rl.cfg_strength, "grad_uncond": rl.cfg_grad_uncond}
    key = "model.arch.checkpoint_activations"
    items = [
        MemoryItem("activations, forward and backward", "GPU", forward_bytes(model, num, **size), key, transient=True)
    ]
    if is_reference_copied(cfg):
        copy_bytes = BYTES_PER_FLOAT * sum(trained_sizes(model, cfg.lora))
        reference_bytes = forward_bytes(model.requires_grad_(False), num, with_backward=False, **size)
        items.append(
            MemoryItem(
                "reference, copy and forward pass",
                "GPU",
                copy_bytes + reference_bytes,
                "rl.ref_model_device",
                transient=True,
            )
        )
    return [*items, *loss_items(cfg, seconds)]


def loss_items(cfg: RLTrainConfig, seconds: float) -> list[MemoryItem]:
    """List what the gradient of each reward holds, one reward after the other.

    Beside a reward on the GPU there is the vocoder of all clips of a forward pass, if the reward takes audio.
    """
    teachers = differentiated_rewards(cfg)
    seconds, num = seconds * (1 + cfg.rl.duration_jitter), prompts_per_batch(cfg, seconds) * cfg.rl.mini_repeat_count
    takes_audio = {name: provider_attribute(name, "takes", "") == "wave" for name in teachers.values()}
    vocoder_mib = VOCOS_MIB_PER_S * seconds * num if any(takes_audio.values()) else 0.0
    items = [MemoryItem("vocoder, loss", "GPU", mib_to_bytes(vocoder_mib), "rl.draft", True)] if vocoder_mib else []
    for index, name in teachers.items():
        device = device_of(cfg.rl.rewards.providers[index].config.get("device", "cpu"))
        beside = vocoder_mib if takes_audio[name] and device == "GPU" else 0.0
        label = f"{name} and vocoder, loss" if beside else f"{name}, loss"
        num_bytes = mib_to_bytes(beside + loss_mib(name)(seconds, num))
        items.append(MemoryItem(label, device, num_bytes, device_key(index), transient=True))
    return items


def differentiated_rewards(cfg: RLTrainConfig) -> dict[int, str]:
    """Return the names of the rewards whose gradients the run follows, by index in the list of providers."""
    if not (find_algorithm(cfg.rl.algorithm).uses_reward_gradients or cfg.rl.draft.weight > 0):
        return {}
    entries = [(i, entry) for i, entry in enumerate(cfg.rl.rewards.providers) if entry.weight and not entry.worker]
    return {i: entry.name for i, entry in entries if provider_attribute(entry.name, "loss", None)}


def loss_mib(name: str) -> Callable[[float, int], float]:
    """Return the function that gives the memory of a reward's loss; it gives 0 where its class does not say."""
    return provider_attribute(name, "loss_mib", lambda seconds, num_clips: 0.0)


def mib_to_bytes(mib: float) -> int:
    """Convert MiB to bytes."""
    return round(mib * 2**20)


def optimizer_bytes(cfg: RLTrainConfig, sizes: list[int]) -> int:
    """Compute the bytes of AdamW's two moments for tensors of these sizes (numbers of elements)."""
    is_small = [size < MIN_8BIT_NUMEL or not cfg.optim.bnb_optimizer for size in sizes]
    return sum(
        2 * (BYTES_PER_FLOAT * size if small else size + BYTES_PER_FLOAT * ceil(size / QUANTIZATION_BLOCK))
        for size, small in zip(sizes, is_small, strict=True)
    )


def rollout_bytes(cfg: RLTrainConfig, seconds: float) -> int:
    """Compute the bytes of all recorded samples of an update.

    A sample has three float32 arrays of frames x mel bins: the recording, its prompt and the generated mel. Each
    trained step adds the arrays that the algorithm records: for example state, action, mean and standard deviation.
    rl.draft.weight adds one sample of each prompt.
    """
    prompts = prompts_per_batch(cfg, seconds) * cfg.optim.grad_accumulation_steps
    arrays = prompts * group_size(cfg.rl) * (3 + find_algorithm(cfg.rl.algorithm).recorded_arrays(cfg.rl))
    if cfg.rl.draft.weight > 0:
        arrays += prompts * (3 + find_algorithm("draft").recorded_arrays(cfg.rl))
    return arrays * frames_per_clip(cfg, seconds) * cfg.model.mel_spec.n_mel_channels * BYTES_PER_FLOAT


def answer_bytes(cfg: RLTrainConfig, seconds: float) -> int:
    """Compute the bytes of what a reference kept on the CPU has answered for all passes of an update."""
    samples = prompts_per_batch(cfg, seconds) * cfg.optim.grad_accumulation_steps * group_size(cfg.rl)
    arrays = samples * find_algorithm(cfg.rl.algorithm).reference_arrays(cfg.rl)
    return arrays * frames_per_clip(cfg, seconds) * cfg.model.mel_spec.n_mel_channels * BYTES_PER_FLOAT


def is_reference_copied(cfg: RLTrainConfig) -> bool:
    """Check whether the run has a reference whose weights are on the CPU between uses."""
    return cfg.rl.kl_weight > 0 and device_of(cfg.rl.ref_model_device) == "CPU"


def reward_items(cfg: RLTrainConfig) -> list[MemoryItem]:
    """List the reward models of known size, each on the device of its own `config.device`, by default the CPU."""
    return [
        MemoryItem(entry.name, device_of(entry.config.get("device", "cpu")), BYTES_PER_FLOAT * num, device_key(i))
        for i, entry in enumerate(cfg.rl.rewards.providers)
        if (num := num_parameters(entry))
    ]


def num_parameters(entry: ProviderConfig) -> int:
    """Return the number of parameters of a reward model; 0 where its class does not say."""
    return provider_attribute(entry.name, "num_parameters", 0)


def device_key(index: int) -> str:
    """Return the config key for the device of the reward provider at `index`."""
    return f"rl.rewards.providers.{index}.config.device"


def device_of(device: str | None) -> str:
    """Return CPU for the device name `cpu`, else GPU."""
    return "CPU" if device == "cpu" else "GPU"


def frames_per_clip(cfg: RLTrainConfig, seconds: float) -> int:
    """Compute the mel frames of a clip of this length (s), lengthened by rl.duration_jitter."""
    return ceil(seconds * cfg.model.mel_spec.frames_per_second * (1 + cfg.rl.duration_jitter))


def prompts_per_batch(cfg: RLTrainConfig, seconds: float) -> int:
    """Compute the number of prompts of this length (s) in a batch."""
    datasets = cfg.datasets
    if datasets.batch_size_type == "sample":
        return datasets.batch_size_per_gpu
    fitting = max(1, datasets.batch_size_per_gpu // frames_per_clip(cfg, seconds))
    return min(fitting, datasets.max_samples or fitting)


def is_mixed_precision(cfg: RLTrainConfig) -> bool:
    """Check whether the run uses mixed precision (bf16 or fp16)."""
    return precision(cfg.optim) != "no"


def vocabulary_or_default(cfg: RLTrainConfig, log: Callable[[str], None] = print) -> Vocabulary:
    """Load the run's vocabulary; if its file is missing, report that and load the released vocabulary."""
    try:
        return build_vocabulary(cfg)
    except FileNotFoundError as error:
        log(f"{error}; estimated with the {len(read_vocabulary(EMILIA_VOCAB))} symbols of the released vocabulary")
        return read_vocabulary(EMILIA_VOCAB)


def total_bytes(items_of_all: list[MemoryItem], device: str) -> int:
    """Compute the peak bytes on a device: all persistent items and the largest transient one."""
    items = [item for item in items_of_all if item.device == device]
    largest_transient = max((item.num_bytes for item in items if item.transient), default=0)
    return sum(item.num_bytes for item in items if not item.transient) + largest_transient


def suggest_savings(
    name: str, overrides: list[str], cfg: RLTrainConfig, seconds: float, processes: int = 1
) -> list[tuple[int, str]]:
    """List config changes that reduce the GPU memory, with the bytes that each saves, the largest first."""

    def gpu_bytes(cfg: RLTrainConfig) -> int:
        return total_bytes(budget(cfg, seconds, processes), "GPU")

    current = gpu_bytes(cfg)
    changes = [
        *SAVINGS,
        *(() if cfg.optim.shard else UNSHARDED_SAVINGS),
        f"rl.group_size={group_size(cfg.rl)} rl.mini_repeat_count=1",
    ]
    changes += [f"{device_key(i)}=cpu" for i, entry in enumerate(cfg.rl.rewards.providers) if "device" in entry.config]
    runs = {change: compose_config(name, [*overrides, *change.split()], RLTrainConfig) for change in changes}
    spared = [(current - gpu_bytes(other), change) for change, other in runs.items() if other != cfg]
    return sorted((pair for pair in spared if pair[0] > 0), reverse=True)
