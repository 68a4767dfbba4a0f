"""Checks of a composed configuration: each value by itself, and keys against each other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from operator import attrgetter
from typing import Any, get_args

from f5_tts.config.reward_names import provider_path
from f5_tts.config.schema import (
    ConfigError,
    EvalConfig,
    ModelConfig,
    ProviderConfig,
    RLConfig,
    RLTrainConfig,
    SynthesisConfig,
    TrainConfig,
    WorkerConfig,
    describe_type,
    field_hints,
    group_size,
)
from f5_tts.files import HUB
from f5_tts.plugins import is_module_attribute

MAX_INT = 2**63  # what libraries keep in 64 bits, among them seeds, to which updates and items are added


def check(cfg: TrainConfig | SynthesisConfig) -> None:
    """Check that every value is allowed and that the keys agree with each other.

    Raises:
        ConfigError: the message names the first wrong key, its value and what is allowed.
    """
    check_values(cfg)
    for problem in disagreements(cfg):
        raise ConfigError(problem)


def check_values(cfg: TrainConfig | SynthesisConfig) -> None:
    """Check that every value by itself is allowed; raise ConfigError for the first that is not."""
    for key, value, hint in typed_values(cfg):
        is_huge = isinstance(value, int) and value >= MAX_INT and key != "infer.seed"  # which has a limit of its own
        require(not is_huge, f"{key}={value} is too large: whole numbers are below 2^63")
        rules = [rule for option in (hint, *get_args(hint)) for rule in getattr(option, "__metadata__", ())]
        is_allowed = value is None or all(rule.test(value) for rule in rules)
        require(is_allowed, f"{key}={as_override(value)} is not allowed; allowed: {describe_type(hint)}")


def disagreements(cfg: TrainConfig | SynthesisConfig) -> Iterator[str]:
    """Yield the problems of keys, whose values are allowed, with each other."""
    yield from model_problems(cfg.model)
    if isinstance(cfg, TrainConfig):
        yield from vocabulary_problems(cfg)
        yield from judge_problems(cfg.eval)
        yield from shard_problems(cfg)
    if isinstance(cfg, RLTrainConfig):
        yield from rl_problems(cfg)
    elif isinstance(cfg, TrainConfig):
        yield from unless(
            cfg.lora.rank == 0 or cfg.model.warmup_scope == "full" or cfg.model.objective == "mse",
            f"model.warmup_scope=head trains the Gaussian head alone, and lora.rank={cfg.lora.rank} adapters too: set "
            "lora.rank=0, or model.warmup_scope=full",
        )
        yield from unless(
            cfg.model.objective != "grpo",
            "model.objective=grpo is stage 2; run f5-tts train-rl with an *_RL config",
        )


def judge_problems(settings: EvalConfig) -> Iterator[str]:
    """Yield the problems of judges: no recognizer, and workers."""
    yield from unless(
        bool(settings.recognisers), "eval.recognisers is empty; name one, e.g. eval.recognisers=[whisper]"
    )
    for key, entries in (("recognisers", settings.recognisers), ("providers", settings.providers)):
        for index, entry in enumerate(entries):
            yield from provider_problems(entry, f"eval.{key}.{index}")
    yield from provider_problems(settings.speaker, "eval.speaker")


def vocabulary_problems(cfg: TrainConfig) -> Iterator[str]:
    """Yield a problem of a data set of the hub without a vocabulary: it has no vocab.txt."""
    model = cfg.model
    yield from unless(
        not cfg.datasets.name.startswith(HUB) or bool(model.tokenizer_path) or model.tokenizer in ("pinyin", "byte"),
        f"datasets.name={cfg.datasets.name} has no vocabulary for model.tokenizer={model.tokenizer}; set "
        "model.tokenizer_path to a file with one symbol a line, or model.tokenizer to pinyin or byte",
    )


def shard_problems(cfg: TrainConfig) -> Iterator[str]:
    """Yield the problems of a sharded model (optim.shard) that is used where it cannot be.

    It cannot be kept on two devices, and rank 0 cannot synthesize alone, because every pass needs all ranks.
    """
    device_reason = "each process keeps its shard on the device that trains; set it to null"
    speech_reason = "one process synthesizes, and a sharded model needs all of them; set it to"
    optim, conflicts = cfg.optim, []
    conflicts += [
        ("optim.bnb_optimizer", optim.bnb_optimizer, "8-bit optimizer states cannot be sharded; set it to false")
    ]
    conflicts += [("optim.ema.device", optim.ema.device, device_reason)]
    conflicts += [("eval.every_updates", cfg.eval.every_updates, f"{speech_reason} 0, and evaluate the checkpoints")]
    if isinstance(cfg, RLTrainConfig):
        published = cfg.rl.algorithm if cfg.rl.algorithm == "f5r" else None
        conflicts += [("rl.algorithm", published, "processes may differ in the steps that it differentiates; try nft")]
        conflicts += [("rl.ref_model_device", cfg.rl.ref_model_device, device_reason)]
    else:
        conflicts += [("ckpts.log_samples", cfg.ckpts.log_samples, f"{speech_reason} false")]
    for key, value, reason in conflicts:
        yield from unless(
            not (optim.shard and value), f"optim.shard=true does not go with {key}={as_override(value)}: {reason}"
        )


def require(fits: bool, message: str) -> None:
    """Raise ConfigError with this sentence if the condition is false."""
    if not fits:
        raise ConfigError(message)


def unless(fits: bool, message: str) -> Iterator[str]:
    """Yield this sentence if the condition is false."""
    if not fits:
        yield message


def list_problems(problems: Sequence[str]) -> str:
    """Return the sentence of one problem, or a list of several."""
    if len(problems) == 1:
        return problems[0]
    return "\n".join([f"{len(problems)} problems", *(f"{number}. {text}" for number, text in enumerate(problems, 1))])


def raise_together(*calls: Callable[[], Any]) -> list[Any]:
    """Call all functions, each of which raises an error where something is wrong; raise what all found, or return.

    Several missing files are one FileNotFoundError, other problems one ValueError.
    """
    results, errors = call_all(calls)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        are_files = all(isinstance(error, FileNotFoundError) for error in errors)
        raise (FileNotFoundError if are_files else ValueError)(list_problems([str(error) for error in errors]))
    return results


def call_all(calls: Iterable[Callable[[], Any]]) -> tuple[list[Any], list[Exception]]:
    """Call all functions; return what they return, and the errors of the others."""
    results, errors = [], list[Exception]()
    for call in calls:
        try:
            results.append(call())
        except (ValueError, OSError) as error:
            errors.append(error)
    return results, errors


def as_override(value: Any) -> str:
    """Format a value as it is written on the command line."""
    return json.dumps(value, default=str).strip('"')


def typed_values(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the key, value and annotation of every field, those of nested sections included."""
    for name, hint in field_hints(type(section)).items():
        key, value = f"{prefix}{name}", getattr(section, name)
        if is_dataclass(value):
            yield from typed_values(value, f"{key}.")
        elif isinstance(value, list) and any(map(is_dataclass, value)):
            for index, item in enumerate(value):
                yield from typed_values(item, f"{key}.{index}.")
        else:
            yield key, value, hint


def model_problems(model: ModelConfig) -> Iterator[str]:
    """Yield the problems of the keys of model.* with each other."""
    yield from objective_problems(model)
    yield from network_problems(model)
    yield from audio_problems(model)


def objective_problems(model: ModelConfig) -> Iterator[str]:
    """Yield a problem unless the model has a Gaussian head exactly if an objective trains or samples it."""
    gaussian = model.output_dist == "gaussian"
    yield from unless(
        model.objective == "grpo" or gaussian == (model.objective == "gaussian_nll"),
        f"model.objective={model.objective} does not go with model.output_dist={model.output_dist}; "
        "mse needs deterministic, gaussian_nll needs gaussian",
    )
    yield from unless(
        gaussian == model.use_rl_head,
        f"model.use_rl_head={as_override(model.use_rl_head)} does not go with model.output_dist={model.output_dist}; "
        "gaussian needs true, deterministic needs false",
    )
    yield from unless(
        gaussian or not model.sample_from_dist,
        "model.sample_from_dist=true needs a Gaussian head, which model.output_dist=deterministic lacks; set it to "
        "false, or model.output_dist=gaussian model.objective=gaussian_nll model.use_rl_head=true",
    )


def network_problems(model: ModelConfig) -> Iterator[str]:
    """Yield the problems of sizes that do not fit each other, and of parts that the backbone lacks."""
    arch = model.arch
    yield from unless(
        arch.text_mask_padding or not arch.text_embedding_average_upsampling,
        "model.arch.text_embedding_average_upsampling=true needs model.arch.text_mask_padding=true, "
        "to know where a text ends",
    )
    yield from unless(
        arch.pe_attn_head is None or arch.pe_attn_head <= arch.heads,
        f"model.arch.pe_attn_head={arch.pe_attn_head} is more than model.arch.heads={arch.heads}; "
        "make it heads or less, or null for all",
    )
    yield from unless(
        arch.dim % 16 == 0, f"model.arch.dim={arch.dim} is not a multiple of 16, the groups of its convolutions"
    )
    yield from unless(
        arch.dim_head % 2 == 0, f"model.arch.dim_head={arch.dim_head} is odd; rotary positions rotate pairs of channels"
    )
    text_dim = model.mel_spec.n_mel_channels if arch.text_dim is None else arch.text_dim
    yield from unless(
        arch.conv_layers == 0 or text_dim % 2 == 0,
        f"model.arch.text_dim={text_dim} is odd; positions are pairs of a sine and a cosine",
    )
    yield from unless(
        model.backbone != "UNetT" or arch.depth % 2 == 0,
        f"model.arch.depth={arch.depth} is odd; model.backbone=UNetT connects its two halves by skip connections; "
        "make it even",
    )
    yield from unless(
        model.backbone != "UNetT" or not arch.long_skip_connection,
        "model.arch.long_skip_connection=true is for model.backbone=DiT; model.arch.skip_connect_type selects the "
        "skip connections of UNetT",
    )
    yield from unless(
        model.backbone != "DiT" or arch.skip_connect_type == "concat",
        f"model.arch.skip_connect_type={arch.skip_connect_type} is for model.backbone=UNetT; DiT has no such skip "
        "connections",
    )


def audio_problems(model: ModelConfig) -> Iterator[str]:
    """Yield the problems of the log-mel and the vocoder."""
    mel = model.mel_spec
    yield from unless(
        mel.win_length <= mel.n_fft,
        f"model.mel_spec.win_length={mel.win_length} is more than model.mel_spec.n_fft={mel.n_fft}; "
        "make it n_fft or less",
    )
    yield from unless(
        model.vocoder.is_local == bool(model.vocoder.local_path),
        f"model.vocoder.is_local={as_override(model.vocoder.is_local)} does not go with model.vocoder.local_path="
        f"{as_override(model.vocoder.local_path)}; a vocoder in a folder needs true and the folder, the hub's false "
        "and null",
    )
    yield from unless(
        model.vocoder.name == "vocos" or not model.vocoder.is_local,
        f"model.vocoder.is_local=true is for vocos alone; model.vocoder.name={model.vocoder.name} has no weights",
    )


def rl_problems(cfg: RLTrainConfig) -> Iterator[str]:
    """Yield the contradictions and impossible requests of the keys of stage 2."""
    rl = cfg.rl
    yield from unless(
        cfg.model.objective == "grpo",
        f"model.objective={cfg.model.objective} is not stage 2; train_rl needs model.objective=grpo, "
        "the other objectives run with f5-tts train",
    )
    yield from algorithm_problems(rl)
    yield from head_problems(cfg)
    yield from prompt_problems(cfg)
    yield from interval_problems(cfg)
    yield from unless(
        rl.stop_when is None or bool(cfg.eval.every_updates),
        f"rl.stop_when={rl.stop_when} needs validations while training, and eval.every_updates is "
        f"{as_override(cfg.eval.every_updates)}; set it to 20, or "
        "rl.stop_when to null",
    )
    yield from unless(
        rl.ref_model_ckpt is not None or not rl.ref_model_use_ema,
        "rl.ref_model_use_ema=true is for rl.ref_model_ckpt, which is null: the reference is then the policy at the "
        "start of stage 2",
    )
    yield from unless(
        cfg.lora.dropout == 0,
        f"lora.dropout={cfg.lora.dropout}: stage 2 samples and trains without dropout, so that the probability ratio "
        "starts at 1; set it to 0",
    )
    yield from unless(
        bool(rl.rewards.providers), "rl.rewards.providers is empty; name at least one reward, as F5TTS_RL.yaml does"
    )
    for index, entry in enumerate(rl.rewards.providers):
        yield from provider_problems(entry, f"rl.rewards.providers.{index}")


def algorithm_problems(rl: RLConfig) -> Iterator[str]:
    """Yield the problems of the algorithm and of the group size."""
    yield from unless(
        group_size(rl) % rl.mini_repeat_count == 0,
        f"rl.group_size={rl.group_size} is not a multiple of rl.mini_repeat_count={rl.mini_repeat_count}; "
        "change one of them, or set rl.group_size=null",
    )
    yield from unless(
        rl.algorithm != "nft" or not rl.shared_noise or list(rl.window.noise_block) != [1, 1],
        "rl.algorithm=nft with rl.shared_noise=true compares samples that differ by the noise of rl.window alone, and "
        "noise of its own in every mel entry changes little that a reward hears: set rl.shared_noise=false, or blocks "
        "of noise, as rl.window.noise_block=[8,10]",
    )
    yield from unless(
        rl.algorithm != "f5r" or rl.steps > 1,
        f"rl.steps={rl.steps} is no interval for rl.algorithm=f5r, which counts grid points; set it to 2 or more",
    )
    yield from unless(
        rl.algorithm != "f5r" or rl.updates_per_rollout == 1,
        f"rl.updates_per_rollout={rl.updates_per_rollout} does not go with rl.algorithm=f5r, which differentiates "
        "through the sampling itself; set it to 1",
    )
    yield from unless(
        rl.rollout_precision is None or rl.algorithm in ("nft", "draft") or is_module_attribute(rl.algorithm),
        f"rl.rollout_precision={rl.rollout_precision} does not go with rl.algorithm={rl.algorithm}, which compares the "
        "densities of drawing and learning: both need the same precision, optim.mixed_precision; set it to null, or "
        "take nft or draft",
    )
    yield from draft_problems(rl)


def draft_problems(rl: RLConfig) -> Iterator[str]:
    """Yield the problems of what the gradients of rewards need, alone or beside another algorithm."""
    draft = rl.draft
    if rl.algorithm != "draft" and draft.weight == 0:
        return
    used_by = "rl.algorithm=draft" if rl.algorithm == "draft" else f"rl.draft.weight={draft.weight:g}"
    yield from unless(
        draft.last_steps <= rl.steps,
        f"rl.draft.last_steps={draft.last_steps} is more than rl.steps={rl.steps}; set it to {rl.steps} or less",
    )
    yield from unless(
        rl.updates_per_rollout == 1,
        f"rl.updates_per_rollout={rl.updates_per_rollout} does not go with {used_by}: the gradient of a reward belongs "
        "to the samples of the current weights; set it to 1",
    )


def head_problems(cfg: RLTrainConfig) -> Iterator[str]:
    """Yield a problem of an algorithm that samples from the Gaussian head without one."""
    yield from unless(
        cfg.rl.algorithm not in ("gaussian_grpo", "f5r") or cfg.model.output_dist == "gaussian",
        f"rl.algorithm={cfg.rl.algorithm} samples from a Gaussian head, which model.output_dist=deterministic lacks; "
        "set model.output_dist=gaussian model.use_rl_head=true, or take flow_grpo, nft or draft, which need none",
    )


def prompt_problems(cfg: RLTrainConfig) -> Iterator[str]:
    """Yield a problem unless prompts are either cut from the clips or come with them."""
    prompt = cfg.rl.prompt_frac_range
    yield from unless(
        prompt is not None or cfg.datasets.pair_speakers,
        "rl.prompt_frac_range=null needs datasets.pair_speakers=true: items have no prompt of their own without it; "
        "or give a range, e.g. rl.prompt_frac_range=[0.1,0.3]",
    )
    yield from unless(
        prompt is None or prompt[1] < 1,
        f"rl.prompt_frac_range={as_override(prompt)} may leave no frames to generate; make its upper bound less than 1",
    )
    yield from unless(
        prompt is None or not cfg.datasets.pair_speakers,
        f"rl.prompt_frac_range={as_override(prompt)} takes the prompt from the clip itself, but "
        "datasets.pair_speakers=true gives items another clip as prompt; set the range to null or pair_speakers to "
        "false",
    )


def interval_problems(cfg: RLTrainConfig) -> Iterator[str]:
    """Yield a problem where a run would save or end within a rollout."""
    updates_per_rollout = cfg.rl.updates_per_rollout
    for key in ("optim.max_updates", "ckpts.save_per_updates", "ckpts.last_per_updates"):
        value = attrgetter(key)(cfg)
        yield from unless(
            value is None or value % updates_per_rollout == 0,
            f"{key}={value} is not a multiple of rl.updates_per_rollout={updates_per_rollout}; a run saves and ends "
            "between rollouts",
        )


def provider_problems(entry: ProviderConfig, config_key: str) -> Iterator[str]:
    """Yield the problems of a reward: an unknown name, a worker that its config would not reach.

    The name of a reward that a server gives is a label.
    """
    if entry.worker is not None:
        yield from worker_problems(entry, entry.worker, config_key)
        if entry.worker.url:
            return
    try:
        provider_path(entry.name, config_key)
    except ValueError as error:
        yield str(error)


def worker_problems(entry: ProviderConfig, worker: WorkerConfig, config_key: str) -> Iterator[str]:
    """Yield the problems of a reward's worker that is not given once, or that its config would not reach."""
    yield from unless(
        bool(worker.python) != bool(worker.url),
        f"{config_key}.worker has python={as_override(worker.python)} and url={as_override(worker.url)}; give exactly "
        "one of them, or "
        f"{config_key}.worker=null for this process",
    )
    url = worker.url
    yield from unless(
        not url or url.startswith(("http://", "https://")),
        f"{config_key}.worker.url={url} is not allowed; allowed: a URL that begins with http:// or https://",
    )
    given_keys = [key for key, value in (*entry.config.items(), ("device", entry.device)) if url and value is not None]
    yield from unless(
        not given_keys,
        f"{config_key}.config.{', '.join(given_keys)} would not reach {config_key}.worker.url={url}; set it to null, "
        "and give it "
        f"to the server: f5-tts serve-reward {entry.name} --config JSON",
    )
