"""Typed sections of a configuration: which keys exist and which values they accept.

The meaning of each key is documented beside its value, in configs/_base.yaml and configs/_rl.yaml.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from f5_tts.files import is_expanded
from f5_tts.plugins import is_module_attribute


class ConfigError(ValueError):
    """An error in the configuration; the message says in one sentence what is wrong and what to type instead."""


# --- types of fields ---


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint on values of the right type, and a description of type and constraint."""

    description: str
    test: Callable[[Any], bool]


def one_of(*names: str) -> Constraint:
    """Return a constraint to one of these strings."""
    return Constraint(" or ".join(names), names.__contains__)


def one_of_or_own(*names: str) -> Constraint:
    """Allow some names, and those of the user's own code."""
    return Constraint(f"{' or '.join(names)}, or module:attribute", lambda x: x in names or is_module_attribute(x))


OWN = Constraint("module:attribute", is_module_attribute)
LANGUAGE = Constraint("a code of two or three letters, e.g. en", lambda x: bool(re.fullmatch("[a-z]{2,3}", x)))


def is_interval(pair: list[float]) -> bool:
    """Check whether a pair is in ascending order."""
    return len(pair) == 2 and pair[0] <= pair[1]


def is_range(pair: list[float]) -> bool:
    """Check whether a pair is an interval within [0, 1]."""
    return is_interval(pair) and pair[0] >= 0 and pair[1] <= 1


def is_block(pair: list[int]) -> bool:
    """Check whether a pair is the size of a block."""
    return len(pair) == 2 and min(pair) >= 1


PATH = Constraint("a path; a leading ~ is your home folder, $NAME a variable that is set", is_expanded)
VOCODERS = Constraint(
    "vocos or griffin_lim; BigVGAN's decoder is not built in, and griffin_lim speaks its mels (mel_spec_type=bigvgan)",
    ("vocos", "griffin_lim").__contains__,
)
PathText = Annotated[str, PATH]
Count = Annotated[int, Constraint("a whole number, 1 or more", lambda n: n >= 1)]
Natural = Annotated[int, Constraint("a whole number, 0 or more", lambda n: n >= 0)]
NonNegative = Annotated[float, Constraint("a number, 0 or more", lambda x: 0 <= x < math.inf)]
Positive = Annotated[float, Constraint("a number above 0", lambda x: 0 < x < math.inf)]
Speed = Annotated[float, Constraint("a number from 0.01 on", lambda x: 0.01 <= x < math.inf)]
Minutes = Annotated[float, Constraint("a number above 0 and at most 600", lambda x: 0 < x <= 600)]
Seed = Annotated[int, Constraint("a whole number below 2^64", lambda n: n < 2**64)]
Finite = Annotated[float, Constraint("a number", math.isfinite)]
Fraction = Annotated[float, Constraint("a number from 0 to 1", lambda x: 0 <= x <= 1)]
Sway = Annotated[float, Constraint("a number from -1 to 1", lambda x: -1 <= x <= 1)]
Range = Annotated[list[float], Constraint("[low, high] with 0 <= low <= high <= 1", is_range)]
NonNegatives = Annotated[list[float], Constraint("a list of numbers, each 0 or more", lambda xs: xs and min(xs) >= 0)]
Block = Annotated[list[int], Constraint("[frames, bins], whole numbers of 1 or more", is_block)]
TOKENIZERS = ("custom", "char", "pinyin", "byte")  # ways to split a text
TYPE_NAMES = {bool: "true or false", float: "a number", str: "text", type(None): "null"}


@cache
def field_hints(section: type) -> dict[str, Any]:
    """Return the annotation of every field of a section, with its rules, by name."""
    return get_type_hints(section, include_extras=True)


def describe_type(hint: Any) -> str:
    """Describe the values that a field with this annotation accepts."""
    if get_origin(hint) is Annotated:
        return hint.__metadata__[0].description
    if get_origin(hint) in (Union, UnionType):
        return ", or ".join(describe_type(option) for option in get_args(hint))
    return TYPE_NAMES.get(hint, "a list of sections" if get_origin(hint) is list else "a section of keys")


# --- sections ---


@dataclass(kw_only=True, slots=True)
class DatasetsConfig:
    """The data set, its batches, and its reader processes."""

    name: PathText
    batch_size_per_gpu: Count
    batch_size_type: Annotated[str, one_of("frame", "sample")]
    max_samples: Natural
    max_seconds: Positive
    max_empty_batches: Count
    num_workers: Natural | None
    pair_speakers: bool


@dataclass(kw_only=True, slots=True)
class ArchConfig:
    """Sizes and options of the backbone."""

    dim: Count
    depth: Count
    heads: Count
    dim_head: Count
    ff_mult: Count
    text_dim: Count | None
    conv_layers: Natural
    text_mask_padding: bool
    text_embedding_average_upsampling: bool
    qk_norm: Annotated[str, one_of("rms_norm")] | None
    pe_attn_head: Count | None
    attn_backend: Annotated[str, one_of("torch", "flash_attn")]
    attn_mask_enabled: bool
    long_skip_connection: bool
    skip_connect_type: Annotated[str, one_of("concat", "add", "none")]
    dropout: Fraction
    checkpoint_activations: bool


@dataclass(kw_only=True, slots=True)
class MelSpecConfig:
    """Parameters of the log-mel spectrogram."""

    target_sample_rate: Count
    n_mel_channels: Count
    hop_length: Count
    win_length: Count
    n_fft: Count
    mel_spec_type: Annotated[str, one_of("vocos", "bigvgan")]

    @property
    def frames_per_second(self) -> float:
        """Return the mel frames per second."""
        return self.target_sample_rate / self.hop_length


@dataclass(kw_only=True, slots=True)
class VocoderConfig:
    """The vocoder and its weights."""

    name: Annotated[str, VOCODERS]
    iterations: Count
    is_local: bool
    local_path: PathText | None


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """The model, its text input, its training objective, and its mel and vocoder."""

    name: str
    tokenizer: Annotated[str, one_of(*TOKENIZERS)]
    tokenizer_path: PathText | None
    backbone: Annotated[str, one_of("DiT", "UNetT")]
    output_dist: Annotated[str, one_of("deterministic", "gaussian")]
    objective: Annotated[str, one_of("mse", "gaussian_nll", "grpo")]
    use_rl_head: bool
    sample_from_dist: bool
    nll_t2: NonNegative
    warmup_scope: Annotated[str, one_of("full", "head")]
    ln_sigma_init: Finite
    time_sampling: Annotated[str, one_of("uniform", "sway")]
    frac_lengths_mask: Range
    audio_drop_prob: Fraction
    cond_drop_prob: Fraction
    arch: ArchConfig
    mel_spec: MelSpecConfig
    vocoder: VocoderConfig


@dataclass(kw_only=True, slots=True)
class EmaConfig:
    """Exponential moving average of the weights."""

    beta: Fraction
    update_after_step: Natural
    update_every: Count
    power: NonNegative
    device: Annotated[str, one_of("cpu")] | None


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    """Optimizer, learning-rate schedule, precision and sharding."""

    epochs: Count
    max_updates: Count | None
    learning_rate: NonNegative
    num_warmup_updates: Natural
    grad_accumulation_steps: Count
    max_grad_norm: Positive
    max_skips: Natural
    bnb_optimizer: bool
    mixed_precision: Annotated[str, one_of("launcher", "auto", "no", "fp16", "bf16")]
    tf32: bool
    shard: bool
    seed: Natural
    ema: EmaConfig


@dataclass(kw_only=True, slots=True)
class CkptsConfig:
    """Checkpoints, logged samples and experiment tracker."""

    save_dir: PathText
    init_from: PathText | None
    allow_changed: bool
    save_per_updates: Count
    last_per_updates: Count
    keep_last_n_checkpoints: Annotated[int, Constraint("a whole number, -1 or more", lambda n: n >= -1)]
    log_samples: bool
    logger: Annotated[str, one_of("wandb", "tensorboard", "trackio")] | None
    wandb_project: str
    wandb_run_name: str
    wandb_resume_id: str | None


@dataclass(kw_only=True, slots=True)
class EvalConfig:
    """Evaluation on held-out items."""

    steps: Count
    sway_sampling_coef: Sway | None
    cfg_strengths: NonNegatives
    batch_size: Count
    takes: Count
    dev_takes: Count
    best_of: Count
    seed: Natural
    items_dir: PathText | None
    every_updates: Natural | None
    dev: PathText | None
    dev_items: Count
    forgot: PathText | None
    ckpt: PathText | None
    out: PathText | None
    known: PathText | None
    list: PathText | None
    dev_list: PathText | None
    recordings: PathText | None
    prompts: PathText | None
    wavs: PathText | None
    against: PathText | None
    recognisers: Providers
    normaliser: Annotated[str, OWN] | None
    simplify: bool
    language: Annotated[str, LANGUAGE] | None
    speaker: ProviderConfig
    providers: Providers
    num_wavs: Count


@dataclass(kw_only=True, slots=True)
class InferConfig:
    """Speech synthesis."""

    nfe_step: Count
    cfg_strength: NonNegative
    sway_sampling_coef: Sway | None
    ode_method: Annotated[str, one_of("euler", "midpoint")]
    epss: bool
    speed: Speed
    target_rms: Positive
    cross_fade_duration: NonNegative
    fix_duration: Minutes | None
    trim: Annotated[str, one_of("upstream", "ours")]
    batch_size: Count
    precision: Annotated[str, one_of("no", "bf16", "auto")]
    seed: Seed | None


@dataclass(kw_only=True, slots=True)
class WindowConfig:
    """Window of the solver steps that are sampled with noise, and trained by policy gradients."""

    size: Count
    t_range: Range
    schedule: Annotated[str, one_of("fixed", "random")]
    noise_block: Block


@dataclass(kw_only=True, slots=True)
class SdeConfig:
    """Noise of the steps in the window: flow_grpo, and nft with rl.shared_noise."""

    kernel: Annotated[str, one_of("exact", "em", "cps")]
    a: NonNegative
    eta: Annotated[float, Constraint("a number from 0 to below 1", lambda x: 0 <= x < 1)]


@dataclass(kw_only=True, slots=True)
class NftConfig:
    """Hyperparameters of the algorithm nft."""

    beta: Positive
    num_times: Count
    t_range: Range
    adv_max: Positive
    old_decay: Fraction


@dataclass(kw_only=True, slots=True)
class DraftConfig:
    """Hyperparameters of the algorithm draft, and its weight beside another algorithm."""

    weight: NonNegative
    last_steps: Count
    mode: Annotated[str, one_of("draft", "refl")]
    augmentation: Fraction


@dataclass(kw_only=True, slots=True)
class WorkerConfig:
    """The process or server of a reward; defaults are set here, since list entries have none in the YAML."""

    python: PathText | None = None
    url: str | None = None
    timeout_s: Positive = 300.0
    retries: Natural = 2


@dataclass(kw_only=True, slots=True)
class ProviderConfig:
    """One reward; defaults are set here, since list entries have none in the YAML."""

    name: str
    weight: Finite = 1.0
    floor: NonNegative = 0.0
    config: dict[str, Any] = field(default_factory=dict)
    device: str | None = None
    worker: WorkerConfig | None = None


Providers = list[ProviderConfig]  # named here, since a section with a key `list` cannot use the type


@dataclass(kw_only=True, slots=True)
class GateConfig:
    """Gate of a reward: the reward counts as 0 for samples whose component `by` is outside `within`."""

    reward: str
    by: str
    within: Annotated[list[float], Constraint("[low, high] with low <= high", is_interval)]


@dataclass(kw_only=True, slots=True)
class RewardsConfig:
    """Rewards and how they are combined."""

    mode: Annotated[str, one_of("sum", "normalized_sum", "rank_shaping", "gdpo")]
    gates: list[GateConfig]
    overlap: bool
    providers: list[ProviderConfig]


@dataclass(kw_only=True, slots=True)
class RLConfig:
    """Algorithm, rollouts, loss and rewards of stage 2."""

    algorithm: Annotated[str, one_of_or_own("auto", "gaussian_grpo", "flow_grpo", "nft", "draft", "f5r")]
    group_size: Count | None
    repeat_count: Count
    mini_repeat_count: Count
    updates_per_rollout: Count
    steps: Count
    rollout_precision: Annotated[str, one_of("bf16", "auto")] | None
    cfg_strength: NonNegative
    cfg_grad_uncond: bool
    sway_sampling_coef: Sway | None
    epss: bool
    kl_weight: NonNegative
    anchor_weight: NonNegative
    anchor_every: Count
    temperature: Positive
    train_sigma: bool
    shared_noise: bool
    window: WindowConfig
    sde: SdeConfig
    nft: NftConfig
    draft: DraftConfig
    credit: Annotated[str, one_of("sample", "word")]
    advantage: Annotated[str, one_of("gdpo", "grpo", "dr_grpo", "global_std", "rloo")]
    advantage_clip: NonNegative
    ratio: Annotated[str, one_of("mean", "guard")]
    clip_low: NonNegative
    clip_high: NonNegative
    prompt_frac_range: Range | None
    prompt_length_mode: Annotated[str, one_of("min", "per_sample", "range")]
    duration_jitter: Annotated[float, Constraint("a number from 0 to 0.5", lambda x: 0 <= x <= 0.5)]
    ref_model_ckpt: PathText | None
    ref_model_use_ema: bool
    ref_model_device: Annotated[str, one_of("cpu")] | None
    ref_cfg_strength: NonNegative | None
    skip_grad_prob: Fraction
    max_grad_steps: Count | None
    density_eps: NonNegative
    kl_eps: NonNegative
    stop_when: Annotated[str, one_of("judge_worse")] | None
    rewards: RewardsConfig


@dataclass(kw_only=True, slots=True)
class AuditionConfig:
    """Audit of rewards on corrupted clips."""

    folder: PathText | None
    clips: Count
    out: PathText


@dataclass(kw_only=True, slots=True)
class LoraConfig:
    """Low-rank adapters."""

    rank: Natural
    alpha: Positive
    dropout: Fraction
    target_modules: Annotated[list[str], Constraint("a list of names of layers, at least one", bool)]


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """Configuration of stage 1, and of ordinary training."""

    datasets: DatasetsConfig
    model: ModelConfig
    optim: OptimConfig
    ckpts: CkptsConfig
    eval: EvalConfig
    infer: InferConfig
    lora: LoraConfig


@dataclass(kw_only=True, slots=True)
class RLTrainConfig(TrainConfig):
    """Configuration of stage 2."""

    rl: RLConfig
    audition: AuditionConfig


@dataclass(kw_only=True, slots=True)
class SynthesisConfig:
    """Configuration of speech synthesis: two sections of a training config."""

    model: ModelConfig
    infer: InferConfig


# --- values derived from several keys ---


def dataset_dir(cfg: TrainConfig) -> Path:
    """Return the folder of the run's data set, relative to the current directory, unless it is on the hub."""
    return Path("data") / f"{cfg.datasets.name}_{cfg.model.tokenizer}"


def vocab_path(cfg: TrainConfig) -> Path:
    """Return the path of the run's vocabulary file."""
    return Path(cfg.model.tokenizer_path) if cfg.model.tokenizer_path else dataset_dir(cfg) / "vocab.txt"


def group_size(rl: RLConfig) -> int:
    """Return the number of samples per prompt, which form a group."""
    return rl.group_size or rl.repeat_count * rl.mini_repeat_count


def updates_per_rollout(cfg: TrainConfig) -> int:
    """Return the number of updates that learn from the same batches: 1 in stage 1."""
    return cfg.rl.updates_per_rollout if isinstance(cfg, RLTrainConfig) else 1
